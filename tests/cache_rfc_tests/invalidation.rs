//! RFC 9111, section 4.4: what a change makes forgotten.

use super::script::{Case, get, method, run, run_with};
use crate::harness::Harness;
use towerkeep::cache::{CacheKey, CacheLayer};

on_every_backend! { changes, changes_of_what_a_declared_field_tells_apart }

const FRESH: &str = "cache-control: max-age=3600";

async fn changes(harness: Harness) {
    let change = |name, verb, status, forgets| -> Case {
        let again = get("");
        let again = if forgets { again.gives("", "two").body("two") } else { again.hit("one") };
        (name, vec![get("").gives(FRESH, "one"), method(verb).answers(status, "", ""), again])
    };
    let named = |name, headers, forgets| -> Case {
        let again = get("").to("/other");
        let again = if forgets { again.gives("", "two").body("two") } else { again.hit("one") };
        (
            name,
            vec![
                get("").to("/other").gives(FRESH, "one"),
                method("POST").answers(201, headers, ""),
                again,
            ],
        )
    };
    let cases = vec![
        change("4.4: POST", "POST", 200, true),
        change("4.4: PUT", "PUT", 204, true),
        change("4.4: DELETE", "DELETE", 200, true),
        change("4.4: PATCH", "PATCH", 200, true),
        change("4.4: an unknown method", "M-SEARCH", 200, true),
        change("4.4: a redirect", "POST", 303, true),
        change("4.4: not after a 404", "POST", 404, false),
        change("4.4: not after a 500", "POST", 500, false),
        change("4.4: not by OPTIONS", "OPTIONS", 200, false),
        change("4.4: not by TRACE", "TRACE", 200, false),
        named("4.4: Location", "location: {here}/other", true),
        named("4.4: Content-Location", "content-location: {here}/other", true),
        named("4.4: Location, absolute", "location: http://origin.example{here}/other", true),
        named("4.4: Location, of another host", "location: http://evil.example{here}/other", false),
        named(
            "4.4: Content-Location, of another host",
            "content-location: //evil.example{here}/other",
            false,
        ),
        (
            "4.4: all variants",
            vec![
                get("foo: 1").gives("cache-control: max-age=60|vary: foo", "one"),
                get("foo: 2").gives("cache-control: max-age=60|vary: foo", "two"),
                method("DELETE").answers(204, "", ""),
                get("foo: 1").gives("", "three").body("three"),
                get("foo: 2").gives("", "four").body("four"),
            ],
        ),
    ];
    run(&harness, "changes", cases).await;
}

async fn changes_of_what_a_declared_field_tells_apart(harness: Harness) {
    let stored = |suffix| get("x-plan: a").to(suffix).gives(FRESH, "one");
    let gone = |suffix| get("x-plan: a").to(suffix).gives(FRESH, "two").body("two");
    let cases = vec![
        (
            "4.4: whoever made the change",
            vec![
                stored(""),
                stored("/other"),
                method("POST").asking("x-plan: b").answers(204, "location: {here}/other", ""),
                gone(""),
                gone("/other"),
            ],
        ),
        (
            "4.4: not after a 500, nor what it is not about",
            vec![
                stored(""),
                stored("/other"),
                method("POST").asking("x-plan: b").answers(500, "", ""),
                get("x-plan: a").hit("one"),
                method("POST").asking("x-plan: b").answers(204, "", ""),
                get("x-plan: a").to("/other").hit("one"),
            ],
        ),
    ];
    let settings = |layer: CacheLayer| layer.key(CacheKey::default().header("x-plan"));
    run_with(&harness, "declared", settings, cases).await;
}

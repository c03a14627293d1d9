//! RFC 9875: groups of stored responses, and what invalidates them. A case's section is that of this RFC.

use super::script::{Case, Step, get, method, run, run_with};
use crate::harness::Harness;
use towerkeep::cache::Policy;

on_every_backend! { groups, an_application_has_tags_instead }

const GROUPED: &str = "cache-control: max-age=3600|cache-groups: \"a\", \"b\"";

/// A page that is stored with one of these, a change that is answered with the other, and whether the
/// page has to be made anew.
fn case(
    name: &'static str,
    stored: &'static str,
    change: (&'static str, u16, &'static str),
    gone: bool,
) -> Case {
    let (verb, status, invalidates) = change;
    let again = get("").to("/page");
    let again = if gone { again.gives("", "two").body("two") } else { again.hit("one") };
    let changed = method(verb).to("/change").answers(status, invalidates, "");
    (name, vec![get("").to("/page").gives(stored, "one"), changed, again])
}

fn grouped(name: &'static str, change: (&'static str, u16, &'static str), gone: bool) -> Case {
    case(name, GROUPED, change, gone)
}

const A: &str = "cache-group-invalidation: \"a\"";

fn page(headers: &'static str) -> Step {
    get("").to("/page").gives(headers, "one")
}

async fn groups(harness: Harness) {
    let long = "cache-control: max-age=3600|cache-groups: \"0123456789abcdef0123456789abcdef\"";
    let long_change = "cache-group-invalidation: \"0123456789abcdef0123456789abcdef\"";
    let cases = vec![
        grouped("3: POST", ("POST", 200, A), true),
        grouped("3: an unknown method", ("MERGE", 200, A), true),
        grouped("3: a redirection", ("POST", 303, A), true),
        grouped("3, RFC 9111 4.4: an error", ("POST", 500, A), false),
        grouped("3, RFC 9111 4.4: a refusal", ("POST", 403, A), false),
        grouped("3: GET", ("GET", 200, A), false),
        grouped("3: HEAD", ("HEAD", 200, A), false),
        grouped("3: OPTIONS", ("OPTIONS", 200, A), false),
        grouped(
            "3: the last of several",
            ("POST", 200, "cache-group-invalidation: \"x\", \"b\""),
            true,
        ),
        grouped(
            "3: on several lines",
            ("POST", 200, "cache-group-invalidation: \"x\"|cache-group-invalidation: \"b\""),
            true,
        ),
        grouped("3: another group", ("POST", 200, "cache-group-invalidation: \"c\""), false),
        grouped(
            "2.1: upper case is another",
            ("POST", 200, "cache-group-invalidation: \"A\""),
            false,
        ),
        grouped("3: parameters", ("POST", 200, "cache-group-invalidation: \"a\";x=1"), true),
        grouped("3: no string", ("POST", 200, "cache-group-invalidation: a"), false),
        grouped(
            "3: one that is no string",
            ("POST", 200, "cache-group-invalidation: \"a\", b"),
            false,
        ),
        grouped("3: no list", ("POST", 200, "cache-group-invalidation: \"a\" \"b\""), false),
        grouped("3: a comma too many", ("POST", 200, "cache-group-invalidation: \"a\","), false),
        case(
            "2: parameters",
            "cache-control: max-age=3600|cache-groups: \"a\";x",
            ("POST", 200, A),
            true,
        ),
        case(
            "2: on several lines",
            "cache-control: max-age=3600|cache-groups: \"b\"|cache-groups: \"a\"",
            ("POST", 200, A),
            true,
        ),
        case(
            "2: no string",
            "cache-control: max-age=3600|cache-groups: a",
            ("POST", 200, A),
            false,
        ),
        case(
            "2: one that is no string",
            "cache-control: max-age=3600|cache-groups: \"a\", 1",
            ("POST", 200, A),
            false,
        ),
        case("2: no group", "cache-control: max-age=3600", ("POST", 200, A), false),
        case("2, 3: 32 characters", long, ("POST", 200, long_change), true),
        (
            "2.2.1: an invalidation does not cascade",
            vec![
                page("cache-control: max-age=3600|cache-groups: \"a\", \"shared\""),
                get("")
                    .to("/other")
                    .gives("cache-control: max-age=3600|cache-groups: \"shared\"", "o"),
                method("POST").to("/change").answers(200, A, ""),
                get("").to("/other").hit("o"),
                page("").body("one"),
            ],
        ),
        (
            "2.2.1: nothing stale is left of it",
            vec![
                page(
                    "cache-control: max-age=3600, stale-while-revalidate=60, stale-if-error=60|\
                     cache-groups: \"a\"",
                ),
                method("POST").to("/change").answers(200, A, ""),
                get("").to("/page").answers(500, "", "down").status(500),
            ],
        ),
        (
            "2, RFC 9111 4.3.4: a 304 replaces the groups",
            vec![
                page("cache-control: max-age=10|etag: \"1\"|cache-groups: \"a\""),
                get("").to("/page").later(11).answers(304, "cache-groups: \"b\"|etag: \"1\"", ""),
                method("POST").to("/change").answers(200, A, ""),
                get("").to("/page").hit("one"),
                method("POST").to("/change").answers(200, "cache-group-invalidation: \"b\"", ""),
                page("").body("one"),
            ],
        ),
        (
            "2, RFC 9111 4.3.4: a 304 without the field leaves them",
            vec![
                page("cache-control: max-age=10|etag: \"1\"|cache-groups: \"a\""),
                get("").to("/page").later(11).answers(304, "etag: \"1\"", ""),
                method("POST").to("/change").answers(200, A, ""),
                page("").body("one"),
            ],
        ),
    ];
    run(&harness, "groups", cases).await;
}

async fn an_application_has_tags_instead(harness: Harness) {
    let cases = vec![grouped("application: POST", ("POST", 200, A), false)];
    run_with(&harness, "own", |layer| layer.policy(Policy::application()), cases).await;
}

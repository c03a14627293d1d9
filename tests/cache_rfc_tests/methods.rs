//! RFC 9110, section 9.3.3: what a POST gives may answer a GET.

use super::script::{Case, get, head, method, run};
use crate::harness::Harness;

on_every_backend! { posts }

async fn posts(harness: Harness) {
    let post = || method("POST");
    let stored = "cache-control: max-age=60|content-location: {here}";
    let not_stored = |name, headers| -> Case {
        (name, vec![post().gives(headers, "one"), get("").gives("", "two").body("two")])
    };
    let cases = vec![
        (
            "9.3.3: a POST that names its own target answers GET and HEAD, and no POST",
            vec![
                post().gives(stored, "one").body("one").tells("fwd=method; stored"),
                get("").later(5).hit("one").with("age", "5"),
                head().hit("").with("content-length", "3"),
                post().gives(stored, "two").body("two"),
                get("").hit("two"),
            ],
        ),
        (
            "9.3.3: by an absolute Content-Location and Expires",
            vec![
                post().gives(
                    "expires: {now+60}|content-location: http://origin.example{here}",
                    "one",
                ),
                get("").hit("one"),
            ],
        ),
        (
            "4.4: what was there is forgotten first",
            vec![
                get("").gives("cache-control: max-age=60", "one"),
                post().gives(stored, "two"),
                get("").hit("two"),
                post().gives("cache-control: no-store|content-location: {here}", "three"),
                get("").gives("", "four").body("four"),
            ],
        ),
        (
            "4.1: it varies as it says",
            vec![
                post()
                    .asking("foo: 1")
                    .gives("cache-control: max-age=60|vary: foo|content-location: {here}", "one"),
                get("foo: 1").hit("one"),
                get("foo: 2").gives("", "two").body("two"),
            ],
        ),
        (
            "5.2.1.5: not if the request says no-store",
            vec![
                post()
                    .asking("cache-control: no-store")
                    .gives(stored, "one")
                    .tells("fwd=method; detail=no-store"),
                get("").gives("", "two").body("two"),
            ],
        ),
        (
            "9.3.3: only a 200",
            vec![post().answers(201, stored, "one"), get("").gives("", "two").body("two")],
        ),
        (
            "9.3.3: only of a POST",
            vec![method("PUT").gives(stored, "one"), get("").gives("", "two").body("two")],
        ),
        (
            "3.5: not to a request with Authorization",
            vec![
                post().asking("authorization: Basic x").gives(stored, "one"),
                get("").gives("", "two").body("two"),
            ],
        ),
        not_stored("9.3.3: not without Content-Location", "cache-control: max-age=60"),
        not_stored(
            "9.3.3: not for another target",
            "cache-control: max-age=60|content-location: {here}/other",
        ),
        not_stored(
            "9.3.3: not for another host",
            "cache-control: max-age=60|content-location: http://evil.example{here}",
        ),
        not_stored(
            "9.3.3: not by a guess",
            "last-modified: Sun, 06 Nov 1994 08:49:37 GMT|content-location: {here}",
        ),
        not_stored(
            "3: not if it is private",
            "cache-control: max-age=60, private|content-location: {here}",
        ),
    ];
    run(&harness, "posts", cases).await;
}

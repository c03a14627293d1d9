//! Methods beside GET and HEAD: RFC 9110, section 9.3.3, what a POST gives may answer a GET; RFC 10008,
//! QUERY.

use super::script::{Case, MAX_CONTENT, get, head, method, query, run, run_with};
use crate::harness::Harness;
use towerkeep::cache::Policy;

on_every_backend! { posts, queries, queries_of_an_application }

const FRESH: &str = "cache-control: max-age=60";

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
            "RFC 9110 7.6.1: not if what it varies by ends at the proxy",
            vec![
                post()
                    .asking("foo: 1|connection: foo")
                    .gives("cache-control: max-age=60|vary: foo|content-location: {here}", "one"),
                get("foo: 1").gives("", "two").body("two"),
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

async fn queries(harness: Harness) {
    let text = "content-type: text/plain";
    let other = |name, request, content| -> Case {
        let first = query(text, "a").gives(FRESH, "one");
        (name, vec![first, query(request, content).gives(FRESH, "two").body("two")])
    };
    let cases = vec![
        (
            "RFC 10008: what was asked before is answered from the store",
            vec![
                query(text, "a")
                    .gives(FRESH, "one")
                    .origin_reads("a")
                    .tells("fwd=uri-miss; stored"),
                query(text, "a").later(5).hit("one").with("age", "5"),
                query(text, "b").gives(FRESH, "two").body("two").origin_reads("b"),
                query(text, "a").hit("one"),
                query(text, "b").hit("two"),
            ],
        ),
        other("RFC 10008: other content", text, "b"),
        other("RFC 10008: no content", text, ""),
        other("RFC 10008: another type of content", "content-type: text/html", "a"),
        other("RFC 10008: no type", "", "a"),
        other("RFC 10008: another coding", "content-type: text/plain|content-encoding: gzip", "a"),
        other("RFC 10008: another language", "content-type: text/plain|content-language: de", "a"),
        (
            "RFC 10008: a GET is another question",
            vec![
                query(text, "a").gives(FRESH, "one"),
                get("").gives(FRESH, "two").body("two"),
                query(text, "a").hit("one"),
                query(text, "").gives(FRESH, "three").body("three"),
                get("").hit("two"),
            ],
        ),
        (
            "RFC 10008: it changes nothing",
            vec![
                get("").gives(FRESH, "one"),
                query(text, "a").gives("", "two").body("two"),
                get("").hit("one"),
            ],
        ),
        (
            "RFC 9111 4.4: what changes its target changes what was found there",
            vec![
                query(text, "a").gives(FRESH, "one"),
                method("POST").answers(204, "", ""),
                query(text, "a").gives("", "two").body("two"),
            ],
        ),
        (
            "RFC 9111 4.1: it varies by fields of the request, too",
            vec![
                query("foo: 1", "a").gives("cache-control: max-age=60|vary: foo", "one"),
                query("foo: 2", "a")
                    .gives("cache-control: max-age=60|vary: foo", "two")
                    .body("two"),
                query("foo: 1", "b")
                    .gives("cache-control: max-age=60|vary: foo", "three")
                    .body("three"),
                query("foo: 1", "a").hit("one"),
                query("foo: 2", "a").hit("two"),
            ],
        ),
        (
            "RFC 10008: conditions are answered",
            vec![
                query(text, "a").gives("cache-control: max-age=60|etag: \"x\"", "one"),
                query("content-type: text/plain|if-none-match: \"x\"", "a").unasked().status(304),
            ],
        ),
        (
            "RFC 9111 4.3: what is stale is validated with the same content",
            vec![
                query(text, "a").gives("cache-control: max-age=1|etag: \"x\"", "one"),
                query(text, "a")
                    .later(2)
                    .answers(304, "etag: \"x\"|cache-control: max-age=60", "")
                    .origin_sees("if-none-match", "\"x\"")
                    .origin_reads("a")
                    .body("one"),
                query(text, "a").hit("one"),
            ],
        ),
        (
            "RFC 10008: content that is too long is handed on",
            vec![
                query(text, LONG)
                    .gives(FRESH, "one")
                    .origin_reads(LONG)
                    .tells("fwd=bypass; detail=request-body"),
                query(text, LONG).gives(FRESH, "two").body("two"),
                query(text, &LONG[..MAX_CONTENT])
                    .gives(FRESH, "three")
                    .origin_reads(&LONG[..MAX_CONTENT]),
                query(text, &LONG[..MAX_CONTENT]).hit("three"),
            ],
        ),
        (
            "RFC 10008: which of two types counts is not known",
            vec![
                query("content-type: text/a|content-type: text/b", "a").gives(FRESH, "one"),
                query("content-type: text/a|content-type: text/b", "a")
                    .gives(FRESH, "two")
                    .body("two"),
            ],
        ),
        (
            "RFC 9110 14.2: a range of it is the origin's business",
            vec![
                query(text, "a").gives(FRESH, "one"),
                query("content-type: text/plain|range: bytes=0-1", "a")
                    .answers(206, "content-range: bytes 0-1/3", "on")
                    .status(206)
                    .tells("fwd=bypass; detail=range"),
            ],
        ),
    ];
    run(&harness, "queries", cases).await;
}

/// A byte more than is read.
const LONG: &str = "0123456789abcdefg";

async fn queries_of_an_application(harness: Harness) {
    let cases = vec![(
        "RFC 10008: under every policy",
        vec![
            query("", "a").gives(FRESH, "one"),
            query("", "a").hit("one"),
            query("", "b").gives(FRESH, "two").body("two"),
            get("").gives(FRESH, "three").body("three"),
            query("", "a").hit("one"),
        ],
    )];
    run_with(&harness, "app-queries", |layer| layer.policy(Policy::application()), cases).await;
}

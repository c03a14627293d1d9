//! RFC 9111, sections 3.2, 4.3.4 and 4.3.5: what a 304 and a HEAD change of what is stored.

use super::script::{Case, get, head, run};
use crate::harness::Harness;

on_every_backend! { by_304, by_head }

async fn by_304(harness: Harness) {
    let case = |name, headers, field, value| -> Case {
        let stored = "cache-control: max-age=1|etag: \"a\"|x-a: 1|x-a: 2|x-b: 1|content-length: 3\
            |content-type: text/a|content-location: /a|expires: {now+9}|set-cookie: a=1|x-frame-options: a";
        let steps = vec![
            get("").gives(stored, "one"),
            get("").later(2).answers(304, headers, "").with(field, value).body("one"),
            get("").hit("one").with(field, value),
        ];
        (name, steps)
    };
    const FRESH: &str = "etag: \"a\"|cache-control: max-age=60";
    let cases = vec![
        case("3.2: what it does not have stays", FRESH, "x-b", "1"),
        case("3.2: Cache-Control", FRESH, "cache-control", "max-age=60"),
        case(
            "3.2: a field, all of its lines",
            "etag: \"a\"|cache-control: max-age=60|x-a: 3",
            "x-a",
            "3",
        ),
        case(
            "3.2: a field that is new",
            "etag: \"a\"|cache-control: max-age=60|x-c: 3",
            "x-c",
            "3",
        ),
        case(
            "3.2: Content-Type",
            "etag: \"a\"|cache-control: max-age=60|content-type: text/b",
            "content-type",
            "text/b",
        ),
        case(
            "3.2: Content-Location",
            "etag: \"a\"|cache-control: max-age=60|content-location: /b",
            "content-location",
            "/b",
        ),
        case(
            "3.2: Expires",
            "etag: \"a\"|cache-control: max-age=60|expires: Thu, 18 Aug 2050 02:01:18 GMT",
            "expires",
            "Thu, 18 Aug 2050 02:01:18 GMT",
        ),
        case(
            "3.2: Set-Cookie",
            "etag: \"a\"|cache-control: max-age=60|set-cookie: b=2",
            "set-cookie",
            "b=2",
        ),
        case(
            "3.2: X-Frame-Options",
            "etag: \"a\"|cache-control: max-age=60|x-frame-options: b",
            "x-frame-options",
            "b",
        ),
        case(
            "3.2: Date",
            "etag: \"a\"|cache-control: max-age=60|date: Sat, 06 Nov 2094 08:49:37 GMT",
            "date",
            "Sat, 06 Nov 2094 08:49:37 GMT",
        ),
        case(
            "3.2: not Content-Length",
            "etag: \"a\"|cache-control: max-age=60|content-length: 99",
            "content-length",
            "3",
        ),
        (
            "3.2: fields of the connection are not stored from a 304 either",
            vec![
                get("").gives("cache-control: max-age=1|etag: \"a\"", "one"),
                get("")
                    .later(2)
                    .answers(
                        304,
                        "etag: \"a\"|cache-control: max-age=60|connection: x-hop|x-hop: 1",
                        "",
                    )
                    .without("x-hop"),
                get("").hit("one").without("x-hop"),
            ],
        ),
        (
            "4.3.4: a 304 that forbids to store",
            vec![
                get("").gives("cache-control: max-age=1|etag: \"a\"", "one"),
                get("")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: no-store", "")
                    .body("one")
                    .tells("fwd=stale; fwd-status=304; detail=no-store"),
                get("").gives("", "two").origin_does_not_see("if-none-match").body("two"),
            ],
        ),
        (
            "5.2.2.4: a 304 does not bring back what no-cache names",
            vec![
                get("").gives("cache-control: max-age=9, no-cache=\"x-a\"|etag: \"a\"", "one"),
                get("").later(10).answers(304, "etag: \"a\"|x-a: 2|x-b: 2", "").body("one"),
                get("").hit("one").with("x-b", "2").without("x-a"),
            ],
        ),
        (
            "5.2.2.7: a 304 may say that a stored field is private",
            vec![
                get("").gives("cache-control: max-age=1|etag: \"a\"|x-a: 1|x-b: 1", "one"),
                get("").later(2).answers(
                    304,
                    "etag: \"a\"|cache-control: max-age=60, private=\"x-a\"",
                    "",
                ),
                get("").hit("one").with("x-b", "1").without("x-a"),
            ],
        ),
        (
            "7.3: a 304 that touched a session is for its client alone",
            vec![
                get("").gives("cache-control: max-age=1|etag: \"a\"", "one"),
                get("")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: max-age=60|set-cookie: id=1", "")
                    .touching_a_session()
                    .body("one")
                    .with("set-cookie", "id=1")
                    .tells("fwd=stale; fwd-status=304; detail=session"),
                get("")
                    .answers(304, "etag: \"a\"|cache-control: max-age=60", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .body("one")
                    .without("set-cookie"),
                get("").hit("one").without("set-cookie"),
            ],
        ),
    ];
    run(&harness, "by-304", cases).await;
}

async fn by_head(harness: Harness) {
    let stored = "cache-control: max-age=1|etag: \"a\"|x-a: 1";
    let cases = vec![
        (
            "4.3.5: a HEAD that matches freshens",
            vec![
                get("").gives(stored, "one"),
                head()
                    .later(2)
                    .gives("cache-control: max-age=60|etag: \"a\"|x-a: 2|content-length: 3", "")
                    .with("x-a", "2")
                    .tells("fwd=stale; stored"),
                get("").hit("one").with("x-a", "2"),
            ],
        ),
        (
            "4.3.5: a HEAD with another tag invalidates",
            vec![
                get("").gives(stored, "one"),
                head()
                    .later(2)
                    .gives("cache-control: max-age=60|etag: \"b\"", "")
                    .tells("fwd=stale; detail=head"),
                get("").gives("", "two").origin_does_not_see("if-none-match").body("two"),
            ],
        ),
        (
            "4.3.5: a HEAD with another length invalidates",
            vec![
                get("").gives(stored, "one"),
                head()
                    .later(2)
                    .gives("cache-control: max-age=60|etag: \"a\"|content-length: 4", ""),
                get("").gives("", "two").body("two"),
            ],
        ),
        (
            "4.3.5: an error to HEAD changes nothing",
            vec![
                get("").gives(stored, "one"),
                head().later(2).answers(503, "", "").status(503),
                get("")
                    .answers(304, "etag: \"a\"", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .body("one"),
            ],
        ),
        (
            "7.3: a HEAD that touched a session is for its client alone",
            vec![
                get("").gives(stored, "one"),
                head()
                    .later(2)
                    .gives("cache-control: max-age=60|etag: \"a\"|set-cookie: id=1", "")
                    .touching_a_session()
                    .with("set-cookie", "id=1")
                    .tells("fwd=stale; detail=session"),
                get("")
                    .answers(304, "etag: \"a\"", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .without("set-cookie"),
            ],
        ),
        (
            "RFC 9110 9.3.2: a HEAD goes on as one",
            vec![head().gives("x-a: 1", "").with("x-a", "1").tells("fwd=uri-miss; detail=head")],
        ),
    ];
    run(&harness, "by-head", cases).await;
}

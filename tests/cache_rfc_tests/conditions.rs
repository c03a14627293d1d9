//! RFC 9111, section 4.3: validation, the client's and the cache's own.

use super::script::{get, run};
use crate::harness::Harness;

on_every_backend! { clients_conditions, own_conditions }

const TAGGED: &str = "cache-control: max-age=60|etag: \"a\"|content-type: text/plain";
const DATED: &str = "cache-control: max-age=60|last-modified: Sun, 06 Nov 1994 08:49:37 GMT";

const UNDATED: &str = "cache-control: max-age=99999999999|date: Sun, 06 Nov 1994 08:49:37 GMT";

async fn clients_conditions(harness: Harness) {
    let tagged = |name, request, status| {
        (name, vec![get("").gives(TAGGED, "one"), get(request).unasked().status(status)])
    };
    let dated = |name, request, status| {
        (name, vec![get("").gives(DATED, "one"), get(request).unasked().status(status)])
    };
    let cases = vec![
        tagged("4.3.2: If-None-Match", "if-none-match: \"a\"", 304),
        tagged("4.3.2: If-None-Match, weakly", "if-none-match: W/\"a\"", 304),
        tagged("4.3.2: in a list", "if-none-match: \"b\", \"a\"", 304),
        tagged("4.3.2: in several lines", "if-none-match: \"b\"|if-none-match: \"a\"", 304),
        tagged("4.3.2: star", "if-none-match: *", 304),
        tagged("4.3.2: another tag", "if-none-match: \"b\"", 200),
        tagged("4.3.2: a tag without quotes", "if-none-match: a", 200),
        tagged("4.3.2: in another case", "if-none-match: \"A\"", 200),
        tagged(
            "4.3.2: If-None-Match goes first",
            "if-none-match: \"b\"|if-modified-since: {now}",
            200,
        ),
        dated("4.3.2: If-Modified-Since", "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT", 304),
        dated("4.3.2: If-Modified-Since, later", "if-modified-since: {now}", 304),
        dated(
            "4.3.2: If-Modified-Since, earlier",
            "if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT",
            200,
        ),
        dated("4.3.2: If-Modified-Since, no date", "if-modified-since: yesterday", 200),
        dated(
            "4.3.2: If-Modified-Since, RFC 850",
            "if-modified-since: Sunday, 06-Nov-94 08:49:37 GMT",
            304,
        ),
        (
            "4.3.2: a stored response that was not said to be modified was when it was made",
            vec![
                get("").gives(UNDATED, "one"),
                get("if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT").hit("one").status(200),
                get("if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT").unasked().status(304),
                get("if-modified-since: {now}").unasked().status(304),
            ],
        ),
        (
            "RFC 9110 13.1.3: one that has just come is handed on",
            vec![get("if-modified-since: {now}").gives(UNDATED, "one").status(200).body("one")],
        ),
        (
            "RFC 9110 15.4.5: what a 304 has",
            vec![
                get("").gives(TAGGED, "one"),
                get("if-none-match: \"a\"")
                    .later(7)
                    .unasked()
                    .body("")
                    .with("etag", "\"a\"")
                    .with("age", "7")
                    .without("content-type"),
            ],
        ),
        (
            "4.3.1: a client's condition goes on where nothing is stored",
            vec![
                get("if-none-match: \"a\"")
                    .answers(304, "etag: \"a\"", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .status(304),
                get("").gives(TAGGED, "one").body("one"),
            ],
        ),
        (
            "4.3.1: and what comes instead of a 304 is stored",
            vec![get("if-none-match: \"b\"").gives(TAGGED, "one"), get("").hit("one")],
        ),
        (
            "RFC 9110 13.1.1: If-Match is the origin's business",
            vec![
                get("").gives(TAGGED, "one"),
                get("if-match: \"b\"")
                    .answers(412, "", "")
                    .status(412)
                    .origin_sees("if-match", "\"b\""),
                get("").hit("one"),
            ],
        ),
    ];
    run(&harness, "clients", cases).await;
}

async fn own_conditions(harness: Harness) {
    let stale = "cache-control: max-age=1|etag: \"a\"|x-a: 1";
    let cases = vec![
        (
            "4.3.1: a stale response is validated by its tag",
            vec![
                get("").gives(stale, "one"),
                get("")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: max-age=60", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .status(200)
                    .body("one")
                    .tells("fwd=stale; fwd-status=304; stored"),
                get("").later(50).hit("one"),
            ],
        ),
        (
            "4.3.1: by a weak tag",
            vec![
                get("").gives("cache-control: max-age=1|etag: W/\"a\"", "one"),
                get("")
                    .later(2)
                    .answers(304, "etag: W/\"a\"", "")
                    .origin_sees("if-none-match", "W/\"a\"")
                    .body("one"),
            ],
        ),
        (
            "4.3.1: by its date",
            vec![
                get("").gives(
                    "cache-control: max-age=1|last-modified: Sun, 06 Nov 1994 08:49:37 GMT",
                    "one",
                ),
                get("")
                    .later(2)
                    .answers(304, "", "")
                    .origin_sees("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")
                    .origin_does_not_see("if-none-match")
                    .body("one"),
            ],
        ),
        (
            "5.2.2.4: no-cache is stored, and validated each time",
            vec![
                get("").gives("cache-control: no-cache|etag: \"a\"", "one"),
                get("")
                    .answers(304, "etag: \"a\"", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .body("one"),
                get("")
                    .answers(304, "etag: \"a\"", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .body("one"),
            ],
        ),
        (
            "4.3.3: a new response takes the place of the stored one",
            vec![
                get("").gives(stale, "one"),
                get("")
                    .later(2)
                    .gives("cache-control: max-age=60|etag: \"b\"", "two")
                    .body("two")
                    .tells("fwd=stale; fwd-status=200; stored"),
                get("").hit("two").without("x-a"),
            ],
        ),
        (
            "4.3.2: the client's tags stand beside the cache's",
            vec![
                get("").gives(stale, "one"),
                get("if-none-match: \"b\"")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: max-age=60", "")
                    .origin_sees("if-none-match", "\"b\", \"a\"")
                    .status(200)
                    .body("one"),
            ],
        ),
        (
            "4.3.4: a 304 for the client's tag is the client's",
            vec![
                get("").gives(stale, "one"),
                get("if-none-match: \"b\"").later(2).answers(304, "etag: \"b\"", "").status(304),
                get("").gives("cache-control: max-age=60|etag: \"b\"", "two").body("two"),
            ],
        ),
        (
            "4.3.4: a client that asked by nothing gets no 304",
            vec![
                get("").gives(stale, "one"),
                get("").later(2).answers(304, "etag: \"b\"", "").status(200).body("one"),
            ],
        ),
        (
            "4.3.4: a 304 for another tag does not give that to what is stored",
            vec![
                get("").gives(stale, "one"),
                get("")
                    .later(2)
                    .answers(304, "etag: \"b\"|cache-control: max-age=60", "")
                    .body("one")
                    .with("etag", "\"a\"")
                    .tells("fwd=stale; fwd-status=304; detail=mismatch"),
                get("")
                    .gives("cache-control: max-age=60|etag: \"b\"", "two")
                    .origin_does_not_see("if-none-match")
                    .body("two"),
            ],
        ),
        (
            "4.2.4: a 304 for another tag does not say that what must be validated holds",
            vec![
                get("").gives("cache-control: no-cache|etag: \"a\"", "one"),
                get("").answers(304, "etag: \"b\"", "").status(502).body(""),
                get("").gives("", "two").origin_does_not_see("if-none-match").body("two"),
            ],
        ),
        (
            "4.3.3: a new response that must not be stored ends the stored one",
            vec![
                get("").gives("cache-control: max-age=1, stale-while-revalidate=60", "one"),
                get("").later(2).gives("cache-control: private", "two").body("one"),
                get("").gives("", "three").body("three"),
            ],
        ),
        (
            "4.3.4: a client that has what is stored gets a 304",
            vec![
                get("").gives(stale, "one"),
                get("if-none-match: \"a\"")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: max-age=60", "")
                    .status(304),
                get("").hit("one"),
            ],
        ),
        (
            "3.5: what one client's credentials got ends nothing that others have",
            vec![
                get("").gives("cache-control: max-age=60|etag: \"a\"", "one"),
                get("authorization: Basic x|cache-control: no-cache")
                    .answers(304, "etag: \"a\"|x-user: x", "")
                    .body("one")
                    .with("x-user", "x")
                    .tells("fwd=request; fwd-status=304; detail=authorization"),
                get("").hit("one").without("x-user"),
                get("authorization: Basic x|cache-control: no-cache")
                    .gives("cache-control: max-age=60", "mine")
                    .body("mine")
                    .tells("fwd=request; fwd-status=200; detail=authorization"),
                get("").hit("one"),
            ],
        ),
        (
            "4.3.3: an error is handed on, and the stored response stays",
            vec![
                get("").gives(stale, "one"),
                get("").later(2).answers(503, "", "down").status(503).body("down"),
                get("")
                    .answers(304, "etag: \"a\"", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .body("one"),
            ],
        ),
        (
            "4.2.3: the age of what was validated begins anew",
            vec![
                get("").gives("cache-control: max-age=20|etag: \"a\"", "one"),
                get("").later(30).answers(304, "etag: \"a\"", "").body("one").with("age", "0"),
                get("").later(4).hit("one").with("age", "4"),
            ],
        ),
    ];
    run(&harness, "own", cases).await;
}

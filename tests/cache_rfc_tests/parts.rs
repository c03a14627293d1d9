//! RFC 9110, section 14, and RFC 9111, sections 3.3 and 3.4: parts of a response.

use super::script::{Case, Step, get, head, run, run_with};
use crate::harness::Harness;

on_every_backend! { ranges, stored_parts, whats_no_part_to_keep, joined, completed, too_long }

const STORED: &str = "cache-control: max-age=60|etag: \"a\"|content-type: text/plain";

async fn ranges(harness: Harness) {
    let part = |name, request, status, body, range: &'static str| -> Case {
        let again = get(request).hit(body).status(status);
        let again = if range.is_empty() {
            again.without("content-range")
        } else {
            again.with("content-range", range)
        };
        (name, vec![get("").gives(STORED, "0123456789"), again])
    };
    let cases = vec![
        part("14.1.2: first and last", "range: bytes=2-4", 206, "234", "bytes 2-4/10"),
        part("14.1.2: beyond the end", "range: bytes=8-99", 206, "89", "bytes 8-9/10"),
        part("14.1.2: without a last", "range: bytes=7-", 206, "789", "bytes 7-9/10"),
        part("14.1.2: a suffix", "range: bytes=-3", 206, "789", "bytes 7-9/10"),
        part(
            "14.1.2: a suffix longer than the body",
            "range: bytes=-30",
            206,
            "0123456789",
            "bytes 0-9/10",
        ),
        part("14.1.2: not satisfiable", "range: bytes=10-", 416, "", "bytes */10"),
        part("14.2: an unknown unit", "range: lines=1-2", 200, "0123456789", ""),
        part("14.2: the wrong way round", "range: bytes=4-2", 200, "0123456789", ""),
        part(
            "14.2: several parts are answered whole",
            "range: bytes=0-1,4-5",
            200,
            "0123456789",
            "",
        ),
        part(
            "13.1.5: If-Range that holds",
            "range: bytes=2-4|if-range: \"a\"",
            206,
            "234",
            "bytes 2-4/10",
        ),
        part(
            "13.1.5: If-Range that does not",
            "range: bytes=2-4|if-range: \"b\"",
            200,
            "0123456789",
            "",
        ),
        part(
            "13.1.5: If-Range that is weak",
            "range: bytes=2-4|if-range: W/\"a\"",
            200,
            "0123456789",
            "",
        ),
        part(
            "13.1.5: a condition goes before a range",
            "range: bytes=2-4|if-none-match: \"a\"",
            304,
            "",
            "",
        ),
        (
            "15.3.7: what a 206 has",
            vec![
                get("").gives(STORED, "0123456789"),
                get("range: bytes=0-1")
                    .later(3)
                    .unasked()
                    .with("content-length", "2")
                    .with("etag", "\"a\"")
                    .with("age", "3")
                    .with("content-type", "text/plain"),
            ],
        ),
        (
            "14.2: a range goes on where nothing is stored",
            vec![
                get("range: bytes=0-1")
                    .answers(206, "content-range: bytes 0-1/10", "01")
                    .origin_sees("range", "bytes=0-1")
                    .status(206)
                    .tells("fwd=uri-miss; detail=no-freshness"),
            ],
        ),
        (
            "4.3.1: a part of what is stale is validated as a whole",
            vec![
                get("").gives("cache-control: max-age=1|etag: \"a\"", "0123456789"),
                get("range: bytes=0-1")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: max-age=60", "")
                    .origin_does_not_see("range")
                    .status(206)
                    .body("01"),
                get("").hit("0123456789"),
            ],
        ),
    ];
    run(&harness, "ranges", cases).await;
}

/// A request for bytes 0 to 4, which are stored.
fn first_half() -> Step {
    get("range: bytes=0-4").answers(206, FIRST, "01234")
}

const FIRST: &str = "cache-control: max-age=60|etag: \"a\"|content-range: bytes 0-4/10|x-a: 1";

async fn stored_parts(harness: Harness) {
    let middle = "cache-control: max-age=60|content-range: bytes 4-7/10|content-type: text/a";
    let held = |name, request, body, range: &'static str| -> Case {
        let first = get("range: bytes=4-7").answers(206, middle, "4567");
        (name, vec![first, get(request).hit(body).status(206).with("content-range", range)])
    };
    let open = "cache-control: max-age=60|content-range: bytes 4-7/*";
    let not_held = |name, headers, request: &'static str| -> Case {
        let again = get(request)
            .answers(206, "content-range: bytes 3-4/10", "34")
            .tells("fwd=partial; detail=no-freshness");
        (name, vec![get("range: bytes=4-7").answers(206, headers, "4567"), again])
    };
    let cases = vec![
        held("RFC 9111 3.3: the same part", "range: bytes=4-7", "4567", "bytes 4-7/10"),
        held("RFC 9111 3.3: a part of the part", "range: bytes=5-6", "56", "bytes 5-6/10"),
        not_held("RFC 9111 3.3: not all of it", middle, "range: bytes=3-4"),
        not_held("RFC 9111 3.3: more than it", middle, "range: bytes=4-"),
        not_held("RFC 9111 3.3: more than it, from the end", middle, "range: bytes=-3"),
        not_held("14.4: no suffix of an unknown length", open, "range: bytes=-1"),
        not_held("14.4: no end of an unknown length", open, "range: bytes=6-"),
        not_held("14.1.2: two parts of it", middle, "range: bytes=4-4,6-6"),
        (
            "14.1.2: the end, in all its forms",
            vec![
                get("range: bytes=-4").answers(
                    206,
                    "cache-control: max-age=60|content-range: bytes 6-9/10",
                    "6789",
                ),
                get("range: bytes=-4").hit("6789").with("content-range", "bytes 6-9/10"),
                get("range: bytes=-1").hit("9").with("content-range", "bytes 9-9/10"),
                get("range: bytes=7-").hit("789"),
                get("range: bytes=8-99").hit("89").with("content-length", "2"),
            ],
        ),
        (
            "14.4: of an unknown length",
            vec![
                get("range: bytes=4-7").answers(206, open, "4567"),
                get("range: bytes=5-6").hit("56").with("content-range", "bytes 5-6/*"),
            ],
        ),
        (
            "RFC 9111 4.2.3: it has an age, and the fields that it came with",
            vec![
                get("range: bytes=4-7").answers(206, middle, "4567").tells("fwd=uri-miss; stored"),
                get("range: bytes=4-7").later(9).hit("4567").with("age", "9").with("content-type", "text/a"),
            ],
        ),
        (
            "RFC 9111 4.2.2: it may be guessed how long it is fresh",
            vec![
                get("range: bytes=4-7").answers(
                    206,
                    "last-modified: Sun, 06 Nov 1994 08:49:37 GMT|content-range: bytes 4-7/10",
                    "4567",
                ),
                get("range: bytes=4-7").hit("4567"),
            ],
        ),
        (
            "13.1.5: If-Range that holds",
            vec![first_half(), get("range: bytes=1-2|if-range: \"a\"").hit("12").status(206)],
        ),
        (
            "13.1.5: If-Range that does not",
            vec![
                first_half(),
                get("range: bytes=1-2|if-range: \"b\"")
                    .gives("cache-control: max-age=60|etag: \"a\"", "0123456789")
                    .origin_sees("range", "bytes=1-2")
                    .body("0123456789"),
                get("").hit("0123456789"),
            ],
        ),
        (
            "RFC 9111 4.3.2: a client that has it gets a 304",
            vec![
                first_half(),
                get("if-none-match: \"a\"").unasked().status(304).without("content-range"),
                get("range: bytes=8-9|if-none-match: \"a\"").unasked().status(304),
            ],
        ),
        (
            "RFC 9111 4.1: it varies as it says",
            vec![
                get("range: bytes=0-4|foo: 1").answers(
                    206,
                    "cache-control: max-age=60|vary: foo|content-range: bytes 0-4/10",
                    "01234",
                ),
                get("range: bytes=0-4|foo: 2").gives("", "two").body("two"),
                get("range: bytes=0-4|foo: 1").hit("01234"),
            ],
        ),
        (
            "RFC 9111 4.3.4: what is stale is validated, and the range stays with the question",
            vec![
                get("range: bytes=0-4").answers(206, STALE, "01234"),
                get("range: bytes=1-2")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: max-age=60", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .origin_sees("range", "bytes=1-2")
                    .status(206)
                    .body("12")
                    .tells("fwd=stale; fwd-status=304; stored"),
                get("range: bytes=0-4").hit("01234"),
            ],
        ),
        (
            "RFC 9111 4.3.3: what has changed is replaced",
            vec![
                get("range: bytes=0-4").answers(206, STALE, "01234"),
                get("range: bytes=0-1")
                    .later(2)
                    .answers(206, "etag: \"b\"|cache-control: max-age=60|content-range: bytes 0-1/8", "ab")
                    .body("ab"),
                get("range: bytes=0-1").hit("ab"),
                get("range: bytes=2-3").gives("", "").origin_does_not_see("if-none-match"),
            ],
        ),
        (
            "RFC 5861 3: it is the answer, and is validated behind the client's back",
            vec![
                get("range: bytes=0-4").answers(
                    206,
                    "cache-control: max-age=1, stale-while-revalidate=60|etag: \"a\"|content-range: bytes 0-4/10",
                    "01234",
                ),
                get("range: bytes=0-4")
                    .later(2)
                    .answers(304, "cache-control: max-age=60|etag: \"a\"", "")
                    .origin_does_not_see("range")
                    .body("01234")
                    .tells("hit"),
                get("range: bytes=0-4").later(30).hit("01234"),
            ],
        ),
        (
            "RFC 5861 4: it stands in for the same part alone",
            vec![
                get("range: bytes=0-4").answers(
                    206,
                    "cache-control: max-age=1, stale-if-error=60|etag: \"a\"|content-range: bytes 0-4/10",
                    "01234",
                ),
                get("range: bytes=0-1").later(2).answers(503, "", "down").status(206).body("01"),
                get("range: bytes=0-9").answers(503, "", "down").status(503),
                get("").answers(503, "", "down").status(503),
            ],
        ),
        (
            "RFC 9111 5.2.1.7: it is not enough for only-if-cached",
            vec![
                first_half(),
                get("range: bytes=0-4|cache-control: only-if-cached").hit("01234"),
                get("cache-control: only-if-cached").unasked().status(504),
            ],
        ),
        (
            "14.2: it answers no HEAD, whatever its range",
            vec![
                first_half(),
                head()
                    .asking("range: bytes=0-1")
                    .answers(200, "etag: \"a\"|content-length: 10", "")
                    .status(200)
                    .with("content-length", "10"),
            ],
        ),
        (
            "9.3.2: it answers no HEAD, and a HEAD may tell that it is out of date",
            vec![
                first_half(),
                head().gives("etag: \"a\"|content-length: 10|cache-control: max-age=60", ""),
                get("range: bytes=0-4").hit("01234"),
                head().gives("etag: \"a\"|content-length: 11", ""),
                get("range: bytes=0-4").gives("", "").body(""),
            ],
        ),
    ];
    run(&harness, "stored-parts", cases).await;
}

const STALE: &str = "cache-control: max-age=1|etag: \"a\"|content-range: bytes 0-4/10";

async fn whats_no_part_to_keep(harness: Harness) {
    let case = |name, request, headers, body, why| -> Case {
        let first = get(request).answers(206, headers, body).status(206).body(body).tells(why);
        let again = get("range: bytes=0-1").gives("", "").origin_does_not_see("if-range");
        (name, vec![first, again])
    };
    let (range, partial) = ("range: bytes=0-4", "fwd=uri-miss; detail=partial");
    let cases = vec![
        case(
            "15.3.7.2: several parts",
            range,
            "cache-control: max-age=60|content-type: multipart/byteranges; boundary=x",
            "--x--",
            partial,
        ),
        case(
            "14.4: another unit",
            range,
            "cache-control: max-age=60|content-range: lines 0-4/9",
            "01234",
            partial,
        ),
        case(
            "14.4: the wrong way round",
            range,
            "cache-control: max-age=60|content-range: bytes 4-0/9",
            "01234",
            partial,
        ),
        case(
            "14.4: beyond the end",
            range,
            "cache-control: max-age=60|content-range: bytes 0-4/4",
            "01234",
            partial,
        ),
        case(
            "14.4: two ranges",
            range,
            "cache-control: max-age=60|content-range: bytes 0-4/9|content-range: bytes 0-5/9",
            "01234",
            partial,
        ),
        case(
            "15.3.7: to who did not ask for one",
            "",
            "cache-control: max-age=60|content-range: bytes 0-4/9",
            "01234",
            partial,
        ),
        case(
            "15.3.7: to who has the rest, and its fields",
            "range: bytes=0-4|if-range: \"a\"",
            "cache-control: max-age=60|etag: \"a\"|content-range: bytes 0-4/9",
            "01234",
            partial,
        ),
        case(
            "14.4: fewer bytes than it says",
            range,
            "cache-control: max-age=60|content-range: bytes 0-5/9",
            "01234",
            "fwd=uri-miss; stored",
        ),
        case(
            "RFC 9111 3: no-store",
            range,
            "cache-control: max-age=60, no-store|content-range: bytes 0-4/9",
            "01234",
            "fwd=uri-miss; detail=no-store",
        ),
    ];
    let unsatisfiable = vec![(
        "15.5.17: a 416 is about the range, not for who asks for none",
        vec![
            get("range: bytes=10-")
                .answers(416, "cache-control: max-age=60|content-range: bytes */10", "")
                .status(416)
                .tells("fwd=uri-miss; detail=range"),
            get("").gives("", "0123456789").status(200).body("0123456789"),
        ],
    )];
    let of_a_stored = vec![(
        "15.5.17: a 416 says how long the body is, and nothing of it",
        vec![
            get("")
                .gives("cache-control: max-age=60|accept-ranges: bytes|etag: \"a\"", "0123456789"),
            get("range: bytes=10-")
                .hit("")
                .status(416)
                .with("content-range", "bytes */10")
                .without("accept-ranges"),
        ],
    )];
    run(&harness, "of-a-stored", of_a_stored).await;
    run(&harness, "unsatisfiable", unsatisfiable).await;
    run(&harness, "no-part", cases).await;
}

async fn joined(harness: Harness) {
    let second = |headers, body| get("range: bytes=5-9").answers(206, headers, body).body(body);
    let rest = "cache-control: max-age=60|etag: \"a\"|content-range: bytes 5-9/10|x-a: 2";
    let apart = |name, headers| -> Case {
        let steps = vec![
            first_half(),
            second(headers, "56789"),
            get("range: bytes=5-9").hit("56789"),
            get("range: bytes=0-4").gives("", "").origin_does_not_see("if-none-match"),
        ];
        (name, steps)
    };
    let cases = vec![
        (
            "RFC 9111 3.4: what is next to it makes it whole, with the newer fields",
            vec![
                first_half(),
                second(rest, "56789").tells("fwd=partial; stored"),
                get("")
                    .hit("0123456789")
                    .status(200)
                    .with("x-a", "2")
                    .without("content-range")
                    .with("content-length", "10"),
                get("range: bytes=4-6").hit("456").with("content-range", "bytes 4-6/10"),
                head().hit("").with("content-length", "10"),
            ],
        ),
        (
            "RFC 9111 3.4: what is before it",
            vec![second(rest, "56789"), first_half(), get("").hit("0123456789").with("x-a", "1")],
        ),
        (
            "RFC 9111 3.4: what overlaps it",
            vec![
                first_half(),
                get("range: bytes=3-7").answers(
                    206,
                    "cache-control: max-age=60|etag: \"a\"|content-range: bytes 3-7/10",
                    "34567",
                ),
                get("range: bytes=1-6").hit("123456").with("content-range", "bytes 1-6/10"),
                get("range: bytes=6-8")
                    .answers(206, "content-range: bytes 6-8/10", "678")
                    .body("678"),
            ],
        ),
        (
            "RFC 9111 3.4: what does not touch it: the longer one stays",
            vec![
                first_half(),
                get("range: bytes=8-9").answers(
                    206,
                    "cache-control: max-age=60|etag: \"a\"|content-range: bytes 8-9/10",
                    "89",
                ),
                get("range: bytes=0-4").hit("01234"),
                get("range: bytes=8-9").gives("", "").body(""),
            ],
        ),
        (
            "15.3.7: what comes to If-Range is joined, with the fields that are there",
            vec![
                first_half(),
                get("range: bytes=5-9|if-range: \"a\"").answers(
                    206,
                    "cache-control: max-age=60|etag: \"a\"|content-range: bytes 5-9/10",
                    "56789",
                ),
                get("").hit("0123456789").with("x-a", "1"),
            ],
        ),
        (
            "15.3.7.3: a part that is all there is",
            vec![
                get("range: bytes=0-")
                    .answers(
                        206,
                        "cache-control: max-age=60|etag: \"a\"|content-range: bytes 0-9/10",
                        "0123456789",
                    )
                    .status(206),
                get("").hit("0123456789").status(200).without("content-range"),
            ],
        ),
        apart(
            "RFC 9111 3.4: not another representation",
            "cache-control: max-age=60|etag: \"b\"|content-range: bytes 5-9/10",
        ),
        apart(
            "RFC 9111 3.4: not by a weak tag",
            "cache-control: max-age=60|etag: W/\"a\"|content-range: bytes 5-9/10",
        ),
        apart(
            "RFC 9111 3.4: not without a tag",
            "cache-control: max-age=60|content-range: bytes 5-9/10",
        ),
        apart(
            "RFC 9111 3.4: not of another length",
            "cache-control: max-age=60|etag: \"a\"|content-range: bytes 5-9/11",
        ),
    ];
    run(&harness, "joined", cases).await;
}

async fn completed(harness: Harness) {
    let rest = || get("").origin_sees("range", "bytes=5-").origin_sees("if-range", "\"a\"");
    let whole = "cache-control: max-age=60|etag: \"b\"";
    let refused = |name, status, headers| -> Case {
        let steps = vec![
            first_half(),
            rest().answers(status, headers, "56789").status(502).tells(match status {
                206 => "fwd=partial; fwd-status=206; detail=mismatch",
                _ => "fwd=partial; fwd-status=416; detail=mismatch",
            }),
            get("").gives(whole, "0123456789").origin_does_not_see("range").body("0123456789"),
        ];
        (name, steps)
    };
    let asks_for_all = |name, headers, body| -> Case {
        let all = get("").gives(whole, "0123456789").origin_does_not_see("range");
        (name, vec![get("range: bytes=0-4").answers(206, headers, body), all.body("0123456789")])
    };
    let cases = vec![
        (
            "RFC 9111 3.3: what is missing is asked for, and makes it whole",
            vec![
                first_half(),
                rest()
                    .answers(
                        206,
                        "cache-control: max-age=90|etag: \"a\"|content-range: bytes 5-9/10|x-b: 2",
                        "56789",
                    )
                    .status(200)
                    .body("0123456789")
                    .without("content-range")
                    .with("content-length", "10")
                    .with("x-a", "1")
                    .with("x-b", "2")
                    .tells("fwd=partial; fwd-status=206; stored"),
                get("").later(70).hit("0123456789").with("x-b", "2"),
            ],
        ),
        (
            "RFC 9111 3.3: of what is stale, too",
            vec![
                get("range: bytes=0-4").answers(206, STALE, "01234"),
                rest()
                    .later(2)
                    .answers(
                        206,
                        "cache-control: max-age=60|etag: \"a\"|content-range: bytes 5-9/10",
                        "56789",
                    )
                    .body("0123456789"),
                get("").hit("0123456789"),
            ],
        ),
        (
            "13.1.5: what has changed comes whole",
            vec![
                first_half(),
                rest().gives(whole, "abc").status(200).body("abc"),
                get("").hit("abc"),
            ],
        ),
        (
            "RFC 9111 3: what must not be stored any more is handed on, and forgotten",
            vec![
                first_half(),
                rest()
                    .answers(
                        206,
                        "cache-control: no-store|etag: \"a\"|content-range: bytes 5-9/10",
                        "56789",
                    )
                    .body("0123456789")
                    .tells("fwd=partial; fwd-status=206; detail=no-store"),
                get("range: bytes=0-4").gives("", "").origin_does_not_see("if-none-match"),
            ],
        ),
        (
            "RFC 9111 4.3.2: a client that has it already gets a 304",
            vec![
                first_half(),
                get("if-none-match: \"b\"")
                    .answers(
                        206,
                        "cache-control: max-age=60|etag: \"a\"|content-range: bytes 5-9/10",
                        "56789",
                    )
                    .body("0123456789"),
                get("if-none-match: \"a\"").unasked().status(304),
            ],
        ),
        (
            "RFC 9111 3.3: an origin that is down leaves what is there",
            vec![first_half(), get("").down().error(), get("range: bytes=0-4").hit("01234")],
        ),
        (
            "RFC 9111 3.3: and so does one that fails",
            vec![
                first_half(),
                get("").answers(503, "", "down").status(503).body("down"),
                get("range: bytes=0-4").hit("01234"),
            ],
        ),
        refused(
            "RFC 9111 3.4: not by another representation",
            206,
            "etag: \"b\"|content-range: bytes 5-9/10",
        ),
        refused("RFC 9111 3.4: not without a tag", 206, "content-range: bytes 5-9/10"),
        refused("RFC 9111 3.4: not by other bytes", 206, "etag: \"a\"|content-range: bytes 4-9/10"),
        refused("15.5.17: not by a 416", 416, "content-range: bytes */5"),
        asks_for_all(
            "RFC 9111 3.4: without a strong tag",
            "cache-control: max-age=60|etag: W/\"a\"|content-range: bytes 0-4/10",
            "01234",
        ),
        asks_for_all(
            "RFC 9111 3.4: of an unknown length",
            "cache-control: max-age=60|etag: \"a\"|content-range: bytes 0-4/*",
            "01234",
        ),
        asks_for_all(
            "RFC 9111 3.4: what is not at the front",
            "cache-control: max-age=60|etag: \"a\"|content-range: bytes 5-9/10",
            "56789",
        ),
    ];
    run(&harness, "completed", cases).await;
}

async fn too_long(harness: Harness) {
    let cases = vec![
        (
            "RFC 9111 3.3: what would be too long is not completed",
            vec![
                first_half(),
                get("").gives("", "0123456789").origin_does_not_see("range").body("0123456789"),
            ],
        ),
        (
            "RFC 9111 3.4: nor joined",
            vec![
                first_half(),
                get("range: bytes=5-8").answers(
                    206,
                    "cache-control: max-age=60|etag: \"a\"|content-range: bytes 5-8/10",
                    "5678",
                ),
                get("range: bytes=0-4").hit("01234"),
                get("range: bytes=5-8").gives("", "").body(""),
            ],
        ),
        (
            "RFC 9111 3.3: a part that is too long is handed on",
            vec![
                get("range: bytes=0-8")
                    .answers(
                        206,
                        "cache-control: max-age=60|content-length: 9|content-range: bytes 0-8/10",
                        "012345678",
                    )
                    .body("012345678")
                    .tells("fwd=uri-miss; detail=too-large"),
            ],
        ),
    ];
    run_with(&harness, "too-long", |layer| layer.body_limit(8), cases).await;
}

//! RFC 9110, section 14, and RFC 9111, sections 3.3 and 3.4: parts of a response.

use super::script::{Case, get, run};
use crate::harness::Harness;

on_every_backend! { ranges }

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
                    .tells("fwd=uri-miss; detail=range"),
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

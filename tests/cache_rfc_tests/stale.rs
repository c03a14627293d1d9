//! RFC 9111, section 4.2.4, and RFC 5861: stale responses.

use super::script::{Case, Step, get, head, run, run_with};
use crate::harness::Harness;
use std::time::Duration;
use towerkeep::cache::{CacheKey, CacheLayer};

on_every_backend! { while_revalidating, if_error, by_setting, by_key }

async fn while_revalidating(harness: Harness) {
    let stored = "cache-control: max-age=1, stale-while-revalidate=60|etag: \"a\"";
    let forbidden = |name, headers| -> Case {
        (name, vec![get("").gives(headers, "one"), get("").later(2).gives("", "two").body("two")])
    };
    let cases = vec![
        (
            "RFC 5861 3: it is the answer, and a new one is made",
            vec![
                get("").gives(stored, "one"),
                get("cookie: a=b|authorization: x|range: bytes=0-1|if-none-match: \"z\"")
                    .later(2)
                    .gives("cache-control: max-age=60", "two")
                    .body("on")
                    .status(206),
                get("").hit("two"),
            ],
        ),
        (
            "RFC 5861 3: the new one is asked for by the tag",
            vec![
                get("").gives(stored, "one"),
                get("cookie: a=b")
                    .later(2)
                    .answers(304, "etag: \"a\"|cache-control: max-age=60", "")
                    .body("one")
                    .tells("hit"),
                get("").later(9).hit("one").with("age", "9"),
            ],
        ),
        (
            "RFC 5861 3: a HEAD makes no new one",
            vec![
                get("").gives(stored, "one"),
                head().later(2).unasked().with("content-length", "3"),
                get("").gives("cache-control: max-age=60", "two").body("one"),
                get("").hit("two"),
            ],
        ),
        (
            "RFC 5861 3: not beyond its time",
            vec![get("").gives(stored, "one"), get("").later(62).gives("", "two").body("two")],
        ),
        (
            "RFC 5861 3: one that failed is tried again",
            vec![
                get("").gives(stored, "one"),
                get("").later(2).down().body("one"),
                get("").later(2).gives("cache-control: max-age=60", "two").body("one"),
                get("").hit("two"),
            ],
        ),
        (
            "4.1: the new one was asked for without a cookie, and is for those who have none",
            vec![
                get("").gives("cache-control: max-age=1, stale-while-revalidate=60", "one"),
                get("cookie: a=b")
                    .later(2)
                    .gives("cache-control: max-age=60|vary: cookie", "two")
                    .origin_does_not_see("cookie")
                    .body("one"),
                get("cookie: a=b").gives("cache-control: max-age=60|vary: cookie", "three"),
                get("").hit("two"),
                get("cookie: a=b").hit("three"),
            ],
        ),
        forbidden(
            "4.2.4: not against must-revalidate",
            "cache-control: max-age=1, stale-while-revalidate=60, must-revalidate",
        ),
        forbidden(
            "4.2.4: not against proxy-revalidate",
            "cache-control: max-age=1, stale-while-revalidate=60, proxy-revalidate",
        ),
        forbidden(
            "4.2.4: not against s-maxage",
            "cache-control: s-maxage=1, stale-while-revalidate=60",
        ),
    ];
    run(&harness, "while-revalidating", cases).await;
}

async fn if_error(harness: Harness) {
    let stored = "cache-control: max-age=1, stale-if-error=60";
    let error = |name, status, stands_in| -> Case {
        let again = get("").later(2).answers(status, "", "error");
        let again = if stands_in {
            again.body("one").status(200)
        } else {
            again.body("error").status(status)
        };
        (name, vec![get("").gives(stored, "one"), again])
    };
    let forbidden = |name, headers| -> Case {
        (
            name,
            vec![
                get("").gives(headers, "one"),
                get("").later(2).answers(503, "", "error").status(503),
            ],
        )
    };
    let down = |name, headers| -> Case {
        (name, vec![get("").gives(headers, "one"), get("").later(2).down().error()])
    };
    let cases = vec![
        error("RFC 5861 4: 500", 500, true),
        error("RFC 5861 4: 502", 502, true),
        error("RFC 5861 4: 503", 503, true),
        error("RFC 5861 4: 504", 504, true),
        error("RFC 5861 4: not 404", 404, false),
        error("RFC 5861 4: not 501", 501, false),
        (
            "RFC 5861 4: no connection",
            vec![
                get("").gives(stored, "one"),
                get("")
                    .later(2)
                    .down()
                    .body("one")
                    .with("age", "2")
                    .without("warning")
                    .tells("fwd=stale; detail=stale-if-error"),
            ],
        ),
        (
            "RFC 5861 4: a request may ask for it",
            vec![
                get("").gives("cache-control: max-age=1", "one"),
                get("cache-control: stale-if-error=60").later(2).down().body("one"),
            ],
        ),
        (
            "RFC 5861 4: not beyond its time",
            vec![
                get("").gives(stored, "one"),
                get("").later(62).answers(503, "", "error").status(503),
            ],
        ),
        forbidden(
            "4.2.4: not against must-revalidate",
            "cache-control: max-age=1, stale-if-error=60, must-revalidate",
        ),
        forbidden(
            "4.2.4: not against proxy-revalidate",
            "cache-control: max-age=1, stale-if-error=60, proxy-revalidate",
        ),
        forbidden(
            "4.2.4: not against no-cache",
            "cache-control: no-cache, stale-if-error=60|etag: \"a\"",
        ),
        forbidden("4.2.4: not against s-maxage", "cache-control: s-maxage=1, stale-if-error=60"),
        down("4.2.4: not by itself", "cache-control: max-age=1"),
        down("4.2.4: no connection, must-revalidate", "cache-control: max-age=1, must-revalidate"),
        down("4.2.4: no connection, no-cache", "cache-control: no-cache|etag: \"a\""),
        down("4.2.4: no connection, s-maxage", "cache-control: s-maxage=1|etag: \"a\""),
    ];
    run(&harness, "if-error", cases).await;
}

async fn by_setting(harness: Harness) {
    let cases = vec![
        (
            "RFC 5861 3: the layer's own time",
            vec![
                get("").gives("cache-control: max-age=1", "one"),
                get("").later(2).gives("cache-control: max-age=60", "two").body("one"),
                get("").hit("two"),
            ],
        ),
        (
            "RFC 5861 3: a response knows better",
            vec![
                get("").gives("cache-control: max-age=1, stale-while-revalidate=0", "one"),
                get("").later(2).gives("", "two").body("two"),
            ],
        ),
        (
            "RFC 5861 4: the layer's own time, for errors",
            vec![
                get("").gives("cache-control: max-age=1, stale-while-revalidate=0", "one"),
                get("").later(2).down().body("one"),
                get("").later(99).down().error(),
            ],
        ),
    ];
    let settings = |layer: CacheLayer| {
        let window = Duration::from_secs(60);
        layer.stale_while_revalidate(window).stale_if_error(window)
    };
    run_with(&harness, "by-setting", settings, cases).await;
}

async fn by_key(harness: Harness) {
    let asked = || get("cookie: plan=a|authorization: x");
    let stored = "cache-control: max-age=1, public, stale-while-revalidate=60";
    let made = |name, seen: fn(Step) -> Step| -> Case {
        let again = asked().later(2).gives("cache-control: max-age=60, public", "two").body("one");
        (name, vec![asked().gives(stored, "one"), seen(again), asked().hit("two")])
    };
    let of_cookie = vec![made("RFC 5861 3: with what the key is made of", |step| {
        step.origin_sees("cookie", "plan=a")
    })];
    let by_cookie = |layer: CacheLayer| {
        layer.key(CacheKey::default().custom(|request| {
            let cookie = request.headers.get("cookie").and_then(|cookie| cookie.to_str().ok());
            Some(cookie.unwrap_or_default().to_owned())
        }))
    };
    run_with(&harness, "by-cookie", by_cookie, of_cookie).await;
    let of_else = vec![made("RFC 5861 3: without what it is not made of", |step| {
        step.origin_does_not_see("cookie").origin_does_not_see("authorization")
    })];
    let by_else = |layer: CacheLayer| layer.key(CacheKey::default().custom(|_| Some("a".into())));
    run_with(&harness, "by-else", by_else, of_else).await;
}

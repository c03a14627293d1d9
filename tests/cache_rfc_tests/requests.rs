//! RFC 9111, section 5.2.1: what a request may ask of a cache.

use super::script::{get, method, run};
use crate::harness::Harness;

on_every_backend! { directives }

const FRESH: &str = "cache-control: max-age=60";

async fn directives(harness: Harness) {
    let asked = |name, request| {
        (
            name,
            vec![
                get("").gives(FRESH, "one"),
                get(request).later(5).gives(FRESH, "two").body("two"),
            ],
        )
    };
    let hit =
        |name, request| (name, vec![get("").gives(FRESH, "one"), get(request).later(5).hit("one")]);
    let cases = vec![
        asked("5.2.1.4: no-cache", "cache-control: no-cache"),
        asked("5.4: Pragma: no-cache", "pragma: no-cache"),
        hit("5.4: Pragma: another", "pragma: x"),
        hit("5.4: Pragma beside Cache-Control", "pragma: no-cache|cache-control: max-age=30"),
        asked("5.2.1.5: no-store", "cache-control: no-store"),
        asked("5.2.1.1: max-age=0", "cache-control: max-age=0"),
        (
            "5.2.1.1: max-age=0, as soon as it is stored",
            vec![
                get("").gives(FRESH, "one"),
                get("cache-control: max-age=0").gives(FRESH, "two").body("two"),
            ],
        ),
        (
            "5.2.1.3: what is stale meets no min-fresh, whatever max-stale says",
            vec![
                get("").gives("cache-control: max-age=1", "one"),
                get("cache-control: min-fresh=1, max-stale").later(2).gives("", "two").body("two"),
            ],
        ),
        asked("5.2.1.1: max-age that is exceeded", "cache-control: max-age=4"),
        hit("5.2.1.1: max-age that is not", "cache-control: max-age=10"),
        asked("5.2.1.3: min-fresh that is not met", "cache-control: min-fresh=56"),
        hit("5.2.1.3: min-fresh that is", "cache-control: min-fresh=50"),
        hit("5.2.1.7: only-if-cached", "cache-control: only-if-cached"),
        (
            "5.2.1.7: only-if-cached, and nothing is",
            vec![
                get("cache-control: only-if-cached")
                    .unasked()
                    .status(504)
                    .tells("detail=only-if-cached"),
            ],
        ),
        (
            "5.2.1.2: max-stale",
            vec![
                get("").gives("cache-control: max-age=1", "one"),
                get("cache-control: max-stale").later(9).hit("one").with("age", "9"),
            ],
        ),
        (
            "5.2.1.2: max-stale that is enough",
            vec![
                get("").gives("cache-control: max-age=1", "one"),
                get("cache-control: max-stale=60").later(9).hit("one"),
            ],
        ),
        (
            "5.2.1.2: max-stale that is not",
            vec![
                get("").gives("cache-control: max-age=1", "one"),
                get("cache-control: max-stale=5").later(9).gives("", "two").body("two"),
            ],
        ),
        (
            "5.2.1.2: never against must-revalidate",
            vec![
                get("").gives("cache-control: max-age=1, must-revalidate", "one"),
                get("cache-control: max-stale").later(9).gives("", "two").body("two"),
            ],
        ),
        (
            "5.2.1.5: what comes to no-store is not stored",
            vec![
                get("cache-control: no-store").gives(FRESH, "one"),
                get("").gives(FRESH, "two").body("two"),
            ],
        ),
        (
            "5.2.1.4: no-cache validates",
            vec![
                get("").gives("cache-control: max-age=60|etag: \"a\"", "one"),
                get("cache-control: no-cache")
                    .answers(304, "etag: \"a\"", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .body("one")
                    .tells("fwd=request; fwd-status=304; stored"),
            ],
        ),
        (
            "5.2.1.4: what comes to no-cache is stored",
            vec![get("cache-control: no-cache").gives(FRESH, "one"), get("").hit("one")],
        ),
        (
            "RFC 9110 9.3.7: OPTIONS is not the cache's business",
            vec![
                get("").gives(FRESH, "one"),
                method("OPTIONS").gives(FRESH, "two").body("two").tells("fwd=method"),
                get("").hit("one"),
            ],
        ),
    ];
    run(&harness, "requests", cases).await;
}

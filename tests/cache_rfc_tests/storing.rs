//! RFC 9111, section 3: what may be stored, and what of it.

use super::script::{Case, get, head, method, run};
use crate::harness::Harness;

on_every_backend! { statuses, directives, authorization, fields }

const FRESH: &str = "cache-control: max-age=3600";

async fn statuses(harness: Harness) {
    let stored = |name, status| -> Case {
        let again = get("").hit("one").status(status);
        (name, vec![get("").answers(status, FRESH, "one"), again])
    };
    let cases = vec![
        stored("3: 200", 200),
        stored("3: 201", 201),
        stored("3: 203", 203),
        stored("3: 299", 299),
        stored("3: 301", 301),
        stored("3: 302", 302),
        stored("3: 307", 307),
        stored("3: 308", 308),
        stored("3: 400", 400),
        stored("3: 404", 404),
        stored("3: 410", 410),
        stored("3: 499", 499),
        stored("3: 500", 500),
        stored("3: 502", 502),
        stored("3: 504", 504),
        stored("3: 599", 599),
        (
            "3.3: a 206 does not pass for a 200",
            vec![
                get("range: bytes=0-2").answers(
                    206,
                    "cache-control: max-age=3600|content-range: bytes 0-2/9",
                    "one",
                ),
                get("").gives(FRESH, "one, whole").status(200).body("one, whole"),
            ],
        ),
        (
            "3: not what a POST gives",
            vec![method("POST").gives(FRESH, "one"), get("").gives(FRESH, "two").body("two")],
        ),
        (
            "9.3.2: a HEAD does not pass for a GET",
            vec![head().gives(FRESH, ""), get("").gives(FRESH, "two").body("two")],
        ),
        (
            "9.3.2: a GET answers a HEAD",
            vec![
                get("").gives(FRESH, "one"),
                head().hit("").with("content-length", "3").with("age", "0"),
            ],
        ),
        (
            "3: what could not be stored keeps the next from nothing",
            vec![
                get("").gives("cache-control: no-store", "one"),
                get("").gives(FRESH, "two").tells("fwd=uri-miss; stored"),
                get("").hit("two"),
            ],
        ),
        (
            "2: query and path tell responses apart",
            vec![
                get("").gives(FRESH, "one"),
                get("").to("?a").gives(FRESH, "two").body("two"),
                get("").to("/").gives(FRESH, "three").body("three"),
                get("").to("?a").hit("two"),
            ],
        ),
    ];
    run(&harness, "statuses", cases).await;
}

async fn directives(harness: Harness) {
    let case = |name, status, headers, stored| -> Case {
        let again = get("").later(1);
        let again = if stored { again.hit("one") } else { again.gives("", "two") };
        (name, vec![get("").answers(status, headers, "one"), again])
    };
    let cases = vec![
        case(
            "5.2.2.3: must-understand lifts no-store",
            200,
            "cache-control: no-store, must-understand, max-age=60",
            true,
        ),
        case(
            "5.2.2.3: not for an unknown status",
            299,
            "cache-control: no-store, must-understand, max-age=60",
            false,
        ),
        case(
            "5.2.2.3: an unknown status alone",
            299,
            "cache-control: must-understand, max-age=60",
            false,
        ),
        case("5.2.2.9: public alone is no freshness", 200, "cache-control: public", false),
        case(
            "5.2.2.7: private by field stores the rest",
            200,
            "cache-control: private=\"x\", max-age=60|x: 1",
            true,
        ),
        case(
            "7.3: Set-Cookie does not block",
            200,
            "cache-control: max-age=60|set-cookie: a=b",
            true,
        ),
        case(
            "5.4: Pragma of a response means nothing",
            200,
            "cache-control: max-age=60|pragma: no-cache",
            true,
        ),
    ];
    run(&harness, "directives", cases).await;
}

async fn authorization(harness: Harness) {
    let case = |name, headers, stored| -> Case {
        let again = get("authorization: Basic x");
        let again = if stored { again.hit("one") } else { again.gives("", "two") };
        (name, vec![get("authorization: Basic x").gives(headers, "one"), again])
    };
    let cases = vec![
        case("3.5: not without leave", "cache-control: max-age=60", false),
        case("3.5: Expires is no leave", "expires: {now+60}", false),
        case("3.5: public", "cache-control: max-age=60, public", true),
        case("3.5: must-revalidate", "cache-control: max-age=60, must-revalidate", true),
        case("3.5: s-maxage", "cache-control: s-maxage=60", true),
        (
            "3.5: what anyone got answers one with it",
            vec![get("").gives(FRESH, "one"), get("authorization: Basic x").hit("one")],
        ),
    ];
    run(&harness, "authorization", cases).await;
}

async fn fields(harness: Harness) {
    let kept = |name, headers, field, value| -> Case {
        (name, vec![get("").gives(headers, "one"), get("").hit("one").with(field, value)])
    };
    let gone = |name, headers, field| -> Case {
        (name, vec![get("").gives(headers, "one"), get("").hit("one").without(field)])
    };
    let cases = vec![
        kept("3.1: an unknown field", "cache-control: max-age=60|x-a: 1|x-a: 2", "x-a", "1 | 2"),
        kept(
            "3.1: Content-Encoding",
            "cache-control: max-age=60|content-encoding: gzip",
            "content-encoding",
            "gzip",
        ),
        kept("3.1: Set-Cookie", "cache-control: max-age=60|set-cookie: a=b", "set-cookie", "a=b"),
        kept("3.1: Content-MD5", "cache-control: max-age=60|content-md5: x", "content-md5", "x"),
        kept(
            "3.1: Strict-Transport-Security",
            "cache-control: max-age=60|strict-transport-security: x",
            "strict-transport-security",
            "x",
        ),
        gone("3.1: Connection", "cache-control: max-age=60|connection: x-hop", "connection"),
        gone(
            "3.1: what Connection lists",
            "cache-control: max-age=60|connection: a, X-Hop|x-hop: 1",
            "x-hop",
        ),
        gone("3.1: Keep-Alive", "cache-control: max-age=60|keep-alive: x", "keep-alive"),
        gone(
            "3.1: Proxy-Connection",
            "cache-control: max-age=60|proxy-connection: x",
            "proxy-connection",
        ),
        gone(
            "3.1: Proxy-Authenticate",
            "cache-control: max-age=60|proxy-authenticate: x",
            "proxy-authenticate",
        ),
        gone(
            "3.1: Proxy-Authentication-Info",
            "cache-control: max-age=60|proxy-authentication-info: x",
            "proxy-authentication-info",
        ),
        gone("3.1: TE", "cache-control: max-age=60|te: x", "te"),
        gone("3.1: Upgrade", "cache-control: max-age=60|upgrade: x", "upgrade"),
        gone(
            "3.1: Transfer-Encoding",
            "cache-control: max-age=60|transfer-encoding: chunked",
            "transfer-encoding",
        ),
        gone(
            "5.2.2.4: fields of no-cache",
            "cache-control: max-age=60, no-cache=\"x-a, x-b\"|x-a: 1",
            "x-a",
        ),
        gone(
            "5.2.2.7: fields of private",
            "cache-control: max-age=60, private=\"X-A\"|x-a: 1",
            "x-a",
        ),
    ];
    run(&harness, "fields", cases).await;
}

//! RFC 9111, sections 4.2 and 5.2.2: how long a response is fresh.

use super::script::{Case, get, run};
use crate::harness::Harness;

on_every_backend! { cache_control, expires, guesses }

/// Asked again after two seconds, such a response is an answer.
fn stays(name: &'static str, headers: &'static str) -> Case {
    (name, vec![get("").gives(headers, "one"), get("").later(2).hit("one")])
}

/// Asked again after two seconds, the origin is asked.
fn goes(name: &'static str, headers: &'static str) -> Case {
    (name, vec![get("").gives(headers, "one"), get("").later(2).gives(headers, "two").body("two")])
}

async fn cache_control(harness: Harness) {
    let cases = vec![
        goes("4.2.2: nothing said, nothing guessed", ""),
        stays("5.2.2.1: max-age", "cache-control: max-age=3600"),
        goes("5.2.2.1: max-age=0", "cache-control: max-age=0"),
        goes("4.2: max-age that has passed", "cache-control: max-age=1"),
        stays("1.2.2: max-age of 2147483648", "cache-control: max-age=2147483648"),
        stays("1.2.2: max-age of 99999999999", "cache-control: max-age=99999999999"),
        stays("5.2.2.1: max-age with leading zeros", "cache-control: max-age=0003600"),
        stays("5.2: max-age in quotes", "cache-control: max-age=\"3600\""),
        goes("5.2: max-age in single quotes", "cache-control: max-age='3600'"),
        goes("4.2.1: max-age that is negative", "cache-control: max-age=-3600"),
        goes("4.2.1: max-age with a letter before", "cache-control: max-age=a3600"),
        goes("4.2.1: max-age with a letter behind", "cache-control: max-age=3600a"),
        goes("4.2.1: max-age with a fraction", "cache-control: max-age=3600.5"),
        goes("4.2.1: max-age without a value", "cache-control: max-age"),
        stays("5.2: names in any case", "cache-control: MaX-aGe=3600"),
        stays("5.2: an extension beside", "cache-control: foobar, max-age=3600"),
        stays("5.2: lines add up", "cache-control: public|cache-control: max-age=3600"),
        stays("5.2: empty members", "cache-control: ,, max-age=3600 ,"),
        goes(
            "5.2: a directive in a string counts not",
            "cache-control: x=\"max-age=3600\", max-age=1",
        ),
        goes("5.2: nor behind an escape", "cache-control: x=\"\\\", max-age=3600\", max-age=1"),
        stays("5.2: a comma in a string", "cache-control: x=\"a,b\", max-age=3600"),
        goes("4.2.1: of two, the stricter", "cache-control: max-age=3600, max-age=1"),
        goes("4.2.1: of two, the stricter, first", "cache-control: max-age=1, max-age=3600"),
        stays("5.2.2.10: s-maxage before max-age", "cache-control: max-age=1, s-maxage=3600"),
        goes(
            "5.2.2.10: s-maxage before max-age, shorter",
            "cache-control: max-age=3600, s-maxage=1",
        ),
        goes("5.2.2.10: s-maxage=0", "cache-control: s-maxage=0"),
        stays(
            "5.2.2.10: s-maxage before Expires",
            "cache-control: s-maxage=3600|expires: {now-60}",
        ),
        goes("5.2.2.4: no-cache without a validator", "cache-control: no-cache, max-age=3600"),
        goes("5.2.2.5: no-store", "cache-control: no-store, max-age=3600"),
        goes("5.2.2.5: NO-STORE", "cache-control: NO-STORE, max-age=3600"),
        goes("5.2.2.7: private", "cache-control: private, max-age=3600"),
        goes("5.2: a quote without end", "cache-control: max-age=3600, x=\"y"),
    ];
    run(&harness, "cache-control", cases).await;
}

async fn expires(harness: Harness) {
    let cases = vec![
        stays("5.3: Expires", "expires: {now+60}"),
        goes("5.3: Expires in the past", "expires: {now-60}"),
        goes("5.3: Expires that is now", "expires: {now}"),
        goes("5.3: Expires is not a date", "expires: 0"),
        goes(
            "5.3: an Expires that is no date hides no guess",
            "expires: x|last-modified: {now-90000}",
        ),
        stays(
            "5.2.2.1: max-age before a past Expires",
            "cache-control: max-age=60|expires: {now-60}",
        ),
        goes(
            "5.2.2.1: max-age before a later Expires",
            "cache-control: max-age=1|expires: {now+60}",
        ),
        goes("4.2.1: by the origin's own Date", "date: {now+60}|expires: {now+61}"),
        stays("RFC 9110 5.6.7: RFC 850", "expires: Thursday, 18-Aug-50 02:01:18 GMT"),
        stays("RFC 9110 5.6.7: asctime", "expires: Thu Aug 18 02:01:18 2050"),
        stays("RFC 9110 5.6.7: month in another case", "expires: Thu, 18 AUG 2050 02:01:18 GMT"),
        stays("RFC 9110 5.6.7: weekday in another case", "expires: THU, 18 Aug 2050 02:01:18 GMT"),
        stays("RFC 9110 5.6.7: GMT in another case", "expires: Thu, 18 Aug 2050 02:01:18 gMT"),
        goes("RFC 9110 5.6.7: UTC", "expires: Thu, 18 Aug 2050 02:01:18 UTC"),
        goes("RFC 9110 5.6.7: another zone", "expires: Thu, 18 Aug 2050 02:01:18 AEST"),
        goes("RFC 9110 5.6.7: a year of two digits", "expires: Thu, 18 Aug 50 02:01:18 GMT"),
        goes("RFC 9110 5.6.7: an hour of one digit", "expires: Thu, 18 Aug 2050 2:01:18 GMT"),
        goes("RFC 9110 5.6.7: dashes", "expires: Thu, 18-Aug-2050 02:01:18 GMT"),
        goes("RFC 9110 5.6.7: two spaces", "expires: Thu,  18 Aug 2050 02:01:18 GMT"),
        goes("RFC 9110 5.6.7: no comma", "expires: Thu 18 Aug 2050 02:01:18 GMT"),
        goes("RFC 9110 5.6.7: periods in the time", "expires: Thu, 18 Aug 2050 02.01.18 GMT"),
    ];
    run(&harness, "expires", cases).await;
}

async fn guesses(harness: Harness) {
    let guess = |name, status, stored| -> Case {
        let first = get("").answers(status, "last-modified: {now-90000}", "one");
        let again = get("").later(2);
        (name, vec![first, if stored { again.hit("one") } else { again.answers(200, "", "two") }])
    };
    let mut cases = vec![
        guess("4.2.2: 200", 200, true),
        guess("4.2.2: 203", 203, true),
        guess("4.2.2: 204", 204, true),
        guess("4.2.2: 404", 404, true),
        guess("4.2.2: 405", 405, true),
        guess("4.2.2: 410", 410, true),
        guess("4.2.2: 414", 414, true),
        guess("4.2.2: 501", 501, true),
        guess("4.2.2: not 201", 201, false),
        guess("4.2.2: not 202", 202, false),
        guess("4.2.2: not 403", 403, false),
        guess("4.2.2: not 502", 502, false),
        guess("4.2.2: not 503", 503, false),
        guess("4.2.2: not 504", 504, false),
        guess("4.2.2: not 599", 599, false),
    ];
    cases.push((
        "4.2.2: any status with public",
        vec![
            get("").answers(599, "cache-control: public|last-modified: {now-90000}", "one"),
            get("").later(2).hit("one").status(599),
        ],
    ));
    cases.push(goes("4.2.2: a tenth of it", "last-modified: {now-10}"));
    run(&harness, "guesses", cases).await;
}

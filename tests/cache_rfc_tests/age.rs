//! RFC 9111, sections 4.2.3 and 5.1: how old a response is.

use super::script::{Case, get, run};
use crate::harness::Harness;

on_every_backend! { ages }

fn case(name: &'static str, headers: &'static str, age: Option<&'static str>) -> Case {
    let again = get("").later(10);
    let again = match age {
        Some(age) => again.hit("one").with("age", age),
        None => again.gives("", "two"),
    };
    (name, vec![get("").gives(headers, "one"), again])
}

async fn ages(harness: Harness) {
    let cases = vec![
        case("5.1: a hit says how old it is", "cache-control: max-age=3600", Some("10")),
        case(
            "5.1: the age that it came with counts",
            "cache-control: max-age=3600|age: 5",
            Some("15"),
        ),
        case("4.2.3: it came too old", "cache-control: max-age=60|age: 60", None),
        case("4.2.3: it gets too old", "cache-control: max-age=60|age: 50", None),
        case("4.2.3: s-maxage as well", "cache-control: s-maxage=60|age: 50", None),
        case("4.2.3: Expires as well", "expires: {now+60}|age: 50", None),
        case("4.2.3: an old Date is an age", "cache-control: max-age=60|date: {now-50}", None),
        case(
            "5.1: a number that overflows",
            "cache-control: max-age=3600|age: 99999999999999",
            None,
        ),
        case("5.1: not negative", "cache-control: max-age=3600|age: -7200", Some("10")),
        case("5.1: no fraction", "cache-control: max-age=3600|age: 7200.0", Some("10")),
        case("5.1: no letters", "cache-control: max-age=3600|age: abc", Some("10")),
        case("5.1: no letters behind", "cache-control: max-age=3600|age: 7200a", Some("10")),
        case("5.1: no parameter", "cache-control: max-age=3600|age: 7200;x=1", Some("10")),
        case("5.1: the first of a list", "cache-control: max-age=3600|age: 5, 7200", Some("15")),
        case("5.1: the first of a list, too old", "cache-control: max-age=3600|age: 7200, 0", None),
        case(
            "5.1: the first of the lines",
            "cache-control: max-age=3600|age: 5|age: 7200",
            Some("15"),
        ),
        (
            "5.1: Date stays as it was",
            vec![
                get("")
                    .gives("cache-control: max-age=60|date: Sat, 06 Nov 2094 08:49:37 GMT", "one"),
                get("").hit("one").with("date", "Sat, 06 Nov 2094 08:49:37 GMT").without("warning"),
            ],
        ),
        (
            "5.1: no Age where the origin was asked",
            vec![get("").gives("cache-control: max-age=60", "one").without("age")],
        ),
    ];
    run(&harness, "age", cases).await;
}

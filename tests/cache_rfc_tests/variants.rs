//! RFC 9111, section 4.1: responses that vary.

use super::script::{Case, get, method, run, run_with};
use crate::harness::Harness;

on_every_backend! { matches, normal_forms, languages }

const BY_FOO: &str = "cache-control: max-age=3600|vary: Foo";

async fn matches(harness: Harness) {
    let never = |name, vary| -> Case {
        (name, vec![get("foo: 1").gives(vary, "one"), get("foo: 1").gives("", "two").body("two")])
    };
    let two = "cache-control: max-age=3600|vary: Foo, Bar";
    let cases = vec![
        ("4.1: the same value", vec![get("foo: 1").gives(BY_FOO, "one"), get("foo: 1").hit("one")]),
        (
            "4.1: another value",
            vec![
                get("foo: 1").gives(BY_FOO, "one"),
                get("foo: 2").gives(BY_FOO, "two").body("two").tells("fwd=vary-miss; stored"),
            ],
        ),
        (
            "4.1: absent, then present",
            vec![get("").gives(BY_FOO, "one"), get("foo: 1").gives(BY_FOO, "two").body("two")],
        ),
        (
            "4.1: present, then absent",
            vec![get("foo: 1").gives(BY_FOO, "one"), get("").gives(BY_FOO, "two").body("two")],
        ),
        ("4.1: absent from both", vec![get("").gives(BY_FOO, "one"), get("").hit("one")]),
        (
            "4.1: several variants stand side by side",
            vec![
                get("foo: 1").gives(BY_FOO, "one"),
                get("foo: 2").gives(BY_FOO, "two"),
                get("foo: 3").gives(BY_FOO, "three"),
                get("foo: 1").hit("one"),
                get("foo: 2").hit("two"),
                get("foo: 3").hit("three"),
            ],
        ),
        (
            "4.1: what is not listed makes no difference",
            vec![get("foo: 1|other: 1").gives(BY_FOO, "one"), get("foo: 1|other: 2").hit("one")],
        ),
        (
            "4.1: two fields, both the same",
            vec![get("foo: 1|bar: a").gives(two, "one"), get("bar: a|foo: 1").hit("one")],
        ),
        (
            "4.1: two fields, one differs",
            vec![
                get("foo: 1|bar: a").gives(two, "one"),
                get("foo: 1|bar: b").gives(two, "two").body("two"),
            ],
        ),
        (
            "4.1: two fields, one absent",
            vec![
                get("foo: 1").gives(two, "one"),
                get("foo: 1|bar: b").gives(two, "two").body("two"),
                get("foo: 1").hit("one"),
            ],
        ),
        (
            "4.1: lines of Vary add up, in any case and order",
            vec![
                get("foo: 1|bar: a").gives("cache-control: max-age=60|vary: BAR|vary: foo", "one"),
                get("foo: 2|bar: a").gives(two, "two").body("two"),
                get("foo: 1|bar: a").hit("one"),
            ],
        ),
        (
            "4.1: a response that varies by more forgets those before it",
            vec![
                get("foo: 1").gives(BY_FOO, "one"),
                get("foo: 2|bar: a").gives(two, "two"),
                get("foo: 2|bar: a").hit("two"),
                get("foo: 1").gives(two, "three").body("three"),
            ],
        ),
        (
            "4.1: each variant is validated by its own tag",
            vec![
                get("foo: 1").gives("cache-control: max-age=1|vary: foo|etag: \"a\"", "one"),
                get("foo: 2").gives("cache-control: max-age=1|vary: foo|etag: \"b\"", "two"),
                get("foo: 1")
                    .later(2)
                    .answers(304, "etag: \"a\"|vary: foo", "")
                    .origin_sees("if-none-match", "\"a\"")
                    .body("one"),
                get("foo: 2")
                    .answers(304, "etag: \"b\"|vary: foo", "")
                    .origin_sees("if-none-match", "\"b\"")
                    .body("two"),
            ],
        ),
        (
            "RFC 9110 7.6.1: a field that ends at the proxy is not what the origin has answered",
            vec![
                get("foo: 1|connection: close, Foo")
                    .gives(BY_FOO, "none")
                    .tells("fwd=bypass; detail=connection"),
                get("foo: 1").gives(BY_FOO, "one").body("one"),
                get("foo: 1|connection: host").gives(BY_FOO, "two").body("two"),
                get("foo: 1|connection: if-none-match").gives(BY_FOO, "three").body("three"),
                get("foo: 1|te: trailers|connection: te, close, keep-alive, bar").hit("one"),
            ],
        ),
        never("4.1: star", "cache-control: max-age=60|vary: *"),
        never("4.1: star, then a name", "cache-control: max-age=60|vary: *, foo"),
        never("4.1: a name, then star", "cache-control: max-age=60|vary: foo, *"),
        never("4.1: star in another line", "cache-control: max-age=60|vary: foo|vary: *"),
        never("4.1: an empty line, then star", "cache-control: max-age=60|vary: |vary: *"),
        never("4.1: what is no name", "cache-control: max-age=60|vary: foo bar"),
        (
            "4.1: an empty Vary",
            vec![
                get("foo: 1").gives("cache-control: max-age=60|vary: ", "one"),
                get("foo: 2").hit("one"),
            ],
        ),
    ];
    run(&harness, "matches", cases).await;
}

async fn normal_forms(harness: Harness) {
    let same = |name, vary, one, other| -> Case {
        (name, vec![get(one).gives(vary, "one"), get(other).hit("one")])
    };
    let differ = |name, vary, one, other| -> Case {
        (name, vec![get(one).gives(vary, "one"), get(other).gives(vary, "two").body("two")])
    };
    let language = "cache-control: max-age=60|vary: accept-language";
    let cases = vec![
        same("4.1: white space in a list", BY_FOO, "foo: 1,2", "foo: 1 , 2"),
        same("4.1: lines are a list", BY_FOO, "foo: 1, 2", "foo: 1|foo: 2"),
        differ("4.1: the order of an unknown list", BY_FOO, "foo: 1, 2", "foo: 2, 1"),
        differ("4.1: the case of an unknown value", BY_FOO, "foo: a", "foo: A"),
        differ("4.1: an empty value is one", BY_FOO, "", "foo: "),
        same(
            "4.1: the case of languages",
            language,
            "accept-language: en-GB, de",
            "accept-language: EN-gb, DE",
        ),
        same(
            "4.1: the order of languages",
            language,
            "accept-language: en, de",
            "accept-language: de, en",
        ),
        same(
            "4.1: white space of languages",
            language,
            "accept-language: en; q=0.5, de",
            "accept-language: en;q=0.5,de",
        ),
        differ(
            "4.1: the weight of languages",
            language,
            "accept-language: en;q=0.5",
            "accept-language: en;q=0.6",
        ),
    ];
    run(&harness, "normal-forms", cases).await;
}

async fn languages(harness: Harness) {
    const GERMAN: &str =
        "cache-control: max-age=60|vary: accept-language, foo|content-language: De";
    let stored = || get("accept-language: en, de|foo: 1").gives(GERMAN, "hallo");
    let asked = |name, request| -> Case {
        (name, vec![stored(), get(request).gives(GERMAN, "two").body("two")])
    };
    let unknown = |name, headers| -> Case {
        let first = get("accept-language: en, de|foo: 1").gives(headers, "hallo");
        let again = get("accept-language: de|foo: 1").gives(GERMAN, "two").body("two");
        (name, vec![first, again])
    };
    let cases = vec![
        (
            "RFC 9110 12.5.4: what is in the language that is preferred will do",
            vec![
                stored(),
                get("accept-language: fr;q=0.5, de;q=1.0|foo: 1").hit("hallo").tells("hit"),
                get("accept-language: DE|foo: 1").later(9).hit("hallo").with("age", "9"),
            ],
        ),
        asked(
            "RFC 9110 12.4.2: not what is preferred less",
            "accept-language: fr, de;q=0.9|foo: 1",
        ),
        asked("RFC 9110 12.4.2: not one of two", "accept-language: de, fr|foo: 1"),
        asked("RFC 4647 3.4: not another region", "accept-language: de-AT|foo: 1"),
        asked("RFC 9111 4.1: not where another field differs", "accept-language: de|foo: 2"),
        unknown(
            "RFC 9110 8.5: not of several languages",
            "cache-control: max-age=60|vary: accept-language, foo|content-language: de, en",
        ),
        unknown(
            "RFC 9110 8.5: not of no language",
            "cache-control: max-age=60|vary: accept-language, foo",
        ),
        (
            "RFC 9111 4.2: not what is stale, and the new one stands beside it",
            vec![
                stored(),
                get("accept-language: de|foo: 1")
                    .later(61)
                    .gives(GERMAN, "two")
                    .tells("fwd=vary-miss; stored"),
                get("accept-language: en;q=0.1, de|foo: 1").hit("two"),
            ],
        ),
        (
            "RFC 9111 3.3: not a part for the whole",
            vec![
                get("accept-language: en, de|foo: 1|range: bytes=0-1").answers(
                    206,
                    "cache-control: max-age=60|vary: accept-language, foo|content-language: De\
                        |content-range: bytes 0-1/5",
                    "ha",
                ),
                get("accept-language: de|foo: 1").gives(GERMAN, "hallo").status(200).body("hallo"),
            ],
        ),
        (
            "RFC 9111 4.4: not what is forgotten",
            vec![
                stored(),
                method("DELETE").answers(204, "", ""),
                get("accept-language: de|foo: 1").gives("", "two").body("two"),
            ],
        ),
    ];
    run_with(&harness, "languages", |layer| layer.select_language(true), cases).await;
    let off = vec![(
        "RFC 9111 4.1: not by itself",
        vec![stored(), get("accept-language: de|foo: 1").gives(GERMAN, "two").body("two")],
    )];
    run(&harness, "languages-off", off).await;
}

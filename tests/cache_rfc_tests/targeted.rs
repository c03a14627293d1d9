//! RFC 9213: cache control for some caches only.

use super::script::{Case, get, run, run_with};
use crate::harness::Harness;
use http::HeaderName;
use towerkeep::cache::Policy;

on_every_backend! { fields, lists }

fn stays(name: &'static str, headers: &'static str) -> Case {
    (name, vec![get("").gives(headers, "one"), get("").later(2).hit("one")])
}

fn goes(name: &'static str, headers: &'static str) -> Case {
    (name, vec![get("").gives(headers, "one"), get("").later(2).gives(headers, "two").body("two")])
}

async fn fields(harness: Harness) {
    let cases = vec![
        stays("2.2: max-age", "cdn-cache-control: max-age=60"),
        goes("2.2: max-age=0", "cdn-cache-control: max-age=0|cache-control: max-age=60"),
        stays(
            "2.2: before Cache-Control",
            "cdn-cache-control: max-age=60|cache-control: max-age=1",
        ),
        stays("2.2: before no-store", "cdn-cache-control: max-age=60|cache-control: no-store"),
        stays("2.2: before Expires", "cdn-cache-control: max-age=60|expires: {now-60}"),
        goes("2.2: Expires counts no more", "cdn-cache-control: x|expires: {now+60}"),
        goes("2.2: no-store", "cdn-cache-control: max-age=60, no-store|cache-control: max-age=60"),
        goes("2.2: private", "cdn-cache-control: max-age=60, private|cache-control: max-age=60"),
        goes("2.2: no-cache", "cdn-cache-control: max-age=60, no-cache|cache-control: max-age=60"),
        stays("2.1: an extension", "cdn-cache-control: foo, max-age=60"),
        stays("2.1: a parameter", "cdn-cache-control: max-age=60;foo=bar"),
        stays(
            "2.1: a name in another case drops the field",
            "cdn-cache-control: Max-Age=1|cache-control: max-age=60",
        ),
        stays(
            "2.1: a fault drops the field",
            "cdn-cache-control: max-age=1, &|cache-control: max-age=60",
        ),
        stays("2.1: an empty field is none", "cdn-cache-control: |cache-control: max-age=60"),
        goes(
            "2.1: a value of a wrong type is ignored",
            "cdn-cache-control: max-age=\"60\"|cache-control: max-age=60",
        ),
        goes(
            "2.1: a fraction is ignored",
            "cdn-cache-control: max-age=60.5|cache-control: max-age=60",
        ),
        (
            "2.2: Age counts against it",
            vec![
                get("").gives("cdn-cache-control: max-age=60|age: 59", "one"),
                get("").later(2).gives("", "two").body("two"),
            ],
        ),
    ];
    run(&harness, "targeted", cases).await;
}

async fn lists(harness: Harness) {
    let cases = vec![
        stays(
            "2.2: the first on the list",
            "acme-cache-control: max-age=60|cdn-cache-control: no-store",
        ),
        goes(
            "2.2: the first on the list, the other way",
            "acme-cache-control: no-store|cdn-cache-control: max-age=60",
        ),
        stays(
            "2.2: the next if there is none",
            "cdn-cache-control: max-age=60|cache-control: no-store",
        ),
        stays(
            "2.2: the next if there is a fault",
            "acme-cache-control: &|cdn-cache-control: max-age=60",
        ),
    ];
    let names = ["acme-cache-control", "cdn-cache-control"];
    let policy = Policy::proxy_for(names.map(HeaderName::from_static));
    run_with(&harness, "lists", |layer| layer.policy(policy.clone()), cases).await;
}

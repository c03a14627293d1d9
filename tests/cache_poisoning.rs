//! Cache poisoning: what one client sends, another must never get.
//!
//! The handler here believes everything that it is told, and says it in its answer. An attack asks first; then
//! an honest client asks, and gets what it would have got without.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::harness::Harness;
use axum::body::Body;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::BodyExt;
use std::{convert::Infallible, time::Duration};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use towerkeep::{
    ResponseBody,
    cache::{CacheKey, CacheLayer, Policy, Query},
};

on_every_backend! {
    an_application_answers_honest_clients_as_if_nobody_had_attacked,
    a_proxy_answers_honest_clients_as_if_nobody_had_attacked,
    what_a_key_has_of_a_query_cannot_be_dodged,
    an_endless_target_is_answered_and_leaves_nothing_behind,
    an_error_that_an_odd_header_provokes_is_not_for_the_next_one,
}

const PATIENCE: Duration = Duration::from_secs(20);

type App = BoxCloneSyncService<Request<Body>, Response<ResponseBody<Body>>, Infallible>;

/// A request: method, target, headers, body.
type Ask = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const HOST: (&str, &str) = ("host", "one.example");
const HONEST: Ask = ("GET", "/page?a=1", &[HOST], "");

/// Each differs from the honest request in what the handler reads.
const ATTACKS: &[Ask] = &[
    // Another target, however alike.
    ("GET", "/page?a=1&evil", &[HOST], ""),
    ("GET", "/page?a=1%26evil", &[HOST], ""),
    ("GET", "/page;evil?a=1", &[HOST], ""),
    ("GET", "/page/?a=1", &[HOST], ""),
    ("GET", "//page?a=1", &[HOST], ""),
    ("GET", "/./page?a=1", &[HOST], ""),
    ("GET", "/evil/../page?a=1", &[HOST], ""),
    ("GET", "/%70age?a=1", &[HOST], ""),
    ("GET", "/page%3Fa=1", &[HOST], ""),
    ("GET", "/page%00evil?a=1", &[HOST], ""),
    ("GET", "/page%0d%0aevil:1?a=1", &[HOST], ""),
    ("GET", "/PAGE?a=1", &[HOST], ""),
    ("GET", "/page?A=1", &[HOST], ""),
    ("GET", "/page??a=1", &[HOST], ""),
    // Another host, or two of them.
    ("GET", "/page?a=1", &[("host", "evil.example")], ""),
    ("GET", "/page?a=1", &[("host", "one.example.")], ""),
    ("GET", "/page?a=1", &[("host", "one.example:81")], ""),
    ("GET", "/page?a=1", &[("host", "evil@one.example")], ""),
    ("GET", "/page?a=1", &[("host", "one.example/evil")], ""),
    ("GET", "/page?a=1", &[("host", "one.example, evil")], ""),
    ("GET", "/page?a=1", &[HOST, ("host", "evil.example")], ""),
    ("GET", "/page?a=1", &[("host", "evil.example"), HOST], ""),
    ("GET", "http://one.example/page?a=1", &[("host", "evil.example")], ""),
    ("GET", "http://evil.example/page?a=1", &[HOST], ""),
    ("GET", "/e?a=1", &[("host", "one.example/pag")], ""),
    // A declared header, twice, in another order, or with what ends a line in the key.
    ("GET", "/page?a=1", &[HOST, ("x-tenant", "evil")], ""),
    ("GET", "/page?a=1", &[HOST, ("x-tenant", "")], ""),
    ("GET", "/page?a=1", &[HOST, ("x-tenant", ""), ("x-tenant", "evil")], ""),
    ("GET", "/page?a=1", &[HOST, ("x-tenant", "\tx-tenant:evil")], ""),
    // Content that nothing of the key tells of, and methods that are not to be stored.
    ("GET", "/page?a=1", &[HOST], "evil"),
    ("GET", "/page?a=1", &[HOST, ("content-length", "4")], "evil"),
    ("HEAD", "/page?a=1", &[HOST], ""),
    ("POST", "/page?a=1", &[HOST], "evil"),
    ("PUT", "/page?a=1", &[HOST], "evil"),
    ("EVIL", "/page?a=1", &[HOST], ""),
    ("get", "/page?a=1", &[HOST], ""),
    // Parts, conditions, and a client that would like its own answer to be kept.
    ("GET", "/page?a=1", &[HOST, ("range", "bytes=0-1")], ""),
    ("GET", "/page?a=1", &[HOST, ("range", "bytes=0-1,3-4")], ""),
    ("GET", "/page?a=1", &[HOST, ("if-none-match", "*")], ""),
    ("GET", "/page?a=1", &[HOST, ("if-match", "\"evil\"")], ""),
    ("GET", "/page?a=1", &[HOST, ("authorization", "Basic ZXZpbA==")], ""),
    ("GET", "/page?a=1", &[HOST, ("cookie", "evil=1")], ""),
    ("GET", "/page?a=1", &[HOST, ("upgrade", "evil"), ("connection", "upgrade")], ""),
    ("GET", "/page?a=1", &[HOST, ("connection", "cache-control, x-tenant")], ""),
    ("GET", "/page?a=1", &[HOST, ("cache-control", "max-stale, no-cache")], ""),
];

/// Says all that it has been told, but for what has no place in any key.
async fn believe(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let all = |name: &str| -> Vec<_> {
        let lines = parts.headers.get_all(name).iter();
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect()
    };
    let body = body.collect().await.unwrap().to_bytes();
    let told = format!(
        "{} {} {:?} {:?} {:?}",
        parts.method,
        parts.uri,
        all("host"),
        all("x-tenant"),
        String::from_utf8_lossy(&body),
    );
    let response = Response::builder().header("cache-control", "max-age=60");
    // One with credentials gets what is its own.
    let response = match parts.headers.contains_key("cookie") {
        true => response.header("set-cookie", "evil=1").header("cache-control", "private"),
        false => response,
    };
    Ok(response.body(Body::from(told)).unwrap())
}

fn app(harness: &Harness, policy: Policy, key: CacheKey) -> App {
    let layer = CacheLayer::new(harness.backend.clone()).policy(policy).key(key);
    BoxCloneSyncService::new(layer.layer(service_fn(believe)))
}

async fn ask(app: &App, (method, target, headers, body): Ask) -> (HeaderMap, String) {
    let request = Request::builder().method(method).uri(target.parse::<Uri>().unwrap());
    let with = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    let request = headers.iter().fold(request, with).body(Body::from(body)).unwrap();
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.headers, String::from_utf8(body.into()).unwrap())
}

async fn settled(harness: &Harness) {
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
}

/// Attacks, then asks as an honest client does; each time of an empty cache.
async fn withstands(harness: Harness, policy: fn() -> Policy) {
    let key = || CacheKey::default().header("x-tenant");
    let (_, honest) = ask(&app(&harness, policy(), key()), HONEST).await;
    assert!(honest.starts_with("GET /page?a=1 [\"one.example\"] []"), "{honest}");
    for (at, attack) in ATTACKS.iter().enumerate() {
        // Neighbours on one store: an entry of its own for each attack, by a part that all share.
        let tenant = move |_: &http::request::Parts| Some(at.to_string());
        let app = app(&harness, policy(), key().custom(tenant));
        for _ in 0..2 {
            ask(&app, *attack).await;
            settled(&harness).await;
        }
        for _ in 0..2 {
            assert_eq!(ask(&app, HONEST).await.1, honest, "after {attack:?}");
            settled(&harness).await;
        }
        // Nor does the attacker get what is another's.
        let (_, again) = ask(&app, *attack).await;
        let (_, bare) =
            ask(&self::app(&harness, policy(), CacheKey::default().custom(|_| None)), *attack)
                .await;
        let same = again == bare || bare.starts_with(&again) || attack.0 == "HEAD";
        assert!(same, "{attack:?} got {again:?} in place of {bare:?}");
    }
}

async fn an_application_answers_honest_clients_as_if_nobody_had_attacked(harness: Harness) {
    withstands(harness, Policy::application).await;
}

async fn a_proxy_answers_honest_clients_as_if_nobody_had_attacked(harness: Harness) {
    withstands(harness, Policy::proxy).await;
}

async fn what_a_key_has_of_a_query_cannot_be_dodged(harness: Harness) {
    let key = CacheKey::default().query(Query::sorted().keep(["page"]).drop(["page_evil"]));
    let app = app(&harness, Policy::application(), key);
    let honest: Ask = ("GET", "/?page=1", &[HOST], "");
    for attack in [
        "/?p%61ge=2",
        "/?page=2&page=1",
        "/?page=1&page=2",
        "/?page=1;page=2",
        "/?x;page=2&page=1",
        "/?page%5B%5D=2&page=1&page",
        "/?page=1%26page=2",
        "/?page=1+",
        "/?Page=2",
    ] {
        ask(&app, ("GET", attack, &[HOST], "")).await;
        settled(&harness).await;
    }
    let (_, told) = ask(&app, honest).await;
    assert!(told.starts_with("GET /?page=1 ["), "{told}");
}

async fn an_endless_target_is_answered_and_leaves_nothing_behind(harness: Harness) {
    let app = app(&harness, Policy::application(), CacheKey::default());
    let endless: &'static str = format!("/{}", "x".repeat(9_000)).leak();
    for _ in 0..2 {
        let (headers, told) = ask(&app, ("GET", endless, &[HOST], "")).await;
        assert!(told.contains(endless));
        assert_eq!(headers["cache-status"], "towerkeep; fwd=bypass; detail=key-too-long");
        settled(&harness).await;
    }
    if harness.is_shared() {
        assert_eq!(harness.keys("*:cache:*"), [""; 0]);
    }
}

async fn an_error_that_an_odd_header_provokes_is_not_for_the_next_one(harness: Harness) {
    for policy in [Policy::application(), Policy::proxy(), Policy::fixed(Duration::from_secs(60))] {
        let name = format!("{policy:?}");
        let service = service_fn(async |request: Request<Body>| {
            let status = match request.headers().contains_key("x-oversized") {
                true => 400,
                false => 200,
            };
            let response = Response::builder()
                .status(status)
                .header("last-modified", "Mon, 02 Jan 2006 15:04:05 GMT");
            Ok::<_, Infallible>(response.body(Body::from(format!("{status}"))).unwrap())
        });
        let key = name.clone();
        let layer = CacheLayer::new(harness.backend.clone()).policy(policy);
        let layer = layer.key(CacheKey::default().custom(move |_| Some(key.clone())));
        let app = BoxCloneSyncService::new(layer.layer(service));
        let (_, attacked) = ask(&app, ("GET", "/page", &[HOST, ("x-oversized", "x")], "")).await;
        settled(&harness).await;
        let (_, told) = ask(&app, ("GET", "/page", &[HOST], "")).await;
        assert_eq!((&*attacked, &*told), ("400", "200"), "{name}");
        settled(&harness).await;
    }
}

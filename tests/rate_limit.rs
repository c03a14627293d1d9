//! The rate limit, over memory and Redis, over axum and a plain service.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{
        http::{client::HttpClient, server::HttpServer},
        process::{self, ChildApp},
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use axum::{Router, body::Body, extract::ConnectInfo, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt, service_fn};
use towerkeep::{
    Backend, PeerAddr, UserId,
    rate_limit::{
        Charge, Headers, OnStoreError, Policy, Quota, RateLimitLayer, RateLimitStatus,
        RateLimitStore, Rejection, by,
    },
};

on_every_backend! {
    a_burst_is_allowed_then_one_per_interval,
    what_one_policy_denies_is_charged_to_none,
    a_lowered_limit_does_not_lock_anyone_out_longer_than_a_full_bucket,
    exactly_the_limit_is_admitted_under_concurrency,
    two_layers_over_one_backend_keep_apart,
    a_denied_request_reaches_nobody_and_is_told_why,
    a_limit_by_user_waits_for_the_user,
}

async fn a_burst_is_allowed_then_one_per_interval(harness: Harness) {
    let policy = Policy::gcra("p", Quota::per_second(10).burst(3));
    let check = async || {
        let verdict = harness.check(&[Charge::new(&policy, "k", 1)]).await.unwrap();
        verdict.outcomes()[0]
    };
    for left in [2, 1, 0] {
        let outcome = check().await;
        assert!(outcome.allowed);
        assert_eq!(outcome.remaining, left);
    }
    let denied = check().await;
    assert!(!denied.allowed);
    assert_eq!(denied.retry_after, Some(Duration::from_millis(100)));
    assert_eq!(denied.reset, Duration::from_millis(300));

    harness.advance(Duration::from_millis(100));
    assert!(check().await.allowed);
    assert!(!check().await.allowed);
    harness.advance(Duration::from_secs(60));
    assert_eq!(check().await.remaining, 2, "a full bucket holds no more than the burst");
}

async fn what_one_policy_denies_is_charged_to_none(harness: Harness) {
    let harness = harness.without_deny_cache().await;
    let wide = Policy::gcra("wide", Quota::per_minute(100));
    let narrow = Policy::gcra("narrow", Quota::per_minute(2));
    let both = || [Charge::new(&wide, "k", 1), Charge::new(&narrow, "k", 1)];
    for _ in 0..2 {
        assert!(harness.check(&both()).await.unwrap().is_allowed());
    }
    for _ in 0..5 {
        let verdict = harness.check(&both()).await.unwrap();
        assert!(verdict.outcomes()[0].allowed && !verdict.outcomes()[1].allowed);
        assert_eq!(verdict.outcomes()[0].remaining, 98, "a denied request was charged");
        assert_eq!(verdict.retry_after(), Some(Duration::from_secs(30)));
    }
}

async fn a_lowered_limit_does_not_lock_anyone_out_longer_than_a_full_bucket(harness: Harness) {
    let before = Policy::gcra("p", Quota::per_hour(10));
    for _ in 0..10 {
        assert!(harness.check(&[Charge::new(&before, "k", 1)]).await.unwrap().is_allowed());
    }
    let after = Policy::gcra("p", Quota::per_second(10));
    let denied = harness.check(&[Charge::new(&after, "k", 1)]).await.unwrap();
    assert_eq!(denied.retry_after(), Some(Duration::from_millis(100)));
    harness.advance(Duration::from_millis(100));
    assert!(harness.check(&[Charge::new(&after, "k", 1)]).await.unwrap().is_allowed());
}

async fn exactly_the_limit_is_admitted_under_concurrency(harness: Harness) {
    let policy = Policy::gcra("p", Quota::per_day(100));
    let backends = [harness.live().await, harness.another().await];
    // Live ones decide by the real time; the manual clock of `another` stands still at the present.
    let mut checks = JoinSet::new();
    for n in 0..1_000 {
        let (backend, charge) = (backends[0].clone(), Charge::new(&policy, "k", 1));
        let other = if harness.is_shared() { backends[n % 2].clone() } else { backend };
        checks.spawn(async move { other.check(&[charge]).await.unwrap().is_allowed() });
    }
    let verdicts = checks.join_all().await;
    assert_eq!(verdicts.into_iter().filter(|allowed| *allowed).count(), 100);
}

async fn two_layers_over_one_backend_keep_apart(harness: Harness) {
    let limit = |name, limit| {
        let policy = Policy::gcra(name, Quota::per_hour(limit)).key(by::everyone());
        RateLimitLayer::new(harness.backend.clone(), policy).deadline(Duration::from_secs(30))
    };
    let app = Router::new()
        .route("/a", get(async || "a").layer(limit("a", 1)))
        .route("/b", get(async || "b").layer(limit("b", 2)));
    let status = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!((status("/a").await, status("/a").await), (200, 429));
    assert_eq!((status("/b").await, status("/b").await, status("/b").await), (200, 200, 429));
}

/// A plain service, without axum, that counts its calls.
fn counting(
    calls: Arc<AtomicUsize>,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    service_fn(move |request: Request<Full<Bytes>>| {
        calls.fetch_add(1, SeqCst);
        let status = request.extensions().get::<RateLimitStatus>().cloned().unwrap_or_default();
        let text = format!("{:?}", status.remaining());
        std::future::ready(Ok(Response::new(Full::from(text))))
    })
}

fn from_peer(last: u8) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    request.extensions_mut().insert(PeerAddr::new(([10, 0, 0, last], 1).into()));
    request
}

async fn a_denied_request_reaches_nobody_and_is_told_why(harness: Harness) {
    let calls = Arc::new(AtomicUsize::new(0));
    let policy = Policy::gcra("burst", Quota::per_minute(2));
    let limit = RateLimitLayer::new(harness.backend.clone(), policy)
        .policy(Policy::gcra("daily", Quota::per_day(1_000)))
        .headers(Headers::Both);
    let mut service = limit.layer(counting(calls.clone()));

    let first = service.ready().await.unwrap().call(from_peer(1)).await.unwrap();
    assert_eq!(first.headers()["ratelimit"], "\"burst\";r=1;t=30, \"daily\";r=999;t=87");
    assert_eq!(first.headers()["ratelimit-policy"], "\"burst\";q=2;w=60, \"daily\";q=1000;w=86400");
    assert_eq!(first.headers()["x-ratelimit-remaining"], "1");
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "Some(1)");

    service.ready().await.unwrap().call(from_peer(1)).await.unwrap();
    let denied = service.ready().await.unwrap().call(from_peer(1)).await.unwrap();
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denied.headers()[RETRY_AFTER], "30");
    assert_eq!(denied.headers()["ratelimit"], "\"burst\";r=0;t=30, \"daily\";r=998;t=87");
    let reason = denied.extensions().get::<Rejection>().cloned();
    assert!(
        matches!(reason, Some(Rejection::Limited { violated, .. }) if &*violated[0] == "burst")
    );
    let document = denied.into_body().collect().await.unwrap().to_bytes();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["violated-policies"], serde_json::json!(["burst"]));
    assert_eq!(calls.load(SeqCst), 2);

    let other = service.ready().await.unwrap().call(from_peer(2)).await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
}

async fn a_limit_by_user_waits_for_the_user(harness: Harness) {
    let policy = Policy::gcra("p", Quota::per_hour(1)).key(by::user());
    let limit = RateLimitLayer::new(harness.backend.clone(), policy);
    let mut service = limit.layer(counting(Arc::default()));
    let mut status = async |user: Option<&str>| {
        let mut request = Request::new(Full::default());
        if let Some(user) = user {
            let user = UserId::new(user);
            let lookup = towerkeep::marks::UserLookup::new(move || {
                let user = user.clone();
                towerkeep::StoreFuture::boxed(async move {
                    tokio::task::yield_now().await;
                    Ok(Some(user))
                })
            });
            request.extensions_mut().insert(lookup);
        }
        service.ready().await.unwrap().call(request).await.unwrap().status().as_u16()
    };
    assert_eq!((status(Some("ann")).await, status(Some("ann")).await), (200, 429));
    assert_eq!(status(Some("bob")).await, 200);
    assert_eq!((status(None).await, status(None).await), (200, 200), "it does not apply");
}

/// One app of a fleet: the limit is 100, the store is Redis.
#[tokio::test]
async fn app() {
    if !process::is_child("app") {
        return;
    }
    // The test asks how many pass, not how fast.
    let patient = Duration::from_secs(10);
    let backend = Backend::builder().prefix(PREFIX).deadline(patient).from_env().await.unwrap();
    let policy = Policy::gcra("fleet", Quota::per_day(100)).key(by::ip());
    let app = Router::new().route("/", get(async || "ok")).layer(
        RateLimitLayer::new(backend, policy).on_store_error(OnStoreError::Deny).deadline(
            // The test asks how many pass, not how fast.
            Duration::from_secs(10),
        ),
    );
    let server = HttpServer::start(app).await;
    process::announce(server.addr());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_admit_exactly_one_limit_of_a_thousand_concurrent_requests() {
    let redis = RedisServer::start();
    let env = [("REDIS_URL", redis.url())];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let apps = [ChildApp::spawn("app", &env), ChildApp::spawn("app", &env)];
    let client = HttpClient::http2();
    let mut requests = JoinSet::new();
    for n in 0..1_000 {
        let (client, url) = (client.clone(), apps[n % 2].url("/"));
        requests.spawn(async move { client.get(&url).await.status.as_u16() });
    }
    let mut counts = BTreeMap::new();
    for status in requests.join_all().await {
        *counts.entry(status).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(200, 100), (429, 900)]));
    let ttl = redis.command(&["PTTL", &format!("{PREFIX}:limit:{{127.0.0.1}}:fleet:gcra")]);
    assert!(ttl.int() > 0, "a count without a TTL is never forgotten");
}

async fn status_and_headers(app: &Router) -> (StatusCode, HeaderMap) {
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 1))));
    let response = app.clone().oneshot(request).await.unwrap();
    (response.status(), response.headers().clone())
}

#[tokio::test]
async fn one_round_trip_decides_one_policy_and_eight() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    for policies in [1, 8] {
        let first = Policy::gcra("p0", Quota::per_minute(100)).key(by::everyone());
        let layer = RateLimitLayer::new(backend.clone(), first);
        let layer = (1..policies).fold(layer, |layer, n| {
            layer.policy(Policy::gcra(&format!("p{n}"), Quota::per_minute(100)).key(by::everyone()))
        });
        let app = Router::new().route("/", get(async || "ok")).layer(layer);
        status_and_headers(&app).await;
        let ((status, _), turns) = proxy.turns_of(status_and_headers(&app)).await;
        assert_eq!((status, turns), (StatusCode::OK, 1), "{policies} policies");
    }
}

#[tokio::test]
async fn a_hung_store_is_a_policy_within_the_deadline_and_never_a_429() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let app = |policy| {
        let limit = Policy::gcra("p", Quota::per_hour(1)).key(by::everyone());
        let layer = RateLimitLayer::new(backend.clone(), limit).on_store_error(policy);
        Router::new().route("/", get(async || "ok")).layer(layer)
    };
    proxy.set(Mode::BlackHole);
    for (policy, expected) in [
        (OnStoreError::Allow, StatusCode::OK),
        (OnStoreError::Deny, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let started = Instant::now();
        let (status, headers) = status_and_headers(&app(policy)).await;
        assert_eq!(status, expected);
        assert_eq!(headers.contains_key(RETRY_AFTER), policy == OnStoreError::Deny);
        assert!(started.elapsed() < Duration::from_secs(2), "the deadline is 100 ms");
    }
    proxy.set(Mode::Pass);
    let app = app(OnStoreError::Deny);
    let recovered = async {
        while status_and_headers(&app).await.0 == StatusCode::SERVICE_UNAVAILABLE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), recovered).await.expect("the store is back");
}

#[tokio::test]
async fn a_server_that_hides_its_peers_gets_500_and_the_client_no_internals() {
    let layer = RateLimitLayer::new(Backend::memory(), Policy::gcra("p", Quota::per_hour(1)));
    let app = Router::new().route("/", get(async || "ok")).layer(layer);
    let response = app.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let Some(Rejection::Misconfigured { advice }) = response.extensions().get() else {
        panic!("the typed reason is in the extensions");
    };
    assert!(advice.contains("into_make_service_with_connect_info"));
}

#[tokio::test]
async fn preflight_requests_cost_nothing_and_never_ask_the_store() {
    let layer = RateLimitLayer::new(Backend::memory(), Policy::gcra("p", Quota::per_hour(1)))
        .rejection(|reason| Response::builder().status(reason.status()).body("slow down").unwrap());
    let mut service = layer.layer(counting(Arc::default()));
    for _ in 0..3 {
        let mut request = from_peer(1);
        *request.method_mut() = http::Method::OPTIONS;
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert!(response.status().is_success() && !response.headers().contains_key("ratelimit"));
    }
    service.ready().await.unwrap().call(from_peer(1)).await.unwrap();
    let denied = service.ready().await.unwrap().call(from_peer(1)).await.unwrap();
    assert_eq!(denied.into_body().collect().await.unwrap().to_bytes(), "slow down");
}

#[test]
#[should_panic(expected = "two policies of one layer are named \"p\"")]
fn two_policies_of_one_name_are_refused_when_the_layer_is_made() {
    let policy = || Policy::gcra("p", Quota::per_hour(1));
    let _ = RateLimitLayer::new(Backend::memory(), policy()).policy(policy());
}

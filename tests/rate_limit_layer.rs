//! The layer of the rate limits: what it makes of requests, responses and failures of the store.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::Harness,
    support::{
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tower::{Layer, Service, ServiceExt, service_fn};
use towerkeep::{
    Backend, StoreError, StoreFuture,
    marks::UserLookup,
    rate_limit::{
        self, OnStoreError, Policy, Quota, RateLimitLayer, RateLimitStatus, Rejection, by,
    },
};

on_every_backend! {
    a_thousand_wrong_passwords_at_a_time_reach_the_handler_exactly_five_times,
    what_does_not_count_is_given_back_before_its_response_goes_out,
    a_lease_is_held_until_the_body_has_ended_or_its_client_has_left,
    a_lease_whose_request_was_dropped_goes_back,
    each_tenant_has_the_quota_of_its_plan,
    quotas_in_a_database_are_looked_up_once_for_all_requests_at_a_time,
    a_quota_that_was_looked_up_is_valid_by_the_clock_of_the_store,
    a_ban_is_told_as_abnormal_usage_until_it_is_lifted,
    a_shadow_policy_lets_everything_pass_and_is_in_no_header,
    a_handler_charges_and_refunds_what_only_it_knows,
    nothing_is_given_back_twice_or_of_what_others_were_charged,
}

/// The test asks what is decided, not how fast.
const PATIENT: Duration = Duration::from_secs(30);

type Body = Full<Bytes>;

fn layer(harness: &Harness, policy: Policy) -> RateLimitLayer {
    RateLimitLayer::new(harness.backend.clone(), policy.key(by::header("x-key"))).deadline(PATIENT)
}

fn request(key: &str) -> Request<Body> {
    Request::builder().header("x-key", key).body(Body::default()).unwrap()
}

/// A service that answers with what `handle` makes of the request's headers and status.
fn answering<F>(
    handle: impl Fn(HeaderMap, RateLimitStatus) -> F + Clone + Send,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
where
    F: Future<Output = StatusCode> + Send,
{
    service_fn(move |request: Request<Body>| {
        let status = request.extensions().get::<RateLimitStatus>().cloned().unwrap_or_default();
        let answer = handle(request.headers().clone(), status);
        async move {
            let mut response = Response::new(Body::from("hello"));
            *response.status_mut() = answer.await;
            Ok(response)
        }
    })
}

fn hello()
-> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send {
    answering(async |_, _| StatusCode::OK)
}

async fn status<S, R>(service: &S, key: &str) -> u16
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible> + Clone,
{
    let Ok(response) = service.clone().oneshot(request(key)).await;
    response.status().as_u16()
}

fn login() -> Policy {
    Policy::sliding_log("login", Quota::per_hour(5))
        .count_if(|response| response.status == StatusCode::UNAUTHORIZED)
}

async fn a_thousand_wrong_passwords_at_a_time_reach_the_handler_exactly_five_times(
    harness: Harness,
) {
    let reached = Arc::new(AtomicUsize::new(0));
    let handler = answering({
        let reached = reached.clone();
        move |_, _| {
            reached.fetch_add(1, SeqCst);
            async {
                tokio::task::yield_now().await;
                StatusCode::UNAUTHORIZED
            }
        }
    });
    let service = layer(&harness, login()).layer(handler);
    let mut guesses = JoinSet::new();
    for _ in 0..1_000 {
        let service = service.clone();
        guesses.spawn(async move { status(&service, "ann").await });
    }
    let answers = guesses.join_all().await;
    assert_eq!(reached.load(SeqCst), 5);
    assert_eq!(answers.iter().filter(|status| **status == 401).count(), 5);
    assert_eq!(answers.iter().filter(|status| **status == 429).count(), 995);
}

async fn what_does_not_count_is_given_back_before_its_response_goes_out(harness: Harness) {
    let right = answering(async |headers: HeaderMap, _| {
        if headers.contains_key("x-wrong") { StatusCode::UNAUTHORIZED } else { StatusCode::OK }
    });
    for (n, policy) in [
        login(),
        Policy::fixed_window("fixed", Quota::per_hour(5))
            .count_if(|response| response.status == 401),
        Policy::sliding_window("sliding", Quota::per_hour(5)).count_if(|res| res.status == 401),
        Policy::gcra("gcra", Quota::per_hour(5)).count_if(|response| response.status == 401),
        Policy::token_bucket("bucket", Quota::per_hour(5)).count_if(|res| res.status == 401),
    ]
    .into_iter()
    .enumerate()
    {
        let service = layer(&harness, policy).layer(right.clone());
        for _ in 0..20 {
            let Ok(response) = service.clone().oneshot(request("ann")).await;
            assert_eq!(response.status(), 200, "policy {n}");
            let header = response.headers()["ratelimit"].to_str().unwrap().to_owned();
            assert!(header.contains(";r=5"), "{header}");
        }
        for left in (0..5).rev() {
            let mut wrong = request("ann");
            wrong.headers_mut().insert("x-wrong", "1".parse().unwrap());
            let Ok(response) = service.clone().oneshot(wrong).await;
            assert_eq!(response.status(), 401);
            let header = response.headers()["ratelimit"].to_str().unwrap().to_owned();
            assert!(header.contains(&format!(";r={left}")), "policy {n}: {header}");
        }
        assert_eq!(status(&service, "ann").await, 429, "policy {n}");
    }
}

async fn a_lease_is_held_until_the_body_has_ended_or_its_client_has_left(harness: Harness) {
    let policy = Policy::concurrency("at-once", 2);
    let limit = layer(&harness, policy);
    let service = limit.clone().layer(hello());
    let Ok(first) = service.clone().oneshot(request("ann")).await;
    let Ok(second) = service.clone().oneshot(request("ann")).await;
    assert_eq!(status(&service, "ann").await, 429, "two bodies are unread");
    assert_eq!(status(&service, "bob").await, 200);

    // One is read to its end while it is still held, the other's client leaves.
    let mut body = first.into_body();
    while body.frame().await.is_some() {}
    until_left(&limit, 1).await;
    drop(second);
    until_left(&limit, 2).await;
    drop(body);
    assert_eq!(limit.peek("at-once", ["ann"]).await.unwrap().remaining, 2);
}

async fn a_lease_whose_request_was_dropped_goes_back(harness: Harness) {
    let limit = layer(&harness, Policy::concurrency("at-once", 1));
    let gate = Arc::new(Semaphore::new(0));
    let entered = Arc::new(Semaphore::new(0));
    let service = limit.clone().layer(answering({
        let (gate, entered) = (gate.clone(), entered.clone());
        move |_, _| {
            let (gate, entered) = (gate.clone(), entered.clone());
            async move {
                entered.add_permits(1);
                let _permit = gate.acquire().await;
                StatusCode::OK
            }
        }
    }));
    let inside = tokio::spawn(service.clone().oneshot(request("ann")));
    let _entered = entered.acquire().await.unwrap();
    assert_eq!(status(&service, "ann").await, 429);
    inside.abort();
    until_left(&limit, 1).await;
}

/// The leases go back in a task of their own.
async fn until_left(limit: &RateLimitLayer, left: u64) {
    let given_back = async {
        while limit.peek("at-once", ["ann"]).await.unwrap().remaining != left {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENT, given_back).await.expect("the lease is given back");
}

async fn each_tenant_has_the_quota_of_its_plan(harness: Harness) {
    let policy = Policy::fixed_window("daily", Quota::per_day(1)).quota_with(|request| {
        match request.headers["x-key"].to_str().unwrap() {
            "big" => Some(Quota::per_day(3)),
            // No window has a burst: the policy's own quota is in its place.
            "wrong" => Some(Quota::per_day(9).burst(10)),
            _ => None,
        }
    });
    let service = layer(&harness, policy).layer(hello());
    for (tenant, allowed) in [("small", 1), ("big", 3), ("wrong", 1)] {
        for n in 0..4 {
            let expected = if n < allowed { 200 } else { 429 };
            assert_eq!(status(&service, tenant).await, expected, "{tenant}, {n}");
        }
    }
    let Ok(response) = service.oneshot(request("big")).await;
    assert_eq!(response.headers()["ratelimit-policy"], "\"daily\";q=3;w=86400");
}

async fn quotas_in_a_database_are_looked_up_once_for_all_requests_at_a_time(harness: Harness) {
    let (asked, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let lookup = {
        let (asked, open) = (asked.clone(), open.clone());
        move |tenant: String| {
            let (asked, open) = (asked.clone(), open.clone());
            async move {
                asked.fetch_add(1, SeqCst);
                let _permit = open.acquire().await;
                match tenant.as_str() {
                    "big" => Ok(Some(Quota::per_day(30))),
                    "small" => Ok(None),
                    _ => Err("no such tenant"),
                }
            }
        }
    };
    let id = |request: &http::request::Parts| {
        Some(request.headers["x-key"].to_str().unwrap().to_owned())
    };
    let policy = Policy::fixed_window("daily", Quota::per_day(1));
    let policy = policy.quota_lookup(id, lookup, Duration::from_secs(3_600));
    let service = layer(&harness, policy.clone()).layer(hello());
    for (tenant, allowed) in [("big", 30), ("small", 1)] {
        asked.store(0, SeqCst);
        let mut requests = JoinSet::new();
        for _ in 0..40 {
            let service = service.clone();
            requests.spawn(async move { status(&service, tenant).await });
        }
        while asked.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        open.add_permits(1);
        let answers = requests.join_all().await;
        let passed = answers.iter().filter(|status| **status == 200).count();
        assert_eq!((passed, asked.load(SeqCst)), (allowed, 1), "{tenant}");
        open.forget_permits(1);
    }
    open.add_permits(1);
    assert_eq!([status(&service, "unknown").await, status(&service, "unknown").await], [200, 429]);

    // A lookup that hangs holds up nobody for longer than the deadline.
    let hung = Policy::fixed_window("hung", Quota::per_day(1)).quota_lookup(
        id,
        |_| std::future::pending::<Result<Option<Quota>, &str>>(),
        Duration::from_secs(3_600),
    );
    let hung = layer(&harness, hung).deadline(Duration::from_millis(300)).layer(hello());
    assert_eq!(status(&hung, "big").await, 200);
}

async fn a_quota_that_was_looked_up_is_valid_by_the_clock_of_the_store(harness: Harness) {
    let asked = Arc::new(AtomicUsize::new(0));
    let lookup = {
        let asked = asked.clone();
        move |_| {
            asked.fetch_add(1, SeqCst);
            std::future::ready(Ok::<_, Infallible>(None))
        }
    };
    let policy = Policy::fixed_window("daily", Quota::per_day(9));
    let policy = policy.quota_lookup(|_| Some("id".into()), lookup, PATIENT);
    let service = layer(&harness, policy).layer(hello());
    for (pause, lookups) in [(PATIENT / 2, 1), (PATIENT / 2, 1), (PATIENT, 2), (PATIENT, 3)] {
        assert_eq!(status(&service, "ann").await, 200);
        assert_eq!(asked.load(SeqCst), lookups);
        harness.advance(pause);
    }
}

async fn a_ban_is_told_as_abnormal_usage_until_it_is_lifted(harness: Harness) {
    let limit = layer(&harness, Policy::gcra("calls", Quota::per_second(50)));
    let service = limit.clone().layer(hello());
    limit.ban("calls", ["ann"], Duration::from_secs(90)).await.unwrap();
    let Ok(response) = service.clone().oneshot(request("ann")).await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"90".parse().unwrap())
    );
    assert!(matches!(response.extensions().get(), Some(Rejection::Banned { .. })));
    let document = response.into_body().collect().await.unwrap().to_bytes();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert!(document["type"].as_str().unwrap().ends_with("#abnormal-usage-detected"));
    assert_eq!(status(&service, "bob").await, 200);
    limit.unban("calls", ["ann"]).await.unwrap();
    assert_eq!(status(&service, "ann").await, 200);
    let error = limit.unban("cals", ["ann"]).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("\"calls\""), "{error}");
}

async fn a_shadow_policy_lets_everything_pass_and_is_in_no_header(harness: Harness) {
    let tried = Policy::gcra("tried", Quota::per_hour(1)).shadow().key(by::header("x-key"));
    let limit = layer(&harness, Policy::gcra("real", Quota::per_hour(3))).policy(tried);
    let told = answering(async |_, status: RateLimitStatus| {
        let denied = !status.outcome("tried").unwrap().allowed;
        if denied { StatusCode::ACCEPTED } else { StatusCode::OK }
    });
    let service = limit.layer(told);
    let mut said = Vec::new();
    for _ in 0..4 {
        let Ok(response) = service.clone().oneshot(request("ann")).await;
        assert!(!response.headers()["ratelimit"].to_str().unwrap().contains("tried"));
        said.push(response.status().as_u16());
    }
    assert_eq!(said, [200, 202, 202, 429]);
}

async fn a_handler_charges_and_refunds_what_only_it_knows(harness: Harness) {
    let limit = layer(&harness, Policy::fixed_window("tokens", Quota::per_hour(100)));
    let service = limit.clone().layer(answering(async |_, status: RateLimitStatus| {
        let charged = status.charge("tokens", 59).await.unwrap();
        assert_eq!(charged.remaining, 40);
        let refunded = status.refund("tokens", 20).await.unwrap();
        assert_eq!(refunded.remaining, 60);
        assert!(status.charge("others", 1).await.unwrap_err().is_config());
        StatusCode::OK
    }));
    assert_eq!(status(&service, "ann").await, 200);
    assert_eq!(limit.peek("tokens", ["ann"]).await.unwrap().remaining, 60);
}

async fn nothing_is_given_back_twice_or_of_what_others_were_charged(harness: Harness) {
    for policy in [
        Policy::gcra("tokens", Quota::per_day(100)),
        Policy::fixed_window("tokens", Quota::per_day(100)),
    ] {
        let policy = policy.count_if(|response| response.status == StatusCode::UNAUTHORIZED);
        let limit = layer(&harness, policy).cost(|_| 2);
        let counts = limit.clone().layer(answering(async |_, _| StatusCode::UNAUTHORIZED));
        for _ in 0..10 {
            assert_eq!(status(&counts, "ann").await, 401);
        }
        let refunding = limit.clone().layer(answering(async |_, status: RateLimitStatus| {
            for (cost, left) in [(1, 79), (50, 80), (1, 80)] {
                assert_eq!(status.refund("tokens", cost).await.unwrap().remaining, left);
            }
            StatusCode::OK
        }));
        assert_eq!(status(&refunding, "ann").await, 200);
        assert_eq!(limit.peek("tokens", ["ann"]).await.unwrap().remaining, 80);
    }
}

#[tokio::test]
async fn a_layer_without_a_deadline_waits_for_the_quota_and_does_not_panic() {
    let slow = |_| async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Some(Quota::per_hour(2)))
    };
    let policy = Policy::gcra("p", Quota::per_hour(1)).key(by::everyone());
    let policy = policy.quota_lookup(|_| Some("id".into()), slow, PATIENT);
    let limit = RateLimitLayer::new(Backend::memory(), policy).deadline(Duration::MAX);
    let service = limit.layer(hello());
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(status(&service, "ann").await);
    }
    assert_eq!(statuses, [200, 200, 429]);
}

#[tokio::test]
async fn the_lists_let_through_and_deny_without_asking_the_store() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let policy = Policy::gcra("p", Quota::per_hour(1)).key(by::everyone());
    let limit = RateLimitLayer::new(backend, policy)
        .allow(|request| request.headers["x-key"] != "ann")
        .deny(|request| request.headers["x-key"] == "mallory")
        .deadline(PATIENT);
    let service = limit.layer(hello());
    let (statuses, turns) = proxy
        .turns_of(async {
            let mut statuses = Vec::new();
            for key in ["probe", "probe", "mallory"] {
                statuses.push(status(&service, key).await);
            }
            statuses
        })
        .await;
    assert_eq!((statuses, turns), (vec![200, 200, 403], 0));
    assert_eq!((status(&service, "ann").await, status(&service, "ann").await), (200, 429));
}

#[tokio::test]
async fn while_the_store_fails_a_share_is_counted_in_this_process() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let policy = Policy::fixed_window("p", Quota::per_hour(9)).key(by::header("x-key"));
    let service = RateLimitLayer::new(backend, policy)
        .on_store_error(OnStoreError::LocalFallback { shares: 3 })
        .layer(hello());
    proxy.set(Mode::BlackHole);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(status(&service, "ann").await);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429], "a third of nine");
    assert_eq!(status(&service, "bob").await, 200);
}

/// The session's store is down, say, and that of the limits is not.
#[tokio::test]
async fn who_is_not_known_since_the_lookup_failed_is_counted_by_all_else() {
    let cases = [
        (OnStoreError::Allow, [200, 200, 429]),
        (OnStoreError::LocalFallback { shares: 1 }, [200, 200, 429]),
        (OnStoreError::Deny, [503, 503, 503]),
    ];
    for (policy, expected) in cases {
        let by_key = Policy::gcra("all", Quota::per_hour(2)).key(by::header("x-key"));
        let by_user = Policy::gcra("user", Quota::per_hour(1)).key(by::user());
        let limit = RateLimitLayer::new(Backend::memory(), by_key).policy(by_user);
        let service = limit.on_store_error(policy).layer(hello());
        let mut statuses = Vec::new();
        for _ in 0..3 {
            let mut request = request("ann");
            let down = || StoreFuture::ready(Err(StoreError::unavailable("no session")));
            request.extensions_mut().insert(UserLookup::new(down));
            let Ok(response) = service.clone().oneshot(request).await;
            statuses.push(response.status().as_u16());
        }
        assert_eq!(statuses, expected, "{policy:?}");
    }
}

#[tokio::test]
async fn a_grpc_client_is_told_in_trailers_alone() {
    let policy = Policy::gcra("calls", Quota::per_hour(1)).key(by::everyone());
    let service =
        RateLimitLayer::new(Backend::memory(), policy).rejection(rate_limit::grpc).layer(hello());
    assert_eq!(status(&service, "ann").await, 200);
    let Ok(response) = service.oneshot(request("ann")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "8");
    assert_eq!(response.headers()["grpc-message"], "too many requests under calls");
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_as_long_as_its_body_is_read() {
    // Real time would stand still with the paused runtime, so it is the store that is asked how often.
    let clock = towerkeep::Clock::manual();
    let backend = Backend::builder().clock(clock.clone()).memory();
    let policy =
        Policy::concurrency("at-once", 1).lease(Duration::from_secs(3)).key(by::everyone());
    let limit = RateLimitLayer::new(backend, policy);
    let service = limit.clone().layer(hello());
    let Ok(held) = service.clone().oneshot(request("ann")).await;
    for _ in 0..20 {
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(1_001)).await;
        assert_eq!(limit.peek("at-once", ["everyone"]).await.unwrap().remaining, 0);
    }
    // Its renewals end with it.
    drop(held);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(limit.peek("at-once", ["everyone"]).await.unwrap().remaining, 1);
}

//! Local leases: what several processes admit together, what it costs them, and what becomes of the rest.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::Harness,
    support::{proxy::FaultProxy, server::RedisServer},
};
use http::{Request, Response};
use std::{
    convert::Infallible,
    panic,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt, service_fn};
use towerkeep::{
    Backend,
    rate_limit::{Policy, Quota, RateLimitLayer, by},
};

on_every_backend! {
    four_processes_together_admit_exactly_the_limit,
    a_process_never_holds_more_than_it_takes_at_once,
    what_is_left_goes_back_when_its_time_is_over,
    what_is_left_goes_back_at_once_when_the_process_shuts_down,
    what_another_process_bans_or_resets_holds_when_the_time_of_the_units_is_over,
    this_process_spends_nothing_of_what_it_bans_or_resets_and_nothing_by_an_older_quota,
    with_a_policy_that_has_to_be_asked_all_are_asked_in_one_step,
    a_denial_by_one_policy_leaves_the_units_of_another_where_they_are,
    units_under_a_quota_that_was_changed_go_back_at_once,
    what_is_banned_for_its_denials_spends_nothing_that_is_held_here,
}

/// The test asks what is decided, not how fast.
const PATIENT: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

fn layer(backend: Backend, policies: impl IntoIterator<Item = Policy>) -> RateLimitLayer {
    let mut policies = policies.into_iter().map(|policy| policy.key(by::header("x-key")));
    let first = RateLimitLayer::new(backend, policies.next().unwrap()).deadline(PATIENT);
    policies.fold(first, RateLimitLayer::policy)
}

/// The status and the header of a request for `key` to a service of the layer.
async fn ask(layer: &RateLimitLayer, key: &str) -> (u16, String) {
    send(layer, Request::builder().header("x-key", key).body(String::new()).unwrap()).await
}

async fn send(layer: &RateLimitLayer, request: Request<String>) -> (u16, String) {
    let inner = service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(String::from("hello")))
    });
    let mut service = layer.layer(inner);
    let Ok(response) = service.ready().await.unwrap().call(request).await;
    let header = response.headers().get("ratelimit").map_or("", |value| value.to_str().unwrap());
    (response.status().as_u16(), header.to_owned())
}

/// A request for `k` with another header.
fn with(name: &str, value: &str) -> Request<String> {
    Request::builder().header("x-key", "k").header(name, value).body(String::new()).unwrap()
}

async fn passes(layer: &RateLimitLayer, key: &str) -> bool {
    ask(layer, key).await.0 == 200
}

async fn left(layer: &RateLimitLayer, policy: &str, key: &str) -> u64 {
    layer.peek(policy, [key]).await.unwrap().remaining
}

async fn until_left(layer: &RateLimitLayer, policy: &str, expected: u64) {
    let patience = Instant::now() + PATIENT;
    while left(layer, policy, "k").await != expected {
        assert!(Instant::now() < patience, "{} are left", left(layer, policy, "k").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn window(limit: u32) -> Policy {
    Policy::fixed_window("p", Quota::per_day(limit))
}

async fn four_processes_together_admit_exactly_the_limit(harness: Harness) {
    let day = Quota::per_day(500);
    for (n, policy) in [
        Policy::gcra("p", day),
        Policy::token_bucket("p", day),
        Policy::fixed_window("p", day),
        Policy::sliding_window("p", day),
    ]
    .into_iter()
    .enumerate()
    {
        let mut processes = Vec::new();
        for _ in 0..4 {
            let backend = harness.another().await;
            processes.push(layer(backend, [policy.clone().local_lease(16, MINUTE)]));
        }
        let key = format!("k{n}");
        let mut requests = JoinSet::new();
        for n in 0..1_600 {
            let (process, key) = (processes[n % 4].clone(), key.clone());
            requests.spawn(async move { passes(&process, &key).await });
        }
        let mut admitted = requests.join_all().await.into_iter().filter(|passed| *passed).count();
        assert!((500 - 4 * 15..=500).contains(&admitted), "{admitted}");
        // What one process has left is for its own requests.
        for process in &processes {
            while passes(process, &key).await {
                admitted += 1;
            }
        }
        assert_eq!(admitted, 500, "policy {n}");
    }
}

async fn a_process_never_holds_more_than_it_takes_at_once(harness: Harness) {
    let limit = layer(harness.backend.clone(), [window(1_000).local_lease(16, MINUTE)]);
    for n in 1..=20 {
        let mut requests = JoinSet::new();
        for _ in 0..30 {
            let limit = limit.clone();
            requests.spawn(async move { passes(&limit, "k").await });
        }
        assert!(requests.join_all().await.into_iter().all(|passed| passed));
        let held = (1_000 - 30 * n) - left(&limit, "p", "k").await;
        assert!(held < 16, "{held} are charged and not spent");
    }
}

async fn what_is_left_goes_back_when_its_time_is_over(harness: Harness) {
    let lease = Duration::from_millis(50);
    let limit = layer(harness.backend.clone(), [window(100).local_lease(10, lease)]);
    assert!(passes(&limit, "k").await);
    until_left(&limit, "p", 99).await;
    let patient = layer(harness.backend.clone(), [window(100).local_lease(10, MINUTE)]);
    assert!(passes(&patient, "k").await);
    assert_eq!(left(&patient, "p", "k").await, 89, "the store has charged them all");
}

async fn what_is_left_goes_back_at_once_when_the_process_shuts_down(harness: Harness) {
    let process = harness.another().await;
    let limit = layer(process.clone(), [window(100).local_lease(10, MINUTE)]);
    for _ in 0..3 {
        assert!(passes(&limit, "k").await);
    }
    assert_eq!(left(&limit, "p", "k").await, 90);
    assert_eq!(process.tasks().drain(PATIENT).await, 0);
    assert_eq!(left(&limit, "p", "k").await, 97);
    // It goes on: what was given back is not spent.
    for expected in [87, 87, 87] {
        assert!(passes(&limit, "k").await);
        assert_eq!(left(&limit, "p", "k").await, expected);
    }
}

async fn what_another_process_bans_or_resets_holds_when_the_time_of_the_units_is_over(
    harness: Harness,
) {
    let lease = Duration::from_millis(200);
    let here = layer(harness.backend.clone(), [window(100).local_lease(10, lease)]);
    let there = layer(harness.another().await, [window(100)]);
    assert!(passes(&here, "k").await);
    there.ban("p", ["k"], MINUTE).await.unwrap();
    let banned = Instant::now();
    while passes(&here, "k").await {
        assert!(banned.elapsed() < PATIENT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    there.unban("p", ["k"]).await.unwrap();
    there.reset("p", ["k"]).await.unwrap();
    until_left(&there, "p", 100).await;
}

async fn this_process_spends_nothing_of_what_it_bans_or_resets_and_nothing_by_an_older_quota(
    harness: Harness,
) {
    let quota = |request: &http::request::Parts| {
        request.headers.contains_key("x-low").then(|| Quota::per_day(2))
    };
    let policy = window(100).quota_with(quota).local_lease(10, MINUTE);
    let limit = layer(harness.backend.clone(), [policy]);
    assert!(passes(&limit, "k").await);
    limit.ban("p", ["k"], MINUTE).await.unwrap();
    assert!(!passes(&limit, "k").await);
    limit.unban("p", ["k"]).await.unwrap();
    limit.reset("p", ["k"]).await.unwrap();
    assert_eq!(left(&limit, "p", "k").await, 100);
    assert!(passes(&limit, "k").await);
    assert_eq!(left(&limit, "p", "k").await, 90, "ten were taken anew");

    assert_eq!(send(&limit, with("x-low", "1")).await.0, 429, "ten are more than two");
}

async fn with_a_policy_that_has_to_be_asked_all_are_asked_in_one_step(harness: Harness) {
    let other = Policy::fixed_window("other", Quota::per_day(5));
    let limit = layer(harness.backend.clone(), [window(100).local_lease(10, MINUTE), other]);
    for used in 1..=5 {
        assert!(passes(&limit, "k").await);
        assert_eq!(left(&limit, "p", "k").await, 100 - used, "nothing is taken ahead");
    }
    assert!(!passes(&limit, "k").await);
    assert_eq!(left(&limit, "p", "k").await, 95, "a denied request is charged nothing");
}

async fn a_denial_by_one_policy_leaves_the_units_of_another_where_they_are(harness: Harness) {
    let other = Policy::fixed_window("other", Quota::per_day(12)).local_lease(5, MINUTE);
    let limit = layer(harness.backend.clone(), [window(100).local_lease(10, MINUTE), other]);
    let mut last = String::new();
    for _ in 0..12 {
        let (status, header) = ask(&limit, "k").await;
        assert_eq!(status, 200);
        last = header;
    }
    assert!(last.contains("\"other\";r=0"), "{last}");
    let taken = left(&limit, "p", "k").await;
    for _ in 0..50 {
        assert!(!passes(&limit, "k").await);
    }
    assert_eq!(left(&limit, "p", "k").await, taken);
    // Those that are held here and those that are not are a hundred together, less the twelve.
    limit.reset("other", ["k"]).await.unwrap();
    let (status, header) = ask(&limit, "k").await;
    assert_eq!(status, 200);
    assert!(header.contains("\"p\";r=87"), "{header}");
}

async fn units_under_a_quota_that_was_changed_go_back_at_once(harness: Harness) {
    let quota = |request: &http::request::Parts| {
        request.headers.contains_key("x-low").then(|| Quota::per_day(90))
    };
    let policy = window(100).quota_with(quota).local_lease(10, MINUTE);
    let limit = layer(harness.backend.clone(), [policy]);
    for _ in 0..6 {
        assert!(passes(&limit, "k").await);
        assert_eq!(send(&limit, with("x-low", "1")).await.0, 200);
    }
    // Twelve were spent, and nine of one quota are held.
    until_left(&limit, "p", 79).await;
}

async fn what_is_banned_for_its_denials_spends_nothing_that_is_held_here(harness: Harness) {
    let cost = |request: &http::request::Parts| {
        request.headers.get("x-cost").map_or(1, |cost| cost.to_str().unwrap().parse().unwrap())
    };
    let policy = window(10).local_lease(5, MINUTE).ban_after(1, MINUTE, MINUTE);
    let limit = layer(harness.backend.clone(), [policy]).cost(cost);
    assert!(passes(&limit, "k").await);
    assert_eq!(left(&limit, "p", "k").await, 5);
    assert_eq!(send(&limit, with("x-cost", "8")).await.0, 429);
    assert!(!passes(&limit, "k").await, "four are held");
}

#[tokio::test]
async fn a_round_trip_in_so_many_requests() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let builder = Backend::builder().deadline(PATIENT);
    let limit = |backend, policy: Policy| layer(backend, [policy.local_lease(20, MINUTE)]);
    let backend = builder.redis(proxy.url()).await.unwrap();
    let gcra = limit(backend.clone(), Policy::gcra("p", Quota::per_day(1_000)));
    assert!(passes(&gcra, "warm").await);
    let requests = async {
        let mut remaining = Vec::new();
        for _ in 0..400 {
            let (status, header) = ask(&gcra, "k").await;
            assert_eq!(status, 200);
            remaining
                .push(header.split("r=").nth(1).unwrap().split(';').next().unwrap().to_owned());
        }
        remaining
    };
    let (remaining, turns) = proxy.turns_of(requests).await;
    assert_eq!(turns, 20);
    let expected: Vec<String> = (600..1_000).rev().map(|left| left.to_string()).collect();
    assert_eq!(remaining, expected, "alone, a client is told what it has to the unit");

    // Where many are no longer there, it is one for each that is, and none once it is denied.
    let scarce = limit(backend, Policy::fixed_window("scarce", Quota::per_day(50)));
    let flood = async {
        let mut passed = 0;
        for _ in 0..500 {
            passed += u32::from(passes(&scarce, "k").await);
        }
        passed
    };
    // Two leases, one that is refused, ten alone, one denial.
    assert_eq!(proxy.turns_of(flood).await, (50, 2 + 1 + 10 + 1));
}

#[test]
fn what_cannot_be_leased_is_refused_with_the_reason() {
    let refused = |make: fn() -> Policy| {
        let error = panic::catch_unwind(make).unwrap_err();
        error
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| error.downcast_ref::<&str>().map(|text| (*text).to_owned()))
    };
    for (policy, reason) in [
        (refused(|| Policy::concurrency("p", 10).local_lease(5, MINUTE)), "who is at it"),
        (
            refused(|| Policy::sliding_log("p", Quota::per_day(100)).local_lease(5, MINUTE)),
            "exact in any period",
        ),
        (refused(|| window(100).local_lease(101, MINUTE)), "2 to the limit, 100"),
        (refused(|| window(100).local_lease(1, MINUTE)), "2 to the limit, 100"),
        (refused(|| window(100).local_lease(5, Duration::from_secs(61))), "10ms to 60s"),
        (refused(|| window(100).count_if(|_| true).local_lease(5, MINUTE)), "leave one of them"),
        (refused(|| window(100).local_lease(5, MINUTE).count_if(|_| true)), "leave one of them"),
    ] {
        let message = policy.unwrap();
        assert!(message.contains(reason), "{message}");
    }
}

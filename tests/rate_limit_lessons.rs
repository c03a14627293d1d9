//! Where rate limiters have gone wrong before: waits that are not true, windows that are stretched,
//! clocks that are believed, and counts that nobody forgets.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{proxy::FaultProxy, server::RedisServer},
};
use bytes::Bytes;
use http::{Request, Response, header::RETRY_AFTER};
use http_body_util::Full;
use std::{convert::Infallible, time::Duration};
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::{
    Backend,
    rate_limit::{Charge, Outcome, Policy, Quota, RateLimitLayer, RateLimitStore, Rule, by},
};

on_every_backend! {
    every_wait_is_right_to_the_microsecond,
    a_client_is_never_told_to_retry_at_once,
    what_is_denied_prolongs_nothing,
    keys_that_look_alike_in_redis_are_kept_apart,
    a_clock_that_goes_back_revives_no_lease_that_was_seen_to_end,
}

/// Numbers that divide badly.
fn rules() -> Vec<Policy> {
    let quota = Quota::new(7, Duration::from_millis(1_501)).unwrap();
    let rules = [
        Rule::gcra(quota.burst(5)),
        Rule::token_bucket(quota.burst(5)),
        Rule::fixed_window(quota),
        Rule::aligned_window(quota),
        Rule::sliding_window(quota),
        Rule::sliding_log(quota),
        Rule::concurrency(3).unwrap().lease(Duration::from_micros(700_003)),
    ];
    let named = |(n, rule): (usize, Result<Rule, _>)| Policy::new(&format!("p{n}"), rule.unwrap());
    rules.into_iter().enumerate().map(named).collect::<Result<_, _>>().unwrap()
}

async fn check(harness: &Harness, policy: &Policy, cost: u64) -> Outcome {
    harness.check(&[Charge::new(policy, "k", cost)]).await.unwrap().outcomes()[0]
}

/// Asks every so many µs until it is denied, and returns for how long.
async fn exhaust(harness: &Harness, policy: &Policy, cost: u64, pause: u64) -> Duration {
    for _ in 0..20 {
        harness.clock.advance(Duration::from_micros(pause));
        let outcome = check(harness, policy, cost).await;
        if !outcome.allowed {
            return outcome.retry_after.unwrap();
        }
    }
    panic!("20 requests were allowed under {:?}", policy.rule());
}

async fn every_wait_is_right_to_the_microsecond(harness: Harness) {
    let harness = harness.without_deny_cache().await;
    for policy in rules() {
        for (cost, pause) in [(1, 0), (1, 13_579), (3, 1), (2, 99_999), (1, 100_001)] {
            let what = format!("{:?}, {cost} after {pause} µs", policy.rule());
            let wait = exhaust(&harness, &policy, cost, pause).await;
            harness.clock.advance(wait - Duration::from_micros(1));
            let early = check(&harness, &policy, cost).await;
            assert_eq!(early.retry_after, Some(Duration::from_micros(1)), "{what}: after {wait:?}");
            assert!(!early.allowed);
            harness.clock.advance(Duration::from_micros(1));
            assert!(check(&harness, &policy, cost).await.allowed, "{what}: after {wait:?}");
        }
    }
}

async fn a_client_is_never_told_to_retry_at_once(harness: Harness) {
    let policy = Policy::gcra("p", Quota::per_second(5_000).burst(1)).key(by::everyone());
    let limit = RateLimitLayer::new(harness.backend.clone(), policy);
    let limit = limit.deadline(Duration::from_secs(30));
    let hello = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let service = limit.layer(hello);
    for expected in [200, 429] {
        let response = service.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status(), expected);
        let told = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
        // In 200 µs it would be allowed.
        assert_eq!(told, (expected == 429).then_some("1"));
    }
}

async fn what_is_denied_prolongs_nothing(harness: Harness) {
    let harness = harness.without_deny_cache().await;
    for policy in rules() {
        let mut wait = exhaust(&harness, &policy, 1, 0).await;
        // However often it is asked meanwhile.
        while wait > Duration::from_millis(50) {
            harness.advance(Duration::from_millis(50));
            wait -= Duration::from_millis(50);
            let outcome = check(&harness, &policy, 1).await;
            assert_eq!(outcome.retry_after, Some(wait), "{:?}", policy.rule());
        }
        harness.advance(wait);
        assert!(check(&harness, &policy, 1).await.allowed, "{:?}", policy.rule());
    }
}

async fn keys_that_look_alike_in_redis_are_kept_apart(harness: Harness) {
    let policy = Policy::fixed_window("p", Quota::per_hour(1));
    let dotted = Policy::fixed_window("p.p", Quota::per_hour(1));
    for (policy, key) in
        [(&policy, "k"), (&policy, "K"), (&policy, "k:p"), (&dotted, "k"), (&policy, "k.p")]
    {
        let charge = [Charge::new(policy, key, 1)];
        assert!(harness.check(&charge).await.unwrap().is_allowed(), "{key} of {}", policy.name());
        assert!(!harness.check(&charge).await.unwrap().is_allowed(), "{key} of {}", policy.name());
    }
}

async fn a_clock_that_goes_back_revives_no_lease_that_was_seen_to_end(harness: Harness) {
    let second = Duration::from_secs(1);
    let policy = Policy::concurrency("p", 3).lease(second);
    let hold = async || {
        let charge = Charge::new(&policy, "k", 1);
        assert!(harness.check(std::slice::from_ref(&charge)).await.unwrap().is_allowed());
        charge
    };
    hold().await;
    harness.clock.advance(second / 2);
    let later = hold().await;
    harness.clock.advance(second * 3 / 4);
    let renewed = harness.renew(&[later]).await.unwrap();
    assert_eq!((renewed.outcomes()[0].allowed, renewed.outcomes()[0].remaining), (true, 2));
    harness.clock.set_back(second / 2);
    let peeked = harness.peek(&[Charge::new(&policy, "k", 1)]).await.unwrap();
    assert_eq!(peeked.outcomes()[0].remaining, 2);
}

/// By the server's own time, which passes here.
#[tokio::test]
async fn no_request_stretches_the_window_that_it_is_in() {
    let redis = RedisServer::start();
    let builder = Backend::builder().prefix(PREFIX).deadline(Duration::from_secs(30));
    let backend = builder.rate_limit_deny_cache(Duration::ZERO).redis(redis.url()).await.unwrap();
    let policy = Policy::fixed_window("p", Quota::per_minute(3));
    let key = format!("{PREFIX}:limit:{{k}}:p:fixed_window");
    let mut ends = Vec::new();
    for _ in 0..5 {
        backend.check(&[Charge::new(&policy, "k", 1)]).await.unwrap();
        let ttl = redis.command(&["PTTL", &key]).int();
        let [seconds, micros] = &redis.command(&["TIME"]).texts()[..] else { panic!("a time") };
        let now = seconds.parse::<i64>().unwrap() * 1_000 + micros.parse::<i64>().unwrap() / 1_000;
        let start = redis.command(&["GET", &key]).text();
        let start = start.split(':').next().unwrap().parse::<i64>().unwrap() / 1_000;
        // The two commands are asked one after the other, so the end may seem later, never earlier.
        assert!(now + ttl >= start + 60_000 && ttl <= 60_001, "{ttl} ms are left");
        ends.push((start, ttl));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        ends.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 > pair[1].1),
        "{ends:?}"
    );
}

/// A process whose clock is wrong changes nothing, since Redis is never told what time it is.
#[tokio::test]
async fn no_time_of_an_application_reaches_redis() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let builder = Backend::builder().deadline(Duration::from_secs(30));
    let backend = builder.rate_limit_deny_cache(Duration::ZERO).redis(proxy.url()).await.unwrap();
    let charges: Vec<Charge> =
        rules().iter().map(|policy| Charge::new(policy, "k", 1).with_receipt(7)).collect();
    let mut told = Vec::new();
    for _ in 0..3 {
        // The first time a server is sent each script by its text.
        proxy.reset();
        backend.check(&charges).await.unwrap();
        backend.peek(&charges).await.unwrap();
        backend.refund(&charges).await.unwrap();
        backend.renew(&charges).await.unwrap();
        backend.ban(&charges, Duration::from_secs(5)).await.unwrap();
        backend.unban(&charges).await.unwrap();
        let all = proxy.commands().into_iter().filter(|seen| seen.name == "EVALSHA");
        told.push(all.map(|seen| seen.texts()).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(told[1].len(), 6);
    assert_eq!(told[1], told[2], "some time later the same is said in the same words");
}

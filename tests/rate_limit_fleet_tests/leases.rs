//! The lease of a process that is killed, or stands still for longer than it lasts.

use super::app::{self, LEASE, PATIENT};
use crate::{
    harness::PREFIX,
    support::{
        http::client::HttpClient, process::ChildApp, proxy::FaultProxy, server::RedisServer,
    },
};
use axum::{body::Body, http::Request};
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use towerkeep::{Backend, rate_limit::RateLimitLayer};

/// Where the leases are.
fn key() -> String {
    format!("{PREFIX}:limit:{{everyone}}:streams:concurrency")
}

/// What the test knows of the leases, by a connection of its own.
async fn watcher(redis: &RedisServer) -> RateLimitLayer {
    let builder = Backend::builder().prefix(PREFIX).deadline(PATIENT);
    RateLimitLayer::new(builder.redis(redis.url()).await.unwrap(), app::streaming())
}

async fn left(limit: &RateLimitLayer) -> u64 {
    limit.peek("streams", ["everyone"]).await.unwrap().remaining
}

async fn until_left(limit: &RateLimitLayer) {
    let ended = async {
        while left(limit).await == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENT, ended).await.expect("the lease ends");
}

/// A client of that process, in the middle of its stream.
async fn stream(app: &ChildApp) -> http::Response<Incoming> {
    let request = Request::get(app.url("/stream")).body(Body::empty()).unwrap();
    let response = HttpClient::http1().open(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// Waits until that process has told Redis so, and Redis has done it.
async fn sent(proxy: &FaultProxy, app: &ChildApp, verb: &str) {
    let sent = async {
        let says = |text: &String| text == verb;
        while !proxy.commands().iter().any(|seen| seen.texts().iter().any(says)) {
            sleep(Duration::from_millis(20)).await;
        }
        // On the same link, so what was sent before has been done.
        app::status(&HttpClient::http1(), &app.url("/gcra")).await
    };
    assert_eq!(timeout(PATIENT, sent).await.expect("it is sent"), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_of_a_killed_process_is_renewed_until_then_and_ends_by_itself() {
    let redis = RedisServer::start();
    let limit = watcher(&redis).await;
    let apps = app::spawn_all(&redis, &[vec![], vec![]]);
    let held = stream(&apps[0]).await;
    sleep(LEASE + LEASE / 3).await;
    assert_eq!(left(&limit).await, 0, "its process lives");
    assert_eq!(app::status(&HttpClient::http1(), &apps[1].url("/stream")).await, 429);

    apps[0].kill();
    let ttl = redis.command(&["PTTL", &key()]).int();
    assert!((1..=LEASE.as_millis() as i64).contains(&ttl), "{ttl} ms");
    until_left(&limit).await;
    drop(stream(&apps[1]).await);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_past_its_lease_takes_nothing_from_the_next_holder() {
    let redis = RedisServer::start();
    let (limit, proxy) = (watcher(&redis).await, FaultProxy::start(redis.port()));
    let late = app::spawn(&proxy.url(), &[]);
    let next = app::spawn(&redis.url(), &[]);
    let stale = stream(&late).await;
    late.pause();
    until_left(&limit).await;
    let held = stream(&next).await;

    // It tries to renew what has ended, and gives it back once more.
    proxy.reset();
    late.resume();
    sent(&proxy, &late, "renew").await;
    let leases = redis.command(&["ZCARD", &key()]);
    assert_eq!(leases.int(), 1, "what has ended is not renewed");
    drop(stale);
    sent(&proxy, &late, "refund").await;
    assert_eq!(left(&limit).await, 0, "the next holder's is its own");
    for app in [&late, &next] {
        assert_eq!(app::status(&HttpClient::http1(), &app.url("/stream")).await, 429);
    }
    drop(held);
    until_left(&limit).await;
}

//! What a request costs Redis: round trips, counted on the wire or by the servers themselves.

use super::app::PATIENT;
use crate::{
    harness::{Harness, PREFIX},
    support::{
        cluster::RedisCluster,
        http::{client::HttpClient, server::HttpServer},
        proxy::FaultProxy,
        server::RedisServer,
    },
};
use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use std::{collections::BTreeMap, convert::Infallible};
use tower::{Layer, Service, ServiceExt, service_fn};
use towerkeep::{
    Backend,
    rate_limit::{Policy, Quota, RateLimitLayer, Slots, by},
};

on_every_backend! {
    two_services_without_axum_have_limits_of_their_own,
}

fn limit(backend: &Backend, policy: Policy) -> RateLimitLayer {
    RateLimitLayer::new(backend.clone(), policy).deadline(PATIENT)
}

async fn two_services_without_axum_have_limits_of_their_own(harness: Harness) {
    let hello = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let route = |name: &str, per_hour| {
        let policy = Policy::fixed_window(name, Quota::per_hour(per_hour)).key(by::everyone());
        limit(&harness.backend, policy).layer(hello)
    };
    let (a, b) = (route("a", 1), route("b", 2));
    let routes = service_fn(move |request: Request<Incoming>| {
        let (a, b) = (a.clone(), b.clone());
        async move {
            let service = if request.uri().path() == "/b" { b } else { a };
            service.oneshot(request).await
        }
    });
    let server = HttpServer::start(routes).await;
    let client = HttpClient::http1();
    let mut statuses = BTreeMap::<&str, Vec<u16>>::new();
    for path in ["/a", "/b", "/a", "/b", "/b"] {
        let status = client.get(&server.url(path)).await.status.as_u16();
        statuses.entry(path).or_default().push(status);
    }
    assert_eq!(statuses, BTreeMap::from([("/a", vec![200, 429]), ("/b", vec![200, 200, 429])]));
}

#[tokio::test]
async fn a_client_that_floods_while_it_is_denied_costs_redis_nothing() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::builder().deadline(PATIENT).redis(proxy.url()).await.unwrap();
    let policy = Policy::fixed_window("p", Quota::per_hour(1)).key(by::ip());
    let limit = limit(&backend, policy).policy(Policy::gcra("q", Quota::per_hour(100)));
    let server =
        HttpServer::start(Router::new().route("/", get(async || "hello")).layer(limit)).await;
    let (client, url) = (HttpClient::http1(), server.url("/"));
    assert_eq!(client.get(&url).await.status, 200);
    assert_eq!(client.get(&url).await.status, 429);
    let flood = async {
        for _ in 0..200 {
            let denied = client.get(&url).await;
            assert_eq!(denied.status, 429);
            let wait: u64 = denied.header("retry-after").unwrap().parse().unwrap();
            assert!((3_000..=3_600).contains(&wait), "{wait}");
        }
    };
    assert_eq!(proxy.turns_of(flood).await.1, 0);
}

#[tokio::test]
async fn a_request_that_is_denied_a_lease_has_none_to_give_back() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::builder().deadline(PATIENT).redis(proxy.url()).await.unwrap();
    let limit = limit(&backend, Policy::concurrency("p", 1).key(by::everyone()));
    let service = limit.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    }));
    let ask = async || service.clone().oneshot(Request::new(())).await.unwrap();
    let held = ask().await;
    proxy.reset();
    for _ in 0..10 {
        assert_eq!(ask().await.status(), 429);
    }
    // A lease would go back in a task of its own, the last one's maybe later.
    assert_eq!(proxy.commands().len(), 10);
    drop(held);
}

/// How many scripts each server of a cluster was sent since it was asked last.
fn scripts(cluster: &RedisCluster) -> Vec<u64> {
    let mut counts = Vec::new();
    cluster.each_master(|master| {
        let stats = master.command(&["INFO", "commandstats"]).text();
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let calls = calls.and_then(|calls| calls.split(',').next());
        counts.push(calls.map_or(0, |calls| calls.parse().unwrap()));
        master.command(&["CONFIG", "RESETSTAT"]);
    });
    counts.sort_unstable();
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_a_request_is_one_call_for_each_key_or_one_in_all() {
    let cluster = RedisCluster::start();
    for (slots, expected) in [(Slots::PerKey, 2), (Slots::Single, 1)] {
        let builder = Backend::builder().prefix(PREFIX).deadline(PATIENT).rate_limit_slots(slots);
        let backend = builder.redis(cluster.url()).await.unwrap();
        // Four policies on two keys.
        let policy = |name: &str| Policy::gcra(name, Quota::per_hour(1_000));
        let limit = limit(&backend, policy("a").key(by::everyone()))
            .policy(policy("b").key(by::header("x-user")))
            .policy(policy("c").key(by::everyone()))
            .policy(policy("d").key(by::header("x-user")));
        let hello = service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
        });
        let service = limit.layer(hello);
        let ask = async |user: &str| {
            let request = Request::builder().header("x-user", user).body(()).unwrap();
            let mut service = service.clone();
            service.ready().await.unwrap().call(request).await.unwrap().status()
        };
        for user in ["ann", "bob", "cid"] {
            // Scripts are known then.
            assert_eq!(ask(user).await, 200);
            scripts(&cluster);
            assert_eq!(ask(user).await, 200);
            let calls = scripts(&cluster);
            assert_eq!(calls.iter().sum::<u64>(), expected, "{slots:?}: {calls:?}");
        }
    }
}

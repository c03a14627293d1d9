//! A shared cache as RFC 9111 has it: one table of behaviours for each area, over every backend. A
//! case's name begins with the section that asks for it.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

mod cache_rfc_tests {
    mod age;
    mod conditions;
    mod freshness;
    mod invalidation;
    mod methods;
    mod parts;
    mod requests;
    mod stale;
    mod storing;
    mod targeted;
    mod updates;
    mod variants;

    pub(crate) mod script;
}

use crate::support::{proxy::FaultProxy, server::RedisServer};
use axum::body::Body;
use http::{Request, Response};
use std::{convert::Infallible, time::Duration};
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::{
    Backend,
    cache::{CacheLayer, Policy},
};

#[tokio::test]
async fn a_hit_of_a_response_that_varies_is_one_round_trip_once_its_names_are_known() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let origin = service_fn(async |_: Request<Body>| {
        let response =
            Response::builder().header("cache-control", "max-age=60").header("vary", "foo");
        Ok::<_, Infallible>(response.body(Body::from("x")).unwrap())
    });
    let layer = |backend: &Backend| {
        CacheLayer::new(backend.clone()).policy(Policy::proxy()).deadline(PATIENCE)
    };
    let (app, elsewhere) = (layer(&backend).layer(origin), layer(&backend).layer(origin));
    let ask = async |app: &towerkeep::cache::Cache<_>, foo: &str| {
        let request = Request::get("/a").header("foo", foo).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        response.headers()["cache-status"].to_str().unwrap().contains("; hit")
    };
    for foo in ["1", "2"] {
        assert!(!ask(&app, foo).await);
        backend.shutdown(PATIENCE).await;
    }
    assert_eq!(proxy.turns_of(ask(&app, "1")).await, (true, 1));
    assert_eq!(proxy.turns_of(ask(&app, "2")).await, (true, 1));
    // A process that knows nothing yet asks twice, once.
    assert_eq!(proxy.turns_of(ask(&elsewhere, "1")).await, (true, 2));
    assert_eq!(proxy.turns_of(ask(&elsewhere, "2")).await, (true, 1));
}

#[tokio::test]
async fn rfc_10008_a_query_is_an_unknown_method_without_its_layer_and_changes_nothing() {
    let origin = service_fn(async |request: Request<Body>| {
        let response = Response::builder().header("cache-control", "max-age=60");
        Ok::<_, Infallible>(response.body(request.into_body()).unwrap())
    });
    let app = CacheLayer::new(Backend::memory()).policy(Policy::proxy()).layer(origin);
    let ask = async |method: &str, content: &'static str| {
        let request = Request::builder().method(method).uri("/a").body(Body::from(content));
        let response = app.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(Body::new(response.into_body()), 99).await.unwrap();
        (status, body)
    };
    ask("GET", "").await;
    for content in ["one", "two"] {
        let (status, body) = ask("QUERY", content).await;
        assert_eq!((&*status, &*body), ("towerkeep; fwd=method", content.as_bytes()));
    }
    assert!(ask("GET", "").await.0.starts_with("towerkeep; hit"));
}

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
    mod groups;
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
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::{
    Backend,
    cache::{CacheLayer, Policy},
};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_hit_of_a_response_that_varies_is_one_round_trip_once_its_names_are_known() {
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

fn range(range: &str) -> Request<Body> {
    Request::get("/a").header("range", range).body(Body::empty()).unwrap()
}

/// The first five of ten bytes.
fn first_half() -> Response<Body> {
    let response = Response::builder().status(206).header("cache-control", "max-age=60");
    let response = response.header("etag", "\"a\"").header("content-range", "bytes 0-4/10");
    response.body(Body::from("01234")).unwrap()
}

#[tokio::test]
async fn rfc_9110_14_the_same_part_is_asked_for_once_and_holds_up_nobody_who_wants_the_whole() {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (door, count) = (gate.clone(), asked.clone());
    let origin = service_fn(move |request: Request<Body>| {
        let (door, count) = (door.clone(), count.clone());
        async move {
            if !request.headers().contains_key("range") {
                return Ok::<_, Infallible>(Response::new(Body::from("0123456789")));
            }
            count.fetch_add(1, SeqCst);
            drop(door.acquire().await);
            Ok(first_half())
        }
    });
    let app = CacheLayer::new(Backend::memory()).policy(Policy::proxy()).layer(origin);
    let mut parts = JoinSet::new();
    for _ in 0..20 {
        parts.spawn(app.clone().oneshot(range("bytes=0-4")));
    }
    while asked.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let whole = app.clone().oneshot(Request::get("/a").body(Body::empty()).unwrap());
    let whole = timeout(PATIENCE, whole).await.expect("it does not wait for the part").unwrap();
    assert_eq!(whole.status(), 200);
    gate.add_permits(20);
    while let Some(part) = parts.join_next().await {
        let part = part.unwrap().unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.into_body().collect().await.unwrap().to_bytes(), "01234");
    }
    assert_eq!(asked.load(SeqCst), 1);
}

#[tokio::test]
async fn rfc_9111_3_3_what_breaks_off_while_a_part_is_completed_is_not_stored() {
    let data = |data: &'static str| Ok(Frame::data(Bytes::from_static(data.as_bytes())));
    for (at, end) in [vec![data("56"), Err("broken")], vec![data("567")], vec![data("567890")]]
        .into_iter()
        .enumerate()
    {
        let mut answers = vec![
            {
                let response = Response::builder().status(206).header("etag", "\"a\"");
                let response = response.header("content-range", "bytes 5-9/10");
                let response = response.header("cache-control", "max-age=60");
                let body = Body::new(StreamBody::new(futures_util::stream::iter(end)));
                response.body(body).unwrap()
            },
            first_half(),
        ];
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        answers.drain(..).rev().for_each(|answer| sender.send(answer).unwrap());
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let origin = service_fn(move |_: Request<Body>| {
            let receiver = receiver.clone();
            async move { Ok::<_, Infallible>(receiver.lock().await.recv().await.unwrap()) }
        });
        let backend = Backend::memory();
        let app = CacheLayer::new(backend.clone()).policy(Policy::proxy()).layer(origin);
        let ask = async |request| {
            let response = app.clone().oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            backend.shutdown(PATIENCE).await;
            (head, body)
        };
        ask(range("bytes=0-4")).await.1.unwrap();
        let (head, body) = ask(Request::get("/a").body(Body::empty()).unwrap()).await;
        assert_eq!(
            (head.status.as_u16(), head.headers["content-length"].as_bytes()),
            (200, &b"10"[..])
        );
        match at {
            0 => drop(body.unwrap_err()),
            1 => assert_eq!(body.unwrap(), "01234567", "its server sees that it is too short"),
            _ => assert_eq!(body.unwrap(), "01234567890", "its server sees that it is too long"),
        }
        let (head, body) = ask(range("bytes=0-4")).await;
        assert!(head.headers["cache-status"].to_str().unwrap().contains("; hit"), "case {at}");
        assert_eq!((head.status.as_u16(), body.unwrap()), (206, "01234".into()));
    }
}

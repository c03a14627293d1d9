//! Stored responses that are compressed: smaller in Redis, and the same to everyone.

#![cfg(feature = "cache-compression")]
#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::resp::Value,
};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use towerkeep::{
    Backend, ResponseBody,
    cache::{CacheLayer, Policy},
};

on_every_backend! {
    clients_get_what_the_handler_gave,
    what_the_handler_has_encoded_stays_so_with_its_etag,
}

on_every_server! {
    it_is_stored_in_less_space_and_read_by_a_layer_without_the_setting,
    a_damaged_one_is_a_miss_and_made_again,
}

const PATIENCE: Duration = Duration::from_secs(20);

type App = BoxCloneSyncService<Request<Body>, Response<ResponseBody<Body>>, Infallible>;

fn page() -> String {
    (0..2_000).map(|line| format!("line {line} of a page that repeats itself\n")).collect()
}

fn layer(backend: Backend) -> CacheLayer {
    CacheLayer::new(backend).policy(Policy::proxy())
}

/// The page, counted, with these headers.
fn app(
    layer: CacheLayer,
    body: Bytes,
    headers: &'static [(&str, &str)],
) -> (App, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let service = service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, SeqCst);
        let response = Response::builder().header("cache-control", "max-age=60");
        let with = |response: http::response::Builder, (name, value): &(&str, &str)| {
            response.header(*name, *value)
        };
        let response = headers.iter().fold(response, with).body(Body::from(body.clone()));
        async { Ok::<_, Infallible>(response.unwrap()) }
    });
    (BoxCloneSyncService::new(layer.layer(service)), runs)
}

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

async fn ask(app: &App, method: &str, headers: &[(&str, &str)]) -> Got {
    let request = Request::builder().method(method).uri("/page");
    let with = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    let request = headers.iter().fold(request, with).body(Body::empty()).unwrap();
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Got { status: parts.status, headers: parts.headers, body }
}

/// The same without what tells of the cache.
fn told(got: Got) -> (StatusCode, HeaderMap, Bytes) {
    let Got { status, mut headers, body } = got;
    headers.remove("cache-status");
    headers.remove("age");
    (status, headers, body)
}

async fn settled(harness: &Harness) {
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
}

async fn clients_get_what_the_handler_gave(harness: Harness) {
    const HEADERS: &[(&str, &str)] = &[("etag", "\"1\""), ("content-type", "text/plain")];
    let page = Bytes::from(page());
    let compressing = layer(harness.backend.clone()).compress_above(1_024);
    let (compressed, runs) = app(compressing, page.clone(), HEADERS);
    let (plain, _) = app(layer(Backend::memory()), page.clone(), HEADERS);
    for app in [&compressed, &plain] {
        ask(app, "GET", &[]).await;
        settled(&harness).await;
    }
    for (method, headers) in [
        ("GET", &[][..]),
        ("HEAD", &[]),
        ("GET", &[("range", "bytes=100-199")]),
        ("GET", &[("range", "bytes=-7")]),
        ("GET", &[("range", "bytes=9999999-")]),
        ("GET", &[("if-none-match", "\"1\"")]),
        ("GET", &[("if-range", "\"1\""), ("range", "bytes=0-0")]),
    ] {
        let (got, expected) =
            (ask(&compressed, method, headers).await, ask(&plain, method, headers).await);
        assert_eq!(told(got), told(expected), "{method} {headers:?}");
    }
    assert_eq!(ask(&compressed, "GET", &[]).await.body, page);
    assert_eq!(runs.load(SeqCst), 1);
}

async fn what_the_handler_has_encoded_stays_so_with_its_etag(harness: Harness) {
    // Not even gzip: nobody looks into it.
    let body = Bytes::from(vec![b'x'; 10_000]);
    let headers = &[("content-encoding", "gzip"), ("etag", "\"gz\"")];
    let compressing = layer(harness.backend.clone()).compress_above(1);
    let (app, runs) = app(compressing, body.clone(), headers);
    for _ in 0..2 {
        let got = ask(&app, "GET", &[]).await;
        assert_eq!(
            (&got.headers["content-encoding"], &got.headers["etag"]),
            (&"gzip".parse().unwrap(), &"\"gz\"".parse().unwrap())
        );
        assert_eq!(got.body, body);
        settled(&harness).await;
    }
    assert_eq!(runs.load(SeqCst), 1);
    if harness.is_shared() {
        assert!(blob(&harness).len() > body.len());
    }
}

/// Where the one stored response is.
fn place(harness: &Harness) -> (String, String) {
    let [key] = &harness.keys(&format!("{PREFIX}:cache:*"))[..] else { panic!("one is stored") };
    let fields = harness.command(&["HKEYS", key]).texts();
    (key.clone(), fields.into_iter().find(|field| field.starts_with("b:")).unwrap())
}

fn blob(harness: &Harness) -> Vec<u8> {
    let (key, field) = place(harness);
    match harness.command(&["HGET", &key, &field]) {
        Value::Bulk(blob) => blob,
        other => panic!("{other:?} is no blob"),
    }
}

async fn it_is_stored_in_less_space_and_read_by_a_layer_without_the_setting(harness: Harness) {
    let page = Bytes::from(page());
    let compressing = layer(harness.backend.clone()).compress_above(1_024);
    let (compressing, runs) = app(compressing, page.clone(), &[]);
    ask(&compressing, "GET", &[]).await;
    settled(&harness).await;
    let stored = blob(&harness).len();
    assert!(stored < page.len() / 4, "{stored} bytes of {}", page.len());
    let (other, others) = app(layer(harness.another().await), page.clone(), &[]);
    for app in [&compressing, &other] {
        assert_eq!(ask(app, "GET", &[]).await.body, page);
    }
    assert_eq!((runs.load(SeqCst), others.load(SeqCst)), (1, 0));
}

async fn a_damaged_one_is_a_miss_and_made_again(harness: Harness) {
    let page = Bytes::from(page());
    let compressing = layer(harness.backend.clone()).compress_above(1_024);
    let (app, runs) = app(compressing, page.clone(), &[]);
    ask(&app, "GET", &[]).await;
    settled(&harness).await;
    let (key, field) = place(&harness);
    let mut damaged = blob(&harness);
    let at = damaged.len() - 9;
    damaged.truncate(at);
    harness.command(&[b"HSET", key.as_bytes(), field.as_bytes(), &damaged]);
    for run in [2, 2] {
        assert_eq!(ask(&app, "GET", &[]).await.body, page);
        settled(&harness).await;
        assert_eq!(runs.load(SeqCst), run);
    }
}

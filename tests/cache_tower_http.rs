//! The cache beside the layers that most applications have: compression, decompression, CORS and trace.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::harness::Harness;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    compression::CompressionLayer,
    cors::CorsLayer,
    decompression::DecompressionLayer,
    trace::{OnResponse, TraceLayer},
};
use towerkeep::cache::{CacheKey, CacheLayer, Policy};

on_every_backend! {
    compression_over_the_cache_packs_for_each_client_what_is_stored_once,
    compression_under_the_cache_is_stored_once_for_each_declared_encoding,
    compression_under_the_cache_undeclared_is_a_bypass_that_says_why,
    compression_under_a_proxy_is_a_variant_of_its_own,
    decompression_over_the_cache_unpacks_every_hit,
    decompression_under_the_cache_stores_what_was_unpacked,
    cors_over_the_cache_answers_each_origin_from_one_stored_response,
    cors_under_the_cache_never_mixes_two_origins,
    a_trace_sees_misses_hits_and_conditions_to_their_end,
    all_of_them_over_one_route_of_a_router_leave_the_others_alone,
}

/// Long enough that it is worth its compression.
const PAGE: &str = "towerkeep keeps the state that stateless servers share; ";
const PAGES: usize = 64;

const PATIENCE: Duration = Duration::from_secs(20);

type Runs = Arc<AtomicUsize>;

fn page() -> String {
    PAGE.repeat(PAGES)
}

/// Answers with the page, and counts.
async fn show(State(runs): State<Runs>) -> impl IntoResponse {
    runs.fetch_add(1, SeqCst);
    let fresh = [
        (header::CACHE_CONTROL, "public, max-age=60"),
        (header::CONTENT_TYPE, "text/plain"),
        (header::ETAG, "\"v1\""),
    ];
    (fresh, page())
}

fn router(runs: &Runs) -> Router {
    Router::new().route("/page", get(show)).with_state(runs.clone())
}

fn application(harness: &Harness) -> CacheLayer {
    CacheLayer::new(harness.backend.clone()).policy(Policy::application())
}

fn proxy(harness: &Harness) -> CacheLayer {
    CacheLayer::new(harness.backend.clone()).policy(Policy::proxy())
}

/// What a client got.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap()
    }

    fn is_hit(&self) -> bool {
        self.cache_status().contains("; hit")
    }

    /// The page, whatever it was packed in.
    async fn text(&self) -> String {
        let answer = service_fn(async |_: Request<Body>| {
            let mut response = Response::new(Body::from(self.body.clone()));
            *response.headers_mut() = self.headers.clone();
            Ok::<_, Infallible>(response)
        });
        let unpacked =
            DecompressionLayer::new().layer(answer).oneshot(Request::default()).await.unwrap();
        String::from_utf8(unpacked.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
    }
}

async fn send<S, R>(app: &S, method: Method, path: &str, headers: &[(&str, &str)]) -> Got
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible> + Clone,
    R: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut request = Request::builder().method(method).uri(path).header("host", "one.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let Ok(response) = app.clone().oneshot(request.body(Body::empty()).unwrap()).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Got { status: parts.status, headers: parts.headers, body }
}

async fn ask<S, R>(app: &S, headers: &[(&str, &str)]) -> Got
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible> + Clone,
    R: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    send(app, Method::GET, "/page", headers).await
}

const GZIP: &[(&str, &str)] = &[("accept-encoding", "gzip")];
const IDENTITY: &[(&str, &str)] = &[("accept-encoding", "identity")];

/// Waits for what is on its way into the store.
async fn settled(harness: &Harness) {
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
}

async fn compression_over_the_cache_packs_for_each_client_what_is_stored_once(harness: Harness) {
    let runs = Runs::default();
    let app = router(&runs).layer(application(&harness)).layer(CompressionLayer::new());
    let first = ask(&app, GZIP).await;
    settled(&harness).await;
    let (packed, plain) = (ask(&app, GZIP).await, ask(&app, IDENTITY).await);
    for packed in [&first, &packed] {
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert_eq!(packed.text().await, page());
        assert!(packed.body.len() < page().len() / 4);
    }
    assert_eq!((plain.header("content-encoding"), &*plain.text().await), (None, &*page()));
    assert!(!first.is_hit() && packed.is_hit() && plain.is_hit());
    assert_eq!(plain.header("content-length"), Some(&*page().len().to_string()));

    let same = ask(&app, &[("accept-encoding", "gzip"), ("if-none-match", "\"v1\"")]).await;
    assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
    let head = send(&app, Method::HEAD, "/page", GZIP).await;
    assert_eq!((head.status, head.body.len(), head.is_hit()), (StatusCode::OK, 0, true));
    assert_eq!(runs.load(SeqCst), 1);
}

async fn compression_under_the_cache_is_stored_once_for_each_declared_encoding(harness: Harness) {
    let runs = Runs::default();
    let key = CacheKey::default().header("accept-encoding");
    let app = router(&runs).layer(CompressionLayer::new()).layer(application(&harness).key(key));
    for (asked, encoding) in [(GZIP, Some("gzip")), (IDENTITY, None)] {
        let miss = ask(&app, asked).await;
        settled(&harness).await;
        let hit = ask(&app, asked).await;
        assert!(!miss.is_hit() && hit.is_hit(), "{}", hit.cache_status());
        for got in [miss, hit] {
            assert_eq!(got.header("content-encoding"), encoding);
            assert_eq!(got.text().await, page());
        }
    }
    assert!(ask(&app, GZIP).await.is_hit());
    assert_eq!(runs.load(SeqCst), 2);
}

async fn compression_under_the_cache_undeclared_is_a_bypass_that_says_why(harness: Harness) {
    let runs = Runs::default();
    let app = router(&runs).layer(CompressionLayer::new()).layer(application(&harness));
    // The second is remembered not to be worth a wait.
    for why in ["detail=vary", "detail=uncacheable"] {
        let got = ask(&app, GZIP).await;
        assert_eq!(got.text().await, page());
        assert!(got.cache_status().contains(why), "{}", got.cache_status());
        settled(&harness).await;
    }
    assert_eq!(ask(&app, IDENTITY).await.header("content-encoding"), None);
    assert_eq!(runs.load(SeqCst), 3);
}

async fn compression_under_a_proxy_is_a_variant_of_its_own(harness: Harness) {
    let runs = Runs::default();
    let app = router(&runs).layer(CompressionLayer::new()).layer(proxy(&harness));
    for (asked, encoding) in [(GZIP, Some("gzip")), (IDENTITY, None), (GZIP, Some("gzip"))] {
        ask(&app, asked).await;
        settled(&harness).await;
        let hit = ask(&app, asked).await;
        assert!(hit.is_hit(), "{}", hit.cache_status());
        assert_eq!((hit.header("content-encoding"), &*hit.text().await), (encoding, &*page()));
    }
    assert_eq!(runs.load(SeqCst), 2);
}

/// A miss and a hit that nothing tells of a compression.
async fn is_plain_twice<S, R>(app: &S, harness: &Harness)
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible> + Clone,
    R: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    for hit in [false, true] {
        let got = ask(app, &[]).await;
        assert_eq!((got.is_hit(), got.header("content-encoding")), (hit, None));
        assert_eq!(got.body, page());
        settled(harness).await;
    }
}

async fn decompression_over_the_cache_unpacks_every_hit(harness: Harness) {
    let runs = Runs::default();
    let app = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .layer(proxy(&harness))
        .layer(CompressionLayer::new())
        .service(router(&runs));
    is_plain_twice(&app, &harness).await;
    assert_eq!(runs.load(SeqCst), 1);
}

async fn decompression_under_the_cache_stores_what_was_unpacked(harness: Harness) {
    let runs = Runs::default();
    let app = ServiceBuilder::new()
        .layer(application(&harness).key(CacheKey::default().header("accept-encoding")))
        .layer(DecompressionLayer::new())
        .layer(CompressionLayer::new())
        .service(router(&runs));
    is_plain_twice(&app, &harness).await;
    assert_eq!(runs.load(SeqCst), 1);
}

async fn cors_over_the_cache_answers_each_origin_from_one_stored_response(harness: Harness) {
    let runs = Runs::default();
    let origins = ["https://a.example", "https://b.example"].map(|of| of.parse().unwrap());
    let cors = CorsLayer::new().allow_origin(origins).allow_methods([Method::GET]);
    let app = router(&runs).layer(application(&harness)).layer(cors);
    for origin in ["https://a.example", "https://b.example", "https://a.example"] {
        let got = ask(&app, &[("origin", origin)]).await;
        assert_eq!(got.header("access-control-allow-origin"), Some(origin));
        settled(&harness).await;
    }
    let stranger = ask(&app, &[("origin", "https://evil.example")]).await;
    assert_eq!(stranger.header("access-control-allow-origin"), None);
    assert_eq!(runs.load(SeqCst), 1);
}

async fn cors_under_the_cache_never_mixes_two_origins(harness: Harness) {
    let runs = Runs::default();
    let origins = ["https://a.example", "https://b.example"].map(|of| of.parse().unwrap());
    let cors = CorsLayer::new().allow_origin(origins).allow_methods([Method::GET]);
    let inner = router(&runs).layer(cors);
    let caches = [("application", application(&harness)), ("proxy", proxy(&harness))];
    for (at, (name, cache)) in caches.into_iter().enumerate() {
        let app = inner.clone().layer(cache);
        let path = format!("/page?{at}");
        for origin in ["https://a.example", "https://b.example"].repeat(2) {
            let got = send(&app, Method::GET, &path, &[("origin", origin)]).await;
            assert_eq!(got.header("access-control-allow-origin"), Some(origin), "{name}");
            settled(&harness).await;
        }
        let preflight = [("origin", "https://a.example"), ("access-control-request-method", "GET")];
        for _ in 0..2 {
            let got = send(&app, Method::OPTIONS, &path, &preflight).await;
            assert_eq!(got.header("access-control-allow-methods"), Some("GET"), "{name}");
            assert!(!got.is_hit(), "{name}");
        }
    }
    // The application refuses to store what varies by a header that it did not declare; the proxy keeps
    // one of each.
    assert_eq!(runs.load(SeqCst), 4 + 2);
}

#[derive(Clone)]
struct Counter(Runs);

impl<B> OnResponse<B> for Counter {
    fn on_response(self, _: &Response<B>, _: Duration, _: &tracing::Span) {
        self.0.fetch_add(1, SeqCst);
    }
}

async fn a_trace_sees_misses_hits_and_conditions_to_their_end(harness: Harness) {
    let (outer, inner, frames) = (Runs::default(), Runs::default(), Runs::default());
    let seen = frames.clone();
    let over = TraceLayer::new_for_http().on_response(Counter(outer.clone())).on_body_chunk(
        move |chunk: &Bytes, _: Duration, _: &tracing::Span| {
            seen.fetch_add(chunk.len(), SeqCst);
        },
    );
    let streamed = service_fn(async |_: Request<Body>| {
        let frames = ["one ", "two ", "three"].map(Ok::<_, io::Error>);
        let response = Response::builder().header("cache-control", "max-age=60");
        let body = Body::from_stream(stream::iter(frames));
        Ok::<_, Infallible>(response.header("etag", "\"s\"").body(body).unwrap())
    });
    let app = ServiceBuilder::new()
        .layer(over)
        .layer(application(&harness))
        .layer(TraceLayer::new_for_http().on_response(Counter(inner.clone())))
        .service(streamed);
    for hit in [false, true] {
        let got = ask(&app, &[]).await;
        assert_eq!((got.is_hit(), &got.body[..]), (hit, &b"one two three"[..]));
        settled(&harness).await;
    }
    assert_eq!(ask(&app, &[("if-none-match", "\"s\"")]).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!((outer.load(SeqCst), inner.load(SeqCst)), (3, 1));
    assert_eq!(frames.load(SeqCst), 2 * "one two three".len());
}

async fn all_of_them_over_one_route_of_a_router_leave_the_others_alone(harness: Harness) {
    let runs = Runs::default();
    let cache = application(&harness).key(CacheKey::default().header("accept-encoding"));
    let stack = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CorsLayer::permissive())
        .layer(CompressionLayer::new())
        .layer(cache.clone());
    let app = Router::new()
        .route("/page", get(show).layer(stack))
        .route("/under", get(show).layer((CompressionLayer::new(), cache)))
        .route("/bare", get(show))
        .with_state(runs.clone());
    for path in ["/page", "/under"] {
        send(&app, Method::GET, path, GZIP).await;
        settled(&harness).await;
        let hit = send(&app, Method::GET, path, GZIP).await;
        assert!(hit.is_hit());
        assert_eq!((hit.header("content-encoding"), &*hit.text().await), (Some("gzip"), &*page()));
    }
    for _ in 0..2 {
        let bare = send(&app, Method::GET, "/bare", GZIP).await;
        assert_eq!((bare.header("cache-status"), bare.header("content-encoding")), (None, None));
    }
    assert_eq!(runs.load(SeqCst), 4);
}

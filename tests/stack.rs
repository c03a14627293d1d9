//! All layers together, in the documented order and in others, over memory and Redis.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::Harness,
    support::http::{
        browser::Browser,
        client::{self, HttpClient, Reply},
        server::HttpServer,
    },
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    response::{
        IntoResponse,
        sse::{Event, Sse},
    },
    routing::{any, get, post},
};
use bytes::Bytes;
use futures_util::stream;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, UPGRADE},
};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, Semaphore},
};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, service_fn,
    util::BoxCloneService,
};
use towerkeep::{
    Backend, PeerAddr, RequestBody,
    cache::CacheLayer,
    idempotency::{IdempotencyLayer, Idempotent},
    rate_limit::{Policy, Quota, RateLimitLayer, by},
    session::{self, Session, SessionLayer},
};

on_every_backend! {
    the_documented_order_works_in_axum,
    the_documented_order_works_without_axum,
    a_client_that_leaves_in_the_middle_of_a_checkout_finds_it_done_once,
    upgrades_events_and_trailers_pass_through_every_layer,
    boxed_and_buffered_services_are_wrapped_like_any_other,
    what_a_session_has_touched_is_never_cached,
    a_limit_by_user_outside_the_session_never_applies,
    idempotency_outside_the_session_knows_nobody_and_refuses,
}

/// What the handlers of a test share with it.
#[derive(Clone)]
struct Shop {
    loads: Arc<AtomicUsize>,
    checkouts: Arc<AtomicUsize>,
    started: Arc<Notify>,
    /// A checkout takes one to go on.
    till: Arc<Semaphore>,
}

impl Shop {
    fn open() -> Self {
        Self {
            loads: Arc::default(),
            checkouts: Arc::default(),
            started: Arc::default(),
            till: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    /// One whose checkouts stop until the test lets them go on.
    fn with_a_closed_till() -> Self {
        Self { till: Arc::new(Semaphore::new(0)), ..Self::open() }
    }
}

fn limit(backend: &Backend, name: &str, per_day: u32, key: impl by::KeyBy) -> RateLimitLayer {
    let policy = Policy::gcra(name, Quota::per_day(per_day)).key(key);
    RateLimitLayer::new(backend.clone(), policy).deadline(Duration::from_secs(10))
}

/// Patient, as the tests ask what is answered, not how fast.
fn cache(backend: &Backend) -> CacheLayer {
    CacheLayer::new(backend.clone()).deadline(Duration::from_secs(10))
}

fn sessions(backend: &Backend) -> SessionLayer {
    SessionLayer::new(backend.clone())
}

fn idempotency(backend: &Backend) -> IdempotencyLayer {
    IdempotencyLayer::new(backend.clone()).require(Method::POST)
}

fn routes(shop: Shop, backend: &Backend) -> Router {
    Router::new()
        .route("/products", get(products))
        .route("/cart", get(cart))
        .layer(cache(backend))
        .route("/checkout", post(checkout))
        .layer(idempotency(backend))
        .route("/add", post(add))
        .route("/login", post(login))
        .with_state(shop)
}

fn documented(shop: Shop, backend: &Backend) -> Router {
    routes(shop, backend)
        .layer(limit(backend, "user", 30, by::user()))
        .layer(sessions(backend))
        .layer(limit(backend, "address", 1_000, by::ip()))
}

async fn products(State(shop): State<Shop>) -> impl IntoResponse {
    let load = shop.loads.fetch_add(1, SeqCst) + 1;
    ([(CACHE_CONTROL, "max-age=60")], format!("load {load}"))
}

/// Says that it may be cached, which it must not be: it is one visitor's.
async fn cart(session: Session) -> Result<impl IntoResponse, session::Error> {
    let cart: Vec<String> = session.get("cart")?.unwrap_or_default();
    Ok(([(CACHE_CONTROL, "max-age=60")], Json(cart)))
}

async fn add(session: Session, item: String) -> Result<(), session::Error> {
    let mut cart: Vec<String> = session.get("cart")?.unwrap_or_default();
    cart.push(item);
    session.set("cart", &cart)
}

async fn login(session: Session, user: String) -> Result<(), session::Error> {
    session.login(user)
}

async fn checkout(
    State(shop): State<Shop>,
    session: Session,
    idempotent: Idempotent,
) -> Result<(StatusCode, String), session::Error> {
    shop.started.notify_one();
    let cart: Vec<String> = session.take("cart")?.unwrap_or_default();
    shop.till.acquire().await.unwrap().forget();
    let order = shop.checkouts.fetch_add(1, SeqCst) + 1;
    idempotent.check().unwrap();
    Ok((StatusCode::CREATED, format!("order {order}: {}", cart.join(", "))))
}

/// The first client has its answer before the cache has stored it.
async fn filled(backend: &Backend) {
    backend.shutdown(Duration::from_secs(10)).await;
}

async fn keyed(browser: &Browser, key: &str) -> Reply {
    let request = Request::post("/checkout").header("idempotency-key", format!("{key:?}"));
    browser.send(request.body(String::new().into()).unwrap()).await
}

async fn signed_in(server: &HttpServer, http: HttpClient, user: &'static str) -> Browser {
    let browser = Browser::with(http, server.addr(), true);
    assert_eq!(browser.post("/add", "teapot").await.status, StatusCode::OK);
    assert_eq!(browser.post("/login", user).await.status, StatusCode::OK);
    browser
}

async fn the_documented_order_works_in_axum(harness: Harness) {
    for (http, user) in [(HttpClient::http1(), "ann"), (HttpClient::http2(), "bob")] {
        let backend = harness.live().await;
        let shop = Shop::open();
        let server = HttpServer::start(documented(shop.clone(), &backend)).await;
        let browser = signed_in(&server, http, user).await;

        let cached = browser.get("/products").await.text().to_owned();
        filled(&backend).await;
        let hit = browser.get("/products").await;
        assert_eq!(hit.text(), cached);
        assert!(hit.header("cache-status").unwrap().contains("hit"), "{:?}", hit.headers);
        assert!(shop.loads.load(SeqCst) <= 1, "another visit may have filled it before");

        let key = format!("key-{:p}", Arc::as_ptr(&shop.loads));
        let first = keyed(&browser, &key).await;
        assert_eq!((first.status, first.text()), (StatusCode::CREATED, "order 1: teapot"));
        let again = keyed(&browser, &key).await;
        assert_eq!((again.status, again.text()), (StatusCode::CREATED, "order 1: teapot"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(browser.get("/cart").await.text(), "[]");

        let mut left = 60;
        let denied = loop {
            let reply = browser.get("/cart").await;
            if reply.status != StatusCode::OK || left == 0 {
                break reply;
            }
            left -= 1;
        };
        assert_eq!(denied.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(denied.text().contains("user"), "{}", denied.text());
        let stranger = Browser::new(server.addr());
        assert_eq!(stranger.get("/cart").await.status, StatusCode::OK);
    }
}

/// The handlers of a service without axum.
async fn plain(
    request: http::Request<RequestBody<hyper::body::Incoming>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let session = request.extensions().get::<session::LazySession>().unwrap().clone();
    let text = match request.uri().path() {
        "/login" => {
            let session = session.load().await.unwrap();
            session.login("ann").unwrap();
            String::new()
        }
        "/checkout" => {
            let run = request.extensions().get::<Idempotent>().unwrap().clone();
            let session = session.load().await.unwrap();
            let visits = session.incr("checkouts", 1).unwrap();
            format!("{visits} {}", run.attempt())
        }
        path => path.to_owned(),
    };
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    Ok(response)
}

async fn the_documented_order_works_without_axum(harness: Harness) {
    let backend = harness.live().await;
    let service = ServiceBuilder::new()
        .map_request(|mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(PeerAddr::new(([127, 0, 0, 1], 1).into()));
            request
        })
        .layer(limit(&backend, "address", 1_000, by::ip()))
        .layer(sessions(&backend))
        .layer(limit(&backend, "user", 30, by::user()))
        .layer(idempotency(&backend))
        .layer(cache(&backend))
        .service(service_fn(plain));
    let server = HttpServer::start(service).await;
    for http in [HttpClient::http1(), HttpClient::http2()] {
        let browser = Browser::with(http, server.addr(), true);
        let version = format!("{:p}", &browser);
        let path = format!("/{version}");
        assert_eq!(browser.get(&path).await.text(), path);
        filled(&backend).await;
        let hit = browser.get(&path).await;
        assert!(hit.header("cache-status").unwrap().contains("hit"), "{:?}", hit.headers);

        assert_eq!(keyed(&browser, "k").await.status, StatusCode::FORBIDDEN);
        let login = Request::post("/login").header("idempotency-key", "\"l\"");
        let login = browser.send(login.body(String::new().into()).unwrap()).await;
        assert_eq!(login.status, StatusCode::FORBIDDEN, "a key needs a user, here as anywhere");
    }
}

async fn a_client_that_leaves_in_the_middle_of_a_checkout_finds_it_done_once(harness: Harness) {
    let backend = harness.live().await;
    let shop = Shop::with_a_closed_till();
    let server = HttpServer::start(documented(shop.clone(), &backend)).await;
    for (n, http) in [HttpClient::http1(), HttpClient::http2()].into_iter().enumerate() {
        let browser = signed_in(&server, http.clone(), "ann").await;
        let key = format!("leaver-{n}");
        let cookie = browser.jar().header("/").unwrap();
        if n == 0 {
            let host = server.addr();
            let head = format!(
                "POST /checkout HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\
                 idempotency-key: \"{key}\"\r\ncontent-length: 0\r\n\r\n"
            );
            let stream = client::write_raw(server.addr(), head).await;
            shop.started.notified().await;
            drop(stream);
        } else {
            let leaver = browser.at(server.addr());
            let (leaver_key, started) = (key.clone(), shop.started.clone());
            tokio::select! {
                reply = keyed(&leaver, &leaver_key) => panic!("answered: {}", reply.status),
                () = started.notified() => {}
            }
        }
        let busy = keyed(&browser, &key).await;
        assert_eq!(busy.status, StatusCode::CONFLICT, "the handler goes on without its client");
        shop.till.add_permits(1);
        backend.shutdown(Duration::from_secs(10)).await;

        let retry = keyed(&browser, &key).await;
        assert_eq!(retry.status, StatusCode::CREATED);
        assert_eq!(retry.text(), format!("order {}: teapot", n + 1));
        assert_eq!(retry.header("idempotent-replayed"), Some("true"));
        assert_eq!(browser.get("/cart").await.text(), "[]", "the cart of a stored checkout");
        assert_eq!(shop.checkouts.load(SeqCst), n + 1);
    }
}

/// Answers an upgrade with an echo, an event stream with what the test sends, and trailers.
async fn unusual(request: Request) -> Response<Body> {
    match request.uri().path() {
        "/echo" => {
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.unwrap();
                let mut io = TokioIo::new(upgraded);
                let mut word = [0; 4];
                io.read_exact(&mut word).await.unwrap();
                io.write_all(&word).await.unwrap();
            });
            let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
            response
        }
        "/events" => {
            let one = stream::once(async { Ok::<_, Infallible>(Event::default().data("first")) });
            let endless = futures_util::StreamExt::chain(one, stream::pending());
            ([(CACHE_CONTROL, "max-age=60")], Sse::new(endless)).into_response()
        }
        _ => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", HeaderValue::from_static("7"));
            let frames = [
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = Body::new(StreamBody::new(stream::iter(frames)));
            ([(CACHE_CONTROL, "max-age=60")], body).into_response()
        }
    }
}

async fn upgrades_events_and_trailers_pass_through_every_layer(harness: Harness) {
    let backend = harness.live().await;
    let app = Router::new()
        .route("/{*path}", any(unusual))
        .layer(cache(&backend))
        .layer(IdempotencyLayer::new(backend.clone()).insecure_unscoped())
        .layer(limit(&backend, "user", 30, by::user()))
        .layer(sessions(&backend))
        .layer(limit(&backend, "address", 1_000, by::ip()));
    let server = HttpServer::start(app).await;

    let head = "GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let mut stream = client::write_raw(server.addr(), head).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");

    for http in [HttpClient::http1(), HttpClient::http2()] {
        let request = http::Request::get(server.url("/events")).body(String::new().into()).unwrap();
        let mut events = http.open(request).await.unwrap().into_body();
        let first = events.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: first\n\n", "an event must not wait for the stream's end");
    }

    for path in ["/trailers-get", "/trailers-again"] {
        // The second time, the cache must not have swallowed them.
        for _ in 0..2 {
            let reply = HttpClient::http2().get(&server.url(path)).await;
            filled(&backend).await;
            assert_eq!(reply.text(), "body");
            assert_eq!(reply.trailers.as_ref().unwrap()["x-checksum"], "7", "{:?}", reply.headers);
        }
    }
    for _ in 0..2 {
        let post = Request::post(server.url("/trailers")).header("idempotency-key", "\"t\"");
        let post = post.body(String::new().into()).unwrap();
        let reply = HttpClient::http2().send(post).await;
        assert_eq!(reply.trailers.as_ref().unwrap()["x-checksum"], "7", "{:?}", reply.headers);
    }
}

async fn boxed_and_buffered_services_are_wrapped_like_any_other(harness: Harness) {
    let backend = harness.live().await;
    let handler = service_fn(async |_: http::Request<RequestBody<Full<Bytes>>>| {
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("ok")))
    });
    let inner = ServiceBuilder::new()
        .layer(limit(&backend, "everyone", 100, by::everyone()))
        .layer(sessions(&backend))
        .layer(IdempotencyLayer::new(backend.clone()).insecure_unscoped())
        .layer(cache(&backend));
    let request = || {
        let request = http::Request::post("/x").header("idempotency-key", "\"b\"");
        request.body(Full::<Bytes>::default()).unwrap()
    };

    let boxed = inner.clone().service(BoxCloneService::new(handler));
    let response = boxed.oneshot(request()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");

    let buffered = inner.service(BufferLayer::new(4).layer(handler));
    let mut outer = BufferLayer::new(4).layer(BoxCloneService::new(buffered));
    for _ in 0..3 {
        let response = outer.ready().await.unwrap().call(request()).await.unwrap();
        assert_eq!(response.headers()["idempotent-replayed"], "true");
    }
}

async fn what_a_session_has_touched_is_never_cached(harness: Harness) {
    let backend = harness.live().await;
    let server = HttpServer::start(documented(Shop::open(), &backend)).await;
    let ann = signed_in(&server, HttpClient::http1(), "ann").await;
    assert_eq!(ann.get("/cart").await.text(), "[\"teapot\"]");
    let stranger = Browser::new(server.addr());
    assert_eq!(stranger.get("/cart").await.text(), "[]");
}

async fn a_limit_by_user_outside_the_session_never_applies(harness: Harness) {
    let backend = harness.live().await;
    let app = routes(Shop::open(), &backend).layer(sessions(&backend)).layer(limit(
        &backend,
        "user",
        2,
        by::user(),
    ));
    let server = HttpServer::start(app).await;
    let browser = signed_in(&server, HttpClient::http1(), "ann").await;
    for _ in 0..5 {
        assert_eq!(browser.get("/cart").await.status, StatusCode::OK);
    }
}

async fn idempotency_outside_the_session_knows_nobody_and_refuses(harness: Harness) {
    let backend = harness.live().await;
    let shop = Shop::open();
    let app = Router::new()
        .route("/checkout", post(checkout))
        .route("/login", post(login))
        .with_state(shop.clone())
        .layer(sessions(&backend))
        .layer(IdempotencyLayer::new(backend.clone()));
    let server = HttpServer::start(app).await;
    let browser = Browser::new(server.addr());
    assert_eq!(browser.post("/login", "ann").await.status, StatusCode::OK);
    assert_eq!(keyed(&browser, "k").await.status, StatusCode::FORBIDDEN);
    assert_eq!(shop.checkouts.load(SeqCst), 0);
}

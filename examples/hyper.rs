//! The same layers around a plain hyper service, without axum.
//!
//! ```sh
//! cargo run --example hyper
//! curl -i http://127.0.0.1:3000/time          # twice: the second comes from the cache
//! curl -i -c jar -b jar http://127.0.0.1:3000/visits
//! curl -i -X POST -H 'Idempotency-Key: "1"' http://127.0.0.1:3000/orders    # twice: one order
//! ```

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CACHE_CONTROL};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{
    convert::Infallible,
    env,
    error::Error,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};
use towerkeep::{
    Backend, PeerAddr, RequestBody,
    cache::CacheLayer,
    idempotency::IdempotencyLayer,
    rate_limit::{Policy, Quota, RateLimitLayer, by},
    session::{LazySession, SessionLayer},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let backend = Backend::from_env().await?;
    let limit = Policy::gcra("address", Quota::per_second(10).burst(40)).key(by::ip());
    // In a ServiceBuilder the first layer is the outermost.
    let service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(backend.clone(), limit))
        .layer(SessionLayer::new(backend.clone()).insecure_plain_http())
        // This service knows no users, and its callers may see each other's answers.
        .layer(IdempotencyLayer::new(backend.clone()).insecure_unscoped())
        .layer(CacheLayer::new(backend.clone()))
        .service(service_fn(handle));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.map_err(|error| {
        format!("cannot listen on PORT={port}: {error}; choose a free one from 0 to 65535")
    })?;
    println!("Listening on http://{}. State lives in {backend}.", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        // The rate limit counts by the peer, whom only the listener knows.
        let service = ServiceBuilder::new()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr::new(peer));
                request
            })
            .service(service.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let service = TowerToHyperService::new(service);
            let served = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

/// What the layers wrap. The idempotency layer reads bodies ahead, so the body's type says that it
/// may be one that was read already.
async fn handle(
    request: Request<RequestBody<Incoming>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/time") => time(),
        (&Method::GET, "/visits") => visits(request).await,
        (&Method::POST, "/orders") => order().await,
        _ => text(StatusCode::NOT_FOUND, "try /time, /visits, or POST /orders\n"),
    })
}

fn time() -> Response<Full<Bytes>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut response = text(StatusCode::OK, format!("{} s since 1970\n", now.as_secs()));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("max-age=10"));
    response
}

async fn visits(request: Request<RequestBody<Incoming>>) -> Response<Full<Bytes>> {
    let Some(session) = request.extensions().get::<LazySession>().cloned() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "there is no session layer\n");
    };
    let visits = async { session.load().await?.incr("visits", 1) }.await;
    match visits {
        Ok(visits) => text(StatusCode::OK, format!("visit {visits}\n")),
        Err(error) => text(error.status(), format!("{error}\n")),
    }
}

async fn order() -> Response<Full<Bytes>> {
    static ORDERS: AtomicU64 = AtomicU64::new(0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let order = ORDERS.fetch_add(1, SeqCst) + 1;
    text(StatusCode::CREATED, format!("order {order}\n"))
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

//! A lease lasts for as long as the response, over real connections.

use crate::{
    harness::Harness,
    support::http::{
        client::{HttpClient, write_raw},
        server::HttpServer,
    },
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONNECTION, UPGRADE},
    },
    response::IntoResponse,
    routing::get,
};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, future, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::{sleep, timeout},
};
use towerkeep::rate_limit::{Policy, RateLimitLayer, by};

on_every_backend! {
    a_stream_holds_its_lease_until_its_body_ends,
    a_client_that_leaves_a_stream_gives_its_lease_back,
    a_client_that_leaves_before_the_response_gives_its_lease_back,
    an_upgraded_connection_holds_no_lease,
}

/// The tests ask what is held, not how fast it is given back.
const PATIENT: Duration = Duration::from_secs(30);

struct Site {
    server: HttpServer,
    limit: RateLimitLayer,
    /// A stream takes one to end, and a slow response to begin.
    gate: Arc<Semaphore>,
}

impl Site {
    /// One request at a time for each user.
    async fn open(harness: &Harness) -> Self {
        let policy = Policy::concurrency("at-once", 1).key(by::header("x-user"));
        let limit = RateLimitLayer::new(harness.backend.clone(), policy).deadline(PATIENT);
        let gate = Arc::new(Semaphore::new(0));
        let routes = Router::new()
            .route("/stream", get(endless))
            .route("/slow", get(slow))
            .route("/upgrade", get(upgrade))
            .layer(limit.clone())
            .with_state(gate.clone());
        Self { server: HttpServer::start(routes).await, limit, gate }
    }

    fn request(&self, path: &str, user: &str) -> Request {
        Request::get(self.server.url(path)).header("x-user", user).body(Body::empty()).unwrap()
    }

    /// A stream of which the first part has come.
    async fn stream(&self, client: &HttpClient, user: &str) -> Body {
        let response = client.open(self.request("/stream", user)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        Body::new(body)
    }

    async fn is_denied(&self, client: &HttpClient, user: &str) -> bool {
        client.open(self.request("/stream", user)).await.unwrap().status() == 429
    }

    async fn left(&self, user: &str) -> u64 {
        self.limit.peek("at-once", [user]).await.unwrap().remaining
    }

    /// Leases go back in a task of their own.
    async fn given_back(&self, user: &str) {
        let given_back = async {
            while self.left(user).await == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENT, given_back).await.expect("the lease is given back");
    }
}

async fn endless(State(gate): State<Arc<Semaphore>>) -> impl IntoResponse {
    let first = stream::once(future::ready(Bytes::from("first")));
    let last = stream::once(async move {
        gate.acquire().await.unwrap().forget();
        Bytes::from("last")
    });
    Body::from_stream(first.chain(last).map(Ok::<_, Infallible>))
}

async fn slow(State(gate): State<Arc<Semaphore>>) {
    gate.acquire().await.unwrap().forget();
}

async fn upgrade(request: Request) -> impl IntoResponse {
    tokio::spawn(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut ping = [0; 4];
        while stream.read_exact(&mut ping).await.is_ok() {
            stream.write_all(b"pong").await.unwrap();
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "ping")])
}

async fn a_stream_holds_its_lease_until_its_body_ends(harness: Harness) {
    let site = Site::open(&harness).await;
    for client in [HttpClient::http1(), HttpClient::http2()] {
        let body = site.stream(&client, "ann").await;
        for _ in 0..3 {
            assert!(site.is_denied(&client, "ann").await, "its body has not ended");
        }
        site.gate.add_permits(1);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "last");
        site.given_back("ann").await;
    }
}

async fn a_client_that_leaves_a_stream_gives_its_lease_back(harness: Harness) {
    let site = Site::open(&harness).await;
    // HTTP/1 closes the connection. HTTP/2 resets one stream, and the other one on it goes on.
    for client in [HttpClient::http1(), HttpClient::http2()] {
        let (ann, bob) = (site.stream(&client, "ann").await, site.stream(&client, "bob").await);
        assert!(site.is_denied(&client, "ann").await && site.is_denied(&client, "bob").await);
        drop(ann);
        site.given_back("ann").await;
        assert!(site.is_denied(&client, "bob").await, "he is still there");
        site.gate.add_permits(1);
        assert_eq!(bob.collect().await.unwrap().to_bytes(), "last");
        site.given_back("bob").await;
    }
}

async fn a_client_that_leaves_before_the_response_gives_its_lease_back(harness: Harness) {
    let site = Site::open(&harness).await;
    for client in [HttpClient::http1(), HttpClient::http2()] {
        let waiting = tokio::spawn({
            let (client, request) = (client.clone(), site.request("/slow", "ann"));
            async move { client.try_send(request).await }
        });
        let taken = async {
            while site.left("ann").await == 1 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENT, taken).await.expect("the request is inside");
        waiting.abort();
        site.given_back("ann").await;
    }
}

/// As the documentation says: the layer does not see what comes after the response.
async fn an_upgraded_connection_holds_no_lease(harness: Harness) {
    let site = Site::open(&harness).await;
    let head = "GET /upgrade HTTP/1.1\r\nhost: x\r\nx-user: ann\r\nconnection: upgrade\r\nupgrade: ping\r\n\r\n";
    let mut stream = write_raw(site.server.addr(), head).await;
    let mut told = Vec::new();
    while !told.ends_with(b"\r\n\r\n") {
        told.push(stream.read_u8().await.unwrap());
    }
    assert!(told.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&told));
    site.given_back("ann").await;
    stream.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    stream.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"pong", "the connection goes on");
}

//! What tower asks of every service: it calls only an inner service that has said it is ready, and it
//! is ready when that one is.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service};
use towerkeep::{
    Backend,
    cache::CacheLayer,
    idempotency::IdempotencyLayer,
    rate_limit::{Policy, Quota, RateLimitLayer, by},
    session::SessionLayer,
};

/// A service whose clones are not ready, as one with a permit in its hand is not, and that must not be
/// called unless it is.
struct Strict {
    open: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { open: self.open.clone(), calls: self.calls.clone(), ready: false }
    }
}

impl<Q> Service<Request<Q>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if !self.open.load(SeqCst) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Q>) -> Self::Future {
        assert!(self.ready, "called without having been ready: the clone instead of the original");
        self.ready = false;
        self.calls.fetch_add(1, SeqCst);
        ready(Ok(Response::new(Full::default())))
    }
}

async fn holds<L>(layer: L)
where
    L: Layer<Strict>,
    L::Service: Service<Request<Full<Bytes>>, Error = Infallible>,
{
    let (open, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let strict = Strict { open: open.clone(), calls: calls.clone(), ready: false };
    let mut service = layer.layer(strict);

    let mut readiness = task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx)));
    assert_pending!(readiness.poll(), "ready before the inner service is");
    open.store(true, SeqCst);
    assert_ready_ok!(readiness.poll());
    drop(readiness);
    for turn in 1..=3 {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
        assert_eq!(calls.load(SeqCst), turn - 1, "called before it was asked to");
        let request = Request::post("/").header("idempotency-key", format!("\"{turn}\""));
        service.call(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(calls.load(SeqCst), turn);
    }
}

#[tokio::test]
async fn the_rate_limit_calls_only_what_is_ready() {
    let policy = Policy::gcra("p", Quota::per_second(10)).key(by::everyone());
    holds(RateLimitLayer::new(Backend::memory(), policy)).await;
}

#[tokio::test]
async fn the_session_calls_only_what_is_ready() {
    holds(SessionLayer::new(Backend::memory())).await;
}

#[tokio::test]
async fn idempotency_calls_only_what_is_ready() {
    holds(IdempotencyLayer::new(Backend::memory()).insecure_unscoped()).await;
}

#[tokio::test]
async fn the_cache_calls_only_what_is_ready() {
    holds(CacheLayer::new(Backend::memory())).await;
}

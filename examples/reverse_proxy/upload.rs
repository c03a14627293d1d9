//! A client's request body on its way to the upstream.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

/// How long an upstream that says neither yes nor no to `Expect: 100-continue` is waited for: it may
/// be one that does not know the question (RFC 9110, section 10.1.1).
const EXPECTATION: Duration = Duration::from_secs(3);

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Passes a body on, from when the upstream wants it.
pub(crate) struct Upload {
    body: UnsyncBoxBody<Bytes, BoxError>,
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    progress: Progress,
}

/// When the client last sent something, and the upstream's word to go on.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Shared>);

struct Shared {
    last: Mutex<Instant>,
    go_on: Notify,
}

impl Upload {
    /// Reading the body tells the client to send it, so nothing is read of one that asked first
    /// before the upstream says so.
    pub(crate) fn new<B>(body: B, headers: &HeaderMap) -> (Self, Progress)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let shared = Shared { last: Mutex::new(Instant::now()), go_on: Notify::new() };
        let progress = Progress(Arc::new(shared));
        let gate = expects(headers).then(|| Box::pin(progress.clone().permission()) as Pin<Box<_>>);
        let body = body.map_err(Into::into).boxed_unsync();
        (Self { body, gate, progress: progress.clone() }, progress)
    }
}

/// Whether the client asks before it sends the body.
pub(crate) fn expects(headers: &HeaderMap) -> bool {
    let expect = headers.get(http::header::EXPECT);
    expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Progress {
    /// The upstream wants the body.
    pub(crate) fn go_on(&self) {
        self.0.go_on.notify_one();
    }

    async fn permission(self) {
        let _ = timeout(EXPECTATION, self.0.go_on.notified()).await;
    }

    /// Ends when the upstream has had everything for so long, and has not begun to answer.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            let until = self.last() + limit;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn last(&self) -> Instant {
        *self.0.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sent(&self) {
        *self.0.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Instant::now();
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.as_mut().poll(cx));
            self.gate = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.sent();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! The future of a response.

use crate::{body::ResponseBody, detached::Detached, idempotency::admit::Verdict};
use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The future of a response of [`Idempotency`](crate::idempotency::Idempotency).
    ///
    /// Dropped while the handler runs, it leaves the handler running.
    pub struct ResponseFuture<F, B: Body, E> {
        #[pin]
        state: State<F, B, E>,
    }
}

type Admission<B, E> = Pin<Box<dyn Future<Output = Verdict<B, E>> + Send>>;

pin_project! {
    #[project = StateProj]
    enum State<F, B: Body, E> {
        Passed { #[pin] inner: F },
        Guarded { admission: Admission<B, E> },
        Running { run: Detached<B, E> },
        Answered { response: Option<Response<ResponseBody<B>>> },
    }
}

impl<F, B: Body, E> ResponseFuture<F, B, E> {
    pub(crate) fn passed(inner: F) -> Self {
        Self { state: State::Passed { inner } }
    }

    pub(crate) fn guarded(admission: impl Future<Output = Verdict<B, E>> + Send + 'static) -> Self {
        Self { state: State::Guarded { admission: Box::pin(admission) } }
    }

    pub(crate) fn answered(response: Response<ResponseBody<B>>) -> Self {
        Self { state: State::Answered { response: Some(response) } }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Passed { inner } => {
                    let response = ready!(inner.poll(cx));
                    return Poll::Ready(response.map(|response| response.map(ResponseBody::inner)));
                }
                StateProj::Guarded { admission } => {
                    let next = match ready!(admission.as_mut().poll(cx)) {
                        Verdict::Answer(response) => State::Answered { response: Some(response) },
                        Verdict::Run(run) => State::Running { run },
                    };
                    state.set(next);
                }
                StateProj::Running { run } => return Pin::new(run).poll(cx),
                StateProj::Answered { response } => {
                    let response = response.take().expect("a future is polled to its end once");
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

impl<F, B: Body, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("idempotency::ResponseFuture")
    }
}

//! A response that a task makes, so that a client that leaves does not stop it.

use crate::{body::ResponseBody, problem};
use bytes::Bytes;
use http::Response;
use http_body::Body;
use std::{
    fmt,
    future::Future,
    panic,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// Where the task sends the response, as soon as its head is known.
pub(crate) type HeadSender<B, E> = oneshot::Sender<Result<Response<ResponseBody<B>>, E>>;

/// The caller's end. Dropping it leaves the task running; its panic is re-raised here.
pub(crate) struct Detached<B: Body, E> {
    head: Option<oneshot::Receiver<Result<Response<ResponseBody<B>>, E>>>,
    task: Option<JoinHandle<()>>,
}

impl<B: Body, E> Detached<B, E> {
    /// Hands the sender to `spawn`, which starts the task.
    pub(crate) fn new(spawn: impl FnOnce(HeadSender<B, E>) -> JoinHandle<()>) -> Self {
        let (sender, head) = oneshot::channel();
        Self { head: Some(head), task: Some(spawn(sender)) }
    }
}

impl<B: Body<Data = Bytes>, E> Future for Detached<B, E> {
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(head) = &mut self.head {
            let sent = ready!(Pin::new(head).poll(cx));
            self.head = None;
            if let Ok(mut head) = sent {
                if let (Ok(response), Some(task)) = (&mut head, self.task.take()) {
                    response.body_mut().set_task(task);
                }
                return Poll::Ready(head);
            }
        }
        if let Some(task) = &mut self.task
            && let Err(error) = ready!(Pin::new(task).poll(cx))
            && error.is_panic()
        {
            panic::resume_unwind(error.into_panic());
        }
        // The runtime is being shut down.
        Poll::Ready(Ok(problem::unavailable().map(ResponseBody::full)))
    }
}

impl<B: Body, E> fmt::Debug for Detached<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Detached")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::convert::Infallible;

    type Call = Detached<Full<Bytes>, Infallible>;

    #[tokio::test]
    async fn a_panic_in_the_task_is_raised_to_the_caller() {
        let call = Call::new(|_head| tokio::spawn(async { panic!("boom") }));
        assert!(tokio::spawn(async { call.await.map(|_| ()) }).await.unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn a_task_that_was_stopped_answers_503_instead_of_hanging() {
        let call = Call::new(|head| {
            drop(head);
            let task = tokio::spawn(std::future::pending());
            task.abort();
            task
        });
        assert_eq!(call.await.unwrap().status(), 503);
    }
}

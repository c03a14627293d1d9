//! An answer that is not ready at once: it is passed on as it comes, and recorded when it has come.

use crate::{
    body::{PipeSender, ResponseBody, longer},
    detached::HeadSender,
    idempotency::{run::Run, stored::Stored},
};
use bytes::Bytes;
use http::{HeaderMap, Response, response::Parts};
use http_body::{Body, Frame};
use std::{future::poll_fn, pin::Pin};
use tokio::{sync::Semaphore, time::timeout};

/// An answer of which a part has been read.
pub(crate) struct Streaming<B> {
    pub(crate) head: Parts,
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) length: usize,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) body: Pin<Box<B>>,
    /// How long its head says that it is.
    pub(crate) announced: Option<u64>,
}

/// How the reading of an answer ended.
enum Read<E> {
    Whole,
    /// With the chunk that was too much.
    TooLarge(Bytes),
    Broken(E),
}

impl<B: Body<Data = Bytes>> Streaming<B> {
    /// The answer as it is, with nobody who records it.
    pub(crate) fn into_response(self) -> Response<ResponseBody<B>> {
        Response::from_parts(self.head, ResponseBody::resumed(self.chunks, self.body))
    }

    /// Reads on to the end, or until it is larger than the limit. Whether the client is there does not
    /// matter: what a retry gets is made here.
    async fn read(&mut self, limit: usize, way: &mut Way<B::Error>) -> Read<B::Error> {
        while let Some(frame) = next(&mut self.body).await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) if data.is_empty() => {}
                Ok(Ok(data)) if self.length.saturating_add(data.len()) > limit => {
                    return Read::TooLarge(data);
                }
                Ok(Ok(data)) => {
                    self.length += data.len();
                    self.chunks.push(data.clone());
                    way.pass(data).await;
                }
                Ok(Err(frame)) => self.trailers = frame.into_trailers().ok(),
                Err(error) => return Read::Broken(error),
            }
        }
        Read::Whole
    }
}

/// The way to the client. With the last byte of a length that was announced a client has the whole, so
/// that one is held back like an end.
struct Way<E> {
    pipe: PipeSender<E>,
    /// What is missing of that length.
    missing: Option<u64>,
    held: Option<Bytes>,
}

impl<E> Way<E> {
    async fn pass(&mut self, data: Bytes) {
        self.let_go().await;
        self.missing = self.missing.and_then(|missing| missing.checked_sub(data.len() as u64));
        if self.missing == Some(0) {
            self.held = Some(data);
        } else {
            self.pipe.send(Ok(Frame::data(data))).await;
        }
    }

    async fn let_go(&mut self) {
        if let Some(held) = self.held.take() {
            self.pipe.send(Ok(Frame::data(held))).await;
        }
    }

    /// For what is passed on in another way.
    async fn into_pipe(mut self) -> PipeSender<E> {
        self.let_go().await;
        self.pipe
    }

    async fn end(self, trailers: Option<HeaderMap>) {
        let pipe = self.into_pipe().await;
        if let Some(trailers) = trailers {
            pipe.send(Ok(Frame::trailers(trailers))).await;
        }
        pipe.end();
    }
}

impl Run {
    /// Sends the answer as it comes, and its end when the outcome is recorded. An answer that is too
    /// large, or has no end within the time limit, is recorded as a tombstone and passed on. One that
    /// breaks is not recorded.
    pub(crate) async fn stream<B, E>(mut self, mut answer: Streaming<B>, head: HeadSender<B, E>)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send + 'static,
    {
        let limit = self.config.stored_limit;
        // Room for all that is recorded and the trailers, so that nothing here waits for the client.
        let room = limit.saturating_add(1).min(Semaphore::MAX_PERMITS);
        let hint = longer(answer.body.size_hint(), answer.length as u64);
        let (pipe, piped) = ResponseBody::piped(room, hint);
        let mut way = Way { pipe, missing: answer.announced.or(hint.exact()), held: None };
        let mut whole = Stored::response(&answer.head, Bytes::new(), None);
        let tombstone = Stored::Tombstone { status: answer.head.status };
        for chunk in &answer.chunks {
            way.pass(chunk.clone()).await;
        }
        let _ = head.send(Ok(Response::from_parts(answer.head.clone(), piped)));

        match timeout(self.config.time_limit, answer.read(limit, &mut way)).await {
            Ok(Read::Whole) => {
                let trailers = answer.trailers;
                if answer.announced.is_none_or(|announced| announced <= answer.length as u64) {
                    if let Stored::Response { snapshot, trailers: kept } = &mut whole {
                        snapshot.body = ResponseBody::<B>::joined(answer.chunks, answer.length);
                        *kept = trailers.clone().unwrap_or_default();
                    }
                    self.settle(&whole, way.end(trailers)).await;
                } else {
                    way.end(trailers).await;
                }
            }
            Ok(Read::TooLarge(data)) => {
                let rest = pass_on(Some(data), answer.body, way.into_pipe().await);
                self.settle(&tombstone, async { drop(tokio::spawn(rest)) }).await;
            }
            Err(_) => {
                let rest = pass_on(None, answer.body, way.into_pipe().await);
                self.settle(&tombstone, async { drop(tokio::spawn(rest)) }).await;
            }
            Ok(Read::Broken(error)) => {
                way.into_pipe().await.send(Err(error)).await;
            }
        }
    }
}

async fn next<B: Body>(body: &mut Pin<Box<B>>) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}

/// Passes the rest on for as long as the client reads.
async fn pass_on<B: Body<Data = Bytes>>(
    first: Option<Bytes>,
    mut body: Pin<Box<B>>,
    pipe: PipeSender<B::Error>,
) {
    let mut frame = first.map(|data| Ok(Frame::data(data)));
    loop {
        if let Some(frame) = frame {
            let last = frame.is_err();
            if !pipe.send(frame).await || last {
                return;
            }
        }
        tokio::select! {
            read = next(&mut body) => match read {
                Some(read) => frame = Some(read),
                None => return pipe.end(),
            },
            () = pipe.closed() => return,
        }
    }
}

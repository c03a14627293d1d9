//! An answer that is not ready at once: it is passed on as it comes, and recorded when it has come.

use crate::{
    body::{PipeSender, ResponseBody},
    detached::HeadSender,
    idempotency::{
        run::{Run, announced},
        stored::Stored,
    },
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
    async fn read(&mut self, limit: usize, pipe: &PipeSender<B::Error>) -> Read<B::Error> {
        while let Some(frame) = next(&mut self.body).await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) if data.is_empty() => {}
                Ok(Ok(data)) if self.length.saturating_add(data.len()) > limit => {
                    return Read::TooLarge(data);
                }
                Ok(Ok(data)) => {
                    self.length += data.len();
                    self.chunks.push(data.clone());
                    pipe.send(Ok(Frame::data(data))).await;
                }
                Ok(Err(frame)) => self.trailers = frame.into_trailers().ok(),
                Err(error) => return Read::Broken(error),
            }
        }
        Read::Whole
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
        let (pipe, piped) = ResponseBody::piped(room, answer.body.size_hint());
        let announced = announced(&answer.head);
        let mut whole = Stored::response(&answer.head, Bytes::new(), None);
        let tombstone = Stored::Tombstone { status: answer.head.status };
        for chunk in &answer.chunks {
            pipe.send(Ok(Frame::data(chunk.clone()))).await;
        }
        let _ = head.send(Ok(Response::from_parts(answer.head.clone(), piped)));

        match timeout(self.config.time_limit, answer.read(limit, &pipe)).await {
            Ok(Read::Whole) => {
                let trailers = answer.trailers;
                if announced.is_none_or(|announced| announced <= answer.length as u64) {
                    if let Stored::Response { snapshot, trailers: kept } = &mut whole {
                        snapshot.body = ResponseBody::<B>::joined(answer.chunks, answer.length);
                        *kept = trailers.clone().unwrap_or_default();
                    }
                    self.settle(&whole, end(pipe, trailers)).await;
                } else {
                    end(pipe, trailers).await;
                }
            }
            Ok(Read::TooLarge(data)) => {
                let rest = pass_on(Some(data), answer.body, pipe);
                self.settle(&tombstone, async { drop(tokio::spawn(rest)) }).await;
            }
            Err(_) => {
                let rest = pass_on(None, answer.body, pipe);
                self.settle(&tombstone, async { drop(tokio::spawn(rest)) }).await;
            }
            Ok(Read::Broken(error)) => {
                pipe.send(Err(error)).await;
            }
        }
    }
}

async fn next<B: Body>(body: &mut Pin<Box<B>>) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|cx| body.as_mut().poll_frame(cx)).await
}

async fn end<E>(pipe: PipeSender<E>, trailers: Option<HeaderMap>) {
    if let Some(trailers) = trailers {
        pipe.send(Ok(Frame::trailers(trailers))).await;
    }
    pipe.end();
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

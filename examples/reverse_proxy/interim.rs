//! Interim responses (1xx) on a connection of hyper's server, which has no call for them.
//!
//! They are written between hyper's own writes. That is safe at one kind of moment only: when hyper has
//! handed over all it had to write, and the final response of the request at hand has not begun. hyper
//! flushes its transport whenever, and only when, it has nothing left of its own, which tells the first;
//! the service that answers the requests tells the second.

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode, Version};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much may wait for a client that does not read. What is beyond is left out: interim responses
/// are hints.
const LIMIT: usize = 64 * 1024;

/// A client's connection, with a place for interim responses.
pub(crate) struct InterimIo<S> {
    io: S,
    link: Link,
    /// Being written; hyper waits until all of it is out.
    out: BytesMut,
}

/// The same connection, as its service sees it.
#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<Mutex<State>>);

/// For the interim responses of one request. Once the final response is there, they go nowhere.
#[derive(Clone, Debug)]
pub(crate) struct Interim {
    link: Link,
    exchange: u64,
}

/// Ends the time for interim responses when dropped.
pub(crate) struct Open(Interim);

#[derive(Debug)]
struct State {
    /// How many requests the connection has had.
    exchange: u64,
    /// Whether the last of them waits for its final response.
    open: bool,
    /// Whether hyper has handed over all it had to write.
    clean: bool,
    queue: BytesMut,
    waker: Option<Waker>,
}

impl<S> InterimIo<S> {
    pub(crate) fn new(io: S) -> (Self, Link) {
        let state =
            State { exchange: 0, open: false, clean: true, queue: BytesMut::new(), waker: None };
        let link = Link(Arc::new(Mutex::new(state)));
        (Self { io, link: link.clone(), out: BytesMut::new() }, link)
    }
}

impl Link {
    /// A request has come. HTTP/1.0 does not know interim responses.
    pub(crate) fn begin(&self, version: Version) -> Option<(Interim, Open)> {
        let mut state = self.state();
        state.exchange += 1;
        state.open = version >= Version::HTTP_11;
        state.queue.clear();
        let interim = Interim { link: self.clone(), exchange: state.exchange };
        state.open.then(|| (interim.clone(), Open(interim)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Interim {
    /// Sends an interim response, if the final one has not begun.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut state = self.link.state();
        if !state.open || state.exchange != self.exchange || state.queue.len() > LIMIT {
            return;
        }
        write_head(&mut state.queue, status, headers);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.link.state();
        if state.exchange == self.0.exchange {
            state.open = false;
        }
    }
}

fn write_head(queue: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    let reason = status.canonical_reason().unwrap_or_default();
    queue.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            queue.extend_from_slice(part);
        }
    }
    queue.extend_from_slice(b"\r\n");
}

impl<S: AsyncWrite + Unpin> InterimIo<S> {
    /// hyper is about to write.
    fn before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.link.state();
        // What comes is the first of a message, and what is in the queue belongs before it.
        if state.clean {
            self.out.unsplit(state.queue.split());
        }
        state.clean = false;
        drop(state);
        self.write_out(cx)
    }

    /// hyper has nothing left to write.
    fn before_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.link.state();
        state.clean = true;
        if state.open && self.out.len() <= LIMIT {
            self.out.unsplit(state.queue.split());
        } else {
            // The final response went ahead of them.
            state.queue.clear();
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        drop(state);
        self.write_out(cx)
    }

    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InterimIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.before_flush(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for InterimIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

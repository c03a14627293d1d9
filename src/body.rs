//! The bodies that the layers hand on: passed through, replayed from memory, or piped from a task.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    future::Future,
    mem, panic,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

pin_project! {
    /// A request's body as the inner service sees it: the client's own, or one that the layer had to
    /// read to its end first.
    pub struct RequestBody<B> {
        #[pin]
        kind: RequestKind<B>,
    }
}

pin_project! {
    #[project = RequestKindProj]
    enum RequestKind<B> {
        Inner { #[pin] body: B },
        Buffered { full: Full },
    }
}

impl<B> RequestBody<B> {
    /// The client's body, untouched.
    pub fn inner(body: B) -> Self {
        Self { kind: RequestKind::Inner { body } }
    }

    /// A body that has been read already.
    pub fn buffered(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { kind: RequestKind::Buffered { full: Full::new(data, trailers) } }
    }
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            RequestKindProj::Inner { body } => body.poll_frame(cx),
            RequestKindProj::Buffered { full } => Poll::Ready(full.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestKind::Inner { body } => body.is_end_stream(),
            RequestKind::Buffered { full } => full.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestKind::Inner { body } => body.size_hint(),
            RequestKind::Buffered { full } => full.size_hint(),
        }
    }
}

impl<B> Default for RequestBody<B> {
    /// No bytes at all.
    fn default() -> Self {
        Self::buffered(Bytes::new(), None)
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RequestKind::Inner { .. } => "RequestBody::Inner",
            RequestKind::Buffered { .. } => "RequestBody::Buffered",
        })
    }
}

/// What goes when a body has ended.
type Held = Option<Box<dyn Any + Send + Sync>>;

pin_project! {
    /// A response's body as the client sees it: the inner service's own, bytes from memory, or what a
    /// task of ours reads from the inner service's.
    pub struct ResponseBody<B: Body> {
        #[pin]
        kind: ResponseKind<B>,
        held: Held,
    }
}

pin_project! {
    #[project = ResponseKindProj]
    enum ResponseKind<B: Body> {
        Inner { #[pin] body: B },
        Full { full: Full },
        Resumed { read: VecDeque<Bytes>, rest: Pin<Box<B>> },
        Piped { pipe: Pipe<B::Error> },
    }
}

impl<B: Body> ResponseBody<B> {
    /// The inner service's body, untouched.
    pub fn inner(body: B) -> Self {
        Self::of(ResponseKind::Inner { body })
    }

    /// Bytes from memory; they are not copied.
    pub fn full(data: impl Into<Bytes>) -> Self {
        Self::of(ResponseKind::Full { full: Full::new(data.into(), None) })
    }

    /// A body that has been read already, with its trailers.
    pub(crate) fn buffered(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self::of(ResponseKind::Full { full: Full::new(data, trailers) })
    }

    /// A body of which a part has been read already: that part, then the rest.
    pub(crate) fn resumed(read: impl Into<VecDeque<Bytes>>, rest: Pin<Box<B>>) -> Self {
        Self::of(ResponseKind::Resumed { read: read.into(), rest })
    }

    /// No bytes at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// A body that another task sends through the returned end, which holds up at most `capacity`
    /// bytes before it waits for the client. `hint` is that of the body it reads.
    pub(crate) fn piped(capacity: usize, hint: SizeHint) -> (PipeSender<B::Error>, Self) {
        let (items, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(capacity));
        let pipe =
            Pipe { items: receiver, room: room.clone(), capacity, hint, task: None, ended: false };
        (PipeSender { items, room, capacity }, Self::of(ResponseKind::Piped { pipe }))
    }

    /// Holds on to a guard until the body has ended, or its reader has left.
    pub(crate) fn holding(mut self, guard: impl Any + Send + Sync) -> Self {
        self.held = Some(Box::new(guard));
        self
    }

    fn of(kind: ResponseKind<B>) -> Self {
        Self { kind, held: None }
    }

    /// Names the task behind a piped body, so that its panic is re-raised to whoever reads it.
    pub(crate) fn set_task(&mut self, handle: JoinHandle<()>) {
        if let ResponseKind::Piped { pipe } = &mut self.kind {
            pipe.task = Some(handle);
        }
    }
}

impl<B: Body<Data = Bytes>> ResponseBody<B> {
    /// A body that breaks where another broke, after these chunks of `length` bytes.
    pub(crate) async fn broken(
        chunks: Vec<Bytes>,
        length: usize,
        error: B::Error,
        hint: SizeHint,
    ) -> Self {
        // Room for every chunk and the error, so that nothing here waits for the client.
        let (sender, body) = Self::piped(length + 1, hint);
        for chunk in chunks {
            sender.send(Ok(Frame::data(chunk))).await;
        }
        sender.send(Err(error)).await;
        body
    }

    /// Chunks of `length` bytes as one. A single one is not copied.
    pub(crate) fn joined(mut chunks: Vec<Bytes>, length: usize) -> Bytes {
        if chunks.len() <= 1 {
            return chunks.pop().unwrap_or_default();
        }
        let mut whole = Vec::with_capacity(length);
        chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.into()
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = match this.kind.project() {
            ResponseKindProj::Inner { body } => body.poll_frame(cx),
            ResponseKindProj::Full { full } => Poll::Ready(full.next().map(Ok)),
            ResponseKindProj::Resumed { read, rest } => match read.pop_front() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => rest.as_mut().poll_frame(cx),
            },
            ResponseKindProj::Piped { pipe } => pipe.poll_next(cx),
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            *this.held = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ResponseKind::Inner { body } => body.is_end_stream(),
            ResponseKind::Full { full } => full.is_end(),
            ResponseKind::Resumed { read, rest } => read.is_empty() && rest.is_end_stream(),
            ResponseKind::Piped { pipe } => pipe.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseKind::Inner { body } => body.size_hint(),
            ResponseKind::Full { full } => full.size_hint(),
            ResponseKind::Resumed { read, rest } => {
                longer(rest.size_hint(), read.iter().map(|data| data.len() as u64).sum())
            }
            ResponseKind::Piped { pipe } => pipe.hint,
        }
    }
}

impl<B: Body> Default for ResponseBody<B> {
    /// No bytes at all, whatever `B` is: layers that answer by themselves, for CORS or a timeout, ask
    /// for it.
    fn default() -> Self {
        Self::empty()
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ResponseKind::Inner { .. } => "ResponseBody::Inner",
            ResponseKind::Full { .. } => "ResponseBody::Full",
            ResponseKind::Resumed { .. } => "ResponseBody::Resumed",
            ResponseKind::Piped { .. } => "ResponseBody::Piped",
        })
    }
}

/// The hint of a body with that many bytes before it.
pub(crate) fn longer(hint: SizeHint, by: u64) -> SizeHint {
    let mut longer = SizeHint::new();
    if let Some(upper) = hint.upper().and_then(|upper| upper.checked_add(by)) {
        longer.set_upper(upper);
    }
    longer.set_lower(hint.lower().saturating_add(by));
    longer
}

/// Bytes, then trailers.
struct Full {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Full {
    fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers }
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        if !self.data.is_empty() {
            return Some(Frame::data(mem::take(&mut self.data)));
        }
        self.trailers.take().map(Frame::trailers)
    }

    fn is_end(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// Not exact before trailers: HTTP/1 sends them only after a body whose length it does not announce.
    fn size_hint(&self) -> SizeHint {
        let length = self.data.len() as u64;
        if self.trailers.is_none() {
            return SizeHint::with_exact(length);
        }
        let mut hint = SizeHint::new();
        hint.set_lower(length);
        hint
    }
}

enum Item<E> {
    Frame(Result<Frame<Bytes>, E>),
    End,
}

/// The end of a piped body that a task writes to.
pub(crate) struct PipeSender<E> {
    items: mpsc::UnboundedSender<Item<E>>,
    room: Arc<Semaphore>,
    capacity: usize,
}

impl<E> PipeSender<E> {
    /// Hands a frame on, waiting while more than the pipe's capacity is unread. `false` once the
    /// reader has left.
    pub(crate) async fn send(&self, frame: Result<Frame<Bytes>, E>) -> bool {
        let cost = cost(&frame, self.capacity);
        tokio::select! {
            permit = self.room.acquire_many(cost) => match permit {
                Ok(permit) => permit.forget(),
                Err(_) => return false,
            },
            () = self.items.closed() => return false,
        }
        self.items.send(Item::Frame(frame)).is_ok()
    }

    /// Ends when the reader has left.
    pub(crate) async fn closed(&self) {
        self.items.closed().await;
    }

    /// Says that the body was read to its end. A sender dropped without it is a broken body.
    pub(crate) fn end(self) {
        let _ = self.items.send(Item::End);
    }
}

/// What a frame takes of a pipe's capacity, and gives back once it is read: one that is larger takes
/// all of it. An empty one costs something too, or a flood of them would not be held up.
fn cost<E>(frame: &Result<Frame<Bytes>, E>, capacity: usize) -> u32 {
    let length = frame.as_ref().ok().and_then(Frame::data_ref).map_or(1, Bytes::len);
    length.max(1).min(capacity).try_into().unwrap_or(u32::MAX)
}

struct Pipe<E> {
    items: mpsc::UnboundedReceiver<Item<E>>,
    room: Arc<Semaphore>,
    capacity: usize,
    hint: SizeHint,
    task: Option<JoinHandle<()>>,
    ended: bool,
}

impl<E> Pipe<E> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.items.poll_recv(cx)) {
            Some(Item::Frame(frame)) => {
                self.room.add_permits(cost(&frame, self.capacity) as usize);
                self.ended = frame.is_err();
                self.shrink_hint(&frame);
                Poll::Ready(Some(frame))
            }
            Some(Item::End) => {
                self.ended = true;
                Poll::Ready(None)
            }
            None => self.poll_broken(cx),
        }
    }

    fn shrink_hint(&mut self, frame: &Result<Frame<Bytes>, E>) {
        let read = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        let mut hint = SizeHint::new();
        if let Some(upper) = self.hint.upper() {
            hint.set_upper(upper.saturating_sub(read));
        }
        hint.set_lower(self.hint.lower().saturating_sub(read));
        self.hint = hint;
    }

    /// The task is gone before the end of the body. A clean end here would pass a cut body off as a
    /// whole one, so the task's panic is re-raised.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if let Some(task) = &mut self.task
            && let Err(error) = ready!(Pin::new(task).poll(cx))
            && error.is_panic()
        {
            panic::resume_unwind(error.into_panic());
        }
        panic!("the task that sends this response body was stopped before its end");
    }
}

/// What [`buffer`] made of a body.
pub(crate) enum Buffered<E> {
    Complete { data: Bytes, trailers: Option<HeaderMap> },
    TooLarge,
    Broken(E),
}

/// Reads a body to its end, at most `limit` bytes.
pub(crate) async fn buffer<B: Body<Data = Bytes>>(body: B, limit: usize) -> Buffered<B::Error> {
    if body.size_hint().lower() > limit as u64 {
        return Buffered::TooLarge;
    }
    let mut body = std::pin::pin!(body);
    let mut recording = Recording::new(limit);
    let mut trailers = None;
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                if !recording.push(&data) {
                    return Buffered::TooLarge;
                }
            }
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => return Buffered::Broken(error),
        }
    }
    match recording.finish() {
        Some(data) => Buffered::Complete { data, trailers },
        None => Buffered::TooLarge,
    }
}

/// The bytes of a body as they pass by, up to a limit.
pub(crate) struct Recording {
    /// The only chunk there is, as it came.
    first: Bytes,
    /// All of them, copied, once there are more. A chunk holds on to the whole buffer that it was
    /// read into, so a client that sends a byte at a time would take many times the limit.
    whole: Vec<u8>,
    len: usize,
    limit: usize,
}

impl Recording {
    pub(crate) fn new(limit: usize) -> Self {
        Self { first: Bytes::new(), whole: Vec::new(), len: 0, limit }
    }

    /// `false` once the body is larger than the limit; what was recorded is forgotten then.
    pub(crate) fn push(&mut self, data: &Bytes) -> bool {
        let before = self.len;
        self.len = before.saturating_add(data.len());
        if self.len > self.limit {
            (self.first, self.whole) = (Bytes::new(), Vec::new());
            return false;
        }
        if before == 0 {
            self.first = data.clone();
        } else {
            self.whole.extend_from_slice(&mem::take(&mut self.first));
            self.whole.extend_from_slice(data);
        }
        true
    }

    /// The whole body, unless it was too large. One chunk is not copied.
    pub(crate) fn finish(self) -> Option<Bytes> {
        if self.len > self.limit {
            return None;
        }
        // Without the room that a growing buffer has to spare.
        Some(if self.whole.is_empty() { self.first } else { self.whole.into_boxed_slice().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full as WholeBody};
    use std::{convert::Infallible, time::Duration};

    type Piped = ResponseBody<WholeBody<Bytes>>;

    fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, Infallible> {
        Ok(Frame::data(Bytes::from_static(bytes)))
    }

    #[tokio::test]
    async fn a_buffered_request_body_keeps_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let body: RequestBody<WholeBody<Bytes>> =
            RequestBody::buffered(Bytes::from_static(b"abc"), Some(trailers));
        assert_eq!((body.size_hint().lower(), body.size_hint().exact()), (3, None));
        let read = body.collect().await.unwrap();
        assert_eq!(read.trailers().unwrap()["x-sum"], "7");
        assert_eq!(read.to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_full_body_is_the_very_bytes_it_was_made_of() {
        let bytes = Bytes::from(vec![7; 100]);
        let body = Piped::full(bytes.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes().as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn a_resumed_body_is_what_was_read_and_then_the_rest() {
        let rest = Box::pin(WholeBody::new(Bytes::from_static(b"cd")));
        let mut body =
            Piped::resumed(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")], rest);
        assert_eq!(body.size_hint().exact(), Some(4));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "bcd");
    }

    #[tokio::test]
    async fn a_piped_body_holds_its_sender_up_at_its_capacity() {
        let (sender, mut body) = Piped::piped(4, SizeHint::with_exact(6));
        assert!(sender.send(data(b"abcd")).await);
        let blocked = tokio::time::timeout(Duration::from_millis(20), sender.send(data(b"ef")));
        assert!(blocked.await.is_err(), "the pipe took more than its capacity");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abcd");
        assert_eq!(body.size_hint().exact(), Some(2));
        assert!(sender.send(data(b"ef")).await);
        sender.end();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "ef");
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_pipe_does_not_widen_it() {
        let (sender, mut body) = Piped::piped(4, SizeHint::new());
        for _ in 0..3 {
            assert!(sender.send(data(b"0123456789")).await);
            body.frame().await.unwrap().unwrap();
        }
        assert!(sender.send(data(b"abcd")).await);
        let blocked = tokio::time::timeout(Duration::from_millis(20), sender.send(data(b"e")));
        assert!(blocked.await.is_err(), "the pipe took more than its capacity");
    }

    #[tokio::test]
    async fn a_sender_learns_that_its_reader_left_even_while_it_waits_for_room() {
        let (sender, body) = Piped::piped(1, SizeHint::new());
        assert!(sender.send(data(b"a")).await);
        let waiting = tokio::spawn(async move { sender.send(data(b"b")).await });
        tokio::task::yield_now().await;
        drop(body);
        assert!(!waiting.await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_behind_a_piped_body_is_raised_to_its_reader_not_taken_for_the_end() {
        let (sender, mut body) = Piped::piped(16, SizeHint::new());
        body.set_task(tokio::spawn(async move {
            sender.send(data(b"half")).await;
            panic!("boom");
        }));
        let reader = tokio::spawn(async move { body.collect().await.map(|_| ()) });
        assert!(reader.await.unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn buffering_stops_at_the_limit_and_keeps_what_fits() {
        let whole = |limit| buffer(WholeBody::new(Bytes::from_static(b"abcd")), limit);
        assert!(matches!(whole(4).await, Buffered::Complete { data, .. } if data == "abcd"));
        assert!(matches!(whole(3).await, Buffered::TooLarge));
    }

    #[test]
    fn a_recording_of_small_chunks_does_not_keep_the_buffers_that_they_came_in() {
        struct Buffer {
            _kept: Arc<()>,
        }
        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                b"a large buffer"
            }
        }
        let kept = Arc::new(());
        let mut recording = Recording::new(100);
        for _ in 0..100 {
            assert!(recording.push(&Bytes::from_owner(Buffer { _kept: kept.clone() }).slice(..1)));
        }
        assert_eq!(Arc::strong_count(&kept), 1, "buffers are held");
        assert_eq!(recording.finish().unwrap(), [b'a'; 100].as_slice());
    }

    #[test]
    fn a_recording_over_its_limit_is_none() {
        let mut recording = Recording::new(3);
        assert!(recording.push(&Bytes::from_static(b"ab")));
        assert!(!recording.push(&Bytes::from_static(b"cd")));
        assert_eq!(recording.finish(), None);
    }
}

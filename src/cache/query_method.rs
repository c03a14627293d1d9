//! `QUERY`, the method that is safe and has content (RFC 10008): its content is part of the key.

use crate::{body::longer, key::sha256};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, Method, Request,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE},
    request::Parts,
};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower::Service;
use tower_layer::Layer;

const POLLED_ONCE: &str = "a response future is polled to its end once";

/// What says how content is to be read: part of the key, too.
const DESCRIBES: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE];

/// Lets the [cache](crate::cache::CacheLayer) inside it answer `QUERY` requests. Without this layer, a
/// `QUERY` passes through the cache, which forgets nothing for it.
///
/// It reads the content of such a request, so that the cache knows what is asked for: two requests are
/// the same if their targets, their content, and its `Content-Type`, `Content-Encoding` and
/// `Content-Language` are, byte for byte. The handler gets the content as it came. Content that is
/// longer than the limit, that breaks off, or that has trailers is handed on as well, and neither
/// looked up nor stored (`detail=request-body`); so is a request with a `Range`.
///
/// What is stored for a target is forgotten when that is changed or
/// [purged](crate::cache::CacheHandle::purge). Up to 64 different questions of a target are kept; one
/// more, and they are all forgotten.
///
/// ```
/// use axum::{Router, routing::any};
/// use towerkeep::{Backend, cache::{CacheLayer, QueryMethodLayer}};
///
/// let app: Router = Router::new()
///     .route("/search", any(async || ([("cache-control", "max-age=60")], "found")))
///     .layer(CacheLayer::new(Backend::memory()))
///     // Around the cache, so after it here.
///     .layer(QueryMethodLayer::new(64 * 1024));
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct QueryMethodLayer {
    max_body: usize,
}

impl QueryMethodLayer {
    /// A layer that reads up to so many bytes of a request's content. While a request is made, as much
    /// is held in memory.
    pub fn new(max_body: usize) -> Self {
        Self { max_body }
    }
}

impl<S> Layer<S> for QueryMethodLayer {
    type Service = QueryMethod<S>;

    fn layer(&self, inner: S) -> QueryMethod<S> {
        QueryMethod { inner, max_body: self.max_body }
    }
}

/// A service that reads what a `QUERY` asks; made by [`QueryMethodLayer`].
#[derive(Clone, Copy, Debug)]
pub struct QueryMethod<S> {
    inner: S,
    max_body: usize,
}

impl<S, Q> Service<Request<Q>> for QueryMethod<S>
where
    S: Service<Request<QueryMethodBody<Q>>> + Clone,
    Q: Body<Data = Bytes> + Send + 'static,
    Q::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = QueryMethodFuture<S, Q>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        if request.method() != Method::QUERY {
            let request = request.map(|body| QueryMethodBody { kind: Kind::Inner { body } });
            return QueryMethodFuture { state: State::Inner { future: self.inner.call(request) } };
        }
        let next = self.inner.clone();
        let service = Some(mem::replace(&mut self.inner, next));
        QueryMethodFuture {
            state: State::Read { read: Box::pin(read(request, self.max_body)), service },
        }
    }
}

/// What a `QUERY` asks, in the extensions of its request. `None` if that is not known.
#[derive(Clone)]
struct Question(Option<Arc<str>>);

/// What this request asks beyond its target. `Err` if it has content that is not known.
pub(super) fn question(request: &Parts) -> Option<Result<Arc<str>, ()>> {
    let Question(asked) = request.extensions.get()?;
    let query = request.method == Method::QUERY;
    query.then(|| asked.clone().ok_or(()))
}

/// Reads the content, at most `limit` bytes of it.
async fn read<Q: Body<Data = Bytes>>(
    request: Request<Q>,
    limit: usize,
) -> Request<QueryMethodBody<Q>> {
    let (mut parts, body) = request.into_parts();
    let mut body = Box::pin(body);
    let (mut read, mut length) = (VecDeque::new(), 0usize);
    let whole = loop {
        if body.size_hint().lower() > limit.saturating_sub(length) as u64 {
            break false;
        }
        let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else { break true };
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        let longer = data.and_then(|data| length.checked_add(data.len()));
        match longer.filter(|&longer| longer <= limit) {
            Some(longer) => length = longer,
            None => {
                read.push_back(frame);
                break false;
            }
        }
        // Empty chunks must not cost memory.
        read.extend(data.is_some_and(|data| !data.is_empty()).then_some(frame));
    };
    let asked = whole.then(|| digest(&parts.headers, &read)).flatten();
    parts.extensions.insert(Question(asked));
    let rest = if whole { None } else { Some(body) };
    Request::from_parts(parts, QueryMethodBody { kind: Kind::Read { read, rest } })
}

/// All of SHA-256: the content itself is not kept to be compared.
fn digest<E>(headers: &HeaderMap, read: &VecDeque<Result<Frame<Bytes>, E>>) -> Option<Arc<str>> {
    let mut parts: Vec<Vec<u8>> = Vec::with_capacity(4);
    for name in DESCRIBES {
        let mut lines = headers.get_all(name).iter();
        let line = lines.next().map(|line| [b"=", line.as_bytes()].concat());
        // Which of several counts is the handler's guess.
        if lines.next().is_some() {
            return None;
        }
        parts.push(line.unwrap_or_default());
    }
    let data = read.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
    parts.push(data.flat_map(|data| data.iter().copied()).collect());
    Some(URL_SAFE_NO_PAD.encode(sha256(parts.iter().map(Vec::as_slice))).into())
}

pin_project! {
    /// The body of a request behind a [`QueryMethodLayer`]: the client's own, or what was read of it and the
    /// rest.
    pub struct QueryMethodBody<B: Body> {
        #[pin]
        kind: Kind<B, B::Data, B::Error>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B, D, E> {
        Inner { #[pin] body: B },
        Read { read: VecDeque<Result<Frame<D>, E>>, rest: Option<Pin<Box<B>>> },
    }
}

impl<B: Body<Data = Bytes>> Body for QueryMethodBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Read { read, rest } => match (read.pop_front(), rest) {
                (Some(frame), _) => Poll::Ready(Some(frame)),
                (None, Some(rest)) => rest.as_mut().poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Read { read, rest } => {
                read.is_empty() && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Read { read, rest } => {
                let data = read.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
                let length = data.map(|data| data.len() as u64).sum();
                let rest = rest.as_ref().map(|rest| rest.size_hint());
                longer(rest.unwrap_or(SizeHint::with_exact(0)), length)
            }
        }
    }
}

impl<B: Body> fmt::Debug for QueryMethodBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Inner { .. } => "QueryMethodBody::Inner",
            Kind::Read { .. } => "QueryMethodBody::Read",
        })
    }
}

pin_project! {
    /// The response of a [`QueryMethod`].
    pub struct QueryMethodFuture<S, Q>
    where
        S: Service<Request<QueryMethodBody<Q>>>,
        Q: Body,
    {
        #[pin]
        state: State<S, Q, S::Future>,
    }
}

type Reading<Q> = Pin<Box<dyn Future<Output = Request<QueryMethodBody<Q>>> + Send>>;

pin_project! {
    #[project = StateProj]
    enum State<S, Q: Body, F> {
        Read { read: Reading<Q>, service: Option<S> },
        Inner { #[pin] future: F },
    }
}

impl<S, Q> Future for QueryMethodFuture<S, Q>
where
    S: Service<Request<QueryMethodBody<Q>>>,
    Q: Body,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Read { read, service } => {
                    let request = ready!(read.as_mut().poll(cx));
                    let future = service.take().expect(POLLED_ONCE).call(request);
                    state.set(State::Inner { future });
                }
                StateProj::Inner { future } => return future.poll(cx),
            }
        }
    }
}

impl<S, Q> fmt::Debug for QueryMethodFuture<S, Q>
where
    S: Service<Request<QueryMethodBody<Q>>>,
    Q: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryMethodFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use tower::{ServiceExt, service_fn};

    type Frames = Vec<Result<Frame<Bytes>, &'static str>>;

    /// What the service inside gets to read of such a body, and whether it is known what it asks.
    async fn passed(frames: Frames) -> (Frames, Option<bool>) {
        let service = service_fn(async |request: Request<QueryMethodBody<_>>| {
            let (parts, mut body) = request.into_parts();
            let known = question(&parts).map(|asked| asked.is_ok());
            let mut frames = Frames::new();
            while let Some(frame) = body.frame().await {
                frames.push(frame);
            }
            Ok::<_, &str>((frames, known))
        });
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::builder().method(Method::QUERY).body(body).unwrap();
        QueryMethodLayer::new(4).layer(service).oneshot(request).await.unwrap()
    }

    fn text(frames: &Frames) -> Vec<String> {
        let show = |frame: &Result<Frame<Bytes>, &str>| match frame {
            Ok(frame) => format!("{:?}", frame.data_ref()),
            Err(error) => (*error).to_owned(),
        };
        frames.iter().map(show).collect()
    }

    #[tokio::test]
    async fn the_service_gets_every_frame_and_the_error_behind() {
        let data = |data: &'static [u8]| Ok(Frame::data(Bytes::from_static(data)));
        let broken = || Err("broken");
        let trailers = || Ok(Frame::trailers(HeaderMap::new()));
        for (frames, known) in [
            (vec![data(b"ab"), data(b"cd")], true),
            (vec![data(b"ab"), data(b"cde"), data(b"f")], false),
            (vec![data(b"ab"), broken()], false),
            (vec![data(b"ab"), trailers()], false),
        ] {
            let expected = text(&frames);
            let (passed, told) = passed(frames).await;
            assert_eq!((text(&passed), told), (expected, Some(known)));
        }
    }
}

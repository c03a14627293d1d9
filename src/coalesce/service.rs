//! The service.

use crate::{
    body::ResponseBody,
    coalesce::{future::ResponseFuture, key::Asked, layer::Config, lead::coalesce},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};
use tower::Service;

/// A service whose identical requests run once while they are under way. Made by
/// [`CoalesceLayer`](crate::coalesce::CoalesceLayer).
#[derive(Clone)]
pub struct Coalesce<S> {
    inner: S,
    config: Arc<Config>,
}

/// The mark of a request that others wait for: a layer further in that waited for the same would wait
/// for itself.
#[derive(Clone, Copy, Debug)]
struct Leading;

impl<S> Coalesce<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, Q, R> Service<Request<Q>> for Coalesce<S>
where
    S: Service<Request<Q>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        let (mut parts, body) = request.into_parts();
        match asked(&self.config, &parts, &body) {
            Some(asked) => {
                parts.extensions.insert(Leading);
                let request = Request::from_parts(parts, body);
                ResponseFuture::coalesced(coalesce(self.config.clone(), inner, request, asked))
            }
            None => ResponseFuture::passed(inner.call(Request::from_parts(parts, body))),
        }
    }
}

fn asked<Q: Body>(config: &Config, parts: &http::request::Parts, body: &Q) -> Option<Asked> {
    let alone = parts.extensions.get::<Leading>().is_some() || !body.is_end_stream();
    if alone { None } else { config.asked(parts) }
}

impl<S> fmt::Debug for Coalesce<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Coalesce").field(&self.config).finish()
    }
}

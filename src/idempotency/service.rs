//! The service.

use crate::{
    body::{RequestBody, ResponseBody},
    idempotency::{
        admit::{Key, admit},
        future::ResponseFuture,
        handle::{Idempotent, Unkeyed},
        header::{self, IDEMPOTENCY_KEY},
        layer::Config,
        rejection::Rejection,
    },
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

/// A service whose requests with an idempotency key run once. Made by
/// [`IdempotencyLayer`](crate::idempotency::IdempotencyLayer).
#[derive(Clone)]
pub struct Idempotency<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> Idempotency<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// What tells a request that is to be guarded; `None` if it passes through.
    fn key_of<Q>(&self, request: &Request<Q>) -> Result<Option<Key>, Rejection> {
        let required = self.config.required.contains(request.method());
        if !required && !self.config.methods.contains(request.method()) {
            return Ok(None);
        }
        if required && !request.headers().contains_key(IDEMPOTENCY_KEY) {
            return Err(Rejection::KeyMissing);
        }
        // A layer further out guards it: here it would be in flight already.
        if request.extensions().get::<Idempotent>().is_some() {
            return Ok(None);
        }
        match header::key(request.headers(), self.config.lenient)? {
            Some(key) => Ok(Some(Key::Sent(key))),
            None => Ok(self.config.window.map(|_| Key::Content)),
        }
    }
}

impl<S, Q, R> Service<Request<Q>> for Idempotency<S>
where
    S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        match self.key_of(&request) {
            Ok(Some(key)) => {
                ResponseFuture::guarded(admit(self.config.clone(), inner, request, key))
            }
            Ok(None) => {
                if self.config.methods.contains(request.method()) {
                    request.extensions_mut().insert(Unkeyed);
                }
                ResponseFuture::passed(inner.call(request.map(RequestBody::inner)))
            }
            Err(rejection) => ResponseFuture::answered(self.config.rejection.respond(rejection)),
        }
    }
}

impl<S> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Idempotency").field(&self.config).finish()
    }
}

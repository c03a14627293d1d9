//! The service that the layer makes.

use crate::{
    body::ResponseBody,
    marks::{Finish, SessionTouched, UserLookup},
    session::{future::ResponseFuture, layer::Config, lazy_session::LazySession},
    store::{StoreError, StoreFuture},
};
use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response};
use http_body::Body;
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tower::Service;

/// A service whose requests have sessions; made by [`SessionLayer`](crate::session::SessionLayer).
///
/// Its name says `Service`, since [`Session`](crate::session::Session) is what a handler holds.
#[derive(Clone, Debug)]
pub struct SessionService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> SessionService<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, Q, R> Service<Request<Q>> for SessionService<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let touched = request.extensions_mut().get_or_insert_default::<SessionTouched>().clone();
        let session = begin(self.config.clone(), request.headers(), touched);
        mark(request.extensions_mut(), &session);
        ResponseFuture::new(self.inner.call(request), session)
    }
}

fn begin(config: Arc<Config>, headers: &HeaderMap, touched: SessionTouched) -> LazySession {
    let presented = config.cookie.presented(headers);
    LazySession::new(config, presented, touched)
}

/// Tells the handler and the layers further in.
fn mark(extensions: &mut Extensions, session: &LazySession) {
    let user_of = session.clone();
    extensions.insert(UserLookup::new(move || user_of.user()));
    // A handler that outlives its client is polled by nobody in here any more; whoever lets it live
    // saves the session through this.
    let finished = session.clone();
    Finish::of(extensions).register(move |status| match finished.finish(status) {
        None => StoreFuture::ready(Ok(())),
        Some(finishing) => StoreFuture::boxed(async { finishing.await.map_err(StoreError::from) }),
    });
    extensions.insert(session.clone());
}

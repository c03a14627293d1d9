//! The session of a request before it is asked for.

use crate::{
    marks::{SessionTouched, UserId},
    session::{
        cookie::Presented,
        error::Error,
        handle::{Finishing, Session, lock},
        layer::{Config, OnStoreError},
        state::{CookieChange, State},
        store::Record,
        token::Token,
        touch::{slide, still_holds},
    },
    store::{StoreError, StoreFuture},
    telemetry,
};
use http::StatusCode;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::sync::OnceCell;

/// The session of a request, not asked for yet. A cheap clone.
///
/// A request that never [loads](LazySession::load) it costs the store nothing. It is in the
/// extensions of every request that came through a [`SessionLayer`](super::SessionLayer); with the
/// feature `axum` it is an extractor too.
#[derive(Clone)]
pub struct LazySession(Arc<Lazy>);

struct Lazy {
    config: Arc<Config>,
    presented: Presented,
    touched: SessionTouched,
    session: OnceCell<Result<Session, Error>>,
    /// The first load, if it was sent before anybody asked for it.
    sent: Mutex<Option<StoreFuture<Option<Record>>>>,
    alone: Mutex<Alone>,
}

/// What came of fields that were read and set without the rest of the session.
#[derive(Default)]
struct Alone {
    slide: Option<Token>,
    /// A cookie to send again if it still holds, and how long it lasts.
    resend: Option<(Token, Option<Duration>)>,
    cookie: Option<CookieChange>,
}

impl LazySession {
    pub(crate) fn new(config: Arc<Config>, presented: Presented, touched: SessionTouched) -> Self {
        let sent = Mutex::new(config.eager.then(|| send(&config, &presented)).flatten());
        let (session, alone) = (OnceCell::new(), Mutex::default());
        Self(Arc::new(Lazy { config, presented, touched, session, sent, alone }))
    }

    /// Loads the session: one round trip, however often and by however many at a time it is called.
    /// Without a session cookie, none.
    ///
    /// From here on the response depends on the session, which it says (`Vary: Cookie`).
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the store fails, unless the layer is told to go
    /// [on without it](super::OnStoreError::Anonymous). It is not asked again for this request.
    pub async fn load(&self) -> Result<Session, Error> {
        self.0.touched.set();
        self.resolve().await
    }

    /// The user, for the layers further in. What they do with it is no part of the response, so this
    /// does not touch the session.
    pub(crate) fn user(&self) -> StoreFuture<Option<UserId>> {
        let answer = |session: Result<Session, Error>| match session {
            Ok(session) => Ok(session.user()),
            Err(error) => Err(StoreError::from(error)),
        };
        match self.0.session.get() {
            Some(session) => StoreFuture::ready(answer(session.clone())),
            None => {
                let this = self.clone();
                StoreFuture::boxed(async move { answer(this.resolve().await) })
            }
        }
    }

    async fn resolve(&self) -> Result<Session, Error> {
        self.0.session.get_or_init(|| self.read()).await.clone()
    }

    async fn read(&self) -> Result<Session, Error> {
        let Lazy { config, presented, .. } = &*self.0;
        let mut state = State::anonymous(config.terms, presented.any);
        for token in presented.tokens() {
            // The first of them may be under way.
            let sent = lock(&self.0.sent).take();
            match sent.unwrap_or_else(|| load(config, token)).await {
                Ok(Some(record)) if record.verifier == token.hash() => {
                    let now = config.store.clock().now();
                    state = State::loaded(config.terms, *token, record, now);
                    if presented.is_outdated(token) {
                        state.reseal();
                    }
                    break;
                }
                Ok(Some(record)) if record.previous == Some(token.hash()) => {
                    state = State::stale(config.terms, *token);
                }
                Ok(_) => {}
                Err(error) => {
                    telemetry::store_failed("session", &error);
                    match config.on_store_error {
                        OnStoreError::Reject => return Err(error.into()),
                        OnStoreError::Anonymous => {
                            state = State::read_only(config.terms, presented.any);
                            break;
                        }
                    }
                }
            }
        }
        Ok(Session::new(config.clone(), state))
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.0.config
    }

    pub(crate) fn touched(&self) -> &SessionTouched {
        &self.0.touched
    }

    pub(crate) fn presented(&self) -> &Presented {
        &self.0.presented
    }

    /// What came of loading it, if that was done.
    pub(crate) fn resolved(&self) -> Option<Result<Session, Error>> {
        self.0.session.get().cloned()
    }

    /// Notes that the idle timeout is to be restarted after the response.
    pub(crate) fn slide_later(&self, token: Token) {
        lock(&self.0.alone).slide = Some(token);
    }

    /// Sends the cookie again if it still holds after the handler, which restarts the idle timeout.
    pub(crate) fn resend_later(&self, token: Token, lasts: Option<Duration>) {
        lock(&self.0.alone).resend = Some((token, lasts));
    }

    /// Sends the cookie again; `lasts` is for how long if it outlives the browser by its own wish.
    pub(crate) fn send_cookie(&self, token: Token, lasts: Option<Duration>) {
        lock(&self.0.alone).cookie = Some(CookieChange::Set(token, lasts));
    }

    /// Restarts the idle timeout in a task of its own, if that is due.
    pub(crate) fn slide(&self) {
        let due = match self.loaded() {
            Some(session) => session.state().take_slide(),
            None => lock(&self.0.alone).slide.take(),
        };
        if let Some(token) = due {
            slide(&self.0.config, token);
        }
    }

    /// What the client is to be told.
    pub(crate) fn cookie(&self) -> Option<CookieChange> {
        let alone = lock(&self.0.alone).cookie;
        let Some(session) = self.loaded() else { return alone };
        let state = session.state();
        let holds = |change: &CookieChange| match (change, state.token()) {
            (CookieChange::Set(token, _), Some(live)) => live.is(token),
            _ => false,
        };
        state.cookie().or_else(|| alone.filter(holds))
    }

    /// The session, if it has been loaded.
    pub(crate) fn loaded(&self) -> Option<&Session> {
        self.0.session.get().and_then(|session| session.as_ref().ok())
    }

    /// What is left to do for a response of this status; `None` if nothing is.
    pub(crate) fn finish(&self, status: StatusCode) -> Option<Finishing> {
        if let Some(session) = self.loaded() {
            return session.finish(status);
        }
        let (token, lasts) = lock(&self.0.alone).resend.take()?;
        let this = self.clone();
        Some(Box::pin(async move {
            if still_holds(this.config(), token).await {
                this.send_cookie(token, lasts);
            }
            Ok(())
        }))
    }
}

impl fmt::Debug for LazySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazySession").field("loaded", &self.loaded()).finish_non_exhaustive()
    }
}

fn load(config: &Config, token: &Token) -> StoreFuture<Option<Record>> {
    config.bounded("a session load", config.store.load(&token.selector()))
}

/// Sends the load of the first cookie, and leaves its answer for later. One poll is enough for a store
/// that has a connection: whoever moves its bytes does the rest.
fn send(config: &Config, presented: &Presented) -> Option<StoreFuture<Option<Record>>> {
    let mut load = load(config, presented.tokens().next()?);
    let mut cx = Context::from_waker(Waker::noop());
    Some(match Pin::new(&mut load).poll(&mut cx) {
        Poll::Ready(answer) => StoreFuture::ready(answer),
        Poll::Pending => load,
    })
}

//! What a handler holds.

use crate::{
    flight::Role,
    marks::{SessionTouched, UserId},
    session::{
        commit::{enlist_later, execute},
        cookie::Presented,
        error::Error,
        expiry,
        field::{Field, legal},
        layer::{Config, OnGone, OnStoreError},
        state::{CookieChange, State},
        step::Outcome,
        store::{Committed, Delta, Limits, Record},
        token::Token,
    },
    store::{StoreError, StoreFuture},
    telemetry::{self, SESSION_TOTAL},
};
use bytes::Bytes;
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, OnceCell};

pub(crate) type Finishing = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

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

/// The session of a request: loaded, and from then on read and changed without waiting. A cheap
/// clone; clones are the same session.
///
/// Changes are collected and saved together, after the handler and before its response goes out, as
/// what they are: a field that is set does not disturb another that a concurrent request sets, and
/// increments add up. A response of status 5xx saves nothing.
///
/// ```
/// use towerkeep::session::{Error, Key, Session};
///
/// const THEME: Key<String> = Key::new("theme");
///
/// async fn handler(session: Session) -> Result<String, Error> {
///     session.incr("visits", 1)?;
///     Ok(session.get(THEME)?.unwrap_or_else(|| "light".into()))
/// }
/// ```
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    state: Mutex<State>,
    /// The step that is under way. It stays here until it is done: a caller that is dropped in the
    /// middle leaves it to the next one, who carries it on instead of taking it twice.
    running: AsyncMutex<Running>,
    /// Why the session could not be saved at the end of the request.
    failure: Mutex<Option<Error>>,
}

pub(crate) type Running = Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

impl Session {
    fn new(config: Arc<Config>, state: State) -> Self {
        Self(Arc::new(Inner {
            config,
            state: Mutex::new(state),
            running: AsyncMutex::new(None),
            failure: Mutex::new(None),
        }))
    }

    /// A field's value; `None` if there is no such field.
    ///
    /// # Errors
    ///
    /// [`Error::is_decode`] if it does not hold a `T`. The other fields are fine all the same.
    pub fn get<T: DeserializeOwned>(&self, field: impl Field<T>) -> Result<Option<T>, Error> {
        let stored = self.state().fields().get(field.name()).cloned();
        let value = stored.and_then(|stored| self.value(&stored));
        value.map(|value| decode(field.name(), &value)).transpose()
    }

    /// Sets a field. Of concurrent requests that set the same field, the last to finish wins.
    ///
    /// # Errors
    ///
    /// [`Error::is_too_large`] if the session would pass its limits, and if the value cannot be
    /// written as JSON or the name is not one for a field. Nothing is changed then.
    pub fn set<T: Serialize + ?Sized>(&self, field: impl Field<T>, value: &T) -> Result<(), Error> {
        let name = legal(field.name())?;
        let json = serde_json::to_vec(value).map_err(|source| Error::encode(name, source))?;
        self.state().set(name, expiry::plain(json))
    }

    /// Sets a field that is absent again after `ttl`, while the session goes on: a code that was sent,
    /// a question that was asked. It is stored as `{".expires":<ms since 1970>,".value":<JSON>}`, for
    /// other languages to mind; what has expired goes with the next change of the session.
    ///
    /// The time is that of the server that set it and of the one that reads it, so do not let a
    /// difference of their clocks matter. The session's own timeouts go by Redis's.
    ///
    /// # Errors
    ///
    /// As [`set`](Session::set).
    pub fn set_for<T: Serialize + ?Sized>(
        &self,
        field: impl Field<T>,
        value: &T,
        ttl: Duration,
    ) -> Result<(), Error> {
        let name = legal(field.name())?;
        let json = serde_json::to_vec(value).map_err(|source| Error::encode(name, source))?;
        let expires = self.0.config.store.clock().now().saturating_add(ttl);
        self.state().set(name, expiry::until(expires, &json))
    }

    /// Adds to an integer, which is 0 if the field is not there. Returns what it is now as far as
    /// this request knows; the increments of concurrent requests add up when they are saved.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_an_integer`] if the field holds something else or has a
    /// [time to live](Session::set_for), or would pass 2⁵³ − 1 in
    /// size, where numbers are not exact in every language. Otherwise as [`set`](Session::set).
    pub fn incr(&self, field: impl AsRef<str>, by: i64) -> Result<i64, Error> {
        self.state().increment(legal(field.as_ref())?, by)
    }

    /// Removes a field. Nothing happens if it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the request goes on without the store.
    pub fn remove(&self, field: impl AsRef<str>) -> Result<(), Error> {
        self.state().remove(field.as_ref()).map(drop)
    }

    /// Removes a field and returns what it held: for a message that is shown once.
    ///
    /// # Errors
    ///
    /// As [`get`](Session::get) and [`remove`](Session::remove). A field that cannot be read is
    /// removed.
    pub fn take<T: DeserializeOwned>(&self, field: impl Field<T>) -> Result<Option<T>, Error> {
        let stored = self.state().remove(field.name())?;
        let value = stored.and_then(|stored| self.value(&stored));
        value.map(|value| decode(field.name(), &value)).transpose()
    }

    /// Removes all fields. The session stays, with its user.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the request goes on without the store.
    pub fn clear(&self) -> Result<(), Error> {
        self.state().clear()
    }

    /// The names of all fields.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().fields().keys().map(|name| name.to_string()).collect()
    }

    /// Saves now instead of after the handler: before a body is streamed that tells of the change,
    /// or to learn whether it was saved. What is changed later is saved later.
    ///
    /// A caller that is dropped while it waits does not undo the commit, and nothing is saved twice.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the store fails: a timeout means that it may or may not have
    /// been saved. [`Error::is_gone`] if the session has ended meanwhile; [`Error::is_too_large`]
    /// and [`Error::is_not_an_integer`] if concurrent requests made it so. The changes are dropped
    /// then.
    pub async fn commit(&self) -> Result<(), Error> {
        self.save(&mut *self.running().await).await
    }

    /// The turn to take steps in the store.
    pub(crate) async fn running(&self) -> AsyncMutexGuard<'_, Running> {
        self.0.running.lock().await
    }

    pub(crate) async fn save(&self, running: &mut Running) -> Result<(), Error> {
        loop {
            self.carry_on(running).await?;
            let Some(step) = self.state().plan()? else { return Ok(()) };
            *running = Some(Box::pin(execute(self.0.config.clone(), step)));
        }
    }

    /// Takes the step to its end that is under way, if one is.
    pub(crate) async fn carry_on(&self, running: &mut Running) -> Result<(), Error> {
        let Some(step) = running.as_mut() else { return Ok(()) };
        let outcome = step.await;
        *running = None;
        self.state().settle(outcome)
    }

    /// The end of the request, the same for everyone who asks: what failed once has failed.
    fn finish(&self, status: StatusCode) -> Option<Finishing> {
        {
            let mut state = self.state();
            if status.is_server_error() && !self.0.config.save_on_server_error {
                state.discard();
            }
            let carried_on = self.0.running.try_lock().map_or(true, |step| step.is_some());
            let nothing = !state.is_pending() && !carried_on && self.failure().is_none();
            if nothing && !state.resends() {
                return None;
            }
        }
        let this = self.clone();
        Some(Box::pin(async move {
            if let Some(error) = &*this.failure() {
                return Err(error.clone());
            }
            match this.commit().await {
                // The client's other request has ended it; this one's answer is none the worse.
                Err(error) if error.is_gone() && this.0.config.on_gone == OnGone::Ignore => Ok(()),
                Err(error) => {
                    *this.failure() = Some(error.clone());
                    Err(error)
                }
                Ok(()) => {
                    let resend = this.state().take_resend();
                    if let Some(token) = resend
                        && still_holds(&this.0.config, token).await
                    {
                        this.state().confirmed();
                    }
                    Ok(())
                }
            }
        }))
    }

    /// What a stored field holds; `None` if its time is over.
    fn value(&self, stored: &Bytes) -> Option<Bytes> {
        expiry::value(stored, self.0.config.store.clock().now())
    }

    pub(crate) fn limits(&self) -> Limits {
        self.0.config.terms.limits
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.0.config
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        lock(&self.0.failure)
    }
}

/// Restarts the idle timeout in a task of its own, unless another request of this process is at it.
/// Nobody waits for it, and if it fails the next request tries again.
fn slide(config: &Arc<Config>, token: Token) {
    let config = config.clone();
    let Role::Lead(flight) = config.slides.join(&token.selector().to_string()) else { return };
    config.store.tasks().spawn_if_possible(async move {
        touch(&config, token).await;
        flight.land(());
    });
}

/// Whether a cookie that was read may be sent again: a login or a rotation since then has sent another,
/// which this one must not replace. `false` also if another request of this process is at it, or if the
/// store fails; the next request tries again.
async fn still_holds(config: &Arc<Config>, token: Token) -> bool {
    let Role::Lead(flight) = config.slides.join(&token.selector().to_string()) else {
        return false;
    };
    let holds = touch(config, token).await;
    flight.land(());
    holds
}

/// Restarts the idle timeout of a session if the token proves it, and says whether it does.
async fn touch(config: &Arc<Config>, token: Token) -> bool {
    let limits = config.terms.limits;
    let slide = config.store.commit(&token.selector(), &token.hash(), Delta::default(), limits);
    match config.bounded("a session slide", slide).await {
        Ok(Committed::Done { note, .. }) => {
            telemetry::count(SESSION_TOTAL, "touched");
            enlist_later(config, note, token.selector());
            return true;
        }
        Ok(_) => telemetry::count(SESSION_TOTAL, "gone"),
        Err(error) => telemetry::store_failed("session", &error),
    }
    false
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

pub(crate) fn decode<T: DeserializeOwned>(name: &str, value: &Bytes) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|source| Error::decode::<T>(name, &source))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Session {
    /// Names the fields; their values are the client's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Session")
            .field("user", &state.user())
            .field("fields", &state.fields().keys())
            .finish_non_exhaustive()
    }
}

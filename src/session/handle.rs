//! What a handler holds.

use crate::{
    flight::Role,
    marks::{SessionTouched, UserId},
    session::{
        commit::execute,
        cookie::Presented,
        error::Error,
        field::{Field, legal},
        layer::{Config, OnStoreError},
        state::{CookieChange, State},
        step::Outcome,
        store::{Committed, Delta},
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
};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

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
}

impl LazySession {
    pub(crate) fn new(config: Arc<Config>, presented: Presented, touched: SessionTouched) -> Self {
        Self(Arc::new(Lazy { config, presented, touched, session: OnceCell::new() }))
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
            let load = config.store.load(&token.selector());
            match config.bounded("a session load", load).await {
                Ok(Some(record)) if record.verifier == token.hash() => {
                    state = State::loaded(config.terms, *token, record);
                    break;
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

    /// The session, if it has been loaded.
    pub(crate) fn loaded(&self) -> Option<&Session> {
        self.0.session.get().and_then(|session| session.as_ref().ok())
    }

    /// What is left to do for a response of this status; `None` if nothing is.
    pub(crate) fn finish(&self, status: StatusCode) -> Option<Finishing> {
        self.loaded().and_then(|session| session.finish(status))
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
    running: AsyncMutex<Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>>,
    /// Why the session could not be saved at the end of the request.
    failure: Mutex<Option<Error>>,
}

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
        let value = self.state().fields().get(field.name()).cloned();
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
        self.state().set(name, json.into())
    }

    /// Adds to an integer, which is 0 if the field is not there. Returns what it is now as far as
    /// this request knows; the increments of concurrent requests add up when they are saved.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_an_integer`] if the field holds something else, or would pass 2⁵³ − 1 in
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
        let value = self.state().remove(field.name())?;
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

    /// The user it is bound to by a [`login`](Session::login).
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        self.state().user().cloned()
    }

    /// Whether there is a session, in the store or after this request: `false` for a visitor who has
    /// none and for whom nothing was set.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.state().exists()
    }

    /// Binds the session to a user, gives it a new cookie and restarts its lifetime. The old cookie
    /// fails from then on, so one that was planted before the login is worth nothing.
    ///
    /// The data stays; call [`clear`](Session::clear) first if what was stored before the login is
    /// not to be trusted. A session of **another** user is destroyed, and a new one made. If the
    /// session ends while the request is handled (a login clicked twice), a new one is made too.
    ///
    /// # Errors
    ///
    /// If the user is not 1 to 255 bytes, and [`Error::is_unavailable`] if the request goes on
    /// without the store.
    pub fn login(&self, user: impl Into<Arc<str>>) -> Result<(), Error> {
        self.state().login(UserId::new(user))
    }

    /// Gives the session a new cookie; the old one fails from then on. For any change of privilege
    /// other than a login, which does it by itself.
    pub fn rotate(&self) {
        self.state().rotate();
    }

    /// Ends the session and takes the cookie back: a logout. It holds whatever the status of the
    /// response is. What is set afterwards begins another session.
    pub fn destroy(&self) {
        self.state().destroy();
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
        let mut running = self.0.running.lock().await;
        loop {
            if let Some(step) = running.as_mut() {
                let outcome = step.await;
                *running = None;
                self.state().settle(outcome)?;
            }
            let Some(work) = self.state().plan()? else { return Ok(()) };
            *running = Some(Box::pin(execute(self.0.config.clone(), work)));
        }
    }

    /// The end of the request, the same for everyone who asks: what failed once has failed.
    fn finish(&self, status: StatusCode) -> Option<Finishing> {
        {
            let mut state = self.state();
            if status.is_server_error() && !self.0.config.save_on_server_error {
                state.discard();
            }
            let carried_on = self.0.running.try_lock().map_or(true, |step| step.is_some());
            if !state.is_pending() && !carried_on && self.failure().is_none() {
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
                Err(error) if error.is_gone() => Ok(()),
                Err(error) => {
                    *this.failure() = Some(error.clone());
                    Err(error)
                }
                Ok(()) => Ok(()),
            }
        }))
    }

    /// Restarts the idle timeout in a task of its own if that is due and no other request of this
    /// process is at it. Nobody waits for it, and if it fails the next request tries again.
    pub(crate) fn slide(&self) {
        let Some(token) = self.state().take_slide() else { return };
        let config = self.0.config.clone();
        let Role::Lead(flight) = config.slides.join(&token.selector().to_string()) else { return };
        config.store.tasks().spawn_if_possible(async move {
            let limits = config.terms.limits;
            let slide =
                config.store.commit(&token.selector(), &token.hash(), Delta::default(), limits);
            match config.bounded("a session slide", slide).await {
                Ok(Committed::Done { .. }) => telemetry::count(SESSION_TOTAL, "touched"),
                Ok(_) => telemetry::count(SESSION_TOTAL, "gone"),
                Err(error) => telemetry::store_failed("session", &error),
            }
            flight.land(());
        });
    }

    pub(crate) fn cookie(&self) -> Option<CookieChange> {
        self.state().cookie()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode<T: DeserializeOwned>(name: &str, value: &Bytes) -> Result<T, Error> {
    serde_json::from_slice(value)
        .map_err(|source| Error::decode(name, std::any::type_name::<T>(), &source))
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

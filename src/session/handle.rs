//! The session that a handler holds.

use crate::session::{
    commit::execute,
    error::Error,
    expiry,
    field::{Field, legal},
    layer::{Config, OnGone},
    state::State,
    step::Outcome,
    store::Limits,
    touch::still_holds,
};
use bytes::Bytes;
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

pub(crate) type Finishing = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

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
    pub(crate) fn new(config: Arc<Config>, state: State) -> Self {
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
    pub(crate) fn finish(&self, status: StatusCode) -> Option<Finishing> {
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

pub(crate) fn decode<T: DeserializeOwned>(name: &str, value: &Bytes) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|source| Error::decode::<T>(name, &source))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

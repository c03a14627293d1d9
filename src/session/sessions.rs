//! The sessions of a user, from anywhere: for a page of devices, and for whoever administers it.

use crate::{
    marks::UserId,
    session::{
        activity::Activity,
        error::Error,
        policy,
        store::{Destroyed, Record, SessionStore},
        token::Selector,
        user_store::MOST_LISTED,
    },
    store::{StoreError, StoreFuture},
    telemetry::{self, SESSION_TOTAL},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeSet,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How many sessions are asked for at a time.
const AT_A_TIME: usize = 100;

/// The sessions of users: lists them and ends them. A cheap clone.
///
/// It needs no request: an administrator's tool makes one over the same
/// [`Backend`](crate::Backend). In a handler, [`Session::sessions`](super::Session::sessions) has it.
///
/// ```
/// use towerkeep::session::{Error, Session};
///
/// /// Logs the user out on every other device.
/// async fn logout_elsewhere(session: Session) -> Result<String, Error> {
///     let Some(user) = session.user() else { return Ok("nobody is logged in".into()) };
///     let ended = session.sessions().revoke_all(&user, session.handle()).await?;
///     Ok(format!("logged out on {ended} devices"))
/// }
/// ```
#[derive(Clone)]
pub struct Sessions {
    store: Arc<dyn SessionStore>,
}

impl Sessions {
    /// Over the store in which the [layer](super::SessionLayer) keeps them.
    #[must_use]
    pub fn new(store: impl SessionStore) -> Self {
        Self { store: Arc::new(store) }
    }

    pub(crate) fn over(store: Arc<dyn SessionStore>) -> Self {
        Self { store }
    }

    /// The user's sessions, the one that was seen last first: the latest 1,000 if there are more.
    /// Two round trips.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the store fails.
    pub async fn list(&self, user: &UserId) -> Result<Vec<Device>, Error> {
        Ok(devices(&self.store, user).await?)
    }

    /// Ends a session if it is this user's; whoever holds its cookie is logged out with the next
    /// request. Whether there was one to end. One round trip.
    ///
    /// It is the user whom the caller has authenticated, so that nobody ends another's session by
    /// its [handle](Device::handle).
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the store fails.
    pub async fn revoke(&self, user: &UserId, handle: Selector) -> Result<bool, Error> {
        let revoked = matches!(self.store.revoke(&handle, user).await?, Destroyed::Done { .. });
        if revoked {
            telemetry::count(SESSION_TOTAL, "revoked");
            unlist_later(&self.store, user, vec![handle], Duration::ZERO);
        }
        Ok(revoked)
    }

    /// Ends all sessions of a user, but the `except`ed one. How many they were. Two round trips for
    /// each 100, and one for the list.
    ///
    /// A login that happens at the same time may come after it.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the store fails. Some may have ended then; the others are listed
    /// still, so that another call ends them.
    pub async fn revoke_all(
        &self,
        user: &UserId,
        except: Option<Selector>,
    ) -> Result<usize, Error> {
        let mut ended = 0;
        let mut tried = BTreeSet::new();
        loop {
            let listed = self.store.listed(user).await?;
            let full = listed.len() == MOST_LISTED;
            // What is listed again is not tried again, so this comes to an end.
            let handles: Vec<_> = listed
                .into_iter()
                .map(|(handle, _)| handle)
                .filter(|handle| Some(*handle) != except && tried.insert(*handle))
                .collect();
            for some in handles.chunks(AT_A_TIME) {
                let revokes = some.iter().map(|handle| self.store.revoke(handle, user)).collect();
                let (mut gone, mut missing) = (Vec::new(), Vec::new());
                for (handle, revoked) in some.iter().zip(all(revokes).await) {
                    if matches!(revoked?, Destroyed::Done { .. }) {
                        telemetry::count(SESSION_TOTAL, "revoked");
                        gone.push(*handle);
                    } else {
                        missing.push(*handle);
                    }
                }
                ended += gone.len();
                // Not before they have ended, or one that has not could be found no more. One that is
                // missing may be a login's that is about to be bound.
                let (unlisted, tidied) = tokio::join!(
                    self.store.unlist(user, &gone, Duration::ZERO),
                    self.store.unlist(user, &missing, policy::SPARED)
                );
                unlisted.and(tidied)?;
            }
            if !full || handles.is_empty() {
                return Ok(ended);
            }
        }
    }

    /// What the user did lately, the latest first: `count` of the events that were
    /// [recorded](super::Session::record). One round trip.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] if the store fails.
    pub async fn recent(&self, user: &UserId, count: usize) -> Result<Vec<Activity>, Error> {
        let events = self.store.recent(user, count).await?;
        Ok(events.into_iter().map(Activity::decode).collect())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

/// One session of a user: a browser, an app.
#[derive(Clone)]
#[non_exhaustive]
pub struct Device {
    /// What it is [revoked](Sessions::revoke) by. It proves nothing, so a page may show it, and
    /// [`str::parse`] reads it back from a form.
    pub handle: Selector,
    /// When the session was created.
    pub created: SystemTime,
    /// When it was seen last, to a minute or a twentieth of its idle timeout.
    pub last_seen: SystemTime,
    /// How long it lives without another request.
    pub expires_in: Duration,
    /// Whether it was [remembered](super::Session::remember).
    pub remembered: bool,
    info: Option<Bytes>,
}

impl Device {
    /// What the application has [said](super::Session::set_device) about it.
    ///
    /// # Errors
    ///
    /// [`Error::is_decode`] if that is not a `T`.
    pub fn info<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let read = |json: &Bytes| serde_json::from_slice(json);
        let info = self.info.as_ref().map(read).transpose();
        info.map_err(|source| Error::decode::<T>("the device", &source))
    }

    fn new(handle: Selector, seen: Duration, record: Record) -> Self {
        let expires_in = record.ttl.unwrap_or(record.idle);
        Self {
            handle,
            created: UNIX_EPOCH + record.created,
            last_seen: UNIX_EPOCH + seen,
            expires_in,
            remembered: record.persistent,
            info: record.device,
        }
    }
}

impl fmt::Debug for Device {
    /// What the application says about it may be about the client.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("handle", &self.handle)
            .field("created", &self.created)
            .field("last_seen", &self.last_seen)
            .field("expires_in", &self.expires_in)
            .field("remembered", &self.remembered)
            .finish_non_exhaustive()
    }
}

/// The sessions that are there and the user's; those that are not are struck off the list.
pub(crate) async fn devices(
    store: &Arc<dyn SessionStore>,
    user: &UserId,
) -> Result<Vec<Device>, StoreError> {
    let listed = store.listed(user).await?;
    let (mut devices, mut gone) = (Vec::new(), Vec::new());
    for some in listed.chunks(AT_A_TIME) {
        let loads = some.iter().map(|(selector, _)| store.load(selector)).collect();
        for ((selector, seen), record) in some.iter().zip(all(loads).await) {
            match record? {
                Some(record) if record.user.as_ref() == Some(user) => {
                    devices.push(Device::new(*selector, *seen, record));
                }
                _ => gone.push(*selector),
            }
        }
    }
    if !gone.is_empty() {
        unlist_later(store, user, gone, policy::SPARED);
    }
    Ok(devices)
}

/// Strikes sessions off a list, in a task of its own. Those that were ended, only once that is known:
/// one that lives on and is not listed is one that nobody could revoke.
pub(crate) fn unlist_later(
    store: &Arc<dyn SessionStore>,
    user: &UserId,
    selectors: Vec<Selector>,
    spared: Duration,
) {
    let (store, user) = (store.clone(), user.clone());
    store.clone().tasks().spawn_if_possible(async move {
        if let Err(error) = store.unlist(&user, &selectors, spared).await {
            telemetry::store_failed("session", &error);
        }
    });
}

/// All at the same time.
async fn all<T>(mut calls: Vec<StoreFuture<T>>) -> Vec<Result<T, StoreError>> {
    let mut results: Vec<Option<Result<T, StoreError>>> = calls.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut done = true;
        for (call, result) in calls.iter_mut().zip(&mut results) {
            if result.is_none() {
                match Pin::new(call).poll(cx) {
                    Poll::Ready(ready) => *result = Some(ready),
                    Poll::Pending => done = false,
                }
            }
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

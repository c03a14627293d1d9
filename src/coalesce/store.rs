//! What the layer asks of a store.

use crate::{
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// Longest time that a store is asked to keep anything: what is longer is cut to it.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A store through which the servers of a fleet tell each other who makes an answer, and hand it over.
///
/// Each method is one atomic step and, on a server, one round trip. Of those who ask for the same at
/// the same time, one leads and the others follow it; what it leaves is for them alone.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store for coalesced requests",
    note = "pass a `Backend`, a `coalesce::MemoryStore`, or an `Arc` of your own `CoalesceStore`"
)]
pub trait CoalesceStore: Send + Sync + 'static {
    /// Asks for what the leader `following` has left, if there is one; without that, to lead, or whom to
    /// follow. The leader who asks again leads again, and its lease begins anew.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_full`] if there is no room for another leader.
    fn join(
        &self,
        flight: &Flight,
        following: Option<&str>,
        lease: Duration,
    ) -> StoreFuture<Joined>;

    /// Moves the end of the lease to `lease` from now. `false` if the flight has another leader, or
    /// none.
    fn renew(&self, flight: &Flight, lease: Duration) -> StoreFuture<bool>;

    /// Ends the flight, leaves its outcome for `linger` to those who follow it, and sends a hint.
    /// `false` if it has another leader, or none: nothing is changed then.
    fn land(&self, flight: &Flight, outcome: Bytes, linger: Duration) -> StoreFuture<bool>;

    /// Ends the flight without an outcome, so that another may lead, and sends a hint. `false` as
    /// [`land`](CoalesceStore::land).
    fn leave(&self, flight: &Flight) -> StoreFuture<bool>;

    /// Hints that a flight has ended, for those who follow. Default: none, so they only look from time
    /// to time.
    fn watch(&self, id: &str) -> Option<Subscription> {
        let _ = id;
        None
    }

    /// The tasks that renew and land. Default: tasks that nobody waits for at a shutdown.
    fn tasks(&self) -> Tasks {
        Tasks::default()
    }
}

impl<T: CoalesceStore + ?Sized> CoalesceStore for Arc<T> {
    fn join(
        &self,
        flight: &Flight,
        following: Option<&str>,
        lease: Duration,
    ) -> StoreFuture<Joined> {
        (**self).join(flight, following, lease)
    }

    fn renew(&self, flight: &Flight, lease: Duration) -> StoreFuture<bool> {
        (**self).renew(flight, lease)
    }

    fn land(&self, flight: &Flight, outcome: Bytes, linger: Duration) -> StoreFuture<bool> {
        (**self).land(flight, outcome, linger)
    }

    fn leave(&self, flight: &Flight) -> StoreFuture<bool> {
        (**self).leave(flight)
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        (**self).watch(id)
    }

    fn tasks(&self) -> Tasks {
        (**self).tasks()
    }
}

/// What is asked for, and the token of one who asks. A cheap clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Flight {
    id: Arc<str>,
    token: Arc<str>,
}

impl Flight {
    /// `id` names what is asked for and goes into a key as it is; `token` is new for each who asks.
    pub fn new(id: impl Into<Arc<str>>, token: impl Into<Arc<str>>) -> Self {
        Self { id: id.into(), token: token.into() }
    }

    /// What is asked for.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The answer to [`CoalesceStore::join`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Joined {
    /// Make the answer.
    Lead,
    /// Somebody makes it.
    Follow {
        /// Whom to name as `following` from now on.
        leader: String,
        /// How long its lease lasts if it is not renewed.
        left: Duration,
    },
    /// What the one who was followed has left.
    Landed(Bytes),
}

/// In whole milliseconds, at least one.
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.min(LONGEST).as_millis()).unwrap_or(u64::MAX).max(1)
}

/// An answer of a script that is none.
pub(crate) fn unexpected(answer: &[u8]) -> StoreError {
    let answer = String::from_utf8_lossy(&answer[..answer.len().min(64)]);
    StoreError::corrupt(format!("a script for coalesced requests answered {answer:?}"))
}

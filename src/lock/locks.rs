//! The handle that applications hold.

use crate::lock::{
    acquire::Acquire, error::Error, guard::Guard, policy, queue::Queues, store::LockStore,
};
use std::{fmt, sync::Arc, time::Duration};

/// Waiters for one lock, unless told otherwise.
const MAX_WAITERS: usize = 1_024;

/// Named locks over a store. A cheap clone; clones share the line of those who wait.
///
/// See [the module](crate::lock) for what a lock is and is not.
#[derive(Clone)]
#[must_use]
pub struct Locks {
    pub(super) store: Arc<dyn LockStore>,
    pub(super) queues: Queues,
    pub(super) max_waiters: usize,
    pub(super) poll: Duration,
}

impl Locks {
    /// Locks in `store`: a `Backend`, or a [`MemoryStore`](crate::lock::MemoryStore).
    pub fn new(store: impl LockStore) -> Self {
        Self {
            store: Arc::new(store),
            queues: Queues::default(),
            max_waiters: MAX_WAITERS,
            poll: policy::POLL,
        }
    }

    /// How many tasks of this process may wait for the same lock at a time; a further one is told
    /// [`is_contended`](crate::lock::Error::is_contended) at once. Default: 1,024.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// How often the first in line looks by itself whether the lock is free, should no hint tell it:
    /// at random between half of this and this, but not below 10 ms. It also looks when the holder's
    /// TTL has passed. Default: 1 s.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval.max(policy::MIN_POLL);
        self
    }

    /// The lock of this name. Nothing happens before [`Acquire::acquire`].
    ///
    /// Names are the application's own; two that differ are two locks. One of up to 128 characters of
    /// `A-Z a-z 0-9 - _ . : / @ = + ,` stands in the store as it is, any other as its hash.
    pub fn lock(&self, name: impl AsRef<str>) -> Acquire {
        Acquire::new(self.clone(), name.as_ref())
    }

    /// Takes the lock if nobody holds it, for 30 s. [`lock`](Locks::lock) has the settings.
    ///
    /// # Errors
    ///
    /// As [`Acquire::acquire`] without a wait: [`is_contended`](crate::lock::Error::is_contended) if
    /// somebody else holds it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), towerkeep::lock::Error> {
    /// # use towerkeep::lock::{Locks, MemoryStore};
    /// let locks = Locks::new(MemoryStore::default());
    /// let held = locks.try_lock("nightly-report").await?;
    /// let refused = locks.try_lock("nightly-report").await.unwrap_err();
    /// assert!(refused.is_contended() && refused.held_for().is_some());
    /// held.release().await
    /// # }
    /// ```
    pub async fn try_lock(&self, name: impl AsRef<str>) -> Result<Guard, Error> {
        self.lock(name).acquire().await
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("waiting", &self.queues).finish_non_exhaustive()
    }
}

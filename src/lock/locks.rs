//! The handle that applications hold.

use crate::{
    lock::{
        acquire::Acquire,
        error::Error,
        guard::Guard,
        limits, pause,
        policy::{self, Holder},
        queue::Queues,
        redlock::Quorum,
        store::LockStore,
        watch::Watch,
    },
    store::StoreFuture,
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
    source: Source,
    owner: Option<Arc<str>>,
    pub(super) queues: Queues,
    pub(super) max_waiters: usize,
    pub(super) poll: Duration,
}

/// Who grants the locks.
#[derive(Clone)]
enum Source {
    One(Arc<dyn LockStore>),
    Majority(Arc<Quorum>),
}

impl Locks {
    /// Locks in `store`: a `Backend`, or a [`MemoryStore`](crate::lock::MemoryStore).
    pub fn new(store: impl LockStore) -> Self {
        Self::from_source(Source::One(Arc::new(store)))
    }

    pub(super) fn of(quorum: Arc<Quorum>) -> Self {
        Self::from_source(Source::Majority(quorum))
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            owner: None,
            queues: Queues::default(),
            max_waiters: MAX_WAITERS,
            poll: pause::POLL,
        }
    }

    pub(super) fn over(self, quorum: Arc<Quorum>) -> Self {
        Self { source: Source::Majority(quorum), ..self }
    }

    /// What one attempt asks.
    pub(super) fn store(&self) -> Arc<dyn LockStore> {
        match &self.source {
            Source::One(store) => store.clone(),
            Source::Majority(quorum) => Arc::new(quorum.round()),
        }
    }

    /// What tells of releases, if anything does.
    pub(super) fn watch(&self, id: &str) -> Option<Watch> {
        match &self.source {
            Source::One(store) => Watch::over(store.watch(id), 1),
            Source::Majority(quorum) => quorum.watch(id),
        }
    }

    /// What one attempt asks with.
    pub(super) fn token(&self) -> String {
        policy::token_of(self.owner.as_deref())
    }

    /// Who holds the locks that are acquired through this handle, for whoever asks
    /// [`holder`](Locks::holder): a host name and a process id, say. Anyone who can read the store can
    /// read it. What is longer than 128 bytes is cut off. Default: nothing is said.
    pub fn owner(mut self, description: impl AsRef<str>) -> Self {
        self.owner = Some(policy::owner(description.as_ref()).into());
        self
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
        self.poll = interval.clamp(pause::MIN_POLL, limits::MAX_WAIT);
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

    /// Who holds the lock; `None` if nobody does. For people: by the time that it is read, it may not
    /// be so any more. One round trip.
    ///
    /// # Errors
    ///
    /// [`Error::is_store`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), towerkeep::lock::Error> {
    /// # use towerkeep::lock::{Locks, MemoryStore};
    /// let locks = Locks::new(MemoryStore::default()).owner("web-3, process 4711");
    /// let held = locks.try_lock("nightly-report").await?;
    /// let holder = locks.holder("nightly-report").await?.unwrap();
    /// assert_eq!(holder.owner.as_deref(), Some("web-3, process 4711"));
    /// assert_eq!(holder.fence, held.fence());
    /// held.release().await
    /// # }
    /// ```
    pub async fn holder(&self, name: impl AsRef<str>) -> Result<Option<Holder>, Error> {
        self.ask(name.as_ref(), |store, id| store.holder(id)).await
    }

    /// Takes the lock from whoever holds it, and wakes those who wait; `false` if nobody held it. One
    /// round trip.
    ///
    /// **Dangerous**: a holder that still works learns of it at its next renewal, or when its TTL has
    /// passed, while the next one begins, so two work at once. It is for a holder that is
    /// known to be dead and whose TTL is too long to wait for. A resource that refuses a lower
    /// [`fence`](Guard::fence) is safe also then.
    ///
    /// # Errors
    ///
    /// [`Error::is_store`].
    pub async fn force_release(&self, name: impl AsRef<str>) -> Result<bool, Error> {
        self.ask(name.as_ref(), |store, id| store.force_release(id)).await
    }

    async fn ask<T>(
        &self,
        name: &str,
        verb: impl FnOnce(&dyn LockStore, &str) -> StoreFuture<T>,
    ) -> Result<T, Error> {
        let answer = verb(&*self.store(), &limits::id(name)).await;
        answer.map_err(|error| Error::store(name, error))
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("waiting", &self.queues).finish_non_exhaustive()
    }
}

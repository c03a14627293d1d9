//! A lock that is held.

use crate::{
    lease::Lease,
    lock::{error::Error, kind::Fenced},
};
use std::{fmt, future::Future, time::Duration};

/// A lock that is held. Dropping it releases the lock in a background task;
/// [`release`](Guard::release) does so before your eyes. If neither reaches the store, the lock is
/// free when its TTL has passed.
///
/// A guard is not a promise. Its process may be paused at any point, and wake when the TTL has passed
/// and another holds the lock. So work that must not be done twice either asks
/// [`check`](Guard::check) before each step and can bear a step that was under way, or hands the
/// [`fence`](Guard::fence) to a resource that refuses a lower one. That of a
/// [`Redlock`](crate::lock::Redlock) is `Guard<Unfenced>`, and has none.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard<K = Fenced> {
    lease: Lease,
    name: Box<str>,
    fence: K,
}

impl<K> Guard<K> {
    pub(super) fn new(lease: Lease, name: Box<str>, fence: K) -> Self {
        Self { lease, name, fence }
    }

    /// The name of the lock.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long the lock is certainly held yet without a renewal; zero once it is lost.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.lease.valid_for()
    }

    /// Whether somebody else may hold the lock by now. Costs no round trip. A lock that was lost
    /// stays lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost()
    }

    /// An error once the lock [is lost](Guard::is_lost): ask it before each step of long work.
    ///
    /// # Errors
    ///
    /// [`Error::is_lost`].
    pub fn check(&self) -> Result<(), Error> {
        if self.is_lost() { Err(Error::lost(&self.name)) } else { Ok(()) }
    }

    /// Ends when the lock is lost: a renewal was refused, or the TTL is about to pass without one.
    /// The future does not borrow the guard; it ends when the TTL would pass, too, after the lock was
    /// released.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), towerkeep::lock::Error> {
    /// # use towerkeep::lock::{Locks, MemoryStore};
    /// # let locks = Locks::new(MemoryStore::default());
    /// # async fn work() -> &'static str { "done" }
    /// let guard = locks.lock("report").auto_renew().acquire().await?;
    /// let outcome = tokio::select! {
    ///     outcome = work() => outcome,
    ///     () = guard.lost() => "gave up",
    /// };
    /// assert_eq!(outcome, "done");
    /// # Ok(())
    /// # }
    /// ```
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<K> {
        let mut watch = self.lease.watch();
        async move { watch.lost().await }
    }

    /// Counts the TTL anew, from now.
    ///
    /// # Errors
    ///
    /// [`Error::is_lost`] if the lock was lost before; [`Error::is_store`] if the store failed, which
    /// changes nothing about the time that is left.
    pub async fn renew(&self) -> Result<(), Error> {
        self.settle(self.lease.renew().await)
    }

    /// Releases the lock, and wakes whoever waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::is_lost`] if it was lost before, so that others may have held it during the work;
    /// [`Error::is_store`] if the store failed: the release is tried again in the background.
    pub async fn release(self) -> Result<(), Error> {
        let Self { lease, name, .. } = self;
        settle(&name, lease.release().await)
    }

    fn settle(&self, ours: Result<bool, crate::StoreError>) -> Result<(), Error> {
        settle(&self.name, ours)
    }
}

impl Guard<Fenced> {
    /// The fencing token: higher than that of everyone who held this lock before. Store it beside
    /// what you write, and write only where the stored one is not higher:
    /// `UPDATE … SET fence = $1 WHERE id = $2 AND fence <= $1`.
    ///
    /// It is about the number of microseconds since 1970, which an `i64` and a float's 53 bits hold
    /// for the next two centuries.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence.0
    }
}

fn settle(name: &str, ours: Result<bool, crate::StoreError>) -> Result<(), Error> {
    match ours {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::lost(name)),
        Err(error) => Err(Error::store(name, error)),
    }
}

impl<K: fmt::Debug> fmt::Debug for Guard<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.name)
            .field("fence", &self.fence)
            .field("valid_for", &self.valid_for())
            .finish_non_exhaustive()
    }
}

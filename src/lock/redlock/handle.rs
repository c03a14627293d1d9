//! The handle that applications hold.

use crate::{
    lock::{
        acquire::Acquire,
        error::Error,
        guard::Guard,
        kind::Unfenced,
        limits,
        locks::Locks,
        redlock::quorum::{Nodes, Quorum},
        store::LockStore,
    },
    store::StoreError,
};
use std::{fmt, sync::Arc, time::Duration};

/// Named locks that a majority of independent stores grants ([Redlock]): held by one at a time for as
/// long as no more than a minority of the stores fails, is paused or is cut off. A cheap clone; clones
/// share the line of those who wait.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use towerkeep::{Backend, lock::Redlock};
///
/// // In earnest, each is a server on a machine of its own:
/// // Backend::builder().lazy(true).redis("redis://10.0.1.7").await?
/// let nodes = (0..5).map(|_| Backend::memory());
/// let locks = Redlock::new(nodes)?;
///
/// let guard = locks
///     .lock("report")
///     .ttl(Duration::from_secs(10))
///     .wait(Duration::from_secs(5))
///     .auto_renew()
///     .acquire()
///     .await?;
/// assert!(locks.try_lock("report").await.unwrap_err().is_contended());
/// guard.check()?; // before each step of long work
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # What happens
///
/// Every verb goes to all nodes at once, one round trip to each, and counts what comes back within
/// [`node_timeout`](Redlock::node_timeout):
///
/// - **Acquire.** More than half must grant it. If they do not, what was granted is released, also on
///   nodes whose answer is late or lost, after it in order. A waiter tries again when a majority of the
///   nodes has hinted at a release since it asked last, or after a pause that is drawn at random and
///   grows; so what those give back who got less than a majority wakes nobody while somebody holds the
///   lock. The holder is certain of the TTL less 1% and 2 ms, counted from before the first question,
///   and an acquisition that has less than [`min_validity`](Acquire::min_validity) left of it is given
///   back.
/// - **Renew.** More than half must still have held it. Then it is also taken on nodes that had lost
///   it, such as one that was restarted. If so many say that it is not ours that no majority is
///   possible, it is lost at once. Anything else is tried again until the deadline, and until then
///   nothing is released.
/// - **Release.** To all nodes that may hold it, again for up to 5 s where it fails; after that the TTL
///   does it.
///
/// # Who holds it
///
/// There is no `holder()`: nodes tell an owner and a fence of their own each, and not the token, by which
/// alone it could be told whether it is the same one that holds a majority. For people, who can tell:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use towerkeep::{Backend, lock::{Locks, Redlock}};
/// let nodes: Vec<_> = (0..3).map(|_| Backend::memory()).collect();
/// let locks = Redlock::new(nodes.clone())?.owner("web-3, process 4711");
/// let guard = locks.lock("report").acquire().await?;
/// # locks.shutdown(std::time::Duration::from_secs(5)).await;
/// for node in nodes {
///     let holder = Locks::new(node).holder("report").await?;
///     assert_eq!(holder.unwrap().owner.as_deref(), Some("web-3, process 4711"));
/// }
/// # guard.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # No fence
///
/// The guard has no `fence()`: each node counts for itself, so no number rises over all holders.
///
/// ```compile_fail,E0599
/// # use towerkeep::{Backend, lock::{Error, Redlock}};
/// # async fn fence(locks: Redlock) -> Result<(), Error> {
/// let guard = locks.lock("report").acquire().await?;
/// guard.fence();
/// # Ok(())
/// # }
/// ```
///
/// # When to use it
///
/// Seldom. What it adds to [`Locks`] is that a server may fail without the lock failing, and without
/// an asynchronous replica that is promoted and lacks the lock. What it does not add, as Martin
/// Kleppmann's [critique] shows: it rests on time. A process that is paused between its last
/// [`check`](Guard::check) and its write, or a node whose clock jumps, can make two holders; and there
/// is no fence by which the written resource could tell the stale one. So:
///
/// - to save work that would only be done twice, one server and [`Locks`] will do;
/// - to keep data right, use [`Locks`] and hand the [`fence`](Guard::fence) to what is written, or use
///   a system of consensus;
/// - Redlock is for work that must go on while a server is down and that can bear, seldom, a second
///   holder.
///
/// # The nodes
///
/// Three to fifteen, and five are usual: they tolerate two that fail. An even number tolerates no more
/// than the one below it. They must be independent: servers that do not replicate one another, on
/// machines that do not fail together; the same server twice is one vote that counts double. A node
/// that loses its keys when it restarts can help to make a second holder: give it `appendfsync always`,
/// or let it rejoin only after the longest TTL. Use `lazy(true)`, so that the application starts while a
/// node is down. They should have no other [`Locks`] of the same names: a lock there is in the way here.
///
/// [Redlock]: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
/// [critique]: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
#[derive(Clone)]
#[must_use]
pub struct Redlock {
    locks: Locks,
    quorum: Arc<Quorum>,
}

impl Redlock {
    /// Locks over these nodes: [`Backend`](crate::Backend)s, or any [`LockStore`]; of several types as
    /// `Arc<dyn LockStore>`.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_config`] unless there are 3 to 15.
    pub fn new<S: LockStore>(nodes: impl IntoIterator<Item = S>) -> Result<Self, StoreError> {
        let nodes: Nodes = nodes.into_iter().map(|node| Arc::new(node) as _).collect();
        limits::node_count(nodes.len())?;
        Ok(Self::over(Quorum::new(nodes)))
    }

    fn over(quorum: Quorum) -> Self {
        let quorum = Arc::new(quorum);
        Self { locks: Locks::of(quorum.clone()), quorum }
    }

    /// How long a verb waits for the answer of a node before it goes on without: it should be far
    /// below the TTL, and is never more than a quarter of it, nor less than 1 ms. What comes
    /// later is not counted, but released in the end. Default: a tenth of the TTL, from 5 ms to 250 ms.
    pub fn node_timeout(self, timeout: Duration) -> Self {
        let Self { locks, quorum } = self;
        let quorum = Arc::new(quorum.with_timeout(timeout));
        Self { locks: locks.over(quorum.clone()), quorum }
    }

    /// How often the first in line asks the nodes, should no hint wake it: it begins with 10 ms and
    /// doubles up to this, each time drawn at random between half of it and it. At least 10 ms.
    /// Default: 1 s.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.locks = self.locks.poll(interval);
        self
    }

    /// As [`Locks::owner`]: each node's own [`Locks::holder`] shows it. Default: nothing is said.
    pub fn owner(mut self, description: impl AsRef<str>) -> Self {
        self.locks = self.locks.owner(description);
        self
    }

    /// As [`Locks::max_waiters`]. Default: 1,024.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.locks = self.locks.max_waiters(waiters);
        self
    }

    /// The lock of this name, as [`Locks::lock`]. Nothing happens before [`Acquire::acquire`].
    pub fn lock(&self, name: impl AsRef<str>) -> Acquire<Unfenced> {
        Acquire::new(self.locks.clone(), name.as_ref())
    }

    /// Takes the lock if a majority of the nodes is free, for 30 s.
    ///
    /// # Errors
    ///
    /// As [`Acquire::acquire`] without a wait.
    pub async fn try_lock(&self, name: impl AsRef<str>) -> Result<Guard<Unfenced>, Error> {
        self.lock(name).acquire().await
    }

    /// Frees the lock on every node, whoever holds it: see [`Locks::force_release`] for the danger.
    /// `false` if fewer than a majority held it.
    ///
    /// # Errors
    ///
    /// [`Error::is_store`] if less than a majority of the nodes answers.
    pub async fn force_release(&self, name: impl AsRef<str>) -> Result<bool, Error> {
        self.locks.force_release(name).await
    }

    /// Waits until the releases that are under way have ended, at most `deadline`, and returns how many
    /// were still running then. To be called at the end, before the nodes' own
    /// [`shutdown`](crate::Backend::shutdown).
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        self.quorum.tasks.drain(deadline).await
    }
}

impl fmt::Debug for Redlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redlock")
            .field("nodes", &self.quorum.nodes.len())
            .field("locks", &self.locks)
            .finish()
    }
}

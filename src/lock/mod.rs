//! Locks that a fleet of servers shares: named, with a TTL, a fencing token, and a loss that is told.
//!
//! What happens to a lock:
//!
//! 1. [`Locks::lock`] names it; [`acquire`](Acquire::acquire) asks the store for it in one atomic
//!    step, with a random token that only this acquisition knows.
//! 2. If somebody else holds it, the answer is [`Error::is_contended`], or within
//!    [`wait`](Acquire::wait) it is waited for: woken by the release, or when the holder's TTL has
//!    passed. Tasks of one process wait in line, and only the first of them asks the store.
//! 3. The [`Guard`] carries the [`fence`](Guard::fence), a number higher than every earlier holder's.
//!    With [`auto_renew`](Acquire::auto_renew) a task renews the lock at every third of its TTL.
//! 4. If a renewal is refused, or none succeeds until the TTL is about to pass, the lock is lost:
//!    [`check`](Guard::check) fails, [`lost`](Guard::lost) ends, before another can hold it.
//! 5. [`release`](Guard::release), or dropping the guard, frees the lock, but only if it is still
//!    held by the same token.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use towerkeep::{Backend, lock::Locks};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), towerkeep::lock::Error> {
//! let locks = Locks::new(Backend::memory());
//!
//! let guard = locks
//!     .lock("job:7")
//!     .ttl(Duration::from_secs(30))
//!     .wait(Duration::from_secs(10))
//!     .auto_renew()
//!     .acquire()
//!     .await?;
//! guard.check()?; // before each step of long work
//! let first = guard.fence();
//!
//! let refused = locks.try_lock("job:7").await.unwrap_err();
//! assert!(refused.is_contended());
//!
//! guard.release().await?;
//! let again = locks.try_lock("job:7").await?;
//! assert!(again.fence() > first);
//! # Ok(())
//! # }
//! ```
//!
//! # Which to use
//!
//! | you want | use | what remains |
//! | --- | --- | --- |
//! | work that is not done twice for nothing: a report, a cache that is filled | [`Locks::try_lock`] | now and then it is done twice |
//! | one after the other: a cart, an account | [`Locks::lock`] with a [`wait`](Acquire::wait) | the same; so hand the [`fence`](Guard::fence) to what is written |
//! | work of unknown length | the same with [`auto_renew`](Acquire::auto_renew), and [`check`](Guard::check) before each step | the same |
//! | a lock that goes on when a server fails, or that no lagging replica can lose | [`Redlock`] over 3 to 15 servers | no fence, so nothing tells a stale holder |
//! | a *request* that has its effect once | [`idempotency`](../idempotency/index.html) keys | what they say |
//! | a counter, a limit, a queue | a single atomic command; no lock | – |
//! | certainty | a transaction or a unique index in the database that is written | – |
//!
//! A lock with a TTL is no "exactly once", whatever grants it. Sentinel and Cluster keep locks available,
//! but replicate without waiting: a replica that is promoted may lack a lock that is held. The fence rises
//! over that too; the lock alone does not.
//!
//! # In a handler
//!
//! With the feature `axum`, [`Error`] is a response: 409 Conflict with `Retry-After` while another holds
//! the lock, 503 when it was lost or the store failed. It names neither the lock nor the server.
//!
//! ```
//! # #[cfg(feature = "axum")] mod example {
//! use axum::{Extension, extract::Path};
//! use std::time::Duration;
//! use towerkeep::lock::{Error, Locks};
//!
//! async fn close(Extension(locks): Extension<Locks>, Path(account): Path<u64>) -> Result<String, Error> {
//!     let guard = locks
//!         .lock(format!("account:{account}"))
//!         .wait(Duration::from_secs(2))
//!         .acquire()
//!         .await?;
//!     // UPDATE accounts SET closed = true, fence = $1 WHERE id = $2 AND fence <= $1
//!     let written_with = guard.fence();
//!     guard.check()?;
//!     guard.release().await?;
//!     Ok(format!("closed under {written_with}"))
//! }
//! # }
//! ```
//!
//! # Operating it
//!
//! [`Locks::holder`] tells who holds a lock, if it was told [its name](Locks::owner);
//! [`Locks::force_release`] takes a lock from a holder that is known to be dead, and is dangerous with any
//! other. A [`Redlock`] has no `holder`: what each of its nodes says is asked of it by a [`Locks`] of its
//! own. [`telemetry`](crate::telemetry) counts what becomes of locks.
//!
//! # Redis
//!
//! `<prefix>:lock:{<name>}` is a hash: the token `t`, the fence `f`, and the deadline `d` in
//! microseconds of the server's clock, which decides; its TTL is a second longer. A name that is long
//! or has other characters than `A-Z a-z 0-9 - _ . : / @ = + ,` is replaced by `#` and its hash.
//!
//! `<prefix>:lock:{<name>}:f` is the fence given out last. It is kept for a day after the lock's TTL,
//! so each name that is in use costs one small key. A fence is the higher of that number plus one and
//! the server's time in microseconds: it rises after the key has expired, was evicted, or was not yet
//! on the replica that was promoted, as long as the clocks of the two differ by less than the promotion
//! takes.
//!
//! A token is 22 random characters, and behind an `@` the [owner](Locks::owner) if there is one. A release
//! publishes an empty message to the channel `<prefix>:lock:{<name>}`. Every verb is one round trip; of a
//! [`Redlock`], one to each node, all at once.
//!
//! # Order
//!
//! This is not a layer: handlers and jobs hold a [`Locks`] and use it where they need it. To run the
//! handler of a *request* at most once, use idempotency keys instead.
//!
//! # Failure
//!
//! A lock fails closed. If the store fails or does not answer within its deadline (250 ms by default),
//! an acquisition ends with [`Error::is_store`] at once, wait or not, and what it may have acquired is
//! released. A renewal that fails is tried again until the lock is lost by its TTL. A release that
//! fails is tried again in the background for up to 5 s; after that, the TTL frees the lock. A full
//! memory store refuses new locks and keeps those it has.
//!
//! # Defaults
//!
//! | setting | default | why |
//! | --- | --- | --- |
//! | [`ttl`](Acquire::ttl) | 30 s | survives a pause of the process or a failover of the store; what a crash costs is bearable |
//! | [`wait`](Acquire::wait) | none | a request that queues without a bound is an outage; say how long |
//! | [`auto_renew`](Acquire::auto_renew) | off | a holder that hangs loses its lock; turn it on for work of unknown length |
//! | [`poll`](Locks::poll) | 1 s | only for a hint that was lost; a release wakes at once |
//! | [`max_waiters`](Locks::max_waiters) | 1,024 per lock and process | nothing is unbounded |
//! | [`min_validity`](Acquire::min_validity) | half of the TTL; [`Redlock`] only | what was granted late leaves too little time for the work |
//! | [`node_timeout`](Redlock::node_timeout) | a tenth of the TTL, 5 to 250 ms | a node that hangs must not use the TTL up |
//! | memory | 100,000 locks | [`max_locks`](crate::backend::Builder::max_locks) |
//!
//! The holder trusts the lock for 1% and 2 ms less than the TTL, counted from before the request was
//! sent: that covers rounding and clocks that do not run equally fast.
//!
//! # Security
//!
//! A lock keeps well-meaning processes apart; anyone who can write to the store can break it. And **a
//! lock alone does not make it certain that two never work at once**: a holder may be paused, by the
//! scheduler or its host, between its last [`check`](Guard::check) and its write, for longer than the
//! TTL; on a machine that was suspended, the clock by which [`check`](Guard::check) judges stood still
//! meanwhile; and a Redis replica that is promoted may lack the lock. Where that matters, the written
//! resource must refuse a lower [`fence`](Guard::fence) than it has seen.

mod acquire;
mod claim;
mod error;
mod guard;
mod kind;
mod limits;
mod locks;
mod memory;
mod pause;
mod policy;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod redlock;
#[cfg(feature = "axum")]
mod response;
mod store;
mod watch;

pub(crate) use self::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
#[cfg(feature = "redis")]
pub(crate) use self::redis::SCRIPTS;
pub use self::{
    acquire::Acquire,
    error::Error,
    guard::Guard,
    kind::{Fenced, Kind, Unfenced},
    locks::Locks,
    memory::MemoryStore,
    policy::{Attempt, Holder},
    redlock::Redlock,
    store::LockStore,
};

//! What the cache asks of a store.

use crate::{
    cache::stored::StoredResponse, pubsub::Subscription, store::StoreFuture, tasks::Tasks,
};
use std::{sync::Arc, time::Duration};

/// Where responses are kept, and who may make a missing one.
///
/// Every verb is one atomic step, and one round trip for a store behind a network. The rules are
/// those of the functions in `record.rs`, in Rust and in Lua alike.
///
/// What holds for every store:
///
/// - A [`fill`](CacheStore::fill) is stored only while its token holds the lease. A purge takes
///   entry and leases away at once, so what was read before a purge is never stored after it.
/// - A lease that is not renewed ends by itself, so a crash costs its length at most.
/// - A call ends within a deadline of the store's own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot store cached responses",
    label = "not a `CacheStore`",
    note = "use a `Backend`, a `towerkeep::cache::MemoryStore`, or implement `CacheStore`"
)]
pub trait CacheStore: Send + Sync + 'static {
    /// What is stored at `address`, fresh or stale.
    fn lookup(&self, address: &Address) -> StoreFuture<Lookup>;

    /// Asks for the right to fill `address` for `length`, in the name of `token`.
    ///
    /// `seen` is the [stamp](Lookup) of what the caller found there and cannot use. If by now
    /// something else is there, and fresh, the answer is [`Filled`](LeaseReply::Filled).
    fn lease(
        &self,
        address: &Address,
        token: &str,
        length: Duration,
        seen: Option<&str>,
    ) -> StoreFuture<LeaseReply>;

    /// Stretches a lease to `length` from now. `false` if `token` does not hold it any more.
    fn renew(&self, address: &Address, token: &str, length: Duration) -> StoreFuture<bool>;

    /// Stores a response and ends the lease, if `token` still holds it.
    fn fill(&self, address: &Address, token: &str, fill: Fill) -> StoreFuture<FillReply>;

    /// Ends a lease without a response. `false` if `token` does not hold it any more.
    fn release(&self, address: &Address, token: &str, verdict: Verdict) -> StoreFuture<bool>;

    /// Forgets these entries, all their variants and leases. Returns how many there were.
    fn purge(&self, entries: &[String]) -> StoreFuture<u64>;

    /// Hints that a lease of this entry has ended, for those that wait for it. Default: none, so
    /// they only look from time to time.
    fn watch(&self, entry: &str) -> Option<Subscription> {
        let _ = entry;
        None
    }

    /// The tasks to run fills in. Default: tasks that nobody waits for at a shutdown.
    fn tasks(&self) -> Tasks {
        Tasks::default()
    }
}

impl<T: CacheStore + ?Sized> CacheStore for Arc<T> {
    fn lookup(&self, address: &Address) -> StoreFuture<Lookup> {
        (**self).lookup(address)
    }

    fn lease(
        &self,
        address: &Address,
        token: &str,
        length: Duration,
        seen: Option<&str>,
    ) -> StoreFuture<LeaseReply> {
        (**self).lease(address, token, length, seen)
    }

    fn renew(&self, address: &Address, token: &str, length: Duration) -> StoreFuture<bool> {
        (**self).renew(address, token, length)
    }

    fn fill(&self, address: &Address, token: &str, fill: Fill) -> StoreFuture<FillReply> {
        (**self).fill(address, token, fill)
    }

    fn release(&self, address: &Address, token: &str, verdict: Verdict) -> StoreFuture<bool> {
        (**self).release(address, token, verdict)
    }

    fn purge(&self, entries: &[String]) -> StoreFuture<u64> {
        (**self).purge(entries)
    }

    fn watch(&self, entry: &str) -> Option<Subscription> {
        (**self).watch(entry)
    }

    fn tasks(&self) -> Tasks {
        (**self).tasks()
    }
}

/// Where a response lies: the entry of its key, the variant of that entry, and the lane in which its
/// makers compete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    entry: String,
    variant: String,
    lane: Lane,
}

impl Address {
    /// The address of the only variant of an entry, by the hash of its key.
    pub fn new(entry: impl Into<String>, lane: Lane) -> Self {
        Self { entry: entry.into(), variant: String::new(), lane }
    }

    /// The same, for one of several variants.
    #[must_use]
    pub fn variant_of(entry: impl Into<String>, variant: impl Into<String>, lane: Lane) -> Self {
        Self { entry: entry.into(), variant: variant.into(), lane }
    }

    /// The hash of the key: letters, digits, `-` and `_`.
    #[must_use]
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The variant; empty if the response does not vary.
    #[must_use]
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// The name of the lease, among those of the same entry.
    #[must_use]
    pub fn lease(&self) -> String {
        let lane = match self.lane {
            Lane::Open => 'o',
            Lane::Authorized => 'a',
        };
        format!("{lane}:{}", self.variant)
    }
}

/// Which requests wait for one another.
///
/// A response to a request with `Authorization` may turn out to be for that client alone. If others
/// waited for it, one client could hold everyone up, or mark an entry as not cacheable. So the two
/// kinds never wait for each other; what either stores serves both, as far as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// Requests without `Authorization`.
    Open,
    /// Requests with it.
    Authorized,
}

/// What a [`lookup`](CacheStore::lookup) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lookup {
    /// A response.
    Found(Found),
    /// Nothing that this version can read.
    Absent {
        /// The stamp of what is there nevertheless.
        stamp: Option<Arc<str>>,
    },
}

/// A stored response, as old as it is by the store's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The response and its key.
    pub response: Arc<StoredResponse>,
    /// The token of the fill that stored it.
    pub stamp: Arc<str>,
    /// How long ago it was made, at its origin (RFC 9111, section 4.2.3).
    pub age: Duration,
    /// How long it is fresh yet; zero once it is stale.
    pub fresh_for: Duration,
}

impl Found {
    /// What a store found.
    #[must_use]
    pub fn new(
        response: Arc<StoredResponse>,
        stamp: Arc<str>,
        age: Duration,
        fresh_for: Duration,
    ) -> Self {
        Self { response, stamp, age, fresh_for }
    }
}

/// The answer to [`lease`](CacheStore::lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseReply {
    /// Make the response. So is a token told that holds the lease already: a call that is sent again
    /// does no harm.
    Granted,
    /// Somebody else makes it.
    Held {
        /// The time until their lease ends, unless they renew it.
        left: Duration,
    },
    /// Somebody else has made it: look it up.
    Filled,
    /// Somebody made it a short while ago, and it could not be stored: nobody needs to wait.
    Uncacheable {
        /// The time until it is tried again.
        left: Duration,
    },
}

/// A response to store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fill {
    /// The response and its key.
    pub response: Arc<StoredResponse>,
    /// Its age already, by the origin's account and the time that its body took.
    pub age: Duration,
    /// How long it is fresh, counted from age zero.
    pub lifetime: Duration,
    /// How long it is kept once it is stale.
    pub stale: Duration,
    /// How long it took to make.
    pub cost: Duration,
}

impl Fill {
    /// A response that was made just now, in no time, is fresh for `lifetime`, and then forgotten.
    #[must_use]
    pub fn new(response: Arc<StoredResponse>, lifetime: Duration) -> Self {
        let (age, stale, cost) = <_>::default();
        Self { response, age, lifetime, stale, cost }
    }
}

/// The answer to [`fill`](CacheStore::fill).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FillReply {
    /// It is stored, and the lease has ended.
    Stored,
    /// Nothing was changed: the token does not hold the lease any more, or the response is stale.
    Refused,
}

/// How a lease ends without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The response was not made. Somebody else may try.
    Failed,
    /// It was made, and may not be stored. For the time given, leases are answered with
    /// [`LeaseReply::Uncacheable`].
    Uncacheable(Duration),
}

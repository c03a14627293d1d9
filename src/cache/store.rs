//! What the cache asks of a store.

use crate::{
    cache::{
        http::serve::Times,
        stored::StoredResponse,
        tag::{Purge, Tag, Tags},
    },
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
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
/// - Purges of tags are numbered. Once one is answered, no [lookup](CacheStore::lookup) that begins
///   finds a response with one of its tags that was begun before it.
/// - A lease that is not renewed ends by itself, so a crash costs its length at most.
/// - A call ends within a deadline of the store's own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot store cached responses",
    label = "not a `CacheStore`",
    note = "use a `Backend`, a `towerkeep::cache::MemoryStore`, or implement `CacheStore`"
)]
pub trait CacheStore: Send + Sync + 'static {
    /// What is stored at `address`, fresh or stale, and not purged.
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
    ///
    /// What the responses of an entry vary by only grows. If the address varies by more than they did
    /// so far, the variants that were there are forgotten: nobody would find them any more.
    fn fill(&self, address: &Address, token: &str, fill: Fill) -> StoreFuture<FillReply>;

    /// Ends a lease without a response. `false` if `token` does not hold it any more.
    fn release(&self, address: &Address, token: &str, verdict: Verdict) -> StoreFuture<bool>;

    /// Forgets these entries, all their variants and leases. Returns how many there were.
    fn purge(&self, entries: &[String]) -> StoreFuture<u64>;

    /// Purges all responses that carry one of these tags, and those whose making has begun.
    /// Default: an error, since this store does not know tags.
    fn purge_tags(&self, tags: &[Tag], purge: Purge) -> StoreFuture<()> {
        let _ = (tags, purge);
        StoreFuture::ready(Err(StoreError::refused("this cache store does not know tags")))
    }

    /// The number of the last purge of tags that this store knows of, without asking anybody. A
    /// response that is begun after this was asked [carries](Fill::seen) it. Default: 0.
    fn last_purge(&self) -> u64 {
        0
    }

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

    fn purge_tags(&self, tags: &[Tag], purge: Purge) -> StoreFuture<()> {
        (**self).purge_tags(tags, purge)
    }

    fn last_purge(&self) -> u64 {
        (**self).last_purge()
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
    vary: String,
    lease: Option<String>,
    lane: Lane,
}

impl Address {
    /// The address of the only variant of an entry, by the hash of its key.
    pub fn new(entry: impl Into<String>, lane: Lane) -> Self {
        Self::variant_of(entry, "", lane)
    }

    /// The same, for one of several variants.
    #[must_use]
    pub fn variant_of(entry: impl Into<String>, variant: impl Into<String>, lane: Lane) -> Self {
        let (entry, variant) = (entry.into(), variant.into());
        Self { entry, variant, vary: String::new(), lease: None, lane }
    }

    /// The same, where the variant was found by the values of these request fields: their names,
    /// sorted, in lower case, separated by commas.
    #[must_use]
    pub fn varying_by(mut self, names: impl Into<String>) -> Self {
        self.vary = names.into();
        self
    }

    /// Another variant of the same entry, whose maker holds the lease of this one.
    pub(crate) fn moved(&self, vary: String, variant: String) -> Self {
        Self { vary, variant, lease: Some(self.lease()), ..self.clone() }
    }

    /// The same, under a lease that nobody else asks for.
    pub(crate) fn alone(&self, token: &str) -> Self {
        Self { lease: Some(format!("s:{token}")), ..self.clone() }
    }

    /// The hash of the key: letters, digits, `-` and `_`.
    #[must_use]
    pub fn entry(&self) -> &str {
        &self.entry
    }

    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    /// The variant; empty if the response does not vary.
    #[must_use]
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// The names of the request fields by whose values the variant was found; empty if it does not
    /// vary.
    #[must_use]
    pub fn vary(&self) -> &str {
        &self.vary
    }

    /// The name of the lease, among those of the same entry.
    #[must_use]
    pub fn lease(&self) -> String {
        if let Some(lease) = &self.lease {
            return lease.clone();
        }
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
    /// The responses of this entry vary by these fields, and not by those of the
    /// [address](Address::vary): look up the variant by them.
    Varies {
        /// Their names, as [`Address::varying_by`] has them.
        names: Arc<str>,
    },
    /// The responses of this entry vary by the fields of the address, and none is for these values.
    NoVariant,
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
    /// What it is purged by.
    pub tags: Tags,
    /// How long ago it was made, at its origin (RFC 9111, section 4.2.3).
    pub age: Duration,
    /// How long it is fresh yet; zero once it is stale.
    pub fresh_for: Duration,
    /// How long it has been stale; zero while it is fresh.
    pub stale_for: Duration,
}

impl Found {
    /// What a store found, which is not stale.
    #[must_use]
    pub fn new(
        response: Arc<StoredResponse>,
        stamp: Arc<str>,
        age: Duration,
        fresh_for: Duration,
    ) -> Self {
        let (tags, stale_for) = <_>::default();
        Self { response, stamp, tags, age, fresh_for, stale_for }
    }

    /// The seconds until it is stale, negative once it is.
    pub(crate) fn ttl(&self) -> i64 {
        match self.fresh_for.is_zero() {
            true => -i64::try_from(self.stale_for.as_secs()).unwrap_or(i64::MAX),
            false => i64::try_from(self.fresh_for.as_secs()).unwrap_or(i64::MAX),
        }
    }

    pub(crate) fn times(&self) -> Times {
        Times { age: self.age, fresh_for: self.fresh_for, stale_for: self.stale_for }
    }

    /// The same, with these tags.
    #[must_use]
    pub fn tags(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// The same, stale for so long.
    #[must_use]
    pub fn stale_for(self, stale_for: Duration) -> Self {
        Self { stale_for, ..self }
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
    /// The [last purge](CacheStore::last_purge) that was known before it was begun.
    pub seen: u64,
    /// What it is purged by, besides [`Tag::ALL`].
    pub tags: Tags,
    /// From which length on a store that keeps bytes
    /// [compresses](StoredResponse::encode_compressed) the body.
    pub compress_above: Option<usize>,
}

impl Fill {
    /// A response that was made just now, in no time, is fresh for `lifetime`, and then forgotten.
    #[must_use]
    pub fn new(response: Arc<StoredResponse>, lifetime: Duration) -> Self {
        let (age, stale, cost, seen, tags, compress_above) = <_>::default();
        Self { response, age, lifetime, stale, cost, seen, tags, compress_above }
    }
}

/// The answer to [`fill`](CacheStore::fill).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FillReply {
    /// It is stored, and the lease has ended.
    Stored,
    /// Nothing was changed: the token does not hold the lease any more, or the response is stale.
    Refused,
    /// Nothing was changed: the responses of this entry vary by more than the
    /// [address](Address::vary) was found by. Fill the variant by all of them, under the same lease.
    Varies {
        /// The names of the fields by which they vary.
        names: Arc<str>,
    },
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

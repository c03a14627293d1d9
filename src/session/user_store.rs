//! What a store keeps of a user: which sessions are theirs, and what they did lately.

use crate::{marks::UserId, session::token::Selector, store::StoreFuture};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// Keeps, for each user, a list of sessions and a trail of what they did.
///
/// A list says where to look, not what is there: each of its sessions is asked whose it is before
/// anything is done with it. So it may name too many, and a session that has ended stays in it for a
/// while; a session that is bound and not in it is one that nobody could revoke.
#[diagnostic::on_unimplemented(
    message = "`{Self}` keeps no lists of users' sessions",
    note = "use a `Backend`, a `session::MemoryStore`, or an `Arc` of one of them"
)]
pub trait UserStore: Send + Sync + 'static {
    /// Notes that a session of the user's was seen just now, and that it lives `idle` without a
    /// request. Returns how many are listed.
    fn enlist(&self, user: &UserId, selector: &Selector, idle: Duration) -> StoreFuture<usize>;

    /// Strikes these off the list, except those that were noted less than `spared` ago.
    fn unlist(&self, user: &UserId, selectors: &[Selector], spared: Duration) -> StoreFuture<()>;

    /// The 1,000 that were seen last, with the time of that since the Unix epoch; the latest first.
    fn listed(&self, user: &UserId) -> StoreFuture<Vec<(Selector, Duration)>>;

    /// Appends to what the user did, of which as much is kept as `trail` says.
    fn append(&self, user: &UserId, events: Vec<Bytes>, trail: Trail) -> StoreFuture<()>;

    /// The latest `count` of what the user did; the latest first.
    fn recent(&self, user: &UserId, count: usize) -> StoreFuture<Vec<Bytes>>;
}

/// How many sessions of a user are listed at a time.
pub(crate) const MOST_LISTED: usize = 1_000;

impl<T: UserStore + ?Sized> UserStore for Arc<T> {
    fn enlist(&self, user: &UserId, selector: &Selector, idle: Duration) -> StoreFuture<usize> {
        (**self).enlist(user, selector, idle)
    }

    fn unlist(&self, user: &UserId, selectors: &[Selector], spared: Duration) -> StoreFuture<()> {
        (**self).unlist(user, selectors, spared)
    }

    fn listed(&self, user: &UserId) -> StoreFuture<Vec<(Selector, Duration)>> {
        (**self).listed(user)
    }

    fn append(&self, user: &UserId, events: Vec<Bytes>, trail: Trail) -> StoreFuture<()> {
        (**self).append(user, events, trail)
    }

    fn recent(&self, user: &UserId, count: usize) -> StoreFuture<Vec<Bytes>> {
        (**self).recent(user, count)
    }
}

/// How much is kept of what a user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trail {
    /// Events, at most; the oldest go.
    pub events: usize,
    /// How long all of them are kept after the latest.
    pub ttl: Duration,
}

impl Trail {
    /// So many, so long.
    #[must_use]
    pub const fn new(events: usize, ttl: Duration) -> Self {
        Self { events, ttl }
    }
}

impl Default for Trail {
    /// 100 events, 30 days.
    fn default() -> Self {
        Self::new(100, Duration::from_secs(30 * 24 * 60 * 60))
    }
}

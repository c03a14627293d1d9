//! What a lock asks of its store.

use crate::{
    clock::Clock,
    lock::policy::{Attempt, Holder},
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use std::{sync::Arc, time::Duration};

/// Where locks are held.
///
/// Each verb is one atomic step. Stores differ in where the state lives, not in what they answer:
///
/// - A lock is held by a token until its TTL has passed, by the store's own clock; then by nobody.
/// - [`acquire`](LockStore::acquire) asked again with the holder's token says the same again, with
///   the same fence, and counts the TTL anew: the first reply may have been lost.
/// - The fences of one name rise strictly, over releases and expiries too.
/// - Locks are never evicted. A store without room refuses ([`StoreError::is_full`]).
/// - Every call ends within a deadline of the store's own.
///
/// A `name` is 1 to 128 bytes, none of them a brace or a space.
///
/// [`StoreError::is_full`]: crate::StoreError::is_full
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not hold locks",
    note = "pass a `towerkeep::Backend`, a `lock::MemoryStore`, or an `Arc` of a type that \
            implements `lock::LockStore`"
)]
pub trait LockStore: Send + Sync + 'static {
    /// Takes the lock for `token`, for `ttl`, which is a whole number of milliseconds, at most 24 h; a
    /// longer one is one of 24 h.
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt>;

    /// Counts the TTL anew; `false` if `token` does not hold the lock any more.
    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool>;

    /// Gives the lock up and sends a hint to those who [watch](LockStore::watch); `false` if `token`
    /// does not hold it any more.
    fn release(&self, name: &str, token: &str) -> StoreFuture<bool>;

    /// Hints that the lock was released, for those who wait for it. Default: none, so they only look
    /// from time to time.
    fn watch(&self, name: &str) -> Option<Subscription> {
        let _ = name;
        None
    }

    /// Who holds the lock. Default: a refusal.
    fn holder(&self, name: &str) -> StoreFuture<Option<Holder>> {
        let _ = name;
        StoreFuture::ready(Err(StoreError::refused("this store does not tell who holds a lock")))
    }

    /// Takes the lock from whoever holds it and sends a hint; `false` if nobody does. Default: a
    /// refusal.
    fn force_release(&self, name: &str) -> StoreFuture<bool> {
        let _ = name;
        StoreFuture::ready(Err(StoreError::refused("this store takes no lock from its holder")))
    }

    /// The clock that holders measure their TTL by. Default: the system's.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// The tasks to run renewals and the releases by `Drop` in. Default: tasks that nobody waits for
    /// at a shutdown.
    fn tasks(&self) -> Tasks {
        Tasks::default()
    }
}

impl<T: LockStore + ?Sized> LockStore for Arc<T> {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        (**self).acquire(name, token, ttl)
    }

    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        (**self).renew(name, token, ttl)
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        (**self).release(name, token)
    }

    fn watch(&self, name: &str) -> Option<Subscription> {
        (**self).watch(name)
    }

    fn holder(&self, name: &str) -> StoreFuture<Option<Holder>> {
        (**self).holder(name)
    }

    fn force_release(&self, name: &str) -> StoreFuture<bool> {
        (**self).force_release(name)
    }

    fn clock(&self) -> Clock {
        (**self).clock()
    }

    fn tasks(&self) -> Tasks {
        (**self).tasks()
    }
}

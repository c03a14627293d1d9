//! Locks in this process.

use crate::{
    clock::Clock,
    context::Context,
    expiring::{Entry, Expiring, WhenFull},
    lock::{
        limits::at_most,
        policy::{Attempt, Holder, Record},
        store::LockStore,
    },
    pubsub::Subscription,
    store::StoreFuture,
    tasks::Tasks,
};
use bytes::Bytes;
use std::time::Duration;

/// How many locks are held at a time, at most, by default: about 30 MB.
pub(crate) const DEFAULT_CAPACITY: usize = 100_000;

/// Locks that the tasks of one process share.
///
/// The default holds at most 100,000 locks at a time. It never evicts one: when it is full, a new
/// lock is refused ([`StoreError::is_full`](crate::StoreError::is_full)).
#[derive(Debug)]
pub struct MemoryStore {
    locks: Expiring<Record>,
    context: Context,
}

impl MemoryStore {
    pub(crate) fn new(context: &Context, capacity: usize) -> Self {
        let when_full = WhenFull::Refuse { what: "lock" };
        Self {
            locks: Expiring::new(context.clock.clone(), capacity, when_full),
            context: context.clone(),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(&Context::default(), DEFAULT_CAPACITY)
    }
}

impl LockStore for MemoryStore {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        StoreFuture::ready(self.locks.with(name, |entry| {
            let (now_us, ttl_us) = (entry.now_us(), at_most(ttl).as_micros() as u64);
            if let Some(record) = entry.get() {
                let attempt = record.acquire(token, ttl_us, now_us);
                let until_us = record.forgettable_us();
                entry.expire_at(until_us);
                return Ok(attempt);
            }
            let mut record = Record::default();
            let attempt = record.acquire(token, ttl_us, now_us);
            let until_us = record.forgettable_us();
            entry.insert(record, until_us, 1)?;
            Ok(attempt)
        }))
    }

    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        let ttl_us = at_most(ttl).as_micros() as u64;
        StoreFuture::ready(Ok(
            self.change(name, |record, now_us| record.renew(token, ttl_us, now_us))
        ))
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        let released = self.change(name, |record, now_us| record.release(token, now_us));
        self.tell(name, released)
    }

    fn watch(&self, name: &str) -> Option<Subscription> {
        Some(self.context.hints.subscribe(&channel(name)))
    }

    fn holder(&self, name: &str) -> StoreFuture<Option<Holder>> {
        StoreFuture::ready(Ok(self.locks.with(name, |entry| {
            let now_us = entry.now_us();
            entry.get().and_then(|record| record.held_by(now_us))
        })))
    }

    fn force_release(&self, name: &str) -> StoreFuture<bool> {
        let released = self.change(name, Record::force_release);
        self.tell(name, released)
    }

    fn clock(&self) -> Clock {
        self.context.clock.clone()
    }

    fn tasks(&self) -> Tasks {
        self.context.tasks.clone()
    }
}

impl MemoryStore {
    /// Tells those who wait that the lock was released.
    fn tell(&self, name: &str, released: bool) -> StoreFuture<bool> {
        if released {
            // In memory a hint is delivered when this returns; there is nothing to wait for.
            drop(self.context.hints.publish(&channel(name), Bytes::new()));
        }
        StoreFuture::ready(Ok(released))
    }

    /// One step over the record of a lock, if there is one.
    fn change(&self, name: &str, step: impl FnOnce(&mut Record, u64) -> bool) -> bool {
        self.locks.with(name, |entry: &mut Entry<'_, Record>| {
            let now_us = entry.now_us();
            let Some(record) = entry.get() else { return false };
            let done = step(record, now_us);
            let until_us = record.forgettable_us();
            entry.expire_at(until_us);
            done
        })
    }
}

/// Other stores of the backend publish through the same hints.
fn channel(name: &str) -> String {
    format!("lock:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_full_store_refuses_a_new_lock_and_keeps_those_it_has() {
        let store = MemoryStore::new(&Context::default(), 2);
        store.acquire("a", "1", TTL).await.unwrap();
        store.acquire("b", "1", TTL).await.unwrap();
        assert!(store.acquire("c", "1", TTL).await.unwrap_err().is_full());
        assert!(matches!(store.acquire("a", "2", TTL).await.unwrap(), Attempt::Held { .. }));
        assert!(store.release("b", "1").await.unwrap());
    }

    #[tokio::test]
    async fn a_released_lock_gives_its_memory_back() {
        let context = Context { clock: crate::Clock::manual(), ..Context::default() };
        let store = MemoryStore::new(&context, 1);
        for name in ["a", "b", "c"] {
            store.acquire(name, "1", TTL).await.unwrap();
            store.release(name, "1").await.unwrap();
            context.clock.advance(Duration::from_secs(1));
        }
    }
}

//! Locks, held by the backend's store.

use super::Backend;
use crate::{
    clock::Clock,
    lock::{Attempt, Holder, LockStore},
    pubsub::Subscription,
    store::StoreFuture,
    tasks::Tasks,
};
use std::time::Duration;

impl LockStore for Backend {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        self.inner.stores.lock.acquire(name, token, ttl)
    }

    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        self.inner.stores.lock.renew(name, token, ttl)
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        self.inner.stores.lock.release(name, token)
    }

    fn watch(&self, name: &str) -> Option<Subscription> {
        self.inner.stores.lock.watch(name)
    }

    fn holder(&self, name: &str) -> StoreFuture<Option<Holder>> {
        self.inner.stores.lock.holder(name)
    }

    fn force_release(&self, name: &str) -> StoreFuture<bool> {
        self.inner.stores.lock.force_release(name)
    }

    fn clock(&self) -> Clock {
        self.inner.stores.lock.clock()
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.lock.tasks()
    }
}

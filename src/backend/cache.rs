//! Cached responses, kept by the backend's store.

use super::Backend;
use crate::{
    cache::{Address, CacheStore, Fill, FillReply, LeaseReply, Lookup, Purge, Tag, Verdict},
    pubsub::Subscription,
    store::StoreFuture,
    tasks::Tasks,
};
use std::time::Duration;

impl CacheStore for Backend {
    fn lookup(&self, address: &Address) -> StoreFuture<Lookup> {
        self.inner.stores.cache.lookup(address)
    }

    fn lease(
        &self,
        address: &Address,
        token: &str,
        length: Duration,
        seen: Option<&str>,
    ) -> StoreFuture<LeaseReply> {
        self.inner.stores.cache.lease(address, token, length, seen)
    }

    fn renew(&self, address: &Address, token: &str, length: Duration) -> StoreFuture<bool> {
        self.inner.stores.cache.renew(address, token, length)
    }

    fn fill(&self, address: &Address, token: &str, fill: Fill) -> StoreFuture<FillReply> {
        self.inner.stores.cache.fill(address, token, fill)
    }

    fn release(&self, address: &Address, token: &str, verdict: Verdict) -> StoreFuture<bool> {
        self.inner.stores.cache.release(address, token, verdict)
    }

    fn purge(&self, entries: &[String]) -> StoreFuture<u64> {
        self.inner.stores.cache.purge(entries)
    }

    fn purge_tags(&self, tags: &[Tag], purge: Purge) -> StoreFuture<()> {
        self.inner.stores.cache.purge_tags(tags, purge)
    }

    fn last_purge(&self) -> u64 {
        self.inner.stores.cache.last_purge()
    }

    fn watch(&self, entry: &str) -> Option<Subscription> {
        self.inner.stores.cache.watch(entry)
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.cache.tasks()
    }
}

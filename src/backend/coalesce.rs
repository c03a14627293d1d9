//! Coalesced requests, through the backend's store.

use super::Backend;
use crate::{
    coalesce::{CoalesceStore, Flight, Joined},
    pubsub::Subscription,
    store::StoreFuture,
    tasks::Tasks,
};
use bytes::Bytes;
use std::time::Duration;

impl CoalesceStore for Backend {
    fn join(
        &self,
        flight: &Flight,
        following: Option<&str>,
        lease: Duration,
    ) -> StoreFuture<Joined> {
        self.inner.stores.coalesce.join(flight, following, lease)
    }

    fn renew(&self, flight: &Flight, lease: Duration) -> StoreFuture<bool> {
        self.inner.stores.coalesce.renew(flight, lease)
    }

    fn land(&self, flight: &Flight, outcome: Bytes, linger: Duration) -> StoreFuture<bool> {
        self.inner.stores.coalesce.land(flight, outcome, linger)
    }

    fn leave(&self, flight: &Flight) -> StoreFuture<bool> {
        self.inner.stores.coalesce.leave(flight)
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        self.inner.stores.coalesce.watch(id)
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.coalesce.tasks()
    }
}

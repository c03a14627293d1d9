//! Idempotency records, kept by the backend's store.

use super::Backend;
use crate::{
    idempotency::{Begun, Claim, Completed, Fingerprint, IdempotencyStore, Look, Settled, Terms},
    pubsub::Subscription,
    store::StoreFuture,
    tasks::Tasks,
};
use bytes::Bytes;

impl IdempotencyStore for Backend {
    fn begin(&self, claim: &Claim, fingerprint: &Fingerprint, terms: Terms) -> StoreFuture<Begun> {
        self.inner.stores.idempotency.begin(claim, fingerprint, terms)
    }

    fn renew(&self, claim: &Claim, terms: Terms) -> StoreFuture<bool> {
        self.inner.stores.idempotency.renew(claim, terms)
    }

    fn complete(&self, claim: &Claim, outcome: Bytes, terms: Terms) -> StoreFuture<Completed> {
        self.inner.stores.idempotency.complete(claim, outcome, terms)
    }

    fn abandon(&self, claim: &Claim) -> StoreFuture<bool> {
        self.inner.stores.idempotency.abandon(claim)
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        self.inner.stores.idempotency.watch(id)
    }

    fn look(&self, id: &str, with_outcome: bool) -> StoreFuture<Option<Look>> {
        self.inner.stores.idempotency.look(id, with_outcome)
    }

    fn forget(&self, id: &str) -> StoreFuture<bool> {
        self.inner.stores.idempotency.forget(id)
    }

    fn settle(&self, id: &str, outcome: Bytes, terms: Terms) -> StoreFuture<Settled> {
        self.inner.stores.idempotency.settle(id, outcome, terms)
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.idempotency.tasks()
    }
}

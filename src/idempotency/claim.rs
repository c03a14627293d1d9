//! A record that is held: its lease, as the ground floor's renewal sees it.

use crate::{
    idempotency::{
        layer::Config,
        store::{Claim, IdempotencyStore, Terms},
    },
    lease::{Lease, LeaseOps},
    store::StoreFuture,
};
use std::{sync::Arc, time::Instant};

/// The lease on the record of a claim that is about to begin. Dropped, it abandons the record, so a
/// caller that vanishes while `begin` is on its way leaves nothing behind.
pub(crate) fn lease(config: &Config, claim: &Claim, terms: Terms) -> Lease {
    let Config { store, tasks, .. } = config;
    let held = Held { store: store.clone(), claim: claim.clone(), terms };
    Lease::new(Arc::new(held), "idempotency", Instant::now(), terms.lease, tasks.clone())
}

struct Held {
    store: Arc<dyn IdempotencyStore>,
    claim: Claim,
    terms: Terms,
}

impl LeaseOps for Held {
    fn renew(&self) -> StoreFuture<bool> {
        self.store.renew(&self.claim, self.terms)
    }

    fn release(&self) -> StoreFuture<bool> {
        self.store.abandon(&self.claim)
    }
}

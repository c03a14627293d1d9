//! Rate limits, kept by the backend's store.

use super::Backend;
use crate::{
    clock::Clock,
    rate_limit::{Charge, RateLimitStore, Verdict},
    store::StoreFuture,
    tasks::Tasks,
};
use std::time::Duration;

impl RateLimitStore for Backend {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.inner.stores.rate_limit.check(charges)
    }

    fn peek(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.inner.stores.rate_limit.peek(charges)
    }

    fn charge(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.inner.stores.rate_limit.charge(charges)
    }

    fn refund(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.inner.stores.rate_limit.refund(charges)
    }

    fn renew(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.inner.stores.rate_limit.renew(charges)
    }

    fn reset(&self, charges: &[Charge]) -> StoreFuture<()> {
        self.inner.stores.rate_limit.reset(charges)
    }

    fn ban(&self, charges: &[Charge], length: Duration) -> StoreFuture<()> {
        self.inner.stores.rate_limit.ban(charges, length)
    }

    fn unban(&self, charges: &[Charge]) -> StoreFuture<()> {
        self.inner.stores.rate_limit.unban(charges)
    }

    fn clock(&self) -> Clock {
        self.inner.stores.rate_limit.clock()
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.rate_limit.tasks()
    }
}

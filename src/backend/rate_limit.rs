//! Rate limits, kept by the backend's store.

use super::Backend;
use crate::{
    rate_limit::{Charge, RateLimitStore, Verdict},
    store::StoreFuture,
};

impl RateLimitStore for Backend {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.inner.stores.rate_limit.check(charges)
    }
}

//! The stores of a backend, and the traits of the layers by delegation to them.

use super::Backend;
use crate::context::Context;
#[cfg(feature = "redis")]
use crate::{connection::Connection, key::Keys};
#[cfg(feature = "rate-limit")]
use crate::{
    rate_limit::{self, Charge, RateLimitStore, Verdict},
    store::StoreFuture,
};
use std::sync::Arc;

/// One store for each middleware that is compiled in.
pub(super) struct Stores {
    #[cfg(feature = "rate-limit")]
    rate_limit: Arc<dyn RateLimitStore>,
}

/// How much each memory store holds.
#[derive(Clone, Debug)]
pub(super) struct Capacities {
    #[cfg(feature = "rate-limit")]
    pub(super) rate_limits: usize,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            #[cfg(feature = "rate-limit")]
            rate_limits: rate_limit::DEFAULT_CAPACITY,
        }
    }
}

impl Stores {
    pub(super) fn memory(context: &Context, capacities: &Capacities) -> Self {
        Self {
            #[cfg(feature = "rate-limit")]
            rate_limit: Arc::new(rate_limit::MemoryStore::new(context, capacities.rate_limits)),
        }
    }

    #[cfg(feature = "redis")]
    pub(super) fn redis(context: &Context, connection: &Connection, keys: &Keys) -> Self {
        let deadline = connection.deadline();
        let given = || (context.clone(), connection.clone(), keys.clone(), deadline);
        Self {
            #[cfg(feature = "rate-limit")]
            rate_limit: {
                let (context, connection, keys, deadline) = given();
                Arc::new(rate_limit::RedisStore::new(context, connection, keys, deadline))
            },
        }
    }
}

#[cfg(feature = "rate-limit")]
impl RateLimitStore for Backend {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.inner.stores.rate_limit.check(charges)
    }
}

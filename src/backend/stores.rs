//! The stores of a backend, and the traits of the layers by delegation to them.

use super::Backend;
use crate::context::Context;
#[cfg(feature = "rate-limit")]
use crate::rate_limit::{self, Charge, RateLimitStore, Verdict};
#[cfg(any(feature = "rate-limit", feature = "session"))]
use crate::store::StoreFuture;
#[cfg(feature = "redis")]
use crate::{connection::Connection, key::Keys};
#[cfg(feature = "session")]
use crate::{
    marks::UserId,
    session::{
        self, Committed, Created, Delta, Destroyed, Limits, New, Record, Selector, SessionStore,
        VerifierHash,
    },
    tasks::Tasks,
};
use std::sync::Arc;

/// One store for each middleware that is compiled in.
pub(super) struct Stores {
    #[cfg(feature = "rate-limit")]
    rate_limit: Arc<dyn RateLimitStore>,
    #[cfg(feature = "session")]
    session: Arc<dyn SessionStore>,
}

/// How much each memory store holds.
#[derive(Clone, Debug)]
pub(super) struct Capacities {
    #[cfg(feature = "rate-limit")]
    pub(super) rate_limits: usize,
    #[cfg(feature = "session")]
    pub(super) session_bytes: usize,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            #[cfg(feature = "rate-limit")]
            rate_limits: rate_limit::DEFAULT_CAPACITY,
            #[cfg(feature = "session")]
            session_bytes: session::DEFAULT_CAPACITY,
        }
    }
}

impl Stores {
    pub(super) fn memory(context: &Context, capacities: &Capacities) -> Self {
        Self {
            #[cfg(feature = "rate-limit")]
            rate_limit: Arc::new(rate_limit::MemoryStore::new(context, capacities.rate_limits)),
            #[cfg(feature = "session")]
            session: Arc::new(session::MemoryStore::new(context, capacities.session_bytes)),
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
            #[cfg(feature = "session")]
            session: {
                let (context, connection, keys, deadline) = given();
                Arc::new(session::RedisStore::new(context, connection, keys, deadline))
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

#[cfg(feature = "session")]
impl SessionStore for Backend {
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>> {
        self.inner.stores.session.load(selector)
    }

    fn create(&self, selector: &Selector, new: New, limits: Limits) -> StoreFuture<Created> {
        self.inner.stores.session.create(selector, new, limits)
    }

    fn commit(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        delta: Delta,
        limits: Limits,
    ) -> StoreFuture<Committed> {
        self.inner.stores.session.commit(selector, presented, delta, limits)
    }

    fn destroy(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        user: Option<&UserId>,
    ) -> StoreFuture<Destroyed> {
        self.inner.stores.session.destroy(selector, presented, user)
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.session.tasks()
    }
}

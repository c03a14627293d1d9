//! The stores of a backend, and the traits of the layers by delegation to them.

use super::Backend;
use crate::context::Context;
#[cfg(feature = "lock")]
use crate::lock::{self, Attempt, LockStore};
#[cfg(feature = "lock")]
use crate::pubsub::Subscription;
#[cfg(feature = "rate-limit")]
use crate::rate_limit::{self, Charge, RateLimitStore, Verdict};
#[allow(unused_imports, reason = "a build without any middleware has no store")]
use crate::store::StoreFuture;
#[cfg(any(feature = "lock", feature = "session"))]
use crate::tasks::Tasks;
#[cfg(feature = "redis")]
use crate::{connection::Connection, key::Keys};
#[cfg(feature = "session")]
use crate::{
    marks::UserId,
    session::{
        self, Committed, Created, Delta, Destroyed, Limits, New, Record, Selector, SessionStore,
        VerifierHash,
    },
};
use std::sync::Arc;
#[cfg(feature = "lock")]
use std::time::Duration;

/// One store for each middleware that is compiled in.
pub(super) struct Stores {
    #[cfg(feature = "rate-limit")]
    rate_limit: Arc<dyn RateLimitStore>,
    #[cfg(feature = "lock")]
    lock: Arc<dyn LockStore>,
    #[cfg(feature = "session")]
    session: Arc<dyn SessionStore>,
}

/// How much each memory store holds.
#[derive(Clone, Debug)]
pub(super) struct Capacities {
    #[cfg(feature = "rate-limit")]
    pub(super) rate_limits: usize,
    #[cfg(feature = "lock")]
    pub(super) locks: usize,
    #[cfg(feature = "session")]
    pub(super) session_bytes: usize,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            #[cfg(feature = "rate-limit")]
            rate_limits: rate_limit::DEFAULT_CAPACITY,
            #[cfg(feature = "lock")]
            locks: lock::DEFAULT_CAPACITY,
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
            #[cfg(feature = "lock")]
            lock: Arc::new(lock::MemoryStore::new(context.clone(), capacities.locks)),
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
            #[cfg(feature = "lock")]
            lock: {
                let (context, connection, keys, deadline) = given();
                Arc::new(lock::RedisStore::new(context, connection, keys, deadline))
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

#[cfg(feature = "lock")]
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

    fn subscribe(&self, name: &str) -> Option<Subscription> {
        self.inner.stores.lock.subscribe(name)
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.lock.tasks()
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

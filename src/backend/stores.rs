//! The stores of a backend: one for each middleware that is compiled in.

#[cfg(feature = "cache")]
use crate::cache::{self, CacheStore};
#[cfg(feature = "coalesce")]
use crate::coalesce::{self, CoalesceStore};
#[cfg(feature = "redis")]
use crate::connection::RedisContext;
use crate::context::Context;
#[cfg(feature = "idempotency")]
use crate::idempotency::{self, IdempotencyStore};
#[cfg(feature = "lock")]
use crate::lock::{self, LockStore};
#[cfg(feature = "rate-limit")]
use crate::rate_limit::{self, RateLimitStore};
#[cfg(feature = "session")]
use crate::session::{self, SessionStore};
#[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
use crate::tower_sessions::{self, RecordStore};
use std::sync::Arc;

/// The stores, all of one kind.
pub(super) struct Stores {
    #[cfg(feature = "session")]
    pub(super) session: Arc<dyn SessionStore>,
    #[cfg(feature = "rate-limit")]
    pub(super) rate_limit: Arc<dyn RateLimitStore>,
    #[cfg(feature = "idempotency")]
    pub(super) idempotency: Arc<dyn IdempotencyStore>,
    #[cfg(feature = "cache")]
    pub(super) cache: Arc<dyn CacheStore>,
    #[cfg(feature = "coalesce")]
    pub(super) coalesce: Arc<dyn CoalesceStore>,
    #[cfg(feature = "lock")]
    pub(super) lock: Arc<dyn LockStore>,
    #[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
    pub(super) tower_sessions: Arc<dyn RecordStore>,
}

/// How much each memory store holds, and what else a store is told.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    #[cfg(feature = "session")]
    pub(super) session_bytes: usize,
    #[cfg(feature = "rate-limit")]
    pub(super) rate_limits: usize,
    #[cfg(all(feature = "rate-limit", feature = "redis"))]
    pub(super) rate_limit_slots: rate_limit::Slots,
    #[cfg(all(feature = "rate-limit", feature = "redis"))]
    pub(super) rate_limit_deny_cache: std::time::Duration,
    #[cfg(feature = "idempotency")]
    pub(super) idempotency_bytes: usize,
    #[cfg(feature = "cache")]
    pub(super) cache_bytes: usize,
    #[cfg(feature = "lock")]
    pub(super) locks: usize,
    #[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
    pub(super) tower_session_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            #[cfg(feature = "session")]
            session_bytes: session::DEFAULT_CAPACITY,
            #[cfg(feature = "rate-limit")]
            rate_limits: rate_limit::DEFAULT_CAPACITY,
            #[cfg(all(feature = "rate-limit", feature = "redis"))]
            rate_limit_slots: rate_limit::Slots::default(),
            #[cfg(all(feature = "rate-limit", feature = "redis"))]
            rate_limit_deny_cache: rate_limit::BELIEVED_FOR,
            #[cfg(feature = "idempotency")]
            idempotency_bytes: idempotency::DEFAULT_CAPACITY,
            #[cfg(feature = "cache")]
            cache_bytes: cache::DEFAULT_CAPACITY,
            #[cfg(feature = "lock")]
            locks: lock::DEFAULT_CAPACITY,
            #[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
            tower_session_bytes: tower_sessions::DEFAULT_CAPACITY,
        }
    }
}

impl Stores {
    pub(super) fn memory(context: &Context, settings: &Settings) -> Self {
        Self {
            #[cfg(feature = "session")]
            session: Arc::new(session::MemoryStore::new(context, settings.session_bytes)),
            #[cfg(feature = "rate-limit")]
            rate_limit: Arc::new(rate_limit::MemoryStore::new(context, settings.rate_limits)),
            #[cfg(feature = "idempotency")]
            idempotency: Arc::new(idempotency::MemoryStore::new(
                context,
                settings.idempotency_bytes,
            )),
            #[cfg(feature = "cache")]
            cache: Arc::new(cache::MemoryStore::new(context, settings.cache_bytes)),
            #[cfg(feature = "coalesce")]
            coalesce: Arc::new(coalesce::MemoryStore::new(context)),
            #[cfg(feature = "lock")]
            lock: Arc::new(lock::MemoryStore::new(context, settings.locks)),
            #[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
            tower_sessions: Arc::new(tower_sessions::MemoryStore::new(
                context,
                settings.tower_session_bytes,
            )),
        }
    }

    #[cfg(feature = "redis")]
    pub(super) fn redis(redis: &RedisContext, settings: &Settings) -> Self {
        Self {
            #[cfg(feature = "session")]
            session: Arc::new(session::RedisStore::over(redis.clone())),
            #[cfg(feature = "rate-limit")]
            rate_limit: Arc::new(
                rate_limit::RedisStore::over(redis.clone())
                    .slots(settings.rate_limit_slots)
                    .deny_cache(settings.rate_limit_deny_cache),
            ),
            #[cfg(feature = "idempotency")]
            idempotency: Arc::new(idempotency::RedisStore::over(redis.clone())),
            #[cfg(feature = "cache")]
            cache: Arc::new(cache::RedisStore::over(redis.clone())),
            #[cfg(feature = "coalesce")]
            coalesce: Arc::new(coalesce::RedisStore::over(redis.clone())),
            #[cfg(feature = "lock")]
            lock: Arc::new(lock::RedisStore::over(redis.clone())),
            #[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
            tower_sessions: Arc::new(tower_sessions::RedisStore::over(redis.clone())),
        }
    }
}

//! Idempotency keys: a request that is sent again runs its handler once.

mod admit;
mod claim;
#[cfg(feature = "axum")]
mod extract;
mod fingerprint;
mod future;
mod handle;
mod header;
mod layer;
mod memory;
mod outcome;
mod policy;
#[cfg(feature = "redis")]
mod redis;
mod rejection;
mod run;
mod service;
mod sfv;
mod store;
mod stored;

pub(crate) use crate::idempotency::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use crate::idempotency::redis::RedisStore;
pub use crate::idempotency::{
    future::ResponseFuture,
    handle::{Idempotent, LeaseLost},
    header::KeyError,
    layer::{IdempotencyLayer, InFlight},
    memory::MemoryStore,
    outcome::Outcome,
    rejection::Rejection,
    service::Idempotency,
    store::{Begun, Claim, Completed, Fingerprint, IdempotencyStore, Orphan, SMALL_OUTCOME, Terms},
};

//! A shared response cache.

mod contend;
mod directives;
mod fill;
mod future;
mod handle;
mod headers;
mod key;
mod layer;
mod memory;
mod policy;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod service;
mod status;
mod store;
mod stored;
mod validate;
mod visit;

pub(crate) use self::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
pub use self::{
    future::ResponseFuture,
    handle::CacheHandle,
    key::CacheKey,
    layer::CacheLayer,
    memory::MemoryStore,
    policy::Policy,
    service::Cache,
    store::{Address, CacheStore, Fill, FillReply, Found, Lane, LeaseReply, Lookup, Verdict},
    stored::StoredResponse,
};

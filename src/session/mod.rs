//! Session cookies.

mod commit;
mod cookie;
mod error;
#[cfg(feature = "axum")]
mod extract;
mod field;
mod future;
mod handle;
mod layer;
mod memory;
mod policy;
#[cfg(feature = "redis")]
mod redis;
mod service;
mod state;
mod store;
mod token;

#[cfg(feature = "axum")]
pub use self::extract::SessionRejection;
pub(crate) use self::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
pub use self::{
    cookie::SameSite,
    error::Error,
    field::{Field, Key},
    future::ResponseFuture,
    handle::{LazySession, Session},
    layer::{OnStoreError, SessionLayer},
    memory::MemoryStore,
    service::SessionService,
    store::{
        Absolute, Change, Committed, Created, Delta, Destroyed, Fields, Limit, Limits, New, Record,
        SessionStore,
    },
    token::{Selector, Token, VerifierHash},
};

//! placeholder
#![cfg_attr(docsrs, feature(doc_cfg))]
// A build with some of the features leaves parts of the ground floor unused; the full one has none.
#![cfg_attr(not(feature = "full"), allow(dead_code, unused_imports))]
#![allow(dead_code)]

pub mod backend;
mod body;
#[cfg(feature = "cache")]
pub mod cache;
mod clock;
#[cfg(feature = "redis")]
pub mod connection;
mod context;
mod detached;
mod expiring;
mod flight;
#[cfg(feature = "idempotency")]
pub mod idempotency;
mod key;
mod lease;
#[cfg(feature = "lock")]
pub mod lock;
pub mod marks;
mod problem;
pub mod pubsub;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;
#[cfg(feature = "session")]
pub mod session;
mod snapshot;
mod store;
mod tasks;
pub mod telemetry;
mod token;

pub use crate::{
    backend::Backend,
    body::{RequestBody, ResponseBody},
    clock::Clock,
    marks::{PeerAddr, UserId},
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};

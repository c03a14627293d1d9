//! The connection to Redis or Valkey: one multiplexed link that heals itself, and what is built on it.
//!
//! What happens to a call:
//!
//! 1. It takes the current link. If there is none, it fails at once with
//!    [`StoreError::is_unavailable`]: nothing was sent, and the caller's policy decides.
//! 2. It goes out together with the calls of all other requests, and waits for its answer until its
//!    deadline. No answer means [`StoreError::is_timeout`]: it may or may not have been done.
//! 3. Within the deadline it is sent again, at most [`retries`](Config::retries) times, where that
//!    repeats nothing: a read whose link broke, and any call that the server turned away undone, as
//!    it does while it starts or in a failover. A write without an answer is never sent again.
//! 4. An error that the server answers means [`StoreError::is_refused`], with the server's words and
//!    what to do about them.
//!
//! Meanwhile a supervisor watches the link, without the help of any caller: a link that closes,
//! that falls silent, or whose server has become a replica is replaced, forever, with a back-off.
//! Five timeouts in a row open a circuit breaker, which one answered PING closes. See [`Health`].
//!
//! Most applications only meet this module through `Backend`. It is public for those that want to
//! use the same link, pools or hints for data of their own:
//!
//! ```no_run
//! # async fn example(connection: towerkeep::connection::Connection) -> Result<(), towerkeep::StoreError> {
//! use towerkeep::connection::{Script, redis};
//!
//! let visits: u64 = connection.query(redis::cmd("INCR").arg("shop:visits")).await?;
//!
//! static RAISE: Script = Script::new(
//!     "local old = tonumber(redis.call('GET', KEYS[1]) or '0')
//!      if tonumber(ARGV[1]) > old then redis.call('SET', KEYS[1], ARGV[1]) end
//!      return old",
//! )
//! .named("raise");
//! let old = connection.script(RAISE.keys(["shop:record"]).arg(visits), connection.deadline()).await?;
//! # drop(old);
//! # Ok(())
//! # }
//! ```
//!
//! # One per runtime
//!
//! The link lives on the tokio runtime that made it. When that runtime ends, calls return an error
//! that says so. Tests that make a runtime each need a connection each.
//!
#![doc = include_str!("topologies.md")]
//!
#![doc = include_str!("acl.md")]
//! [`StoreError::is_unavailable`]: crate::StoreError::is_unavailable
//! [`StoreError::is_timeout`]: crate::StoreError::is_timeout
//! [`StoreError::is_refused`]: crate::StoreError::is_refused

mod backoff;
mod batch;
mod borrowed;
mod cluster;
mod config;
mod context;
mod deadline;
mod dial;
mod error;
mod handle;
mod health;
mod link;
mod node;
mod pool;
mod pubsub;
mod replica;
mod request;
mod script;
mod sentinel;
mod servers;
mod standalone;
mod supervisor;
#[cfg(feature = "redis-tls")]
mod tls;
mod topology;
mod url;

// They start and stop real servers with signals.
#[cfg(test)]
#[cfg(unix)]
mod tests;

pub(crate) use self::context::RedisContext;
#[cfg(feature = "rate-limit")]
pub(crate) use self::deadline::end_of;
#[cfg(feature = "redis-tls")]
pub use self::tls::Tls;
pub use self::{
    batch::Batch,
    config::Config,
    error::parse,
    handle::Connection,
    health::{Health, State},
    script::{Call, Script},
};
/// The pool crate that [`Connection::pool`] speaks.
pub use deadpool_redis;
/// The client crate that [`Connection::query`] speaks.
pub use redis;

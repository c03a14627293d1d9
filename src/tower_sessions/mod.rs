//! A store for [tower-sessions] and [axum-login]: an application that has its sessions from those
//! keeps them in a [`Backend`](crate::Backend), and may change over to
//! [`session`](https://docs.rs/towerkeep/latest/towerkeep/session/index.html) later, or never.
//!
//! The feature `tower-sessions` is for tower-sessions 0.15, `tower-sessions-0-14` for 0.14, which
//! axum-login 0.18 builds on. Both may be on.
//!
//! # Example
//!
//! ```
//! # #[cfg(feature = "tower-sessions")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), towerkeep::StoreError> {
//! use axum::{Router, routing::get};
//! use tower_sessions::{Session, SessionManagerLayer};
//! use towerkeep::Backend;
//!
//! async fn visit(session: Session) -> String {
//!     let visits = session.get::<u32>("visits").await.unwrap().unwrap_or_default() + 1;
//!     session.insert("visits", visits).await.unwrap();
//!     format!("visit {visits}")
//! }
//!
//! let backend = Backend::from_env().await?; // Redis if REDIS_URL is set, else memory
//! let app: Router = Router::new().route("/", get(visit)).layer(SessionManagerLayer::new(backend));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tower-sessions"))]
//! # fn main() {}
//! ```
//!
//! # Redis
//!
//! A record is one key, `<prefix>:tower-session:<hash>`, that expires with it. The hash is the base64url
//! of the SHA-256 of the session's id as it stands in the cookie: the id itself is nowhere in the
//! store, so nobody who reads Redis can make a cookie of it. The value is JSON:
//!
//! ```json
//! {"version": 1, "expires": "2026-01-31T12:00:00Z", "data": {"visits": 1}}
//! ```
//!
//! | call | commands |
//! | --- | --- |
//! | `create` | `SET … NX PX`: an id that is taken is never overwritten, another one is tried |
//! | `save` | `SET … XX PX`: a record that is gone stays gone |
//! | `load` | `GET` |
//! | `delete` | `UNLINK` |
//!
//! Each is one round trip. How long a record lives is counted from the moment at which it is written,
//! so clocks that differ from the server's do no harm.
//!
//! # What it cannot do
//!
//! The trait reads and writes a session as a whole, so whatever it is implemented on:
//!
//! - **The last writer wins.** Of two concurrent requests that change the same session, the later one
//!   undoes the earlier, whichever fields they changed.
//! - A session that was deleted while a request held it is not saved again. That request is not told,
//!   though: the layer answers it as if it were, with a cookie that leads nowhere.
//! - There is no absolute timeout, no list of a user's devices and no logout everywhere.
//! - `CachingSessionStore` fills its cache by `save`, which creates nothing here: this store can be the
//!   one behind, and not the cache in front.
//!
//! [`session`](https://docs.rs/towerkeep/latest/towerkeep/session/index.html) is without these limits. The
//! two do not read each other's records; they may run side by side under two cookie names.
//!
//! # Failure
//!
//! A call that fails, after the [backend's deadline](crate::backend::Builder::deadline) at the latest, is
//! `session_store::Error::Backend`, which the layer answers with 500, and is counted
//! ([`telemetry`](crate::telemetry)). A record that something else has written is
//! `session_store::Error::Decode`. A memory store that is full refuses new sessions and drops none; it
//! has [`max_session_bytes`](crate::backend::Builder::max_session_bytes) for these alone.
//!
//! [tower-sessions]: https://docs.rs/tower-sessions
//! [axum-login]: https://docs.rs/axum-login

mod adapter;
mod memory;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod store;

pub use self::memory::MemoryStore;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
pub(crate) use self::{memory::DEFAULT_CAPACITY, store::RecordStore};

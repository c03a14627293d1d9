//! Tower middleware for the state that stateless servers share: sessions, cached responses, rate
//! limits, idempotent requests and locks, in Redis or Valkey, or in memory with the same semantics.
//!
//! | module | layer | what it does |
//! | --- | --- | --- |
//! | [`session`] | [`SessionLayer`](session::SessionLayer) | a cookie over a hash with a sliding TTL; concurrent changes merge |
//! | [`cache`] | [`CacheLayer`](cache::CacheLayer) | a shared response cache; one fill for all servers |
//! | [`rate_limit`] | [`RateLimitLayer`](rate_limit::RateLimitLayer) | any number of limits in one round trip |
//! | [`idempotency`] | [`IdempotencyLayer`](idempotency::IdempotencyLayer) | a request that is sent twice happens once |
//! | [`coalesce`] | [`CoalesceLayer`](coalesce::CoalesceLayer) | identical reads that are under way run once |
//! | [`lock`] | none; [`Locks`](lock::Locks) | named locks with a lease and a fencing token |
//!
//! Every layer wraps any tower `Service<http::Request<B>>`, keeps its error type, and answers what it
//! refuses with a response of its own. They are told where their state lives by a [`Backend`], of which
//! one serves them all:
//!
//! ```
//! use axum::{Router, routing::get};
//! use towerkeep::{Backend, session::{Error, Session, SessionLayer}};
//!
//! async fn visits(session: Session) -> Result<String, Error> {
//!     Ok(format!("visit {}", session.incr("visits", 1)?))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), towerkeep::StoreError> {
//! let backend = Backend::from_env().await?; // Redis if REDIS_URL is set, else memory
//! let app: Router = Router::new().route("/", get(visits)).layer(SessionLayer::new(backend));
//! # Ok(())
//! # }
//! ```
//!
//! Behind a proxy, [`client_addr`] finds the client. The layers belong in an [order]. What happens when the store fails stands under
//! *Failure* in each module.
//!
//! # Names
//!
//! An `XLayer` makes a service `X<S>` with a `ResponseFuture`, except that a session's service is
//! [`SessionService`](session::SessionService), since [`Session`](session::Session) is what a handler
//! holds. It keeps its state in an `XStore`: a [`Backend`], a `MemoryStore` of its own, or a type that
//! implements the trait in another crate.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `session`, `cache`, `rate-limit`, `idempotency`, `coalesce`, `lock` | yes | the module of that name |
//! | `session-signed`, `session-private` | no | session cookies that are signed, or encrypted |
//! | `cache-compression` | no | stored responses can be compressed |
//! | `tower-sessions`, `tower-sessions-0-14` | no | `tower_sessions`: a store for that crate, and for axum-login |
//! | `axum` | yes | extractors, `IntoResponse` for errors and rejections, axum's `ConnectInfo` and `MatchedPath` |
//! | `redis` | yes | [`Backend::redis`] and the [`connection`] |
//! | `redis-tls` | no | `rediss://` and `connection::Tls`, with rustls and ring |
//! | `tracing`, `metrics` | no | what [`telemetry`] lists |
//! | `full` | no | all of them |
//!
//! Each builds alone, and none changes what another does. Without `session`, `cache`, `rate-limit` and
//! `idempotency` together, the module [`order`] is left out.

#![cfg_attr(docsrs, feature(doc_cfg))]
// A build with some of the features leaves parts of the ground floor unused; the full one has none.
#![cfg_attr(
    not(feature = "full"),
    allow(dead_code, unused_imports, unused_variables, clippy::derivable_impls)
)]

pub mod backend;
mod body;
#[cfg(feature = "cache")]
pub mod cache;
pub mod client_addr;
mod clock;
#[cfg(feature = "coalesce")]
pub mod coalesce;
#[cfg(feature = "redis")]
pub mod connection;
mod context;
mod detached;
mod expiring;
mod fleeting;
mod flight;
#[cfg(feature = "idempotency")]
pub mod idempotency;
mod key;
mod lease;
#[cfg(feature = "lock")]
pub mod lock;
pub mod marks;
#[cfg(all(
    feature = "session",
    feature = "cache",
    feature = "rate-limit",
    feature = "idempotency"
))]
pub mod order;
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
#[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
pub mod tower_sessions;

pub use crate::{
    backend::Backend,
    body::{RequestBody, ResponseBody},
    client_addr::{ClientAddr, TrustedProxies},
    clock::Clock,
    marks::{PeerAddr, UserId},
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};

/// The README's example is a test, too.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
struct Readme;

//! The order of the layers, and the reason for each place. (Documentation only.)
//!
//! From the outside in:
//!
//! | layer | why here |
//! | --- | --- |
//! | trace | it sees every request, the refused ones too |
//! | CORS | a browser must be able to read a refusal; a preflight needs nothing further in |
//! | rate limit by address | a flood is turned away before it costs a session or a body |
//! | session | everything further in may ask for the user; its commit wraps what they answer |
//! | rate limit by user | it needs the user, whom only the session knows |
//! | idempotency | it needs the user as the scope of the keys. Outside the cache, since a retry must find its own answer; inside the session, whose commit it awaits before it records the answer |
//! | cache | next to what it saves. Inside the session, whose marks tell it which responses must not be shared |
//! | handler | |
//!
//! In axum the layer that is added *last* is the outermost, so the list is written from the bottom up:
//!
//! ```
//! use axum::{Router, routing::{get, post}};
//! use std::time::Duration;
//! use towerkeep::{
//!     Backend,
//!     cache::{CacheLayer, Policy as CachePolicy},
//!     idempotency::IdempotencyLayer,
//!     rate_limit::{Policy, Quota, RateLimitLayer, by},
//!     session::SessionLayer,
//! };
//! # async fn products() -> &'static str { "[]" }
//! # async fn checkout() -> &'static str { "{}" }
//!
//! let backend = Backend::memory();
//! let by_address = Policy::gcra("address", Quota::per_second(50).burst(100)).key(by::ip());
//! let by_user = Policy::gcra("user", Quota::per_second(10).burst(20)).key(by::user());
//!
//! let app: Router = Router::new()
//!     .route("/products", get(products))
//!     .layer(CacheLayer::new(backend.clone()).policy(CachePolicy::fixed(Duration::from_secs(30))))
//!     .route("/checkout", post(checkout))
//!     .layer(IdempotencyLayer::new(backend.clone()))
//!     .layer(RateLimitLayer::new(backend.clone(), by_user))
//!     .layer(SessionLayer::new(backend.clone()))
//!     .layer(RateLimitLayer::new(backend, by_address));
//! ```
//!
//! In a [`tower::ServiceBuilder`] the layer that is added *first* is the outermost; there the list reads
//! from the top down.
//!
//! # What goes wrong in another order
//!
//! - A rate limit by user outside the session never sees a user, so it never applies.
//! - Idempotency outside the session refuses every key with 403, since nobody is known who sent it.
//! - A session inside the cache: the cached response of one visitor cannot be given to another, and the
//!   mark on the response makes the cache refuse it, so nothing is ever stored.
//! - A rate limit inside the cache counts only the misses.
//!
//! # How long a request can take
//!
//! Every layer waits for its store for a bounded time, so with the defaults a request waits at most for
//! the sum of
//!
//! - 100 ms for each rate limit;
//! - 250 ms each for the load and the commit of a session;
//! - 250 ms for each step of an idempotency key (begin, complete), and 30 s for the body to arrive;
//! - 100 ms for a cache lookup and, after a miss, 250 ms for the lease and 15 s for another's response;
//! - the waits that were asked for: `InFlight::Wait`, a lock's `wait`.
//!
//! While the link to Redis is known to be down, each call to it takes microseconds.

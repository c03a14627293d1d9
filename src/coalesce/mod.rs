//! Request coalescing: of identical reads that are under way at the same time, one runs its handler.
//!
//! What happens to a request:
//!
//! 1. Another method than GET or HEAD, a body, or an `Upgrade`: it passes through untouched.
//! 2. What it asks for is its method, host, path and query, **all its headers** but those of the
//!    connection and of traces, the [`UserId`](crate::UserId) if there is one, and
//!    [what you add](CoalesceLayer::key). So two users never share an answer, and neither do two
//!    browsers, until you say [which headers count](CoalesceLayer::vary_by).
//! 3. If nobody is making that answer, here or on another server, the request **leads**: it goes to
//!    the handler, holding a lease that is renewed meanwhile.
//! 4. Else it **follows**: it waits, at most [5 s](CoalesceLayer::wait), and gets the leader's answer,
//!    with [`Coalesced`] in the extensions of the response.
//! 5. An answer that is not for all sends the followers to the handler, each by itself: one with
//!    `Set-Cookie`, `Cache-Control: no-store`, or `private` unless a `UserId`, a cookie or an
//!    `Authorization` says that all of them are one user; of a request that
//!    touched its session; with a `Vary` on what did not count; 401, 403, 407, 408, 425 and 429; one
//!    larger than [256 KiB](CoalesceLayer::answer_limit) or **of unknown length**, such as a stream,
//!    which its own client sees as it comes.
//! 6. If the leader's client leaves, its handler panics or fails, or its body breaks, followers get
//!    nothing of it: one of them leads. A panic is the leader's alone.
//!
//! This is no cache. Who asks after the answer was made leads anew, so nobody is given what was finished
//! before they asked. **But it may have been begun before**: a reader who joins a flight sees what its
//! handler read, perhaps a moment before the reader's own write. Where that matters, leave the route
//! out, or bypass it with [`key`](CoalesceLayer::key).
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use std::sync::{Arc, atomic::{AtomicUsize, Ordering::SeqCst}};
//! use towerkeep::{Backend, coalesce::CoalesceLayer};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let runs = Arc::new(AtomicUsize::new(0));
//! let seen = runs.clone();
//! let report = async move || {
//!     tokio::task::yield_now().await; // a slow query
//!     format!("report {}", seen.fetch_add(1, SeqCst) + 1)
//! };
//! let app: Router =
//!     Router::new().route("/report", get(report)).layer(CoalesceLayer::new(Backend::memory()));
//!
//! let ask = || app.clone().oneshot(Request::get("/report").body(Body::empty()).unwrap());
//! let (first, second) = tokio::join!(ask(), ask());
//! assert!(first.unwrap().status().is_success() && second.unwrap().status().is_success());
//! assert_eq!(runs.load(SeqCst), 1);
//! # }
//! ```
//!
//! # Redis
//!
//! `<prefix>:coalesce:{<id>}` is the token of who makes an answer, where the id is 128 bits of a hash over
//! what is asked for; its TTL is the lease. `<prefix>:coalesce:{<id>}:<token>` is what that one left, for
//! 2 s: only those name it who waited. The end is published, as an empty message, to the channel
//! `<prefix>:coalesce:{<id>}:end`. One who leads costs a round trip before its handler, one after its
//! answer was sent, and one for each third of the lease in between. Of the followers only one in each
//! other process asks Redis: when it comes, when it has subscribed to the hints (which is a round trip,
//! too, on the connection for hints), after the hint, and every 400 ms until then. The rest, and those in
//! the leader's own process, cost nothing. Each answer that may be shared goes to Redis as a whole,
//! followed or not, and is gone after 2 s: where answers are large and their requests many,
//! [`CoalesceLayer::local`] or a lower [`answer_limit`](CoalesceLayer::answer_limit) saves it.
//!
//! [`CoalesceLayer::local`] does without Redis, which is enough where N handlers for N servers are few.
//!
//! # Order
//!
//! Inside compression and the session layer; outside the cache it makes the lookups one, inside it only
//! what is not cached. The cache coalesces its own fills, so what it stores needs no layer here. A
//! layer further in that counts requests, a rate limit for one, counts the leaders only. Nested in
//! itself, the inner one lets pass what the outer one holds.
//!
//! # Failure
//!
//! It fails open: when the store fails or does not answer within its deadline (250 ms), the requests of
//! each process coalesce among themselves. A server that dies is waited for until its lease ends (5 s),
//! or until the wait is over.
//!
//! # Defaults
//!
//! | setting | default | why |
//! | --- | --- | --- |
//! | [`vary_by`](CoalesceLayer::vary_by) | all headers but those of the connection and of traces | no stranger gets the answer of another |
//! | [`key`](CoalesceLayer::key) | nothing else | |
//! | [`wait`](CoalesceLayer::wait) | 5 s | nobody waits long for a stranger's handler; then it runs as it would have |
//! | [`max_waiters`](CoalesceLayer::max_waiters) | 1,024 | nothing is unbounded |
//! | [`lease`](CoalesceLayer::lease) | 5 s | what a crash costs those who wait |
//! | [`answer_limit`](CoalesceLayer::answer_limit) | 256 KiB | it is held in memory and goes through the store |
//!
//! # Security
//!
//! An answer that depends on something that does not count is handed to a stranger: the peer's address,
//! a client certificate, the time. Add it with [`key`](CoalesceLayer::key). Whoever may write to Redis may
//! forge answers.

mod future;
mod key;
mod layer;
mod lead;
mod memory;
mod policy;
#[cfg(feature = "redis")]
mod redis;
mod seat;
mod service;
mod store;

#[cfg(feature = "redis")]
pub use crate::coalesce::redis::RedisStore;
#[cfg(feature = "redis")]
pub(crate) use crate::coalesce::redis::SCRIPTS;
pub use crate::coalesce::{
    future::ResponseFuture,
    layer::CoalesceLayer,
    lead::Coalesced,
    memory::MemoryStore,
    service::Coalesce,
    store::{CoalesceStore, Flight, Joined},
};

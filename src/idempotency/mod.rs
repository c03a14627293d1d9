//! Idempotency keys: a request that is sent again runs its handler once, and gets the first answer.
//!
//! What happens to a request:
//!
//! 1. A request of another method than POST or PATCH, or without an `Idempotency-Key`, passes through
//!    untouched; where a key is [required](IdempotencyLayer::require), its lack is 400. The key is a
//!    String in double quotes (draft-ietf-httpapi-idempotency-key-header-07), at most 255 characters;
//!    anything else is 400 with a sentence that says what is wrong. If so wished, a request without a
//!    key is told by its [content](IdempotencyLayer::dedup_by_content), for some seconds.
//! 2. The scope of the key is found: the [`UserId`](crate::UserId), unless the layer is told
//!    [otherwise](IdempotencyLayer::scope). Without one, 403. Equal keys of two users are two keys.
//! 3. The body is read, at most 1 MiB (413) within 30 s (408). Its hash and that of the method, host,
//!    path, query and content type are the request's fingerprint.
//! 4. The store decides in one atomic step and one round trip:
//!    - the key is **new**: the handler runs, holding a lease that is renewed for as long as it does;
//!    - it was **used for the same request**, which is over: its answer is sent again, with
//!      `Idempotent-Replayed: true`;
//!    - that request is **being handled**: 409 with `Retry-After`, or the request
//!      [waits](InFlight::Wait) for the answer;
//!    - it was used for **another request**: 422;
//!    - its handler **vanished**: the handler runs again and is told so ([`Idempotent::attempt`]), or
//!      [not](Orphan::Reject), with 409.
//! 5. The handler runs in a task of its own, so a client that leaves changes nothing. When its answer
//!    is complete and what [`Finish`](crate::marks::Finish) holds (a session's commit) is done, the
//!    answer is recorded, and only then sent; one that comes bit by bit is sent as it comes, and its
//!    end (of an announced length, its last piece) when it is recorded. 5xx and the statuses that ask for another try are not
//!    recorded; see [`Outcome`].
//!
//! # Example
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use bytes::Bytes;
//! use std::convert::Infallible;
//! use tower::{Layer, ServiceExt, service_fn};
//! use towerkeep::{
//!     Backend, RequestBody, UserId,
//!     idempotency::{IdempotencyLayer, Idempotent},
//! };
//!
//! async fn pay(request: Request<RequestBody<Full<Bytes>>>) -> Result<Response<String>, Infallible> {
//!     let idem = request.extensions().get::<Idempotent>().expect("the request has a key");
//!     if idem.attempt() > 1 {
//!         // An earlier run vanished: look what it did before doing it again.
//!     }
//!     // charge(amount, idempotency key of the payment service, fence for our own database)
//!     let charge = idem.downstream_key("payments");
//!     Ok(Response::new(format!("charged as {charge} with fence {}", idem.fence())))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Infallible> {
//! let service = IdempotencyLayer::new(Backend::memory()).layer(service_fn(pay));
//!
//! let mut answers = Vec::new();
//! for replayed in [false, true] {
//!     let request = Request::post("/payments")
//!         .header("idempotency-key", "\"8e03978e-40d5-43dd-bc93-6b82f0d5b0e5\"")
//!         .extension(UserId::new("alice")) // the session layer, or your own authentication
//!         .body(Full::from("12 EUR"))
//!         .unwrap();
//!     let response = service.clone().oneshot(request).await?;
//!     assert_eq!(response.headers().contains_key("idempotent-replayed"), replayed);
//!     answers.push(response.into_body().collect().await.unwrap().to_bytes());
//! }
//! assert_eq!(answers[0], answers[1]); // the same fence: the handler ran once
//! # Ok(())
//! # }
//! ```
//!
//! In axum, `.layer(layer)` on a `Router` or a route, and `idem: Idempotent` (or
//! `Option<Idempotent>`) as an argument of the handler.
//!
//! # Redis
//!
//! `<prefix>:idempotency:{<id>}` is a hash, where the id is 128 bits of a hash over scope and key: the
//! format `v` (`1`), the state `s` (`P` pending, `C` complete), the fingerprint `p`, the token `t` of
//! the holder, its fence `f`, the number of attempts `n`, the end of its lease `d` in microseconds of
//! the server's clock, which decides, and the outcome `r`. Its TTL is the retention, which begins anew
//! with each step. `<prefix>:idempotency:{<id>}:f` is the last fence and lives twice as long. The end
//! of a run is published, as an empty message, to the channel `<prefix>:idempotency:{<id>}:end`.
//!
//! A run costs two round trips and one for each renewal (every 10 s by default); a replay, a 409 and a
//! 422 cost one. Of those who wait for a record one in each process subscribes to the channel and looks
//! once a second in case a message was lost; the others follow one by one when it has its answer.
//!
//! A server that evicts may drop records, and a server without persistence forgets them when it
//! restarts: their requests would run again. Use `maxmemory-policy noeviction`.
//!
//! # Order
//!
//! Inside the session layer (whose user is the scope, and whose commit is part of the run) and inside
//! compression (a stored answer should suit every client); outside the cache. A layer further in that
//! answers 401 or 429 does not use the key up; nor does one that makes 500 of a panic, or 408 or 504 of a
//! handler that it stopped, though that may have had its effect: such layers belong outside, and a limit
//! of time is set [here](IdempotencyLayer::time_limit). `Set-Cookie` reaches only the first asker. Nested in
//! itself, the outer layer guards and the inner one lets pass; what that one requires is required.
//!
//! # Failure
//!
//! The layer fails closed: when the store fails, does not answer within its deadline (250 ms) or is
//! full, the request gets 503 with `Retry-After` and its handler does not run. When the outcome cannot
//! be recorded, the answer is still sent, and recording it is tried until the lease ends.
//!
//! | what happens | what a retry with the key gets |
//! | --- | --- |
//! | the server dies, or is cut off, before the run | it runs |
//! | during the run, or before the outcome is recorded | 409 until the lease ends, then attempt 2, or 409 with [`Orphan::Reject`]. **Whether the first run had its effect is unknown** |
//! | the handler panics, its body breaks, the service fails with an error, the session cannot be saved, the run takes longer than the [limit](IdempotencyLayer::time_limit), it has lost its lease and its answer is one that is not recorded | the same |
//! | after the outcome is recorded | the answer |
//! | a run is paused for longer than its lease and another takes over | the answer of the other; the first is told ([`Idempotent::check`]) and cannot record anything |
//!
//! So this is not "exactly once", which no middleware can promise. It is once, unless a server dies;
//! then the handler is told, and can make it once with what only it knows. A fence helps where what
//! it is handed to refuses lower ones.
//!
//! A request waits, besides for its handler, at most for the session to load, its body to arrive
//! (30 s), the store (250 ms to begin and 250 ms to record) and, with [`InFlight::Wait`], the time given
//! there.
//!
//! What an operator does with a request whose outcome is unknown, stands with [`Records`].
//!
//! # Defaults
//!
//! | setting | default | why |
//! | --- | --- | --- |
//! | [`scope`](IdempotencyLayer::scope) | the `UserId`, else 403 | a shared space of keys hands one user's answers to another |
//! | [`methods`](IdempotencyLayer::methods) | POST, PATCH | the others are idempotent by themselves |
//! | [`require`](IdempotencyLayer::require) | none | a client that sends no key loses nothing it had |
//! | [`lenient`](IdempotencyLayer::lenient) | off | the draft; a client in error is told how to quote |
//! | [`dedup_by_content`](IdempotencyLayer::dedup_by_content) | off | two equal requests may both be meant |
//! | [`canonical_body`](IdempotencyLayer::canonical_body) | the body as sent | a client that retries sends the same bytes |
//! | [`in_flight`](IdempotencyLayer::in_flight) | [`InFlight::Conflict`] | what the draft names; no request waits unseen |
//! | [`max_waiters`](IdempotencyLayer::max_waiters) | 1,024 | each holds its body in memory |
//! | [`lease`](IdempotencyLayer::lease) | 30 s | survives a pause or a failover of the store; what a crash costs is bearable |
//! | [`retain`](IdempotencyLayer::retain) | 24 h | longer than clients retry |
//! | [`on_orphan`](IdempotencyLayer::on_orphan) | [`Orphan::Retry`] | a client can get on, and the handler is told |
//! | [`request_limit`](IdempotencyLayer::request_limit) | 1 MiB | the body is held in memory |
//! | [`request_timeout`](IdempotencyLayer::request_timeout) | 30 s | a body that never ends holds memory |
//! | [`stored_limit`](IdempotencyLayer::stored_limit) | 256 KiB | the store pays for every answer for a day |
//! | [`time_limit`](IdempotencyLayer::time_limit) | 5 min | nobody is left to stop a handler that hangs |
//! | memory | 64 MiB | [`max_idempotency_bytes`](crate::backend::Builder::max_idempotency_bytes) |
//!
//! # Security
//!
//! A key and its answer belong to one user. What a client sends is hashed into the name of the
//! record, so it can neither grow a key nor reach another's. Answers are stored with their bodies and
//! without `Set-Cookie` and challenges; one that holds a secret to be shown once is answered with
//! [`Outcome::Tombstone`]. Whoever may write to Redis may forge answers.

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
mod records;
#[cfg(feature = "redis")]
mod redis;
mod rejection;
mod run;
mod service;
mod sfv;
mod store;
mod stored;
mod stream;
mod wait;

pub(crate) use crate::idempotency::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use crate::idempotency::redis::RedisStore;
#[cfg(feature = "redis")]
pub(crate) use crate::idempotency::redis::SCRIPTS;
pub use crate::idempotency::{
    future::ResponseFuture,
    handle::{Idempotent, LeaseLost},
    header::KeyError,
    layer::{IdempotencyLayer, InFlight},
    memory::MemoryStore,
    outcome::Outcome,
    records::{Recorded, Records},
    rejection::Rejection,
    service::Idempotency,
    store::{
        Begun, Claim, Completed, Fingerprint, IdempotencyStore, Look, Orphan, SMALL_OUTCOME,
        Settled, Standing, Terms,
    },
};

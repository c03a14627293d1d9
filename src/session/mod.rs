//! Session cookies: what a client comes back to, shared by a fleet of servers.
//!
//! What happens to a request:
//!
//! 1. The cookie is read, strictly. Nothing is asked of the store yet: a request whose handler does
//!    not ask for its session costs nothing.
//! 2. The handler asks for it, by the extractor [`Session`] or by [`LazySession::load`]. That is one
//!    round trip, however many ask; from then on the session is read and changed without waiting. A
//!    cookie that the server did not make, or that no longer holds, is a visitor without a session.
//! 3. After the handler, its changes are saved in one atomic step: fields that are set, removed or
//!    incremented, not the session as a whole, so concurrent requests do not undo each other's. A
//!    session is created by the first write, under an id of the server's own. A response of status
//!    5xx saves nothing; a [`destroy`](Session::destroy) holds all the same.
//! 4. The response goes out: with `Set-Cookie` if the cookie is new, rotated or taken back, and with
//!    `Vary: Cookie` and `Cache-Control: private` if the session was asked for.
//! 5. A session that was only read lives on: once enough of its idle timeout is used up, it is
//!    restarted, after the response.
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, routing::get};
//! use http::{Request, StatusCode, header};
//! use tower::ServiceExt;
//! use towerkeep::{
//!     Backend,
//!     session::{Error, Key, Session, SessionLayer},
//! };
//!
//! const VISITS: Key<u64> = Key::new("visits");
//!
//! async fn visit(session: Session) -> Result<String, Error> {
//!     session.incr(VISITS, 1)?;
//!     Ok(format!("visit {}", session.get(VISITS)?.unwrap_or_default()))
//! }
//!
//! async fn login(session: Session) -> Result<(), Error> {
//!     session.login("ann") // a new cookie, bound to the user
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let app: Router = Router::new()
//!     .route("/", get(visit))
//!     .route("/login", get(login))
//!     .layer(SessionLayer::new(Backend::memory()));
//!
//! let first = app.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
//! let cookie = first.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
//! assert!(cookie.starts_with("__Host-sid=") && cookie.contains("HttpOnly"));
//!
//! let cookie = cookie.split(';').next().unwrap();
//! let again = Request::get("/").header(header::COOKIE, cookie).body(Body::empty()).unwrap();
//! let second = app.clone().oneshot(again).await.unwrap();
//! let body = axum::body::to_bytes(second.into_body(), 100).await.unwrap();
//! assert_eq!(body, "visit 2");
//!
//! let login = Request::get("/login").header(header::COOKIE, cookie).body(Body::empty()).unwrap();
//! let login = app.oneshot(login).await.unwrap();
//! assert_eq!(login.status(), StatusCode::OK);
//! assert!(!login.headers()[header::SET_COOKIE].to_str().unwrap().starts_with(cookie));
//! # }
//! ```
//!
//! Without axum, the same handle is in the request's extensions:
//!
//! ```
//! # async fn handler<B>(request: http::Request<B>) -> Result<(), towerkeep::session::Error> {
//! use towerkeep::session::LazySession;
//!
//! // Cloned, so that the request is not held across an await.
//! let session = request.extensions().get::<LazySession>().cloned();
//! let session = session.expect("a SessionLayer is around").load().await?;
//! session.set("seen", &true)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Redis
//!
//! A session is the hash `<prefix>:session:<selector>`. Its data are fields of JSON under their own
//! names, for other languages to read with `HGET`. What begins with a dot is the crate's own: `.v`
//! SHA-256 of the verifier, `.u` user, `.c` created, `.i` idle timeout and `.x` absolute deadline (0
//! for none) in milliseconds, `.b` bytes of data. The TTL of the key is the life of the session, by
//! Redis's own clock; every write sets it to the idle timeout or to what is left until the deadline.
//!
//! | request | round trips |
//! | --- | --- |
//! | the handler does not ask for the session, or there is no cookie and nothing is set | 0 |
//! | reads | 1 |
//! | creates (no cookie) | 1 |
//! | reads and changes, logs in, rotates, logs out | 2 |
//!
//! A slide is one more, after the response.
//!
//! # Order
//!
//! Inside a rate limit by address, so that a flood costs no loads; outside everything that asks for
//! the user: a rate limit by user, idempotency, the cache. See [`marks`](crate::marks).
//!
//! # Failure
//!
//! Each call to the store has 250 ms, the backend's deadline. A request whose session cannot be loaded
//! is answered with 503 and `Retry-After`, since nobody knows who asks ([`OnStoreError::Reject`]), or
//! goes on without one and saves nothing ([`OnStoreError::Anonymous`]). If a change cannot be saved, the handler's
//! response is replaced by 503: it is not sent as if all were well. Requests that do not ask for the
//! session go on as ever. If a session ends while a request is handled, its changes are dropped and
//! the response is none the worse; [`Session::commit`] tells. A memory store that is full refuses new
//! sessions with 503 and drops none.
//!
//! A client that leaves in the middle stops its handler, as everywhere in tower, and nothing is saved
//! then. A handler that an idempotency layer lets go on saves its session too.
//!
//! # Defaults
//!
//! | setting | default | why |
//! | --- | --- | --- |
//! | [`cookie_name`](SessionLayer::cookie_name) | `__Host-sid` | browsers let no other host plant it |
//! | attributes | `HttpOnly`, `Secure`, `SameSite=Lax`, `Path=/` | no script reads it, no plain HTTP carries it, no other site's form sends it |
//! | [`max_age`](SessionLayer::max_age) | none | a shared computer forgets it with the browser |
//! | [`idle_timeout`](SessionLayer::idle_timeout) | 2 h | a lunch break |
//! | [`absolute_timeout`](SessionLayer::absolute_timeout) | 24 h | a stolen cookie ends, however busy |
//! | [`slide_throttle`](SessionLayer::slide_throttle) | a twentieth of the idle timeout, at most 60 s | a read is not a write |
//! | [`max_fields`](SessionLayer::max_fields), [`max_bytes`](SessionLayer::max_bytes) | 64, 64 KiB | each request loads all of it |
//! | [`on_store_error`](SessionLayer::on_store_error) | [`OnStoreError::Reject`] | a user is not shown as logged out because of an outage |
//! | [`save_on_server_error`](SessionLayer::save_on_server_error) | `false` | a handler that failed half-way leaves nothing half-done |
//! | [`deadline`](SessionLayer::deadline) | the backend's, 250 ms | a hung store must not hang every page |
//! | memory | 64 MiB | [`max_session_bytes`](crate::backend::Builder::max_session_bytes) |
//!
//! # Security
//!
//! The cookie is a selector, which finds the session, and a verifier, which proves it; both are 128
//! random bits. The store has only the verifier's hash, compared in constant time, so nobody who
//! reads Redis can make a cookie of it. Ids are the server's own: one that a client brings is never
//! adopted. A [`login`](Session::login) always changes the cookie, and the old one fails at once. A
//! session that was destroyed never comes back: a commit changes what is there and creates nothing.
//!
//! `SameSite=Lax` keeps other sites' forms and scripts from using the cookie. It does not protect a
//! `GET` that changes something, nor against pages on the same site's other subdomains.
//!
//! What was stored before a login is still there after it. Call [`Session::clear`] before
//! [`login`](Session::login) if somebody else may have put it there.

mod account;
mod activity;
mod commit;
mod cookie;
mod envelope;
mod error;
mod expiry;
#[cfg(feature = "axum")]
mod extract;
mod field;
mod future;
mod handle;
#[cfg(any(feature = "session-signed", feature = "session-private"))]
mod key;
mod layer;
mod lazy_field;
mod limit;
mod memory;
mod memory_users;
mod pending;
mod policy;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_record;
#[cfg(feature = "redis")]
mod redis_users;
mod seal;
mod service;
mod sessions;
mod state;
mod step;
mod store;
mod token;
mod update;
mod user_store;
mod whole;

#[cfg(feature = "axum")]
pub use self::extract::SessionRejection;
#[cfg(any(feature = "session-signed", feature = "session-private"))]
pub use self::key::CookieKey;
pub(crate) use self::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
#[cfg(feature = "redis")]
pub(crate) use self::redis::SCRIPTS;
pub use self::{
    activity::Activity,
    cookie::SameSite,
    error::Error,
    field::{Field, Key},
    future::ResponseFuture,
    handle::{LazySession, Session},
    layer::{OnGone, OnStoreError, SessionLayer},
    limit::OnMaxSessions,
    memory::MemoryStore,
    service::SessionService,
    sessions::{Device, Sessions},
    store::{
        Absolute, Change, Committed, Created, Delta, Destroyed, Fields, Limit, Limits, NewSession,
        Note, Record, SessionStore, Swap, Swapped,
    },
    token::{BadSelector, Selector, Token, VerifierHash},
    user_store::{Trail, UserStore},
};

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
//! # Users and devices
//!
//! [`Session::login`] binds the session to a user, under a new cookie;
//! [`Session::remember`] lets it outlive the browser. From then on it is in the user's list: each entry
//! is a [`Device`], with what [`Session::set_device`] has said of it, and can be ended from anywhere.
//!
//! ```
//! use towerkeep::session::{Device, Error, Selector, Session};
//!
//! async fn devices(session: Session) -> Result<Vec<Device>, Error> {
//!     let Some(user) = session.user() else { return Ok(Vec::new()) };
//!     session.sessions().list(&user).await
//! }
//!
//! /// Logs a device out: its handle came from the list, by way of a form.
//! async fn revoke(session: Session, handle: Selector) -> Result<bool, Error> {
//!     let Some(user) = session.user() else { return Ok(false) };
//!     session.sessions().revoke(&user, handle).await
//! }
//!
//! /// Logs every device out but this one, after a change of the password, say.
//! async fn only_here(session: Session) -> Result<usize, Error> {
//!     let Some(user) = session.user() else { return Ok(0) };
//!     session.rotate();
//!     session.sessions().revoke_all(&user, session.handle()).await
//! }
//! ```
//!
//! `cargo run --example login` is an application of all that, with pages for a browser.
//!
//! # Redis
//!
//! A session is the hash `<prefix>:session:<selector>`. Its data are fields of JSON under their own
//! names, for other languages to read with `HGET`; one that was set with a
//! [time to live](Session::set_for) is `{".expires": milliseconds, ".value": …}`. What begins with a dot
//! is the crate's own:
//!
//! | field | holds |
//! | --- | --- |
//! | `.v` | SHA-256 of the verifier, in base64url |
//! | `.p`, `.r` | the one before the last rotation, and when that was |
//! | `.u`, `.s` | the user, and when the session was noted in their list |
//! | `.c`, `.i`, `.x` | when it was created, its idle timeout, its absolute deadline (0 for none), in milliseconds |
//! | `.m`, `.d` | whether its cookie outlives the browser; what is said of the device |
//! | `.b` | bytes of data, for the limit |
//!
//! The TTL of the key is the life of the session, by Redis's own clock; every write sets it to the idle
//! timeout or to what is left until the deadline. A user's sessions are the sorted set
//! `<prefix>:user:<user>`, by the time when they were seen last, and what the user did
//! ([`Session::record`]) is the list `<prefix>:activity:<user>`. No script needs two keys, so in a cluster
//! they lie anywhere. A session counts only if it says itself that it is the user's: a list that is wrong
//! does no harm. Other fields with a dot belong to other versions and are left alone.
//!
//! | request | round trips |
//! | --- | --- |
//! | the handler does not ask for the session, or there is no cookie and nothing is set | 0 |
//! | reads | 1 |
//! | reads, [`eager`](SessionLayer::eager), with a rate limit further in | 1 for both |
//! | reads or sets one field by [`LazySession::get_field`], [`set_field`](LazySession::set_field) | 1 |
//! | creates (no cookie) | 1 |
//! | reads and changes, logs in, rotates, logs out | 2 |
//! | [updates](Session::update) a field | 2, and one for each time that another request was faster |
//! | lists devices | 2 |
//!
//! A slide is one more, after the response; before it, where the cookie is sent again: only one that
//! still holds may be, as a login might have replaced it meanwhile. The user's list and trail ride
//! along with what is saved; about once a minute a list is told after the response that a session was
//! seen.
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
//! the response is none the worse ([`OnGone::Ignore`]) or replaced by 409 ([`OnGone::Reject`]);
//! [`Session::commit`] tells in any case. The same happens for 60 s to a request with the cookie from
//! before a rotation: it reads as a visitor's, and saves nothing but a login, since a cookie of its own
//! would take the place of the one that is on its way. A login whose session cannot be noted in its
//! user's list fails, and nobody is given its cookie. A memory store that is full refuses new
//! sessions with 503 and drops none.
//!
//! A client that leaves in the middle stops its handler, as everywhere in tower, and nothing is saved
//! then. A handler that an idempotency layer lets go on saves its session too.
//!
//! # Defaults
//!
//! | setting | default | why |
//! | --- | --- | --- |
//! | [`cookie_name`](SessionLayer::cookie_name) | `__Host-sid`; with a domain or another path `__Secure-sid` | browsers let no other host plant it |
//! | attributes | `HttpOnly`, `Secure`, `SameSite=Lax`, `Path=/` | no script reads it, no plain HTTP carries it, no other site's form sends it |
//! | [`partitioned`](SessionLayer::partitioned) | `false` | for embedded pages only |
//! | `signing_keys`, `encryption_keys` | none | a token cannot be guessed as it is (features `session-signed`, `session-private`) |
//! | [`max_age`](SessionLayer::max_age) | none | a shared computer forgets it with the browser; [`remember`](Session::remember) is for one session |
//! | [`idle_timeout`](SessionLayer::idle_timeout) | 2 h | a lunch break |
//! | [`absolute_timeout`](SessionLayer::absolute_timeout) | 24 h | a stolen cookie ends, however busy |
//! | [`slide_throttle`](SessionLayer::slide_throttle) | a twentieth of the idle timeout, at most 60 s | a read is not a write |
//! | [`max_sessions`](SessionLayer::max_sessions) | without limit | a user may have many devices |
//! | [`clear_on_login`](SessionLayer::clear_on_login) | `false` | a cart survives the login |
//! | [`trail`](SessionLayer::trail) | 100 events, 30 days | one page of recent activity |
//! | [`eager`](SessionLayer::eager) | `false` | a request that does not ask costs nothing |
//! | [`max_fields`](SessionLayer::max_fields), [`max_bytes`](SessionLayer::max_bytes) | 64, 64 KiB | each request loads all of it |
//! | [`on_store_error`](SessionLayer::on_store_error) | [`OnStoreError::Reject`] | a user is not shown as logged out because of an outage |
//! | [`on_gone`](SessionLayer::on_gone) | [`OnGone::Ignore`] | who has logged out does not care what was lost |
//! | [`save_on_server_error`](SessionLayer::save_on_server_error) | `false` | a handler that failed half-way leaves nothing half-done |
//! | [`deadline`](SessionLayer::deadline) | the backend's, 250 ms | a hung store must not hang every page |
//! | memory | 64 MiB | [`max_session_bytes`](crate::backend::Builder::max_session_bytes) |
//!
//! # Security
//!
//! The cookie is a selector, which finds the session, and a verifier, which proves it; both are 128
//! random bits. The store has only the verifier's hash, compared in constant time, so nobody who
//! reads Redis can make a cookie of it.
//!
//! | attack | what happens |
//! | --- | --- |
//! | fixation: a cookie planted before the login | ids are the server's own, one that a client brings is never adopted; a [`login`](Session::login) changes the cookie, and the old one fails at once |
//! | a cookie that is made up, cut or changed | a visitor without a session; one of a wrong shape, or not signed where cookies are, costs no Redis command |
//! | many cookies of the name, or a huge header | two are looked at, whatever there is |
//! | a stolen cookie | ends at the absolute timeout, with a logout, or when the user ends it from their list |
//! | a cookie from before a rotation | reads as a visitor without a session; what it writes in the minute after is dropped, so that no response to it takes the place of the new cookie |
//! | a logout that races other requests | a session that was destroyed never comes back: a commit changes what is there and creates nothing. An old cookie logs nobody out |
//! | somebody else's device handle | ends nothing: only sessions of the user who asks are ended |
//! | a subdomain that plants a cookie | browsers refuse it under a name that begins with `__Host-` |
//! | header injection | nothing of a client's or a user's stands in `Set-Cookie`; names, paths and domains are checked when the layer is built |
//! | another site's forms and scripts | `SameSite=Lax` keeps them from using the cookie. It does not protect a `GET` that changes something, nor against pages on the same site's other subdomains; a form that needs no cookie, the login's own, wants a check of `Origin` (the example `login` has one) |
//! | a shared cache | what a session went into is `private`, what sets the cookie is not stored at all |
//!
//! What was stored before a login is still there after it: call [`Session::clear`] before
//! [`login`](Session::login), or set [`clear_on_login`](SessionLayer::clear_on_login), if somebody else
//! may have put it there. And two layers over one backend take each other's cookies, whatever their
//! names, unless these are signed or encrypted: a user of one is the same user in the other.
//!
//! A cookie that is removed or replaced has all the attributes of the first one, or browsers would keep
//! both. So a change of path, domain or `Partitioned` leaves the old cookie beside the new one for as
//! long as it lives; of the two, the one that holds is found.
//!
//! A trail and a description of a device are about people: keep no more of them than is shown.

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
mod lazy_session;
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
mod touch;
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
    handle::Session,
    layer::{OnGone, OnStoreError, SessionLayer},
    lazy_session::LazySession,
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

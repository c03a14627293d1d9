//! Rate limits that a fleet of servers shares: any number of policies, decided together.
//!
//! What happens to a request:
//!
//! 1. Each policy makes its key of the request: the client's address, the user, the route … A policy
//!    that does not apply is left out.
//! 2. The store decides all of them in one atomic step and one round trip. A request that one policy
//!    denies is charged to none.
//! 3. A denied request is answered with 429, `Retry-After` and a problem document; the service inside
//!    is not called. An allowed one finds a [`RateLimitStatus`] in its extensions.
//! 4. The response says where the client stands, in `RateLimit` and `RateLimit-Policy`.
//!
//! A request that cannot be counted because of how the server is set up is answered with 500, which
//! says how to set it up. With [`by::ip`] the server has to tell the peer's address: in axum by
//! `into_make_service_with_connect_info::<SocketAddr>()`, elsewhere by a [`PeerAddr`](crate::PeerAddr)
//! in the request's extensions. Behind a proxy that is the proxy's address, and all clients share one
//! count, unless the layer is told [whom to trust](RateLimitLayer::trust_proxies).
//!
//! # Example
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use towerkeep::{
//!     Backend, PeerAddr,
//!     rate_limit::{Policy, Quota, RateLimitLayer, by},
//! };
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let backend = Backend::memory();
//! let limit = RateLimitLayer::new(backend, Policy::gcra("burst", Quota::per_minute(2)).key(by::ip()))
//!     .policy(Policy::gcra("daily", Quota::per_day(1_000)).key(by::ip()));
//!
//! let mut service = ServiceBuilder::new().layer(limit).service(service_fn(|_: Request<String>| async {
//!     Ok::<_, std::convert::Infallible>(Response::new(String::from("hello")))
//! }));
//! for expected in [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
//!     let mut request = Request::new(String::new());
//!     request.extensions_mut().insert(PeerAddr::new(([10, 0, 0, 7], 40_000).into()));
//!     let response = service.ready().await.unwrap().call(request).await.unwrap();
//!     assert_eq!(response.status(), expected);
//!     assert!(response.headers().contains_key("ratelimit"));
//! }
//! # }
//! ```
//!
//! # What to use for what
//!
//! | for | use |
//! | --- | --- |
//! | the steady rate of an API, with bursts | [`Policy::gcra`] |
//! | more than 10,000 a second, or a rate that must not be rounded | [`Policy::token_bucket`] |
//! | "1,000 a day" | [`Policy::fixed_window`], by the clock with [`Rule::aligned_window`] |
//! | the same without twice the limit around the end of a window | [`Policy::sliding_window`] |
//! | small limits that guard against guessing | [`Policy::sliding_log`] with [`Policy::count_if`] |
//! | work that is slow: how many at a time | [`Policy::concurrency`] |
//! | plans | [`Policy::quota_with`]; those in a database, [`Policy::quota_lookup`] |
//! | a limit that is not in force yet | [`Policy::shadow`] |
//! | cost that is only known afterwards | [`RateLimitStatus::charge`] |
//! | a limit so high that asking for each request costs more than it guards | [`Policy::local_lease`] |
//! | abuse | [`Policy::ban_after`], [`RateLimitLayer::ban`], [`RateLimitLayer::deny`] |
//!
//! All count in integers, exactly: `Retry-After` is right to the microsecond before it is rounded up. A
//! clock that goes back makes nobody richer, and nobody wait longer than for a full allowance (a
//! sliding window: two of its periods, a log: two, too).
//!
//! # Redis
//!
//! `<prefix>:limit:{<key>}:<policy>:<algorithm>` is the state, with a TTL that ends when it is as good as
//! none, so a client that stays away costs nothing:
//!
//! | algorithm | state | bytes beside the key's name |
//! | --- | --- | --- |
//! | `gcra` | a string, the theoretical arrival time in µs | 72 |
//! | `token_bucket` | a string, `<units owed>:<at µs>` | 112 |
//! | `fixed_window` | a string, `<start µs>:<count>` | 112 |
//! | `sliding_window` | a string, `<start ms>:<current>:<previous>` | 112 |
//! | `sliding_log` | a list of times in µs | about 12 for each request |
//! | `concurrency` | a sorted set of leases by when they end | about 33 for each lease |
//!
//! `<prefix>:limit:{<key>}:<policy>:ban` is a ban, the time in µs when it ends, or what may become one:
//! `<end µs>:<denials>`, when their count begins anew and how many there were. Redis decides by its own
//! clock. In a cluster, policies that count by different keys are decided key by key: see [`Slots`].
//!
//! A client that is denied is denied from this process's memory until it may try again, for at most
//! 5 s, or 250 ms by a policy with [`Policy::count_if`], which may give back at any moment
//! ([`RedisStore::deny_cache`]), and costs Redis nothing; what other policies would have said is
//! then not known ([`Outcome::asked`]).
//!
//! # Order
//!
//! A limit by address stands outermost, so that a flood costs nothing else. A limit by user stands
//! inside the session layer, which knows the user.
//!
//! # Failure
//!
//! The store has 100 ms. If it fails or is too slow, the request is let through
//! ([`OnStoreError::Allow`]), answered with 503 ([`OnStoreError::Deny`]), or counted in this process
//! ([`OnStoreError::LocalFallback`]); it is never answered with 429 because of the store. Where it is the
//! session that cannot be loaded, the policies [by user](by::user) do not apply and all others do, unless
//! it is to be denied. A
//! [`Policy::quota_lookup`] has another 100 ms before, and a refund for [`Policy::count_if`] has another
//! 100 ms before the response goes out; if it fails, the request counts. What a hung server was asked it
//! may still count when it goes on: each request once, and never again, since no call that charges is
//! sent twice. When the memory store is full, the count nearest to empty is forgotten, but never a ban, a
//! count of denials that may become one, or a count with nothing left: where there are only such, a new
//! key is a failure of the store.
//!
//! A concurrency lease whose process dies ends by itself after [`Policy::lease`]. One of a connection
//! that was upgraded ends with the response, since the layer does not see what comes after.
//!
//! # Defaults
//!
//! | setting | default | why |
//! | --- | --- | --- |
//! | [`Quota::burst`] | the limit | what most people mean by "20 a second" |
//! | [`Policy::key`] | [`by::ip`], IPv6 by /64 | a client cannot choose its address; one customer has a /64 |
//! | [`trust_proxies`](RateLimitLayer::trust_proxies) | none | who is trusted by mistake chooses the client's address |
//! | [`Policy::lease`] | 30 s, renewed every third of it | a process that died blocks nobody for long |
//! | [`cost`](RateLimitLayer::cost) | 1, `OPTIONS` 0 | browsers send `OPTIONS` on their own |
//! | [`headers`](RateLimitLayer::headers) | [`Headers::Draft`] | a polite client can slow down before it is denied |
//! | [`partition_key`](RateLimitLayer::partition_key) | none | it needs a secret that the fleet shares |
//! | [`on_store_error`](RateLimitLayer::on_store_error) | [`OnStoreError::Allow`] | an outage of the store is not an outage of the service |
//! | [`deadline`](RateLimitLayer::deadline) | 100 ms | a limiter must not become the latency |
//! | [`deny_cache`](RedisStore::deny_cache) | 5 s | what another process refunds or lifts is soon known |
//! | memory | 262,144 counts | [`max_rate_limits`](crate::backend::Builder::max_rate_limits) |
//!
//! # Security
//!
//! The client's address is that of the connection's peer, and no header is read for it, since any client
//! can send one. Behind proxies, [`trust_proxies`](RateLimitLayer::trust_proxies) names them, and then an
//! entry of `X-Forwarded-For` (or `Forwarded`) counts only as far as they vouch for it: what a client puts
//! in front changes nothing. See [`client_addr`](crate::client_addr).
//!
//! What a client sends is stored as a digest unless it is short and plain, so it can neither grow a key nor
//! forge another. A limit against guessing is charged before the handler runs: see
//! [`Policy::count_if`]; and with [`OnStoreError::Deny`] it holds while the store is away. The headers
//! name policies and never a key; [`partition_key`](RateLimitLayer::partition_key) adds a keyed hash of it.

mod admin;
mod algorithm;
mod asked;
mod ban_after;
pub mod by;
#[cfg(feature = "redis")]
mod by_key;
#[cfg(feature = "redis")]
mod denials;
#[cfg(feature = "axum")]
mod extract;
mod forgotten;
mod future;
mod headers;
mod held;
mod layer;
mod local;
mod memory;
mod outcome;
mod partition;
mod passed;
mod policy;
mod quota;
mod quotas;
#[cfg(feature = "redis")]
mod redis;
mod rejection;
#[cfg(feature = "redis")]
mod reply;
mod rule;
mod service;
mod slots;
mod status;
mod store;

pub(crate) use self::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
pub use self::{
    algorithm::{Concurrency, FixedWindow, Gcra, SlidingLog, SlidingWindow, TokenBucket},
    ban_after::BanAfter,
    future::ResponseFuture,
    layer::{Headers, OnStoreError, RateLimitLayer},
    memory::MemoryStore,
    outcome::{Outcome, Verdict},
    policy::Policy,
    quota::{Quota, QuotaError},
    rejection::{Rejection, grpc},
    rule::Rule,
    service::RateLimit,
    slots::Slots,
    status::RateLimitStatus,
    store::{Charge, RateLimitStore},
};
#[cfg(feature = "redis")]
pub(crate) use self::{denials::BELIEVED_FOR, redis::SCRIPTS};

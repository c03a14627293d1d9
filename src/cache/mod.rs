//! A response cache that a fleet of servers shares: a handler runs once, everyone gets its answer.
//!
//! What happens to a request:
//!
//! 1. A `GET` or `HEAD` is looked up by its host, path and query. A response that is there and fresh
//!    is the answer, with its `Age`; the service inside is not called.
//! 2. If there is none, one request of the whole fleet makes it. In each process one request asks for
//!    the lease, the others wait for that one; processes wait for the one whose lease was granted.
//! 3. The response streams to its client while it is recorded, in a task of its own: a client that
//!    leaves loses nothing for the others. A body that is too long passes through, and nobody waits
//!    for it.
//! 4. It is stored if it says how long it is fresh and nothing forbids it ([`Policy`]); those that
//!    wait look it up. If it turns out not to be for everyone, they all go to the handler at a time.
//!    If the handler fails or panics, the next one tries.
//! 5. `Cache-Status` (RFC 9211) says what was done with the request, and why.
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, routing::get};
//! use http::{Request, header::CACHE_CONTROL};
//! use tower::ServiceExt;
//! use towerkeep::{Backend, cache::CacheLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let backend = Backend::memory();
//! let app = Router::new()
//!     .route("/post", get(async || ([(CACHE_CONTROL, "max-age=60")], "a post")))
//!     .layer(CacheLayer::new(backend.clone()));
//!
//! let ask = async || {
//!     let request = Request::get("/post").body(Body::empty()).unwrap();
//!     app.clone().oneshot(request).await.unwrap().headers()["cache-status"].clone()
//! };
//! assert_eq!(ask().await, "towerkeep; fwd=uri-miss; ttl=60; stored");
//! # backend.shutdown(std::time::Duration::from_secs(5)).await;
//! let hit = ask().await;
//! assert!(hit.to_str().unwrap().starts_with("towerkeep; hit; ttl="));
//! # }
//! ```
//!
//! # Purging
//!
//! A handler tags its response by what would change it ([`CacheControl`]); whoever changes that purges
//! the tag ([`CacheHandle`]), in one round trip, however many responses have it, on all servers. A purge
//! also goes by URI, by the parts of a path, or takes all. [`Purge::Soft`] leaves what is stored for
//! [`stale_while_revalidate`](CacheLayer::stale_while_revalidate) and
//! [`stale_if_error`](CacheLayer::stale_if_error), [`Purge::Hard`] leaves nothing.
//!
//! ```
//! use axum::{Router, body::Body, extract::Path, routing::get};
//! use http::Request;
//! use std::time::Duration;
//! use tower::ServiceExt;
//! use towerkeep::{Backend, cache::{CacheControl, CacheLayer, Purge}};
//!
//! async fn post(Path(id): Path<u64>, cache: CacheControl) -> String {
//!     cache.tag(format!("post:{id}")).ttl(Duration::from_secs(60));
//!     format!("post {id}")
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), towerkeep::StoreError> {
//! # let backend = Backend::memory();
//! let layer = CacheLayer::new(backend.clone());
//! let cache = layer.handle();
//! let app = Router::new().route("/posts/{id}", get(post)).layer(layer);
//!
//! let is_hit = async || {
//!     let request = Request::get("/posts/7").body(Body::empty()).unwrap();
//!     let response = app.clone().oneshot(request).await.unwrap();
//! #   backend.tasks().drain(Duration::from_secs(5)).await;
//!     response.headers()["cache-status"].to_str().unwrap().contains("hit")
//! };
//! assert!(!is_hit().await && is_hit().await);
//!
//! // First the change, then the purge.
//! cache.purge_tag("post:7", Purge::Hard).await?;
//! assert!(!is_hit().await && is_hit().await);
//! cache.purge_prefix("/posts", Purge::Hard).await?;
//! assert!(!is_hit().await);
//! # Ok(())
//! # }
//! ```
//!
//! Purges are numbered, and each response carries the number of the last purge that was known before
//! its handler was called. So what was read before a change is never the answer to a request that
//! comes after its purge, however late it is stored, and whatever the clocks say. A request that comes
//! while such a response is being made waits for it in vain, and then has a new one made.
//!
//! # In front of an upstream
//!
//! With [`Policy::proxy`] it is a shared cache as RFC 9111 has it. What an application has to ask for,
//! and what it is kept from, a proxy does by the letter:
//!
//! | | RFC 9111 | |
//! | --- | --- | --- |
//! | freshness | 4.2, 5.3 | `s-maxage`, `max-age`, `Expires`, or a tenth of the time since `Last-Modified`; `CDN-Cache-Control` (RFC 9213) before them |
//! | `Vary` | 4.1 | several variants of an entry, found by what all of them vary by; [one in the language that is preferred](CacheLayer::select_language), if you say so |
//! | validation | 4.3 | by `ETag` and `Last-Modified`; a 304, or a matching response to `HEAD`, renews what is stored |
//! | invalidation | 4.4 | by unsafe and unknown methods, with `Location` and `Content-Location` |
//! | requests | 5.2.1 | `no-cache`, `no-store`, `max-age`, `max-stale`, `min-fresh`, `only-if-cached`, `Pragma` |
//! | ranges | 3.3, 3.4 | one range of what is stored, `If-Range`; a 206 is stored, joined with another, and completed |
//! | `POST` | RFC 9110, 9.3.3 | a 200 that says how long it is fresh, and that its `Content-Location` is its own target, answers the next `GET` |
//! | groups | RFC 9875 | `Cache-Groups`, and `Cache-Group-Invalidation` on what unsafe methods answer with 2xx or 3xx: the groups of one origin, purged for good |
//! | `QUERY` | RFC 10008 | with a [`QueryMethodLayer`] around the cache, which puts the content into the key |
//!
//! A range of what is not stored goes to the upstream as it is, and holds nobody up who wants the whole.
//! A 206 with one range of bytes is stored, and answers who asks for no more than it has. One with the
//! same strong `ETag` that overlaps or touches it is joined with it; of two that lie apart, the longer
//! one stays while it is fresh. Who wants the whole while its beginning is stored gets that and the rest,
//! for which the upstream is asked by `Range` and `If-Range`. If its answer is a part that does not
//! belong there, which no upstream that goes by `If-Range` gives, the client gets a 502
//! (`detail=mismatch`), and the part is forgotten. `multipart/byteranges` passes through, and so does a
//! part with fewer bytes than it says. A response that breaks off is not stored at all.
//!
//! What `Location` and `Content-Location` name is forgotten by itself, without the groups that it
//! belongs to.
//!
//! ```
//! # use towerkeep::{Backend, cache::{CacheLayer, Policy}};
//! # use std::time::Duration;
//! let layer = CacheLayer::new(Backend::memory())
//!     .policy(Policy::proxy())
//!     .stale_if_error(Duration::from_secs(3_600));
//! # drop(layer);
//! ```
//!
//! # Redis
//!
//! | key | is | lives |
//! | --- | --- | --- |
//! | `<prefix>:cache:{<hash>}` | a hash: `m:<variant>` about a response, `b:<variant>` its bytes, `v` what they vary by, `x` when the key ends | as long as a response is kept |
//! | `<prefix>:cache:tags` | a sorted set: digests of the 10,000 tags that were purged last, by number | for ever, at most some 2 MiB |
//! | `<prefix>:cache-lease:{<hash>}` | a hash: who makes the response, and until when | a lease, 10 s |
//! | `<prefix>:cache-hint:{<hash>}` | a pub/sub channel: a lease has ended | |
//!
//! A hit is one round trip of native commands, but for the first one in a process of a response that
//! varies, which is two; a body never goes through Lua on its way out. In the same turn it hears what
//! was purged since the last one, and the first one in a process all of it; in a cluster that goes to
//! the server that has the tags, at the same time. A purge is one round trip. A miss is
//! three: look up, lease, fill. The lease and the fill are scripts: a fill is stored only while its
//! token holds the lease, so what was read before a purge is never stored after it, and a process that
//! was thought dead does not overwrite its heir. Redis decides by its own clock. Those that wait are
//! woken by pub/sub and look by themselves every 50 to 400 ms besides.
//!
//! # Order
//!
//! Innermost, next to the handler: inside the session layer, so that a response that touched a session
//! is recognised; inside compression, CORS and everything that makes a response depend on the client.
//! Of two cache layers on the way of one request, the outer one acts. It works the same on a `Router`,
//! on a route and on any tower service.
//!
//! # Failure
//!
//! The cache fails open: a store that fails, or does not answer a lookup within 100 ms, means that the
//! handler runs and nothing is stored (`detail=store-unavailable`). While Redis is known to be down
//! that takes microseconds. At worst a request waits for a lookup (100 ms), for somebody else's
//! response (15 s) and for one more call of the store (250 ms).
//!
//! A purge that fails is an error of its caller, who may repeat it: that does no harm. In a cluster, no
//! lookup is answered while the server with the tags is away, since it may be about what was purged. A
//! purge that Redis loses in a failover is lost. If any process had heard of it, that is noticed, and
//! everything that was stored before counts as purged; so it does if the sorted set is deleted.
//!
//! A process that crashes while it makes a response holds the others up for at most a lease. What is
//! stored and cannot be read, because it is damaged or of another version of this crate, is a miss.
//! When the memory store is full, the response used least recently is forgotten.
//!
//! # Defaults
//!
//! | setting | default | why |
//! | --- | --- | --- |
//! | [`policy`](CacheLayer::policy) | [`Policy::application`] | nothing is cached until a handler says for how long |
//! | [`key`](CacheLayer::key) | scheme, host, path, query as sent | what a handler usually answers by |
//! | [`stale_while_revalidate`](CacheLayer::stale_while_revalidate) | zero | stale is wrong until somebody says otherwise |
//! | [`stale_if_error`](CacheLayer::stale_if_error) | zero | the same |
//! | [`select_language`](CacheLayer::select_language) | off | it goes beyond the RFC |
//! | tags of a response | 64, of 1 to 256 bytes | with one more it is not stored, since a purge would miss it |
//! | purged tags | 10,000; 1,000 at a time | what was made before the purges that are forgotten counts as purged |
//! | variants of an entry | 64 | one more, and all are forgotten: a client can think of any number |
//! | [`body_limit`](CacheLayer::body_limit) | 1 MiB | pages and API answers fit; downloads do not fill the store |
//! | [`compress_above`](CacheLayer#method.compress_above) | never | for Redis; costs each hit a copy (feature `cache-compression`) |
//! | [`lease`](CacheLayer::lease) | 10 s, renewed at a third | what a crash costs; a handler may take longer |
//! | [`wait`](CacheLayer::wait) | 15 s | longer than a lease, so that a crash ends in a takeover, not in a stampede |
//! | [`fill_timeout`](CacheLayer::fill_timeout) | 60 s | what nobody waits for any more must end |
//! | [`deadline`](CacheLayer::deadline) | 100 ms | a cache must not become the latency |
//! | memory | 64 MiB | [`max_cache_bytes`](crate::backend::Builder::max_cache_bytes) |
//! | uncacheable | 2 s | for so long nobody waits for a response that was not for everyone |
//!
//! # Security
//!
//! A shared cache must not give one client what is meant for another. So a response is stored only if
//! it says for how long, and never with `Set-Cookie`, after a session was touched, or with a `Vary` on
//! something that is not in the key; see [`Policy`] for the whole list. The whole key is compared on
//! every hit, not only its hash.
//!
//! What a handler reads of a request beyond the key, others can be made to see: if it answers by a
//! header such as `X-Forwarded-Host`, declare that header ([`CacheKey::header`]) or do not cache. A
//! request that names two hosts, or a `GET` with a body, is never cached. Of a `QUERY`, the content is in
//! the key (all of its SHA-256), if there is a [`QueryMethodLayer`]. `Cache-Control` of requests
//! is not heeded: any client could make your handlers run. [`Policy::proxy`] does heed it, and stores
//! responses with `Set-Cookie`, as the RFC has it.
//!
//! What a response varies by is stored as a digest of the request's values, never as they are; so are
//! tags. `Cache-Groups` of one origin are out of reach of another's `Cache-Group-Invalidation`; what an
//! upstream says of its own is believed.

mod change;
mod compression;
mod contend;
mod control;
mod fill;
mod filling;
mod future;
mod handle;
mod headers;
mod held;
mod http;
mod key;
mod layer;
mod memory;
mod parts;
mod policy;
mod purges;
mod query_method;
mod record;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_tags;
mod service;
mod status;
mod store;
mod stored;
mod tag;
mod tagging;
mod translate;
mod vary_memo;
mod visit;

pub(crate) use self::memory::DEFAULT_CAPACITY;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
#[cfg(feature = "redis")]
pub(crate) use self::redis::SCRIPTS;
pub use self::{
    control::CacheControl,
    future::ResponseFuture,
    handle::CacheHandle,
    key::{CacheKey, Query},
    layer::CacheLayer,
    memory::MemoryStore,
    policy::Policy,
    query_method::{QueryMethod, QueryMethodBody, QueryMethodFuture, QueryMethodLayer},
    service::Cache,
    store::{Address, CacheStore, Fill, FillReply, Found, Lane, LeaseReply, Lookup, Verdict},
    stored::StoredResponse,
    tag::{Purge, Tag, Tags},
};

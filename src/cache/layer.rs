//! The layer and its settings.

use crate::{
    cache::{
        contend::Outcome, handle::CacheHandle, http::serve::Windows, key::CacheKey, policy::Policy,
        service::Cache, store::CacheStore, vary_memo::VaryMemo,
    },
    flight::Flights,
    tasks::Tasks,
};
use std::{fmt, sync::Arc, time::Duration};
use tower_layer::Layer;

/// A shorter lease would be lost by any hiccup of the network.
const MIN_LEASE: Duration = Duration::from_millis(100);

/// Longer than anyone waits, and short enough to be added to the time.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// Stores responses of the service inside it, and answers from the store. See the
/// [module](crate::cache).
///
/// A cheap clone. All services that it makes share its flights, so one layer serves all routes of a
/// router.
#[derive(Clone, Debug)]
#[must_use]
pub struct CacheLayer {
    shared: Arc<Shared>,
}

/// What all requests share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn CacheStore>,
    pub(crate) tasks: Tasks,
    pub(crate) flights: Flights<Outcome>,
    pub(crate) policy: Policy,
    pub(crate) key: CacheKey,
    pub(crate) windows: Windows,
    pub(crate) vary: Arc<VaryMemo>,
    /// Which variants are in which language, if a request may get another one's for that.
    pub(crate) languages: Option<Arc<VaryMemo>>,
    pub(crate) body_limit: usize,
    pub(crate) compress_above: Option<usize>,
    pub(crate) lease: Duration,
    pub(crate) wait: Duration,
    pub(crate) fill_timeout: Duration,
    pub(crate) deadline: Duration,
}

impl CacheLayer {
    /// A cache with the defaults over a [`Backend`](crate::Backend) or another store.
    pub fn new(store: impl CacheStore) -> Self {
        let shared = Shared {
            tasks: store.tasks(),
            store: Arc::new(store),
            flights: Flights::default(),
            policy: Policy::default(),
            key: CacheKey::default(),
            windows: Windows::default(),
            vary: Arc::default(),
            languages: None,
            body_limit: 1 << 20,
            compress_above: None,
            lease: Duration::from_secs(10),
            wait: Duration::from_secs(15),
            fill_timeout: Duration::from_secs(60),
            deadline: Duration::from_millis(100),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Which responses are stored, and for how long. Default: [`Policy::application`].
    pub fn policy(self, policy: Policy) -> Self {
        self.with(|shared| shared.policy = policy)
    }

    /// What makes two requests the same. Default: scheme, host, path and query.
    pub fn key(self, key: CacheKey) -> Self {
        self.with(|shared| shared.key = key)
    }

    /// How long a stale response is the answer while a new one is made behind the client's back (RFC
    /// 5861, section 3), unless it says itself for how long. The request that makes the new one has
    /// no `Cookie`, `Authorization`, condition or range, but for what is in the key or makes it.
    ///
    /// Never one that says `must-revalidate`, `proxy-revalidate`, `no-cache` or `s-maxage`. More than
    /// 24 h are 24 h. Default: zero.
    pub fn stale_while_revalidate(self, window: Duration) -> Self {
        self.with(|shared| shared.windows.stale_while_revalidate = window.min(LONGEST))
    }

    /// How long a stale response is the answer where a new one cannot be had: the service inside
    /// answers 500, 502, 503 or 504, or fails (RFC 5861, section 4). What the response says itself
    /// counts before it.
    ///
    /// Never one that says `must-revalidate`, `proxy-revalidate`, `no-cache` or `s-maxage`. More than
    /// 24 h are 24 h. Default: zero.
    pub fn stale_if_error(self, window: Duration) -> Self {
        self.with(|shared| shared.windows.stale_if_error = window.min(LONGEST))
    }

    /// Gives a fresh response whose only `Content-Language` is what a request's `Accept-Language`
    /// prefers to every other language, although it answered other preferences: of an upstream with
    /// `Vary: Accept-Language`, which has one response for each language and not for each list of them.
    /// Languages are compared whole: `de` is not `de-AT`. Fields other than `Accept-Language` have to be
    /// the same.
    ///
    /// This goes beyond RFC 9111, section 4.1, which lets only what means the same be the same. A server
    /// that composes a response of several languages is not for it. Each process knows of the responses
    /// that it has stored or given itself. Has no effect but with [`Policy::proxy`]. Default: off.
    pub fn select_language(self, on: bool) -> Self {
        self.with(|shared| shared.languages = on.then(Arc::default))
    }

    /// The longest body that is stored, in bytes. A longer one passes through, and nobody waits for
    /// it. While a response is being stored, up to as much of it is held for a client that reads
    /// slowly. Default: 1 MiB.
    pub fn body_limit(self, bytes: usize) -> Self {
        self.with(|shared| shared.body_limit = bytes)
    }

    /// Compresses bodies of at least so many bytes for a store that is not in memory, by LZ4, if that
    /// makes them an eighth smaller. Nobody sees it: clients get the bytes and headers that the handler
    /// gave. A response with `Content-Encoding` is compressed already, and stays so. A hit costs a copy
    /// then, and a millisecond or so for each MiB. Needs the feature `cache-compression` in all
    /// processes: to one without, such a response is a miss. 1 KiB is a good length. Default: never.
    #[cfg(feature = "cache-compression")]
    pub fn compress_above(self, bytes: usize) -> Self {
        self.with(|shared| shared.compress_above = Some(bytes))
    }

    /// How long the right to make a response is held without a sign of life. It is renewed at a third
    /// of that while the handler runs, so this bounds what a crash costs, not how long a handler may
    /// take. From 100 ms to 24 h; what is beyond is cut. Default: 10 s.
    pub fn lease(self, length: Duration) -> Self {
        self.with(|shared| shared.lease = length.clamp(MIN_LEASE, LONGEST))
    }

    /// How long a request waits for a response that another makes. Then it runs the handler itself,
    /// and its response is not stored. Longer than the lease, a crash ends in a takeover; shorter, in
    /// a stampede. More than 24 h are 24 h. Default: 15 s.
    pub fn wait(self, limit: Duration) -> Self {
        self.with(|shared| shared.wait = limit.min(LONGEST))
    }

    /// How long a response may take to be made and read before others stop to count on it. After
    /// that it is not stored any more, and ends when its client leaves. More than 24 h are 24 h.
    /// Default: 60 s.
    pub fn fill_timeout(self, limit: Duration) -> Self {
        self.with(|shared| shared.fill_timeout = limit.min(LONGEST))
    }

    /// How long a request waits for the store to look a response up. Default: 100 ms.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|shared| shared.deadline = deadline)
    }

    /// A handle for purges.
    #[must_use]
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::new(self.shared.store.clone(), self.shared.key.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        self
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S>;

    fn layer(&self, inner: S) -> Cache<S> {
        Cache::new(inner, self.shared.clone())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("policy", &self.policy)
            .field("key", &self.key)
            .field("windows", &self.windows)
            .field("body_limit", &self.body_limit)
            .field("compress_above", &self.compress_above)
            .field("lease", &self.lease)
            .field("wait", &self.wait)
            .field("fill_timeout", &self.fill_timeout)
            .field("deadline", &self.deadline)
            .field("flights", &self.flights)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{MemoryStore, Policy};
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use std::convert::Infallible;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    #[tokio::test]
    async fn the_longest_times_there_are_answer_requests_too() {
        let layer = CacheLayer::new(MemoryStore::default())
            .policy(Policy::fixed(Duration::MAX))
            .lease(Duration::MAX)
            .wait(Duration::MAX)
            .fill_timeout(Duration::MAX)
            .deadline(Duration::MAX);
        let handler = service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"x"))))
        });
        let service = ServiceBuilder::new().layer(layer).service(handler);
        for _ in 0..2 {
            let response = service.clone().oneshot(Request::default()).await.unwrap();
            assert_eq!(response.status(), 200);
        }
    }
}

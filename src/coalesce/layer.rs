//! The layer, which is its own builder.

use crate::{
    coalesce::{key::Asked, seat::Landed, service::Coalesce, store::CoalesceStore},
    flight::Flights,
    tasks::Tasks,
};
use http::{HeaderName, request::Parts};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tower_layer::Layer;

/// Shortest and longest lease, as the renewals follow each other and as a crash costs.
const LEASES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(3_600)];

/// Longest wait for another request.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Of identical requests that are under way at the same time, one goes to the handler. See the
/// [module](crate::coalesce). A cheap clone.
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct CoalesceLayer {
    config: Arc<Config>,
}

#[derive(Clone)]
pub(crate) struct Config {
    /// `None`: within this process only.
    pub(crate) store: Option<Arc<dyn CoalesceStore>>,
    pub(crate) tasks: Tasks,
    pub(crate) flights: Flights<Landed>,
    pub(crate) key: Option<Arc<FindKey>>,
    pub(crate) vary: Option<Vec<HeaderName>>,
    pub(crate) wait: Duration,
    pub(crate) waiters: Arc<Semaphore>,
    pub(crate) lease: Duration,
    pub(crate) answer_limit: usize,
}

type FindKey = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl CoalesceLayer {
    /// Across all servers that share the store. A request that leads costs two round trips, one before
    /// its handler and one behind the back of its answer.
    pub fn new(store: impl CoalesceStore) -> Self {
        Self::over(store.tasks(), Some(Arc::new(store)))
    }

    /// Within this process, without a store: of N servers, up to N handlers run.
    pub fn local() -> Self {
        Self::over(Tasks::default(), None)
    }

    fn over(tasks: Tasks, store: Option<Arc<dyn CoalesceStore>>) -> Self {
        let config = Config {
            store,
            tasks,
            flights: Flights::default(),
            key: None,
            vary: None,
            wait: Duration::from_secs(5),
            waiters: Arc::new(Semaphore::new(1_024)),
            lease: Duration::from_secs(5),
            answer_limit: 256 << 10,
        };
        Self { config: Arc::new(config) }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// What else an answer depends on, such as the tenant of a client certificate or the country of the
    /// peer's address: requests for which it differs are two. Where the closure returns `None`, the
    /// request goes to the handler by itself. Default: nothing else.
    ///
    /// ```
    /// # use towerkeep::{PeerAddr, coalesce::CoalesceLayer};
    /// CoalesceLayer::local().key(|parts| PeerAddr::of(&parts.extensions).map(|peer| peer.to_string()))
    /// # ;
    /// ```
    pub fn key(self, key: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.key = Some(Arc::new(key)))
    }

    /// Of the request's headers, only these make two requests different, and always `Authorization`,
    /// `Proxy-Authorization`, `Cookie`, `Range` and the conditions (`If-…`).
    ///
    /// **Whatever else an answer depends on is then shared by strangers**: an API key in a header of its
    /// own, `X-Forwarded-Host` in a link. An answer whose `Vary` names a header that is not among them
    /// is not shared. Default: all headers but those of the connection and of traces, which is safe, and
    /// tells two browsers apart.
    pub fn vary_by(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|config| config.vary = Some(headers.into_iter().collect()))
    }

    /// How long a request waits for the answer to another, at most; then it goes to the handler by
    /// itself. More than an hour is an hour. Default: 5 s.
    pub fn wait(self, max: Duration) -> Self {
        self.with(|config| config.wait = max.min(LONGEST_WAIT))
    }

    /// How many requests may wait for others at a time, over all clones of this layer; those above go to
    /// the handler by themselves. Default: 1,024.
    pub fn max_waiters(self, requests: usize) -> Self {
        let requests = requests.min(Semaphore::MAX_PERMITS);
        self.with(|config| config.waiters = Arc::new(Semaphore::new(requests)))
    }

    /// How long after its server has vanished a request is still waited for by other servers. It is
    /// renewed at every third while the handler runs. From 50 ms to 1 h; what is beyond is cut.
    /// Default: 5 s.
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|config| config.lease = lease.clamp(LEASES[0], LEASES[1]))
    }

    /// Largest body of an answer that is shared, in bytes. It is held in memory, once, and of a larger
    /// one nothing. Default: 256 KiB.
    pub fn answer_limit(self, bytes: usize) -> Self {
        self.with(|config| config.answer_limit = bytes)
    }
}

impl Config {
    /// What the request asks for; `None` if it goes to the handler by itself.
    pub(crate) fn asked(&self, parts: &Parts) -> Option<Asked> {
        let extra = match &self.key {
            Some(key) => Some(key(parts)?),
            None => None,
        };
        Asked::of(parts, self.vary.as_deref(), extra.as_deref())
    }
}

impl<S> Layer<S> for CoalesceLayer {
    type Service = Coalesce<S>;

    fn layer(&self, inner: S) -> Coalesce<S> {
        Coalesce::new(inner, self.config.clone())
    }
}

impl fmt::Debug for CoalesceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalesceLayer")
            .field("shared", &self.store.is_some())
            .field("flights", &self.flights)
            .field("vary", &self.vary)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

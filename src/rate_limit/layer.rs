//! The layer and its settings.

use crate::{
    client_addr::TrustedProxies,
    problem,
    rate_limit::{
        local::Leasing, memory::MemoryStore, partition::PartitionKeys, policy::Policy,
        rejection::Rejection, service::RateLimit, store::RateLimitStore,
    },
};
use bytes::Bytes;
use http::{Method, Response, request::Parts};
use std::{fmt, sync::Arc, time::Duration};
use tower_layer::Layer;

/// Limits the rate of requests to the service inside it. See the [module](crate::rate_limit).
///
/// Two layers with different policies over one backend keep apart by the names of their policies.
#[derive(Clone, Debug)]
#[must_use]
pub struct RateLimitLayer {
    pub(crate) config: Arc<Config>,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) store: Arc<dyn RateLimitStore>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) proxies: Option<TrustedProxies>,
    pub(crate) cost: Option<Arc<Cost>>,
    pub(crate) allow: Option<Arc<Chosen>>,
    pub(crate) deny: Option<Arc<Chosen>>,
    pub(crate) headers: Headers,
    pub(crate) partition: Option<PartitionKeys>,
    pub(crate) on_store_error: OnStoreError,
    /// Counts while the store fails, if the policy is to have some.
    pub(crate) fallback: Option<Arc<MemoryStore>>,
    pub(crate) deadline: Duration,
    pub(crate) rejection: problem::Rejection<Rejection>,
}

type Chosen = dyn Fn(&Parts) -> bool + Send + Sync;
type Cost = dyn Fn(&Parts) -> u64 + Send + Sync;

/// Which headers tell a client where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Headers {
    /// `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10.
    #[default]
    Draft,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` (in seconds from now).
    Legacy,
    /// All of them.
    Both,
    /// None; a denied request still gets `Retry-After`.
    Off,
}

/// What happens to a request that the store cannot decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnStoreError {
    /// It is let through: an outage of the store is not an outage of the service.
    #[default]
    Allow,
    /// It is answered with 503 and `Retry-After`: for limits that guard against guessing.
    Deny,
    /// It is counted in this process's own memory, as one of so many equal shares of each limit: about
    /// the number of processes. When the store is back, its counts go on where they were.
    LocalFallback {
        /// 1 to 1,000; a share is at least 1.
        shares: u32,
    },
}

impl RateLimitLayer {
    /// Limits by one policy; [`policy`](RateLimitLayer::policy) adds others.
    pub fn new(store: impl RateLimitStore, policy: Policy) -> Self {
        let config = Config {
            store: Arc::new(store),
            policies: Vec::new(),
            proxies: None,
            cost: None,
            allow: None,
            deny: None,
            headers: Headers::default(),
            partition: None,
            on_store_error: OnStoreError::default(),
            fallback: None,
            deadline: Duration::from_millis(100),
            rejection: problem::Rejection::default(),
        };
        Self { config: Arc::new(config) }.policy(policy)
    }

    /// Another policy. All are decided together in one round trip: a request that one of them denies
    /// is charged to none.
    ///
    /// # Panics
    ///
    /// If there is a policy of that name already: they would share their counts.
    pub fn policy(self, policy: Policy) -> Self {
        self.with(|config| {
            let name = policy.name();
            let taken = config.policies.iter().any(|other| other.name() == name);
            assert!(!taken, "two policies of one layer are named {name:?}; rename one of them");
            let leases = |policy: &Policy| policy.leases_locally().is_some();
            if leases(&policy) && !config.policies.iter().any(leases) {
                config.store = Arc::new(Leasing::over(config.store.clone()));
            }
            if let Some(quotas) = policy.quotas() {
                quotas.go_by(config.store.clock());
            }
            config.policies.push(policy);
        })
    }

    /// The proxies whose word is taken for the client's address: networks in CIDR notation, or
    /// [`TrustedProxies`]. What is found holds for layers further in, too, and handlers ask
    /// [`ClientAddr::of`](crate::ClientAddr::of). See [`client_addr`](crate::client_addr). Default: none;
    /// the client is who a layer further out has found, else the connection's peer.
    ///
    /// ```
    /// # use towerkeep::{Backend, TrustedProxies, rate_limit::{Policy, Quota, RateLimitLayer}};
    /// # let policy = || Policy::gcra("burst", Quota::per_second(20));
    /// # let backend = Backend::memory();
    /// let limit = RateLimitLayer::new(backend.clone(), policy()).trust_proxies(["10.0.0.0/8"]);
    /// let limit = RateLimitLayer::new(backend, policy()).trust_proxies(TrustedProxies::hops(1));
    /// ```
    ///
    /// # Panics
    ///
    /// Where [`TrustedProxies::networks`] returns an error.
    pub fn trust_proxies<P>(self, proxies: P) -> Self
    where
        P: TryInto<TrustedProxies, Error: fmt::Display>,
    {
        match proxies.try_into() {
            Ok(proxies) => self.with(|config| config.proxies = Some(proxies)),
            Err(error) => panic!("{error}"),
        }
    }

    /// How much a request costs. 0 is charged nothing and always let through; more than a policy's
    /// burst is never let through. Default: 1, and 0 for `OPTIONS`, which browsers send on their own.
    pub fn cost(self, cost: impl Fn(&Parts) -> u64 + Send + Sync + 'static) -> Self {
        self.with(|config| config.cost = Some(Arc::new(cost)))
    }

    /// Requests that are let through uncounted: of a health check, or of a network of one's own. A
    /// request that is denied by [`deny`](RateLimitLayer::deny) is not among them. Default: none.
    pub fn allow(self, chosen: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.allow = Some(Arc::new(chosen)))
    }

    /// Requests that are answered with 403, without asking the store. Default: none.
    pub fn deny(self, chosen: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.deny = Some(Arc::new(chosen)))
    }

    /// Which headers tell the client where it stands. Default: [`Headers::Draft`].
    pub fn headers(self, headers: Headers) -> Self {
        self.with(|config| config.headers = headers)
    }

    /// Tells which count the request fell into: adds to the headers of the [draft](Headers::Draft) the
    /// parameter `pk`, a hash (HMAC-SHA-256, 128 bits) of each policy's key under this secret, by which a
    /// client with several keys can tell its counts apart. All servers of a fleet have the same secret,
    /// which serves nothing else; without it, nobody learns from `pk` what the key is. Default: no `pk`.
    ///
    /// # Panics
    ///
    /// If the secret has less than 32 bytes, which should be random.
    pub fn partition_key(self, secret: impl AsRef<[u8]>) -> Self {
        let keys = PartitionKeys::new(secret.as_ref());
        self.with(|config| config.partition = Some(keys))
    }

    /// What happens when the store fails or is too slow. Default: [`OnStoreError::Allow`].
    pub fn on_store_error(self, policy: OnStoreError) -> Self {
        self.with(|config| {
            config.on_store_error = policy;
            let counts = matches!(policy, OnStoreError::LocalFallback { .. });
            config.fallback = counts.then(Arc::default);
        })
    }

    /// How long a request waits for the store at most. The store's own deadline (250 ms unless the
    /// [backend](crate::backend::Builder::deadline) says otherwise) ends a wait, too. Default: 100 ms.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|config| config.deadline = deadline)
    }

    /// How a request is answered that is not let through. The typed reason is put into the response's
    /// extensions in any case. Default: `application/problem+json` (RFC 9457) with the status of the
    /// [`Rejection`], and `Retry-After`.
    pub fn rejection<T: Into<Bytes>>(
        self,
        render: impl Fn(&Rejection) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.rejection = problem::Rejection::new(render))
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl Config {
    pub(crate) fn cost_of(&self, request: &Parts) -> u64 {
        match &self.cost {
            Some(cost) => cost(request),
            None => u64::from(request.method != Method::OPTIONS),
        }
    }

    /// Whether the request is let through or denied without being counted; `None` if it is counted.
    pub(crate) fn chosen(&self, request: &Parts) -> Option<bool> {
        let is_in = |list: &Option<Arc<Chosen>>| list.as_ref().is_some_and(|list| list(request));
        if is_in(&self.deny) {
            return Some(false);
        }
        is_in(&self.allow).then_some(true)
    }

    pub(crate) fn needs_user(&self) -> bool {
        self.policies.iter().any(|policy| policy.key_by().needs_user())
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit::new(inner, self.config.clone())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("policies", &self.policies)
            .field("proxies", &self.proxies)
            .field("headers", &self.headers)
            .field("on_store_error", &self.on_store_error)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

//! The layer, which is its own builder.

use crate::{
    idempotency::{
        records::Records,
        rejection::Rejection,
        service::Idempotency,
        store::{IdempotencyStore, Orphan, Terms},
        wait::Waiters,
    },
    marks::UserId,
    problem,
    tasks::Tasks,
};
use bytes::Bytes;
use http::{Method, Response, request::Parts};
use std::{fmt, sync::Arc, time::Duration};
use tower_layer::Layer;

/// Shortest lease: below it the renewals would do nothing but follow each other.
const SHORTEST_LEASE: Duration = Duration::from_millis(10);

/// Longest lease: it is how long a crash blocks a key.
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 3_600);

/// Longest window of requests that are told by their content: a user who means the same again an hour
/// later means it.
const LONGEST_WINDOW: Duration = Duration::from_secs(3_600);

/// Longest wait for another request.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Runs the handler of a request once for each idempotency key. See the [module](crate::idempotency).
///
/// A cheap clone; every setting may differ from route to route over the same store.
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct IdempotencyLayer {
    config: Arc<Config>,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) store: Arc<dyn IdempotencyStore>,
    pub(crate) tasks: Tasks,
    pub(crate) scope: Scope,
    pub(crate) methods: Vec<Method>,
    pub(crate) required: Vec<Method>,
    pub(crate) lenient: bool,
    pub(crate) in_flight: InFlight,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) terms: Terms,
    /// How long after its answer a request without a key is the same; `None`: it passes through.
    pub(crate) window: Option<Duration>,
    pub(crate) canonical: Option<Arc<Canonical>>,
    pub(crate) request_limit: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) stored_limit: usize,
    pub(crate) time_limit: Duration,
    pub(crate) rejection: problem::Rejection<Rejection>,
}

/// What a key belongs to.
#[derive(Clone)]
pub(crate) enum Scope {
    User,
    By(Arc<FindScope>),
    Everyone,
}

/// What a body is compared as; `None`: as it was sent.
pub(crate) type Canonical = dyn Fn(&Parts, &Bytes) -> Option<Bytes> + Send + Sync;

type FindScope = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// What a request gets whose key is in use by another that is being handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InFlight {
    /// 409 with `Retry-After`, at once.
    #[default]
    Conflict,
    /// It waits for the other's answer and gets the same. After `max`, 409 with `Retry-After`.
    Wait {
        /// The longest wait; more than an hour is an hour.
        max: Duration,
    },
}

impl IdempotencyLayer {
    /// A layer over a store, with every setting at its default.
    ///
    /// A key belongs to the [`UserId`] of its request, and a request with a key and without a user is
    /// answered with 403. See [`scope`](IdempotencyLayer::scope).
    pub fn new(store: impl IdempotencyStore) -> Self {
        let config = Config {
            tasks: store.tasks(),
            store: Arc::new(store),
            scope: Scope::User,
            methods: vec![Method::POST, Method::PATCH],
            required: Vec::new(),
            lenient: false,
            in_flight: InFlight::Conflict,
            waiters: Arc::new(Waiters::new(1_024)),
            terms: Terms::new(Duration::from_secs(30), Duration::from_secs(24 * 3_600)),
            window: None,
            canonical: None,
            request_limit: 1 << 20,
            request_timeout: Duration::from_secs(30),
            stored_limit: 256 << 10,
            time_limit: Duration::from_secs(300),
            rejection: problem::Rejection::default(),
        };
        Self { config: Arc::new(config) }
    }

    /// The handlers that run, which outlive their clients. `Backend::shutdown` waits for them; with a
    /// store of your own, [drain](Tasks::drain) them before the process ends.
    #[must_use]
    pub fn tasks(&self) -> Tasks {
        self.config.tasks.clone()
    }

    /// The records of this layer, for an operator who looks at one, forgets it, or settles an orphan.
    #[must_use]
    pub fn records(&self) -> Records {
        Records::new(self.config.clone())
    }

    #[cfg(test)]
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// What a key belongs to: two requests with equal keys and different scopes have nothing to do
    /// with each other. Where the closure finds no scope, the request is answered with 403 and not
    /// run: a caller that nobody knows must not share keys, and so answers, with all others.
    ///
    /// The closure sees the head of the request, with a [`UserId`] in its extensions if there is one;
    /// the session is loaded for that. Default: the [`UserId`].
    ///
    /// ```
    /// # use towerkeep::idempotency::{IdempotencyLayer, MemoryStore};
    /// IdempotencyLayer::new(MemoryStore::default()).scope(|parts| {
    ///     let tenant = parts.headers.get("x-tenant")?.to_str().ok()?;
    ///     Some(tenant.to_owned())
    /// })
    /// # ;
    /// ```
    pub fn scope(self, scope: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.scope = Scope::By(Arc::new(scope)))
    }

    /// All callers share one space of keys.
    ///
    /// **Whoever sends the key and the request of somebody else gets the answer of somebody else**,
    /// and who guesses a key can block it. Only for callers that may see all of each other's answers.
    /// Default: off, a key belongs to its user.
    pub fn insecure_unscoped(self) -> Self {
        self.with(|config| config.scope = Scope::Everyone)
    }

    /// The methods whose requests may carry a key. Those of all others pass through untouched, with
    /// or without one. Default: POST and PATCH, the methods that are not idempotent by themselves
    /// (RFC 9110, section 9.2.2).
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.with(|config| config.methods = methods.into_iter().collect())
    }

    /// Requests of this method without a key are answered with 400. May be called for several
    /// methods. Default: none, a request without a key passes through untouched.
    pub fn require(self, method: Method) -> Self {
        self.with(|config| config.required.push(method))
    }

    /// Also takes a key that is not a String in double quotes, as clients send it that know the
    /// header from other services: `Idempotency-Key: 8e03978e-40d5-43dd-bc93-6b82f0d5b0e5`. Quoted or
    /// not, it is the same key. Default: off, as the draft has it, with an answer that says how to
    /// quote.
    pub fn lenient(self) -> Self {
        self.with(|config| config.lenient = true)
    }

    /// Also runs a request **without** a key once: it is told by its content, so within `window` of its
    /// answer a request of the same scope with the same method, path, query, content type and body
    /// gets that answer, and while it is handled, what [`in_flight`](IdempotencyLayer::in_flight) says.
    /// For clients that cannot be taught to send keys: a form that is submitted by a double click.
    ///
    /// **Whoever means the same twice is answered once.** Two payments of the same amount to the same
    /// person within the window are one payment, and the second answer says that all is well. Keep the
    /// window as short as impatience, some seconds, and off where equal requests are common, or let
    /// the form carry a number that is new each time it is shown. A request that *has* a key goes by
    /// that alone.
    ///
    /// The scope is never optional here: without a `UserId`, or what
    /// [`scope`](IdempotencyLayer::scope) finds, 403; with
    /// [`insecure_unscoped`](IdempotencyLayer::insecure_unscoped), which is for keys, it is the `UserId`.
    /// Every request of the [`methods`](IdempotencyLayer::methods) is then held in memory up to
    /// [`request_limit`](IdempotencyLayer::request_limit), uploads too: guard only the routes that need
    /// it. If the handler vanishes, that is known for the lease and one window more.
    ///
    /// From 1 ms to 1 h; what is beyond is cut. Default: off, a request without a key passes through.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use towerkeep::idempotency::{IdempotencyLayer, InFlight, MemoryStore};
    /// let second = Duration::from_secs(1);
    /// IdempotencyLayer::new(MemoryStore::default())
    ///     .dedup_by_content(3 * second)
    ///     .in_flight(InFlight::Wait { max: 5 * second })
    /// # ;
    /// ```
    pub fn dedup_by_content(self, window: Duration) -> Self {
        let window = window.clamp(Duration::from_millis(1), LONGEST_WINDOW);
        self.with(|config| config.window = Some(window))
    }

    /// What a body is compared as, to tell whether a request is the same. Where the closure returns
    /// `None`, the body counts as it was sent, byte by byte, which is the default: a client that sends a
    /// request again sends the same bytes.
    ///
    /// It is for clients that do not, such as one that writes the members of a JSON object in another
    /// order each time. **What the closure leaves out does not count**: a request that differs only in
    /// that gets the answer of the other. Beware of numbers: a reader that takes them for floats makes
    /// one of two amounts that differ in the 17th digit. The closure runs for each request, on up to
    /// [`request_limit`](IdempotencyLayer::request_limit) bytes that a client chose.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use towerkeep::idempotency::{IdempotencyLayer, MemoryStore};
    /// #[derive(serde::Deserialize, serde::Serialize)]
    /// struct Pay {
    ///     cents: u64,
    ///     to: String,
    /// }
    ///
    /// IdempotencyLayer::new(MemoryStore::default()).canonical_body(|_parts, body| {
    ///     // What the handler reads, in the order of the struct; anything else is compared as it is.
    ///     let pay: Pay = serde_json::from_slice(body).ok()?;
    ///     serde_json::to_vec(&pay).ok().map(Bytes::from)
    /// })
    /// # ;
    /// ```
    pub fn canonical_body(
        self,
        canonical: impl Fn(&Parts, &Bytes) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.canonical = Some(Arc::new(canonical)))
    }

    /// What a request gets whose key is in use. Default: [`InFlight::Conflict`].
    pub fn in_flight(self, in_flight: InFlight) -> Self {
        let in_flight = match in_flight {
            InFlight::Wait { max } => InFlight::Wait { max: max.min(LONGEST_WAIT) },
            InFlight::Conflict => InFlight::Conflict,
        };
        self.with(|config| config.in_flight = in_flight)
    }

    /// How many requests may wait for others at a time, over all clones of this layer; those above
    /// get 409 at once. Each holds its body in memory. Default: 1,024.
    pub fn max_waiters(self, requests: usize) -> Self {
        self.with(|config| config.waiters = Arc::new(Waiters::new(requests)))
    }

    /// How long after its server has vanished a request stays in flight. It is renewed at every
    /// third while the handler runs, however long that takes. From 10 ms to 24 h; what is beyond is
    /// cut. Default: 30 s.
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|config| config.terms.lease = lease.clamp(SHORTEST_LEASE, LONGEST_LEASE))
    }

    /// How long an outcome is replayed. A record that has no outcome is kept as long, too, for the
    /// count of attempts. Default: 24 h.
    pub fn retain(self, retain: Duration) -> Self {
        self.with(|config| config.terms.retain = retain)
    }

    /// What becomes of a request whose handler vanished: killed, panicked, or cut off from the store
    /// for longer than its lease. Default: [`Orphan::Retry`].
    pub fn on_orphan(self, on_orphan: Orphan) -> Self {
        self.with(|config| config.terms.on_orphan = on_orphan)
    }

    /// Largest body of a request with a key, in bytes; a larger one is answered with 413. The body is
    /// held in memory. Default: 1 MiB.
    pub fn request_limit(self, bytes: usize) -> Self {
        self.with(|config| config.request_limit = bytes)
    }

    /// How long the body of a request with a key may take to arrive; then 408. Default: 30 s.
    pub fn request_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.request_timeout = timeout)
    }

    /// Largest answer that is stored, in bytes, its headers included. A larger one is passed on as it
    /// comes, and remembered as a [tombstone](crate::idempotency::Outcome::Tombstone). Default:
    /// 256 KiB.
    pub fn stored_limit(self, bytes: usize) -> Self {
        self.with(|config| config.stored_limit = bytes)
    }

    /// How long a handler may run, with or without a client, and what [`Finish`](crate::marks::Finish)
    /// holds with it. Then it is stopped, which leaves an orphan, and its client gets 503. An answer
    /// whose body has no end within as long is remembered as a
    /// [tombstone](crate::idempotency::Outcome::Tombstone) and passed on. Default: 5 min.
    pub fn time_limit(self, limit: Duration) -> Self {
        self.with(|config| config.time_limit = limit)
    }

    /// Answers rejections by a closure. The typed [`Rejection`] is in the extensions of the response
    /// either way. Default: `application/problem+json` (RFC 9457).
    pub fn rejection<T: Into<Bytes>>(
        self,
        render: impl Fn(&Rejection) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.rejection = problem::Rejection::new(render))
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(inner, self.config.clone())
    }
}

impl Config {
    /// What a key belongs to. Content is never everybody's: two strangers may well mean the same.
    pub(crate) fn scope_of(&self, by_content: bool) -> &Scope {
        match &self.scope {
            Scope::Everyone if by_content => &Scope::User,
            scope => scope,
        }
    }

    /// How a record is held and how it is kept. Of a request without a key, the count of attempts is
    /// kept for a window after the lease.
    pub(crate) fn terms_of(&self, by_content: bool) -> (Terms, Terms) {
        match self.window.filter(|_| by_content) {
            Some(window) => {
                let held = Terms { retain: self.terms.lease + window, ..self.terms };
                (held, Terms { retain: window, ..self.terms })
            }
            None => (self.terms, self.terms),
        }
    }
}

impl Scope {
    /// The parts of the record's name that keep one scope's keys from another's. `None` if the
    /// request has no scope.
    pub(crate) fn of(&self, parts: &Parts) -> Option<(&'static str, String)> {
        let scope = match self {
            Self::Everyone => Some(String::new()),
            Self::By(scope) => scope(parts),
            Self::User => parts.extensions.get::<UserId>().map(|user| user.as_str().to_owned()),
        };
        scope.map(|scope| (self.kind(), scope))
    }

    /// The part that keeps a user from a scope of the same name.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::By(_) => "scope",
            Self::User => "user",
        }
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("methods", &self.methods)
            .field("required", &self.required)
            .field("in_flight", &self.in_flight)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

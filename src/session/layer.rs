//! The layer and its settings.

#[cfg(any(feature = "session-signed", feature = "session-private"))]
use crate::session::{
    key::{CookieKey, CookieKeys},
    seal::Seal,
};
use crate::{
    flight::Flights,
    problem,
    session::{
        cookie::{CookieSettings, SameSite},
        error::Error,
        limit::OnMaxSessions,
        service::SessionService,
        sessions::Sessions,
        state::Terms,
        store::{Limits, SessionStore},
        user_store::{MOST_LISTED, Trail},
    },
    store::StoreFuture,
};
use bytes::Bytes;
use http::Response;
use std::{borrow::Cow, fmt, sync::Arc, time::Duration};
use tower_layer::Layer;

/// The most fields a session may be allowed: all of them travel in one script call.
const MOST_FIELDS: usize = 1_024;

/// The longest trail of a user.
const MOST_EVENTS: usize = 10_000;

/// Gives each request a session, by a cookie. See the [module](crate::session).
///
/// Its methods change one setting each; all of them have a default that is safe in production. Two
/// layers with different cookie names over one backend are two sessions of the same kind: a client may
/// send the cookie of one under the name of the other, and is the same user there. Where that would be
/// more than it may be, give them backends with different prefixes, or
/// [sign](SessionLayer::signing_keys) the cookies.
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionLayer {
    config: Arc<Config>,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) terms: Terms,
    pub(crate) cookie: CookieSettings,
    pub(crate) on_store_error: OnStoreError,
    pub(crate) save_on_server_error: bool,
    pub(crate) on_gone: OnGone,
    /// Whether the load is sent before anybody asks for it.
    pub(crate) eager: bool,
    pub(crate) trail: Trail,
    pub(crate) max_sessions: Option<(usize, OnMaxSessions)>,
    /// Shorter than the store's own, if there is one.
    pub(crate) deadline: Option<Duration>,
    pub(crate) rejection: problem::Rejection<Error>,
    /// The slides under way: one per session is enough.
    pub(crate) slides: Flights<()>,
}

/// What happens to a request that wants its session while the store fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnStoreError {
    /// It is answered with 503 and `Retry-After`, since nobody knows who asks.
    #[default]
    Reject,
    /// It goes on as a visitor without a session, for sites that have something to show to anyone.
    /// Nothing can be changed then: [`Session::set`](super::Session::set) and its like return an
    /// error.
    Anonymous,
}

/// What happens to a response whose session ended while its request was handled, so that the changes
/// to it are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnGone {
    /// It goes out all the same: the client has logged out, or its session has expired.
    #[default]
    Ignore,
    /// It is replaced by 409, for applications in which a change that is lost must not be confirmed.
    Reject,
}

impl SessionLayer {
    /// Keeps sessions in this store: a [`Backend`](crate::Backend), usually.
    pub fn new(store: impl SessionStore) -> Self {
        let config = Config {
            store: Arc::new(store),
            terms: Terms {
                idle: Duration::from_secs(2 * 60 * 60),
                absolute: Some(Duration::from_secs(24 * 60 * 60)),
                throttle: None,
                limits: Limits::default(),
                persistent: false,
                clear_on_login: false,
                most_events: Trail::default().events,
            },
            trail: Trail::default(),
            max_sessions: None,
            on_gone: OnGone::default(),
            eager: false,
            cookie: CookieSettings::default(),
            on_store_error: OnStoreError::default(),
            save_on_server_error: false,
            deadline: None,
            rejection: problem::Rejection::default(),
            slides: Flights::default(),
        };
        Self { config: Arc::new(config) }
    }

    /// The cookie's name. Browsers accept a name that begins with `__Host-` only with `Secure`, with
    /// `Path=/` and without a domain, so no other host, a subdomain included, can plant the cookie.
    /// Default: `__Host-sid`; with a [domain](SessionLayer::cookie_domain) or a
    /// [path](SessionLayer::cookie_path), `__Secure-sid`; over
    /// [plain HTTP](SessionLayer::insecure_plain_http), `sid`.
    ///
    /// # Panics
    ///
    /// If a browser would refuse the cookie, as with any of the methods about the cookie: a name of
    /// other characters than RFC 6265 allows, or one whose prefix contradicts another attribute
    /// (`__Host-`, `__Secure-`, `__Http-`, `__Host-Http-`).
    pub fn cookie_name(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.cookie(|cookie| cookie.name = Some(name.into()))
    }

    /// The path under which browsers send the cookie. It is no protection: every page of the host
    /// can get at it. Default: `/`.
    ///
    /// # Panics
    ///
    /// If it does not begin with `/` or has a character that ends it, and if the cookie was given a
    /// name that begins with `__Host-`.
    pub fn cookie_path(self, path: impl Into<Cow<'static, str>>) -> Self {
        self.cookie(|cookie| cookie.path = path.into())
    }

    /// The domain that shares the cookie with all of its subdomains, each of which can then plant
    /// one. Default: none, only the host itself.
    ///
    /// # Panics
    ///
    /// If it is not the name of a host, and if the cookie was given a name that begins with
    /// `__Host-`.
    pub fn cookie_domain(self, domain: impl Into<Cow<'static, str>>) -> Self {
        self.cookie(|cookie| cookie.domain = Some(domain.into()))
    }

    /// Which requests of other sites carry the cookie. Default: [`SameSite::Lax`].
    pub fn same_site(self, same_site: SameSite) -> Self {
        self.cookie(|cookie| cookie.same_site = same_site)
    }

    /// Whether a page that is embedded in other sites has a cookie of its own in each of them
    /// (`Partitioned`, CHIPS). Such a page needs [`SameSite::None`], too. Default: `false`.
    ///
    /// A browser takes a partitioned cookie for another one than the same without: one that was set
    /// before this was changed stays until it expires.
    pub fn partitioned(self, partitioned: bool) -> Self {
        self.cookie(|cookie| cookie.partitioned = partitioned)
    }

    /// How long browsers keep the cookie, for sessions that outlive a restart of the browser; they
    /// make it 400 days at most. It is sent again whenever the session slides or is saved. Default: none, the
    /// cookie goes with the browser.
    ///
    /// It should not be shorter than the [idle timeout](SessionLayer::idle_timeout).
    ///
    /// # Panics
    ///
    /// If it is less than a second, which would take the cookie back.
    pub fn max_age(self, max_age: Duration) -> Self {
        self.cookie(|cookie| cookie.max_age = Some(max_age))
            .with(|config| config.terms.persistent = true)
    }

    /// Signs the cookie with its name (HMAC-SHA-256), so that one that was made up never reaches the
    /// store. The
    /// first key signs, all verify: a new key is put in front, and the old one is taken away when no
    /// cookie is left that it has signed. A session that is in use gets its cookie anew, under the
    /// first key, from the next request that loads it; one that is not is lost with the old key.
    /// Default: the cookie is not signed.
    ///
    /// Tokens cannot be guessed without it, too; it spares the store those who try. Cookies that are
    /// not signed count for nothing then, so turning it on ends the sessions that there are.
    ///
    /// ```
    /// use towerkeep::{Backend, session::{CookieKey, SessionLayer}};
    ///
    /// # let (this_year, last_year) = ([1; 32], [2; 32]);
    /// let keys = [CookieKey::new(this_year), CookieKey::new(last_year)];
    /// let layer = SessionLayer::new(Backend::memory()).signing_keys(keys);
    /// ```
    ///
    /// # Panics
    ///
    /// If there is no key.
    #[cfg(feature = "session-signed")]
    pub fn signing_keys(self, keys: impl IntoIterator<Item = CookieKey>) -> Self {
        let seal = Seal::Signed(CookieKeys::new(keys));
        self.cookie(|cookie| cookie.seal = seal)
    }

    /// Encrypts the cookie (AES-256-GCM), bound to its name: what is true of
    /// [signed](SessionLayer::signing_keys) ones is true of it, and whoever reads it does not even
    /// learn by which key the session is stored. It takes the place of a signature. Default: the
    /// cookie is not encrypted.
    ///
    /// # Panics
    ///
    /// If there is no key.
    #[cfg(feature = "session-private")]
    pub fn encryption_keys(self, keys: impl IntoIterator<Item = CookieKey>) -> Self {
        let seal = Seal::Private(CookieKeys::new(keys));
        self.cookie(|cookie| cookie.seal = seal)
    }

    /// **Dangerous:** sends the cookie without `Secure` and takes `__Host-` or `__Secure-` off its
    /// name, so that it works over plain HTTP. Anyone on the way can then read the cookie and take
    /// the session over. For development on a host other than `localhost`, which browsers except
    /// Safari trust as it is. Default: off.
    ///
    /// # Panics
    ///
    /// If the cookie is [partitioned](SessionLayer::partitioned) or [`SameSite::None`].
    pub fn insecure_plain_http(self) -> Self {
        self.cookie(CookieSettings::allow_plain_http)
    }

    /// **Dangerous:** sends the cookie without `HttpOnly`, so that scripts in the page can read it,
    /// and so can a script that was injected. Default: off.
    pub fn insecure_script_access(self) -> Self {
        self.cookie(|cookie| cookie.http_only = false)
    }

    /// How long a session lives without a request. Default: 2 h.
    ///
    /// It is kept in each session, so a change holds for new sessions and logins.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "an idle timeout of zero ends every session at once");
        self.with(|config| config.terms.idle = timeout)
    }

    /// How long a session lives however busy it is, counted from its creation or the last login;
    /// `None` for ever. Default: 24 h.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn absolute_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        assert!(
            timeout.is_none_or(|timeout| !timeout.is_zero()),
            "an absolute timeout of zero ends every session at once; `None` is for ever"
        );
        self.with(|config| config.terms.absolute = timeout)
    }

    /// How much of the idle timeout must be used up before a request that only reads restarts it.
    /// Default: a twentieth of the idle timeout, at most 60 s.
    pub fn slide_throttle(self, throttle: Duration) -> Self {
        self.with(|config| config.terms.throttle = Some(throttle))
    }

    /// How many fields a session may have. Default: 64.
    ///
    /// # Panics
    ///
    /// If it is more than 1,024.
    pub fn max_fields(self, fields: usize) -> Self {
        assert!(fields <= MOST_FIELDS, "a session has at most {MOST_FIELDS} fields, not {fields}");
        self.with(|config| config.terms.limits.fields = fields)
    }

    /// How many bytes the names and values of a session may have together. Default: 65,536.
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.terms.limits.bytes = bytes)
    }

    /// What happens to a request that wants its session while the store fails. Default:
    /// [`OnStoreError::Reject`]. A session that cannot be saved is answered with 503 in any case.
    pub fn on_store_error(self, policy: OnStoreError) -> Self {
        self.with(|config| config.on_store_error = policy)
    }

    /// Whether a response of status 5xx saves what the handler changed. Default: `false`, since a
    /// handler that failed half-way leaves half of its changes.
    pub fn save_on_server_error(self, save: bool) -> Self {
        self.with(|config| config.save_on_server_error = save)
    }

    /// What happens to a response whose changes are lost because the session ended meanwhile. Default:
    /// [`OnGone::Ignore`].
    pub fn on_gone(self, policy: OnGone) -> Self {
        self.with(|config| config.on_gone = policy)
    }

    /// Whether the session of each request is asked for as soon as the request comes, instead of when
    /// the handler wants it. Nobody waits for the answer until then: what layers further in ask Redis
    /// meanwhile, a rate limit for one, goes out together with it, so that both are one round trip. For
    /// routes whose handlers want their session anyway; others pay for what they do not use. Default:
    /// `false`.
    pub fn eager(self, eager: bool) -> Self {
        self.with(|config| config.eager = eager)
    }

    /// How many sessions a user may have at a time, and what a login does that would be one more. It
    /// is exact for logins one after another; of logins at the same moment, all may succeed, until
    /// the next one. Default: without limit.
    ///
    /// A login of a user who has too many costs three or more round trips besides, and with
    /// [`OnMaxSessions::Reject`] each login two.
    ///
    /// # Panics
    ///
    /// If it is zero or more than 1,000.
    pub fn max_sessions(self, most: usize, policy: OnMaxSessions) -> Self {
        assert!(
            (1..=MOST_LISTED).contains(&most),
            "a user may have 1 to {MOST_LISTED} sessions, not {most}"
        );
        self.with(|config| config.max_sessions = Some((most, policy)))
    }

    /// Whether a login drops what was stored before it by a visitor who was not logged in: a cart,
    /// and whatever somebody else may have put there who planted the cookie. Default: `false`.
    pub fn clear_on_login(self, clear: bool) -> Self {
        self.with(|config| config.terms.clear_on_login = clear)
    }

    /// How much is kept of what a user did ([`Session::record`](super::Session::record)). Default: 100
    /// events, until 30 days after the last.
    ///
    /// # Panics
    ///
    /// If it is no event or more than 10,000.
    pub fn trail(self, trail: Trail) -> Self {
        assert!(
            (1..=MOST_EVENTS).contains(&trail.events),
            "a trail has 1 to {MOST_EVENTS} events, not {}",
            trail.events
        );
        self.with(|config| {
            config.trail = trail;
            config.terms.most_events = trail.events;
        })
    }

    /// The sessions of users, to list and to end them from outside of a request.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions::over(self.config.store.clone())
    }

    /// How long a request waits for each call to the store, if that is to be less than what the store
    /// allows itself. Default: the store's own deadline, which is 250 ms unless the
    /// [backend](crate::backend::Builder::deadline) says otherwise.
    ///
    /// A request that reads and writes waits at most twice that; one with two cookies of the
    /// session's name, three times.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|config| config.deadline = Some(deadline))
    }

    /// How a request is answered whose session cannot be read or saved. The [`Error`] is put into
    /// the response's extensions in any case. Default: `application/problem+json` (RFC 9457) with
    /// the error's [status](Error::status), and `Retry-After` on a 503.
    pub fn rejection<T: Into<Bytes>>(
        self,
        render: impl Fn(&Error) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.rejection = problem::Rejection::new(render))
    }

    fn cookie(self, change: impl FnOnce(&mut CookieSettings)) -> Self {
        self.with(|config| {
            change(&mut config.cookie);
            config.cookie.check();
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl Config {
    /// The call, under the layer's deadline if it has one.
    pub(crate) fn bounded<T: Send + 'static>(
        &self,
        what: &'static str,
        call: StoreFuture<T>,
    ) -> StoreFuture<T> {
        match self.deadline {
            Some(deadline) => call.within(what, deadline),
            None => call,
        }
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> SessionService<S> {
        SessionService::new(inner, self.config.clone())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("terms", &self.terms)
            .field("cookie", &self.cookie)
            .field("on_store_error", &self.on_store_error)
            .field("save_on_server_error", &self.save_on_server_error)
            .field("on_gone", &self.on_gone)
            .field("max_sessions", &self.max_sessions)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::memory::MemoryStore;

    fn layer() -> SessionLayer {
        SessionLayer::new(MemoryStore::default())
    }

    #[test]
    fn the_default_name_promises_as_much_as_the_other_attributes_keep() {
        let name = |layer: SessionLayer| layer.config.cookie.name().to_owned();
        assert_eq!(name(layer()), "__Host-sid");
        assert_eq!(name(layer().cookie_domain("example.com")), "__Secure-sid");
        assert_eq!(name(layer().cookie_path("/app")), "__Secure-sid");
        assert_eq!(name(layer().cookie_domain("example.com").insecure_plain_http()), "sid");
    }

    #[test]
    #[should_panic(expected = "__Secure-sid")]
    fn a_domain_under_a_name_that_allows_none_is_refused_when_it_is_set() {
        let _ = layer().cookie_name("__Host-id").cookie_domain("example.com");
    }

    #[test]
    #[should_panic(expected = "__Secure-sid")]
    fn the_same_the_other_way_round() {
        let _ = layer().cookie_domain("example.com").cookie_name("__Host-id");
    }

    #[test]
    #[should_panic(expected = "Secure")]
    fn a_name_that_needs_tls_is_refused_over_plain_http() {
        let _ = layer().insecure_plain_http().cookie_name("__Secure-sid");
    }
}

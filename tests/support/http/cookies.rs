//! A browser's cookie jar (RFC 6265 and the name prefixes of its successor), for one host.
//!
//! It is written without the crate's cookie code, to judge it.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// What is stored of one cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) path: String,
    /// None: for the host alone.
    pub(crate) domain: Option<String>,
    pub(crate) partitioned: bool,
    pub(crate) secure: bool,
    pub(crate) http_only: bool,
    pub(crate) same_site: Option<String>,
    /// None: until the browser closes.
    pub(crate) expires: Option<SystemTime>,
}

/// Cookies of one host.
#[derive(Clone, Debug)]
pub(crate) struct CookieJar {
    /// In the order of creation, which a replacement keeps.
    cookies: Vec<Stored>,
    host: String,
    secure: bool,
    /// How far the jar's clock is ahead of the system's.
    ahead: Duration,
}

impl CookieJar {
    /// A jar for a host. `secure` is whether its connections count as secure: true behaves as over
    /// HTTPS, or as browsers that trust plain HTTP over loopback.
    pub(crate) fn new(host: &str, secure: bool) -> Self {
        Self { cookies: Vec::new(), host: host.to_owned(), secure, ahead: Duration::ZERO }
    }

    /// Moves the jar's clock, so that cookies expire.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// Forgets what lives until the browser closes.
    pub(crate) fn close(&mut self) {
        self.cookies.retain(|cookie| cookie.expires.is_some());
    }

    /// Takes the `Set-Cookie` headers of a response to a request for `path`.
    pub(crate) fn store(&mut self, path: &str, headers: &HeaderMap) {
        for line in headers.get_all(header::SET_COOKIE) {
            let line = line.to_str().expect("Set-Cookie is text");
            if let Some(cookie) = self.parse(path, line) {
                self.put(cookie);
            }
        }
    }

    /// The `Cookie` header of a request for `path`; None if there is nothing to send.
    pub(crate) fn header(&self, path: &str) -> Option<String> {
        let mut cookies: Vec<_> = self
            .live()
            .filter(|cookie| matches(path, &cookie.path) && (self.secure || !cookie.secure))
            .collect();
        // Longer paths first; the sort is stable, so older ones come first among equals.
        cookies.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<_> =
            cookies.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// The cookie of that name, on whatever path.
    pub(crate) fn get(&self, name: &str) -> Option<&Stored> {
        self.live().find(|cookie| cookie.name == name)
    }

    /// Sets a cookie as a script or an attacker would.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.put(Stored {
            name: name.to_owned(),
            value: value.to_owned(),
            path: "/".to_owned(),
            domain: None,
            partitioned: false,
            secure: false,
            http_only: false,
            same_site: None,
            expires: None,
        });
    }

    /// How many cookies there are.
    pub(crate) fn len(&self) -> usize {
        self.live().count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    fn live(&self) -> impl Iterator<Item = &Stored> {
        let now = self.now();
        self.cookies.iter().filter(move |cookie| cookie.expires.is_none_or(|expires| expires > now))
    }

    fn put(&mut self, cookie: Stored) {
        let is_same = |old: &&mut Stored| {
            (&old.name, &old.path, &old.domain, old.partitioned)
                == (&cookie.name, &cookie.path, &cookie.domain, cookie.partitioned)
        };
        match self.cookies.iter_mut().find(is_same) {
            Some(old) => *old = cookie,
            None => self.cookies.push(cookie),
        }
    }

    fn parse(&self, request_path: &str, line: &str) -> Option<Stored> {
        let mut parts = line.split(';').map(str::trim);
        let (name, value) = parts.next()?.split_once('=')?;
        let mut cookie = Stored {
            name: name.trim().to_owned(),
            value: value.trim().to_owned(),
            path: default_path(request_path),
            domain: None,
            partitioned: false,
            secure: false,
            http_only: false,
            same_site: None,
            expires: None,
        };
        let mut max_age = None;
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "path" if value.starts_with('/') => cookie.path = value.to_owned(),
                "path" => cookie.path = default_path(request_path),
                "domain" => {
                    cookie.domain = Some(value.trim_start_matches('.').to_ascii_lowercase())
                }
                "partitioned" => cookie.partitioned = true,
                "secure" => cookie.secure = true,
                "httponly" => cookie.http_only = true,
                "samesite" => cookie.same_site = Some(value.to_owned()),
                "expires" => cookie.expires = httpdate::parse_http_date(value).ok(),
                "max-age" => max_age = value.parse::<i64>().ok(),
                _ => {}
            }
        }
        // Max-Age wins over Expires, wherever it stands.
        if let Some(seconds) = max_age {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            cookie.expires = match seconds {
                0 => Some(SystemTime::UNIX_EPOCH),
                seconds => self.now().checked_add(Duration::from_secs(seconds)),
            };
        }
        self.accepts(&cookie).then_some(cookie)
    }

    /// The rules by which a browser refuses a cookie.
    fn accepts(&self, cookie: &Stored) -> bool {
        let name = cookie.name.to_ascii_lowercase();
        let domain = cookie.domain.as_deref();
        let at_home = domain
            .is_none_or(|domain| domain == self.host || self.host.ends_with(&format!(".{domain}")));
        let hidden =
            cookie.http_only || !(name.starts_with("__http-") || name.starts_with("__host-http-"));
        let prefix_kept = hidden
            && if name.starts_with("__host-") {
                cookie.secure && cookie.path == "/" && domain.is_none()
            } else if name.starts_with("__secure-") || name.starts_with("__http-") {
                cookie.secure
            } else {
                true
            };
        let wants_secure = cookie.partitioned
            || cookie.same_site.as_deref().is_some_and(|mode| mode.eq_ignore_ascii_case("none"));
        let kept_secure = cookie.secure || !wants_secure;
        at_home && prefix_kept && kept_secure && (self.secure || !cookie.secure)
    }
}

/// RFC 6265, section 5.1.4: the directory of the request's path.
fn default_path(request_path: &str) -> String {
    match request_path.rfind('/') {
        Some(0) | None => "/".to_owned(),
        Some(end) => request_path[..end].to_owned(),
    }
}

/// RFC 6265, section 5.1.4: whether a request's path is the cookie's or below it.
fn matches(request_path: &str, cookie_path: &str) -> bool {
    request_path
        .strip_prefix(cookie_path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || cookie_path.ends_with('/'))
}

//! What may be stored, and for how long. Pure decisions: no I/O, and no clock of its own.

use crate::cache::{
    http::{
        age,
        directives::{Directives, RequestDirectives},
        invalidate::may_change,
        serve::{self, Use, Windows},
        storing::{self, Asked, Freshness},
        targeted,
    },
    key::{CacheKey, KeyError},
    query_method,
    store::Found,
};
use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{
        CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE, SET_COOKIE, UPGRADE,
        VARY,
    },
    request::Parts,
};
use http_body::Body;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// For how long a response that turned out not to be storable keeps others from waiting for the next
/// one. Short, since the next one may be storable; long against the time that a handler takes.
pub(crate) const UNCACHEABLE_FOR: Duration = Duration::from_secs(2);

/// Which responses are stored, and for how long.
///
/// [`proxy`](Policy::proxy) goes by RFC 9111 and nothing else. Under every other policy, a response is
/// **never** stored if
///
/// - the request is not a `GET`, has a body, a `Range`, `If-Match` or `If-Unmodified-Since`, or asks
///   for an upgrade;
/// - its `Cache-Control` says `no-store`, `private` or `no-cache`, or cannot be read;
/// - it sets a cookie, or a session was touched while it was made;
/// - the request has `Authorization`, unless the response says `public`, `s-maxage` or
///   `must-revalidate` (RFC 9111, section 3.5);
/// - its `Vary` names a header that the [key](CacheKey::header) does not;
/// - it is a stream of events, a 206, a 304, or longer than the
///   [limit](crate::cache::CacheLayer::body_limit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Application,
    Fixed(Duration),
    /// With the fields of targeted cache control that are for this cache, the closest first.
    Proxy(Arc<[HeaderName]>),
}

impl Default for Policy {
    fn default() -> Self {
        Self::application()
    }
}

impl Policy {
    /// Stores only what says how long it is fresh: [`CacheControl::ttl`](crate::cache::CacheControl::ttl),
    /// else `s-maxage`, else `max-age`, in its `Cache-Control`. So nothing is cached until a handler asks for it. The default.
    ///
    /// What a *request* says in `Cache-Control` is not heeded: any client could make your handlers
    /// run at will.
    #[must_use]
    pub fn application() -> Self {
        Self(Kind::Application)
    }

    /// Stores every response with one of the statuses 200, 203, 204, 300, 301, 308 and 410 for `ttl`
    /// from then on, whatever `max-age` or `Age` it has. What a response forbids still holds.
    ///
    /// For routes whose answer is the same for everyone: a handler that reads a cookie by itself,
    /// not through the session layer, or answers by the [`UserId`](crate::UserId) of a request
    /// without asking for its session, must not be behind it.
    #[must_use]
    pub fn fixed(ttl: Duration) -> Self {
        Self(Kind::Fixed(ttl))
    }

    /// A shared cache as RFC 9111 has it, in front of an upstream that knows that there is one.
    ///
    /// - `s-maxage`, `max-age`, `Expires` and, without them, a tenth of the time since `Last-Modified`
    ///   say how long a response is fresh. `CDN-Cache-Control` (RFC 9213) replaces them.
    /// - What is stale is validated by its `ETag` and `Last-Modified`; a client's own conditions and
    ///   `Range` are answered from what is stored.
    /// - Parts of a response (206) are stored, joined, and completed by a request for the rest.
    /// - Each variant that `Vary` tells apart is stored, up to 64 of an entry.
    /// - A request's `Cache-Control` and `Pragma` are heeded. `only-if-cached` gets a 504.
    /// - A response to a method that may change something, if it says that it did (2xx or 3xx), makes
    ///   its target forgotten, and what its `Location` and `Content-Location` name on the same origin.
    ///   A 200 to a `POST` whose `Content-Location` is its own target, and which says how long it is
    ///   fresh, is stored for it.
    /// - `Cache-Groups` and `Cache-Group-Invalidation` (RFC 9875) are heeded, within one origin, as long
    ///   as they are valid. A response in more than 64 groups, or one of over 256 characters, is not
    ///   stored. Other policies do not heed them: their handlers have
    ///   [`CacheControl`](crate::cache::CacheControl) and
    ///   [`CacheHandle`](crate::cache::CacheHandle).
    /// - A request whose `Connection` lists a field that it has is handed on (`detail=connection`): a proxy
    ///   behind this takes that field off, so the answer is none to what the request says.
    /// - A response with `Set-Cookie` is stored like any other: an upstream that means it for one
    ///   client has to say `private` or `no-store`.
    ///
    /// A client can make the upstream work at will (`no-cache`), so put a rate limit before it.
    #[must_use]
    pub fn proxy() -> Self {
        Self::proxy_for([HeaderName::from_static("cdn-cache-control")])
    }

    /// The same, for a cache that goes by these fields of targeted cache control (RFC 9213), the first
    /// that a response has before the others, and by no other. None: by `Cache-Control` alone.
    #[must_use]
    pub fn proxy_for(targets: impl IntoIterator<Item = HeaderName>) -> Self {
        Self(Kind::Proxy(targets.into_iter().collect()))
    }

    /// Whether it goes by RFC 9111 alone.
    pub(crate) fn is_proxy(&self) -> bool {
        matches!(self.0, Kind::Proxy(_))
    }

    /// What the response says to this cache, and whether it is said to such caches alone.
    pub(crate) fn directives(&self, headers: &HeaderMap) -> (Directives, bool) {
        let targets: &[HeaderName] = match &self.0 {
            Kind::Proxy(targets) => targets,
            Kind::Application | Kind::Fixed(_) => &[],
        };
        match targeted::directives(headers, targets) {
            Some(directives) => (directives, true),
            None => (Directives::of(headers), false),
        }
    }

    /// Whether the response says to this cache how long it is fresh.
    pub(crate) fn is_explicit(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        let (directives, targeted) = self.directives(headers);
        storing::explicit(headers, (&directives, targeted), now).is_some()
    }

    /// What the request asks of this cache.
    pub(crate) fn asked(&self, headers: &HeaderMap) -> RequestDirectives {
        match self.is_proxy() {
            true => RequestDirectives::of(headers),
            false => RequestDirectives::default(),
        }
    }

    /// What a stored response is good for.
    pub(crate) fn decide(&self, found: &Found, asked: &RequestDirectives, windows: Windows) -> Use {
        let (directives, _) = self.directives(&found.response.snapshot.headers);
        serve::decide(&directives, asked, found.times(), windows)
    }

    /// Whether a stored response may be the answer because the handler fails.
    pub(crate) fn stands_in(
        &self,
        found: &Found,
        asked: &RequestDirectives,
        windows: Windows,
    ) -> bool {
        let (directives, _) = self.directives(&found.response.snapshot.headers);
        serve::stands_in(&directives, asked, found.times(), windows)
    }

    /// Whether a request with this method may have changed what is stored.
    pub(crate) fn invalidates(&self, method: &Method) -> bool {
        self.is_proxy() && may_change(method)
    }

    /// Whether the cache has to do with this request at all.
    pub(crate) fn admit<B: Body>(&self, request: &Parts, body: &B) -> Result<(), Reason> {
        let has = |name| request.headers.contains_key(name);
        let question = query_method::question(request);
        match request.method {
            Method::GET | Method::HEAD => {}
            Method::QUERY if question.is_some() => {}
            _ => return Err(Reason::Method),
        }
        if has(UPGRADE) {
            return Err(Reason::Upgrade);
        }
        if self.is_proxy() && storing::loses_a_field(&request.headers) {
            return Err(Reason::Connection);
        }
        if has(RANGE) && (!self.is_proxy() || question.is_some()) {
            return Err(Reason::Range);
        }
        if has(IF_MATCH) || has(IF_UNMODIFIED_SINCE) {
            return Err(Reason::Precondition);
        }
        // Nothing of another body is in the key, and a handler may well read it.
        match question {
            None if body.is_end_stream() => {}
            Some(Ok(_)) => {}
            _ => return Err(Reason::RequestBody),
        }
        match self.asked(&request.headers).no_store {
            true => Err(Reason::NoStore),
            false => Ok(()),
        }
    }

    /// Whether a stored response may answer a request with `Authorization`.
    pub(crate) fn may_answer_authorized(&self, stored: &HeaderMap) -> bool {
        self.is_proxy() || Directives::of(stored).shares_authorized()
    }

    /// Whether the response may be stored, as far as its head tells. `age` is how old it is already.
    pub(crate) fn judge(
        &self,
        key: &CacheKey,
        asked: Asked,
        (status, headers): (StatusCode, &HeaderMap),
        windows: Windows,
        age: Duration,
        now: SystemTime,
    ) -> Result<Freshness, Reason> {
        let asked = Asked { ttl: asked.ttl.filter(|_| lasts(status)), ..asked };
        let (directives, targeted) = self.directives(headers);
        if self.is_proxy() {
            let said = (&directives, targeted);
            return storing::judge(asked, (status, headers), said, windows, age, now);
        }
        let forbidden = [
            (status.is_informational(), Reason::Status),
            (status == StatusCode::PARTIAL_CONTENT, Reason::Status),
            (status == StatusCode::NOT_MODIFIED, Reason::Status),
            (directives.no_store, Reason::NoStore),
            (directives.private.is_set(), Reason::Private),
            (directives.no_cache.is_set(), Reason::NoCache),
            (directives.malformed, Reason::Malformed),
            (headers.contains_key(SET_COOKIE), Reason::SetCookie),
            (asked.authorized && !directives.shares_authorized(), Reason::Authorization),
            (varies(headers, key), Reason::Vary),
            (is_event_stream(headers), Reason::EventStream),
        ];
        if let Some((_, reason)) = forbidden.into_iter().find(|(holds, _)| *holds) {
            return Err(reason);
        }
        let lifetime = match (asked.ttl, &self.0) {
            // From now on, however old it says that it is.
            (Some(ttl), _) => age.saturating_add(ttl),
            (None, Kind::Application | Kind::Proxy(_)) => {
                let seconds = directives.lifetime().ok_or(Reason::NoFreshness)?;
                Duration::from_secs(seconds.into())
            }
            (None, &Kind::Fixed(ttl)) if lasts(status) => age.saturating_add(ttl),
            (None, Kind::Fixed(_)) => return Err(Reason::Status),
        };
        match age < lifetime {
            true => Ok(Freshness { lifetime, age, stale: windows.of(&directives).longest() }),
            false => Err(Reason::Stale),
        }
    }
}

/// Whether a response with this status is what its handler meant to answer, and will be again.
fn lasts(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 410)
}

/// The length that the head announces, if it does.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How old a response is that was asked for `delay` ago. That of an application is made in this
/// process, so the time that it took is not counted.
pub(crate) fn initial_age(
    policy: &Policy,
    headers: &HeaderMap,
    delay: Duration,
    now: SystemTime,
) -> Duration {
    age::initial(headers, if policy.is_proxy() { delay } else { Duration::ZERO }, now)
}

/// Whether the response varies by something that its key does not have.
fn varies(headers: &HeaderMap, key: &CacheKey) -> bool {
    headers.get_all(VARY).iter().any(|line| {
        let mut names = line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| {
            let declared = std::str::from_utf8(name).is_ok_and(|name| key.declares(name));
            !name.is_empty() && !declared
        })
    })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(|value| {
        let mime = value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
        mime.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// Why a request is not answered from the cache, or its response not stored. Shown as `detail` in
/// `Cache-Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Method,
    Head,
    Upgrade,
    Connection,
    Range,
    Partial,
    Mismatch,
    Precondition,
    RequestBody,
    AmbiguousHost,
    KeyTooLong,
    NoKey,
    Status,
    NoStore,
    Private,
    NoCache,
    Malformed,
    SetCookie,
    Tags,
    Session,
    Authorization,
    Vary,
    EventStream,
    NoFreshness,
    Stale,
    OnlyIfCached,
    StaleIfError,
    TooLarge,
    TooSlow,
    Uncacheable,
    WaitedTooLong,
    StoreUnavailable,
}

impl Reason {
    /// Whether it says nothing of the answer that another client would get.
    pub(crate) fn is_of_one_client(self) -> bool {
        matches!(self, Self::Session | Self::Authorization)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Head => "head",
            Self::Upgrade => "upgrade",
            Self::Connection => "connection",
            Self::Range => "range",
            Self::Partial => "partial",
            Self::Mismatch => "mismatch",
            Self::Precondition => "precondition",
            Self::RequestBody => "request-body",
            Self::AmbiguousHost => "ambiguous-host",
            Self::KeyTooLong => "key-too-long",
            Self::NoKey => "no-key",
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::NoCache => "no-cache",
            Self::Malformed => "malformed-cache-control",
            Self::SetCookie => "set-cookie",
            Self::Tags => "tags",
            Self::Session => "session",
            Self::Authorization => "authorization",
            Self::Vary => "vary",
            Self::EventStream => "event-stream",
            Self::NoFreshness => "no-freshness",
            Self::Stale => "stale",
            Self::OnlyIfCached => "only-if-cached",
            Self::StaleIfError => "stale-if-error",
            Self::TooLarge => "too-large",
            Self::TooSlow => "too-slow",
            Self::Uncacheable => "uncacheable",
            Self::WaitedTooLong => "waited-too-long",
            Self::StoreUnavailable => "store-unavailable",
        }
    }
}

impl From<KeyError> for Reason {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::AmbiguousHost => Self::AmbiguousHost,
            KeyError::TooLong => Self::KeyTooLong,
            KeyError::NoKey => Self::NoKey,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderValue;
    use http::Request;
    use http_body_util::{Empty, Full};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn ask(
        policy: &Policy,
        authorized: bool,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Freshness, Reason> {
        let key = CacheKey::default().header("accept-language");
        let (now, windows) = (SystemTime::now(), Windows::default());
        let age = initial_age(policy, headers, Duration::ZERO, now);
        let asked = Asked { authorized, ..Asked::default() };
        policy.judge(&key, asked, (status, headers), windows, age, now)
    }

    fn judge(pairs: &[(&'static str, &str)]) -> Result<Freshness, Reason> {
        ask(&Policy::application(), false, StatusCode::OK, &headers(pairs))
    }

    fn seconds(lifetime: u64, age: u64) -> Result<Freshness, Reason> {
        let second = Duration::from_secs;
        Ok(Freshness { lifetime: second(lifetime), age: second(age), stale: Duration::ZERO })
    }

    #[test]
    fn only_plain_requests_are_the_caches_business() {
        let admit = |request: http::request::Builder| {
            let (parts, body) = request.body(Empty::<Bytes>::new()).unwrap().into_parts();
            Policy::application().admit(&parts, &body)
        };
        assert_eq!(admit(Request::get("/")), Ok(()));
        assert_eq!(admit(Request::head("/")), Ok(()));
        assert_eq!(admit(Request::post("/")), Err(Reason::Method));
        assert_eq!(admit(Request::connect("/")), Err(Reason::Method));
        for (name, reason) in [
            ("upgrade", Reason::Upgrade),
            ("range", Reason::Range),
            ("if-match", Reason::Precondition),
            ("if-unmodified-since", Reason::Precondition),
        ] {
            assert_eq!(admit(Request::get("/").header(name, "x")), Err(reason));
        }
        let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
        let fat = Full::new(Bytes::from_static(b"x"));
        assert_eq!(Policy::application().admit(&parts, &fat), Err(Reason::RequestBody));
    }

    #[test]
    fn a_response_without_freshness_is_not_stored() {
        assert_eq!(judge(&[]), Err(Reason::NoFreshness));
        assert_eq!(judge(&[("cache-control", "public")]), Err(Reason::NoFreshness));
        assert_eq!(judge(&[("cache-control", "max-age=0")]), Err(Reason::Stale));
        assert_eq!(judge(&[("cache-control", "max-age=60")]), seconds(60, 0));
    }

    #[test]
    fn what_forbids_wins_over_freshness_under_every_policy() {
        let cases = [
            (("cache-control", "no-store"), Reason::NoStore),
            (("cache-control", "private"), Reason::Private),
            (("cache-control", "no-cache"), Reason::NoCache),
            (("cache-control", "x=\"y"), Reason::Malformed),
            (("set-cookie", "a=b"), Reason::SetCookie),
            (("vary", "*"), Reason::Vary),
            (("vary", "accept-language, cookie"), Reason::Vary),
            (("content-type", "Text/Event-Stream; charset=utf-8"), Reason::EventStream),
        ];
        for (line, reason) in cases {
            let lines = headers(&[("cache-control", "s-maxage=60"), line]);
            for policy in [Policy::application(), Policy::fixed(Duration::from_secs(60))] {
                let judged = ask(&policy, false, StatusCode::OK, &lines);
                assert_eq!(judged, Err(reason), "{line:?}");
            }
        }
        let declared = judge(&[("cache-control", "max-age=60"), ("vary", "Accept-Language, ")]);
        assert_eq!(declared, seconds(60, 0));
    }

    #[test]
    fn a_response_to_authorization_is_stored_only_if_it_says_so() {
        let judge = |line| {
            let headers = headers(&[("cache-control", line)]);
            ask(&Policy::application(), true, StatusCode::OK, &headers)
        };
        assert_eq!(judge("max-age=60"), Err(Reason::Authorization));
        for line in ["max-age=60, public", "s-maxage=60", "max-age=60, must-revalidate"] {
            assert_eq!(judge(line), seconds(60, 0), "{line}");
        }
    }

    #[test]
    fn age_and_date_shorten_freshness() {
        let fresh = ("cache-control", "max-age=60");
        assert_eq!(judge(&[fresh, ("age", "59")]), seconds(60, 59));
        assert_eq!(judge(&[fresh, ("age", "60")]), Err(Reason::Stale));
        assert_eq!(judge(&[fresh, ("age", "10, 70")]), seconds(60, 10));
        assert_eq!(judge(&[fresh, ("age", "soon")]), seconds(60, 0));
        assert_eq!(judge(&[fresh, ("age", "99999999999")]), Err(Reason::Stale));
        let ago = |seconds| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            judge(&[fresh, ("date", &httpdate::fmt_http_date(then))])
        };
        assert_eq!(ago(120), Err(Reason::Stale));
        assert!(ago(30).is_ok_and(|fresh| fresh.age.as_secs().abs_diff(30) <= 1));
    }

    #[test]
    fn a_fixed_policy_stores_what_everyone_may_have() {
        let judge = |status: u16, lines: &[(&'static str, &str)]| {
            let status = StatusCode::from_u16(status).unwrap();
            ask(&Policy::fixed(Duration::from_secs(5)), false, status, &headers(lines))
        };
        assert_eq!(judge(200, &[]), seconds(5, 0));
        assert_eq!(judge(200, &[("cache-control", "max-age=0")]), seconds(5, 0));
        assert_eq!(judge(200, &[("age", "9")]), seconds(14, 9), "fresh for as long all the same");
        for status in [206, 304, 404, 500] {
            assert_eq!(judge(status, &[]), Err(Reason::Status), "{status}");
        }
    }
}

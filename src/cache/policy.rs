//! What may be stored, and for how long. Pure decisions: no I/O, and no clock of its own.

use crate::cache::{
    directives::{Directives, parse_seconds},
    key::{CacheKey, KeyError},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode,
    header::{
        AGE, CONTENT_LENGTH, CONTENT_TYPE, DATE, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE, SET_COOKIE,
        UPGRADE, VARY,
    },
};
use http_body::Body;
use std::time::{Duration, SystemTime};

/// For how long a response that turned out not to be storable keeps others from waiting for the next
/// one. Short, since the next one may be storable; long against the time that a handler takes.
pub(crate) const UNCACHEABLE_FOR: Duration = Duration::from_secs(2);

/// Which responses are stored, and for how long.
///
/// Under every policy, a response is **never** stored if
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
    Proxy,
}

impl Default for Policy {
    fn default() -> Self {
        Self::application()
    }
}

impl Policy {
    /// Stores only what says how long it is fresh: `s-maxage`, else `max-age`, in its
    /// `Cache-Control`. So nothing is cached until a handler asks for it. The default.
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

    /// A shared cache as RFC 9111 has it, in front of an upstream.
    #[must_use]
    pub fn proxy() -> Self {
        Self(Kind::Proxy)
    }

    /// Whether the cache has to do with this request at all.
    pub(crate) fn admit<B: Body>(&self, request: &Request<B>) -> Result<(), Reason> {
        let has = |name| request.headers().contains_key(name);
        match request.method() {
            &Method::GET | &Method::HEAD => {}
            _ => return Err(Reason::Method),
        }
        if has(UPGRADE) {
            return Err(Reason::Upgrade);
        }
        if has(RANGE) {
            return Err(Reason::Range);
        }
        if has(IF_MATCH) || has(IF_UNMODIFIED_SINCE) {
            return Err(Reason::Precondition);
        }
        // Nothing of a body is in the key, and a handler may well read it.
        if !request.body().is_end_stream() {
            return Err(Reason::RequestBody);
        }
        Ok(())
    }

    /// Whether a stored response may answer a request with `Authorization`.
    pub(crate) fn may_answer_authorized(&self, stored: &HeaderMap) -> bool {
        Directives::of(stored).shares_authorized()
    }

    /// Whether the response may be stored, as far as its head tells.
    pub(crate) fn judge(
        &self,
        key: &CacheKey,
        authorized: bool,
        status: StatusCode,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Freshness, Reason> {
        let directives = Directives::of(headers);
        let forbidden = [
            (status.is_informational(), Reason::Status),
            (status == StatusCode::PARTIAL_CONTENT, Reason::Status),
            (status == StatusCode::NOT_MODIFIED, Reason::Status),
            (directives.no_store, Reason::NoStore),
            (directives.private, Reason::Private),
            (directives.no_cache, Reason::NoCache),
            (directives.malformed, Reason::Malformed),
            (headers.contains_key(SET_COOKIE), Reason::SetCookie),
            (authorized && !directives.shares_authorized(), Reason::Authorization),
            (varies(headers, key), Reason::Vary),
            (is_event_stream(headers), Reason::EventStream),
        ];
        if let Some((_, reason)) = forbidden.into_iter().find(|(holds, _)| *holds) {
            return Err(reason);
        }
        let age = age(headers, now);
        let lifetime = match self.0 {
            Kind::Application | Kind::Proxy => {
                let seconds = directives.lifetime().ok_or(Reason::NoFreshness)?;
                Duration::from_secs(seconds.into())
            }
            // From now on, however old it says that it is.
            Kind::Fixed(ttl) => match status.as_u16() {
                200 | 203 | 204 | 300 | 301 | 308 | 410 => age.saturating_add(ttl),
                _ => return Err(Reason::Status),
            },
        };
        match age < lifetime {
            true => Ok(Freshness { lifetime, age }),
            false => Err(Reason::Stale),
        }
    }
}

/// How long a response is fresh, counted from age zero, and how old it is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freshness {
    pub(crate) lifetime: Duration,
    pub(crate) age: Duration,
}

/// The length that the head announces, if it does.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// RFC 9111, section 4.2.3. The time that the response took is not counted: its origin is in this
/// process, or says by `Date` and `Age` what passed before.
fn age(headers: &HeaderMap, now: SystemTime) -> Duration {
    let told = headers.get(AGE).map(HeaderValue::as_bytes).and_then(|value| {
        // Of a list, the first member counts (RFC 9111, section 5.1).
        parse_seconds(value.split(|&byte| byte == b',').next()?.trim_ascii())
    });
    let date =
        headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let apparent = date.and_then(|date| now.duration_since(date).ok()).unwrap_or_default();
    // `Date` has no fractions, so a response made just now seems up to a second old.
    let apparent = Duration::from_secs(apparent.as_secs());
    apparent.max(Duration::from_secs(told.unwrap_or(0).into()))
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
    Upgrade,
    Range,
    Precondition,
    RequestBody,
    AmbiguousHost,
    KeyTooLong,
    Status,
    NoStore,
    Private,
    NoCache,
    Malformed,
    SetCookie,
    Session,
    Authorization,
    Vary,
    EventStream,
    NoFreshness,
    Stale,
    TooLarge,
    Uncacheable,
    WaitedTooLong,
    StoreUnavailable,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Upgrade => "upgrade",
            Self::Range => "range",
            Self::Precondition => "precondition",
            Self::RequestBody => "request-body",
            Self::AmbiguousHost => "ambiguous-host",
            Self::KeyTooLong => "key-too-long",
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::NoCache => "no-cache",
            Self::Malformed => "malformed-cache-control",
            Self::SetCookie => "set-cookie",
            Self::Session => "session",
            Self::Authorization => "authorization",
            Self::Vary => "vary",
            Self::EventStream => "event-stream",
            Self::NoFreshness => "no-freshness",
            Self::Stale => "stale",
            Self::TooLarge => "too-large",
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{Empty, Full};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn judge(pairs: &[(&'static str, &str)]) -> Result<Freshness, Reason> {
        let key = CacheKey::default().header("accept-language");
        let now = SystemTime::now();
        Policy::application().judge(&key, false, StatusCode::OK, &headers(pairs), now)
    }

    fn seconds(lifetime: u64, age: u64) -> Result<Freshness, Reason> {
        let second = Duration::from_secs;
        Ok(Freshness { lifetime: second(lifetime), age: second(age) })
    }

    #[test]
    fn only_plain_requests_are_the_caches_business() {
        let admit = |request: http::request::Builder| {
            Policy::application().admit(&request.body(Empty::<Bytes>::new()).unwrap())
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
        let fat = Request::get("/").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        assert_eq!(Policy::application().admit(&fat), Err(Reason::RequestBody));
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
                let key = CacheKey::default().header("accept-language");
                let judged = policy.judge(&key, false, StatusCode::OK, &lines, SystemTime::now());
                assert_eq!(judged, Err(reason), "{line:?}");
            }
        }
        let declared = judge(&[("cache-control", "max-age=60"), ("vary", "Accept-Language, ")]);
        assert_eq!(declared, seconds(60, 0));
    }

    #[test]
    fn a_response_to_authorization_is_stored_only_if_it_says_so() {
        let judge = |line| {
            let (key, headers) = (CacheKey::default(), headers(&[("cache-control", line)]));
            Policy::application().judge(&key, true, StatusCode::OK, &headers, SystemTime::now())
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
            let (key, status) = (CacheKey::default(), StatusCode::from_u16(status).unwrap());
            let policy = Policy::fixed(Duration::from_secs(5));
            policy.judge(&key, false, status, &headers(lines), SystemTime::now())
        };
        assert_eq!(judge(200, &[]), seconds(5, 0));
        assert_eq!(judge(200, &[("cache-control", "max-age=0")]), seconds(5, 0));
        assert_eq!(judge(200, &[("age", "9")]), seconds(14, 9), "fresh for as long all the same");
        for status in [206, 304, 404, 500] {
            assert_eq!(judge(status, &[]), Err(Reason::Status), "{status}");
        }
    }
}

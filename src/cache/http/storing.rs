//! Which responses a shared cache may store (RFC 9111, section 3), and what of them (section 3.1).

use crate::cache::{
    http::{
        directives::{Directives, Scope},
        extent::Extent,
        freshness,
        serve::Windows,
        vary,
    },
    policy::Reason,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        AGE, CONNECTION, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use std::time::{Duration, SystemTime};

const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Fields of one connection that have no constant of their own.
const HOP_BY_HOP_NAMES: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authentication-info"];

/// Fields that a cache asks by itself.
const ASKED_BY: [HeaderName; 4] = [IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE];

/// How long a stale response is kept because it can be validated.
const KEPT_WITH_VALIDATOR: Duration = Duration::from_secs(24 * 3_600);

/// How long a stale response is kept because a request may put up with it (`max-stale`).
const KEPT_WITHOUT: Duration = Duration::from_secs(600);

/// What of a request counts for whether its response may be stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) authorized: bool,
    pub(crate) no_store: bool,
    /// How long the handler says that its response is fresh, from now on.
    pub(crate) ttl: Option<Duration>,
}

/// How long a response is fresh, counted from age zero, how old it is already, and how long it is
/// kept once it is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freshness {
    pub(crate) lifetime: Duration,
    pub(crate) age: Duration,
    pub(crate) stale: Duration,
}

impl Freshness {
    /// The seconds until it is stale, on its arrival; negative if it was too old already.
    pub(crate) fn ttl(&self) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(self.lifetime).saturating_sub(seconds(self.age))
    }

    /// How long it is fresh from now on, if its age is that by now.
    pub(crate) fn left(&self, age: Duration) -> Duration {
        self.lifetime.saturating_sub(age)
    }
}

/// Whether the response may be stored. `age` is its own, `said` as in [`explicit`].
pub(crate) fn judge(
    asked: Asked,
    (status, headers): (StatusCode, &HeaderMap),
    said: (&Directives, bool),
    windows: Windows,
    age: Duration,
    now: SystemTime,
) -> Result<Freshness, Reason> {
    let ((directives, _), is_part) = (said, status == StatusCode::PARTIAL_CONTENT);
    // A cache that understands the status may pass over the no-store beside (section 5.2.2.3).
    let no_store = directives.no_store && !directives.must_understand;
    let misunderstood = directives.must_understand && !understands(status);
    let forbidden = [
        (!is_final(status), Reason::Status),
        (is_part && Extent::of_part(headers).is_none(), Reason::Partial),
        (no_store || asked.no_store, Reason::NoStore),
        (misunderstood, Reason::Status),
        (directives.private.is_whole(), Reason::Private),
        (directives.malformed, Reason::Malformed),
        (asked.authorized && !directives.shares_authorized(), Reason::Authorization),
        (vary::names(headers).is_none(), Reason::Vary),
    ];
    if let Some((_, reason)) = forbidden.into_iter().find(|(holds, _)| *holds) {
        return Err(reason);
    }
    let explicit = match asked.ttl {
        Some(ttl) => Some(age.saturating_add(ttl)),
        None => explicit(headers, said, now),
    };
    let lifetime = match explicit {
        Some(lifetime) => lifetime,
        None if freshness::may_guess(status, directives) => freshness::guess(headers, now),
        None => return Err(Reason::NoFreshness),
    };
    let kept = windows.of(directives).longest();
    let stale = match has_validator(headers) {
        true => kept.max(KEPT_WITH_VALIDATOR),
        false if age < lifetime && !directives.no_cache.is_whole() => kept.max(KEPT_WITHOUT),
        // Neither fresh nor to be made so.
        false if kept.is_zero() || directives.no_cache.is_whole() => {
            return Err(match explicit {
                _ if directives.no_cache.is_whole() => Reason::NoCache,
                Some(_) => Reason::Stale,
                None => Reason::NoFreshness,
            });
        }
        false => kept,
    };
    // Kept from now on, however long it was stale on its arrival.
    Ok(Freshness { lifetime, age, stale: stale + age.saturating_sub(lifetime) })
}

/// How long the response says that it is fresh. `targeted` tells that `directives` are not those of
/// `Cache-Control`.
pub(crate) fn explicit(
    headers: &HeaderMap,
    (directives, targeted): (&Directives, bool),
    now: SystemTime,
) -> Option<Duration> {
    match targeted {
        true => directives.lifetime().map(|seconds| Duration::from_secs(seconds.into())),
        false => freshness::explicit(headers, directives, now),
    }
}

/// A 304 is no response of its own; the statuses from 600 on mean nothing.
fn is_final(status: StatusCode) -> bool {
    (200..600).contains(&status.as_u16()) && status != StatusCode::NOT_MODIFIED
}

/// The statuses of RFC 9110, section 15, whose caching this cache knows how to do.
fn understands(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=206 | 300..=303 | 305..=308 | 400..=411 | 413..=417 | 421 | 422 | 426 | 500..=505
    )
}

/// Whether the origin can be asked if it still holds.
pub(crate) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

/// Leaves what may be stored (section 3.1) and dates it (RFC 9110, section 6.6.1).
pub(crate) fn to_store(headers: &HeaderMap, now: SystemTime) -> HeaderMap {
    let mut stored = headers.clone();
    listed(headers).for_each(|name| drop(stored.remove(name)));
    HOP_BY_HOP.iter().for_each(|name| drop(stored.remove(name)));
    HOP_BY_HOP_NAMES.iter().for_each(|name| drop(stored.remove(*name)));
    remove_named(&mut stored);
    // It is counted on from here.
    stored.remove(AGE);
    if !stored.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now))
    {
        stored.insert(DATE, date);
    }
    stored
}

/// Removes the fields that `no-cache` and `private` name (sections 5.2.2.4 and 5.2.2.7).
pub(crate) fn remove_named(headers: &mut HeaderMap) {
    let directives = Directives::of(headers);
    let scopes = [&directives.no_cache, &directives.private];
    scopes.into_iter().flat_map(Scope::fields).for_each(|name| drop(headers.remove(name)));
}

/// Whether a proxy behind this cache takes off a field that an upstream might have gone by (RFC 9110,
/// section 7.6.1): what that answers is no answer to what the request says.
pub(crate) fn loses_a_field(request: &HeaderMap) -> bool {
    let of_one_connection =
        |name: &HeaderName| HOP_BY_HOP.contains(name) || HOP_BY_HOP_NAMES.contains(&name.as_str());
    listed(request).any(|name| {
        let goes_on = request.contains_key(&name) || ASKED_BY.contains(&name);
        goes_on && !of_one_connection(&name)
    })
}

/// What `Connection` lists.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    let options = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    options.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn ask(
        status: u16,
        asked: Asked,
        pairs: &[(&'static str, &'static str)],
    ) -> Result<(), Reason> {
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), map(pairs));
        let (directives, now) = (Directives::of(&headers), SystemTime::now());
        let (windows, age) = <_>::default();
        let judged = judge(asked, (status, &headers), (&directives, false), windows, age, now);
        judged.map(|_| ())
    }

    #[test]
    fn the_statuses_and_directives_of_section_3() {
        let anyone = Asked::default();
        let fresh = ("cache-control", "max-age=60");
        for status in [200, 201, 299, 302, 404, 499, 500, 503, 599] {
            assert_eq!(ask(status, anyone, &[fresh]), Ok(()), "{status}");
        }
        for status in [100, 304, 600, 999] {
            assert_eq!(ask(status, anyone, &[fresh]), Err(Reason::Status), "{status}");
        }
        assert_eq!(ask(206, anyone, &[fresh]), Err(Reason::Partial));
        assert_eq!(ask(206, anyone, &[fresh, ("content-range", "bytes 0-4/10")]), Ok(()));
        let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        for status in [200, 203, 204, 404, 405, 410, 414, 501] {
            assert_eq!(ask(status, anyone, &[modified]), Ok(()), "{status}");
        }
        for status in [201, 202, 299, 403, 499, 500, 502, 503, 504, 599] {
            assert_eq!(ask(status, anyone, &[modified]), Err(Reason::NoFreshness), "{status}");
            let public = ("cache-control", "public");
            assert_eq!(ask(status, anyone, &[modified, public]), Ok(()), "{status}");
        }
    }

    #[test]
    fn what_forbids_and_what_allows_all_the_same() {
        let ask = |line| ask(200, Asked::default(), &[("cache-control", line)]);
        assert_eq!(ask("max-age=60, no-store"), Err(Reason::NoStore));
        assert_eq!(ask("max-age=60, no-store, must-understand"), Ok(()));
        assert_eq!(ask("max-age=60, private"), Err(Reason::Private));
        assert_eq!(ask("max-age=60, private=\"x\""), Ok(()));
        assert_eq!(ask("max-age=60, no-cache"), Err(Reason::NoCache), "nothing to validate it by");
        assert_eq!(ask("max-age=0"), Err(Reason::Stale));
        assert_eq!(ask("max-age=60, x=\"y"), Err(Reason::Malformed));
    }

    #[test]
    fn fields_of_one_connection_are_not_stored_and_a_date_is_added() {
        let headers = map(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-end", "1"),
            ("age", "7"),
            ("content-encoding", "gzip"),
        ]);
        let now = SystemTime::now();
        let stored = to_store(&headers, now);
        let mut names: Vec<_> = stored.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-encoding", "date", "x-end"]);
        assert_eq!(stored[DATE], httpdate::fmt_http_date(now).as_str());
    }

    #[test]
    fn fields_that_a_directive_names_are_not_stored() {
        let headers =
            map(&[("cache-control", "private=\"a\", no-cache=\"b, C\""), ("a", "1"), ("c", "1")]);
        let stored = to_store(&headers, SystemTime::now());
        assert!(!stored.contains_key("a") && !stored.contains_key("c"));
    }

    #[test]
    fn the_date_of_the_origin_is_left_alone() {
        let headers = map(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!(to_store(&headers, SystemTime::now()), headers);
    }
}

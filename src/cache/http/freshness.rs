//! How long a response is fresh (RFC 9111, section 4.2).

use crate::cache::http::{date, directives::Directives};
use http::{
    HeaderMap, StatusCode,
    header::{DATE, EXPIRES, LAST_MODIFIED},
};
use std::time::{Duration, SystemTime};

/// Of the time since a response was last changed, so much is it likely not to change again
/// (RFC 9111, section 4.2.2).
const HEURISTIC_PART: u32 = 10;

/// A guess is never longer than this.
const HEURISTIC_LIMIT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Statuses that may be cached although they do not say for how long (RFC 9110, section 15.1), but
/// for 300, 301 and 308: a redirect that says nothing of time is best asked for again.
const HEURISTIC_STATUSES: [u16; 9] = [200, 203, 204, 206, 404, 405, 410, 414, 501];

/// Whether the response says how long it is fresh, in a form that counts: an `Expires` that cannot
/// be read says that it is stale.
pub(crate) fn explicit(
    headers: &HeaderMap,
    directives: &Directives,
    now: SystemTime,
) -> Option<Duration> {
    if let Some(seconds) = directives.lifetime() {
        return Some(Duration::from_secs(seconds.into()));
    }
    headers.contains_key(EXPIRES).then(|| {
        let made = date::of(headers, &DATE).unwrap_or(now);
        let expires = date::of(headers, &EXPIRES);
        expires.and_then(|expires| expires.duration_since(made).ok()).unwrap_or_default()
    })
}

/// Whether the response may be stored although it says nothing of time.
pub(crate) fn may_guess(status: StatusCode, directives: &Directives) -> bool {
    directives.public || HEURISTIC_STATUSES.contains(&status.as_u16())
}

/// The guess: a tenth of the time since the last change, nothing if that is not known.
pub(crate) fn guess(headers: &HeaderMap, now: SystemTime) -> Duration {
    let made = date::of(headers, &DATE).unwrap_or(now);
    let changed = date::of(headers, &LAST_MODIFIED);
    let unchanged = changed.and_then(|changed| made.duration_since(changed).ok());
    (unchanged.unwrap_or_default() / HEURISTIC_PART).min(HEURISTIC_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::http::directives::MAX_DELTA;
    use http::HeaderName;

    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn ask(pairs: &[(&'static str, &str)]) -> (Option<u64>, u64) {
        let headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let now = date::parse(NOW).unwrap();
        let explicit = explicit(&headers, &Directives::of(&headers), now);
        (explicit.map(|lifetime| lifetime.as_secs()), guess(&headers, now).as_secs())
    }

    #[test]
    fn s_maxage_goes_before_max_age_before_expires() {
        let expires = ("expires", "Sun, 06 Nov 1994 09:49:37 GMT");
        assert_eq!(ask(&[expires]).0, Some(3_600));
        assert_eq!(ask(&[expires, ("date", "Sun, 06 Nov 1994 09:49:27 GMT")]).0, Some(10));
        assert_eq!(ask(&[expires, ("cache-control", "max-age=5")]).0, Some(5));
        assert_eq!(ask(&[expires, ("cache-control", "max-age=5, s-maxage=0")]).0, Some(0));
        assert_eq!(ask(&[("cache-control", "max-age=99999999999")]).0, Some(MAX_DELTA.into()));
        assert_eq!(ask(&[("expires", "0")]).0, Some(0));
        assert_eq!(ask(&[("expires", NOW)]).0, Some(0));
        assert_eq!(ask(&[("cache-control", "public")]).0, None);
    }

    #[test]
    fn a_guess_is_a_tenth_of_the_time_since_the_last_change() {
        assert_eq!(ask(&[("last-modified", "Sun, 06 Nov 1994 08:48:37 GMT")]).1, 6);
        assert_eq!(ask(&[("last-modified", "Tue, 06 Nov 1984 08:48:37 GMT")]).1, 7 * 24 * 3_600);
        assert_eq!(ask(&[("last-modified", "Sat, 06 Nov 2094 08:48:37 GMT")]).1, 0);
        assert_eq!(ask(&[]).1, 0);
    }
}

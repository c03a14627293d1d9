//! How old a response is when it arrives (RFC 9111, sections 4.2.3 and 5.1).

use crate::cache::http::{date, directives::parse_seconds};
use http::{
    HeaderMap, HeaderValue,
    header::{AGE, DATE},
};
use std::time::{Duration, SystemTime};

/// The corrected initial age of a response that was received at `now`, `delay` after it was asked
/// for.
pub(crate) fn initial(headers: &HeaderMap, delay: Duration, now: SystemTime) -> Duration {
    let date = date::of(headers, &DATE);
    let apparent = date.and_then(|date| now.duration_since(date).ok()).unwrap_or_default();
    // `Date` has no fractions, so a response made just now seems up to a second old.
    let apparent = Duration::from_secs(apparent.as_secs());
    apparent.max(told(headers) + delay)
}

/// What `Age` says. Of a list or of several lines, the first counts; what is no number is ignored.
fn told(headers: &HeaderMap) -> Duration {
    let first = headers
        .get(AGE)
        .map(HeaderValue::as_bytes)
        .and_then(|value| parse_seconds(value.split(|&byte| byte == b',').next()?.trim_ascii()));
    Duration::from_secs(first.unwrap_or(0).into())
}

//! Parts of a stored response (RFC 9110, section 14).

use crate::cache::http::date;
use http::{
    HeaderMap, HeaderValue,
    header::{DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE},
};
use std::{ops::Range, time::Duration};

/// What a request asks for of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// These bytes of the representation.
    Bytes(Range<u64>),
    /// Nothing that there is.
    Unsatisfiable,
}

/// The `Range` of a request, and what it depends on.
#[derive(Clone, Debug)]
pub(crate) struct RangeRequest {
    range: HeaderValue,
    condition: Option<HeaderValue>,
}

impl RangeRequest {
    pub(crate) fn of(request: &HeaderMap) -> Option<Self> {
        let range = request.get(RANGE)?.clone();
        Some(Self { range, condition: request.get(IF_RANGE).cloned() })
    }

    /// Takes it off a request that is to fetch the whole response.
    pub(crate) fn strip(request: &mut HeaderMap) {
        request.remove(RANGE);
        request.remove(IF_RANGE);
    }

    /// The part of a stored response with these headers, of a representation of that length. What is
    /// no range of bytes, or several of them, is answered with the whole (section 14.2).
    ///
    /// Of a length that is not known, no suffix is a part, and nothing without an end.
    pub(crate) fn part(&self, stored: &HeaderMap, total: Option<u64>) -> Part {
        let holds = |condition| is_current(condition, stored);
        if !self.condition.as_ref().is_none_or(holds) {
            return Part::Whole;
        }
        let range = self.range.to_str().ok();
        range.and_then(|range| select(range, total.unwrap_or(u64::MAX))).unwrap_or(Part::Whole)
    }

    /// Whether the answer may be a part of what the client has already, without the fields that it has
    /// (section 15.3.7).
    pub(crate) fn is_conditional(&self) -> bool {
        self.condition.is_some()
    }

    /// What tells it from other requests for parts.
    pub(crate) fn name(&self) -> String {
        format!("{:?} {:?}", self.range, self.condition)
    }
}

/// `If-Range` compares strongly (section 13.1.5).
fn is_current(condition: &HeaderValue, stored: &HeaderMap) -> bool {
    let tag = condition.as_bytes();
    if tag.starts_with(b"\"") {
        return stored.get(ETAG).is_some_and(|held| held.as_bytes() == tag);
    }
    let asked = condition.to_str().ok().and_then(date::parse);
    let modified = date::of(stored, &LAST_MODIFIED);
    let made = date::of(stored, &DATE);
    // A date is strong only if it lies well before the response was made (section 8.8.2.2).
    let strong = modified.zip(made).is_some_and(|(modified, made)| {
        made.duration_since(modified).is_ok_and(|gap| gap >= Duration::from_secs(1))
    });
    strong && asked == modified
}

fn select(range: &str, length: u64) -> Option<Part> {
    let (unit, set) = range.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |digits: &str| {
        let legal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit are beyond every body.
        legal.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (first, last) {
        ("", suffix) => match number(suffix)? {
            0 => return Some(Part::Unsatisfiable),
            suffix => (length.saturating_sub(suffix), length),
        },
        (first, "") => (number(first)?, length),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(length))
        }
    };
    Some(if start < length { Part::Bytes(start..end) } else { Part::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_a_range() {
        for (range, expected) in [
            ("bytes=0-1", Some(Part::Bytes(0..2))),
            ("Bytes = 2-99", None),
            ("bytes=2-99", Some(Part::Bytes(2..10))),
            ("bytes=2-", Some(Part::Bytes(2..10))),
            ("bytes=-3", Some(Part::Bytes(7..10))),
            ("bytes=-30", Some(Part::Bytes(0..10))),
            ("bytes=-0", Some(Part::Unsatisfiable)),
            ("bytes=10-", Some(Part::Unsatisfiable)),
            ("bytes=99999999999999999999999-", Some(Part::Unsatisfiable)),
            ("bytes=3-2", None),
            ("bytes=1-2,4-5", None),
            ("bytes=a-b", None),
            ("bytes=-", None),
            ("lines=0-1", None),
            ("", None),
        ] {
            let expected =
                if range == "Bytes = 2-99" { Some(Part::Bytes(2..10)) } else { expected };
            assert_eq!(select(range, 10), expected, "{range}");
        }
        assert_eq!(select("bytes=0-", 0), Some(Part::Unsatisfiable));
    }

    #[test]
    fn if_range_holds_for_the_same_strong_validator_alone() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            let pairs = pairs.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            pairs.collect()
        };
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        let later = "Sun, 06 Nov 1994 08:49:39 GMT";
        for (condition, stored, holds) in [
            ("\"a\"", &[("etag", "\"a\"")][..], true),
            ("\"a\"", &[("etag", "\"b\"")], false),
            ("W/\"a\"", &[("etag", "W/\"a\"")], false),
            (modified, &[("last-modified", modified), ("date", later)], true),
            (modified, &[("last-modified", modified), ("date", modified)], false),
            (later, &[("last-modified", modified), ("date", later)], false),
            ("x", &[], false),
        ] {
            let request = headers(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let part = RangeRequest::of(&request).unwrap().part(&headers(stored), Some(10));
            let expected = if holds { Part::Bytes(0..2) } else { Part::Whole };
            assert_eq!(part, expected, "{condition} {stored:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_body(range in "bytes=[0-9]{0,22}-[0-9]{0,22}|\\PC{0,20}", length in 0u64..50) {
            if let Some(Part::Bytes(part)) = select(&range, length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}

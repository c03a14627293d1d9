//! What a 304, or a response to HEAD, says of the response that is stored (RFC 9111, sections 3.2,
//! 4.3.4 and 4.3.5).

use crate::cache::http::{
    storing::{remove_named, to_store},
    validate::same_tag,
};
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED},
};
use std::time::SystemTime;

/// What a stored field is not replaced by: the length is that of the bytes that are stored.
const KEPT: [HeaderName; 2] = [CONTENT_LENGTH, CONTENT_RANGE];

/// The stored fields, replaced by those that came anew.
pub(crate) fn freshened(stored: &HeaderMap, new: &HeaderMap, now: SystemTime) -> HeaderMap {
    let new = to_store(new, now);
    let mut merged = stored.clone();
    for name in new.keys().filter(|name| !KEPT.contains(name)) {
        merged.remove(name);
        for value in new.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    // Whichever of the two has the directive, and whichever the field.
    remove_named(&mut merged);
    merged
}

/// Whether a response to HEAD is about what is stored, of a representation of that length.
pub(crate) fn describes(head: &HeaderMap, stored: &HeaderMap, length: Option<u64>) -> bool {
    let same_length = head.get(CONTENT_LENGTH).zip(length).is_none_or(|(told, length)| {
        told.to_str().ok().and_then(|told| told.parse::<u64>().ok()) == Some(length)
    });
    let same_tag = head.get(ETAG).is_none_or(|tag| {
        stored.get(ETAG).is_some_and(|held| same_tag(held.as_bytes(), tag.as_bytes()))
    });
    let modified = |headers: &HeaderMap| headers.get(LAST_MODIFIED).cloned();
    let same_date = modified(head).is_none_or(|date| modified(stored) == Some(date));
    same_length && same_tag && same_date
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn every_field_of_a_304_replaces_all_of_its_lines_but_for_the_length() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let stored = map(&[("a", "1"), ("a", "2"), ("b", "1"), ("content-length", "5"), date]);
        let new = map(&[("a", "3"), ("a", "4"), ("content-length", "0"), ("c", "1"), date]);
        let expected =
            map(&[("a", "3"), ("a", "4"), ("b", "1"), ("content-length", "5"), ("c", "1"), date]);
        assert_eq!(freshened(&stored, &new, SystemTime::now()), expected);
    }

    #[test]
    fn a_head_describes_the_same_validators_and_length() {
        let stored = map(&[("etag", "W/\"1\""), ("last-modified", "x")]);
        for (head, expected) in [
            (&[][..], true),
            (&[("etag", "\"1\""), ("last-modified", "x"), ("content-length", "5")], true),
            (&[("etag", "\"2\"")], false),
            (&[("last-modified", "y")], false),
            (&[("content-length", "6")], false),
            (&[("content-length", "x")], false),
        ] {
            assert_eq!(describes(&map(head), &stored, Some(5)), expected, "{head:?}");
        }
        assert!(!describes(&stored, &map(&[]), Some(5)));
    }
}

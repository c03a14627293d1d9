//! Parts of the same representation (RFC 9111, sections 3.3 and 3.4, and RFC 9110, section 15.3.7.3).

use crate::{
    cache::http::{extent::Extent, update},
    snapshot::Snapshot,
};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE},
};
use std::time::SystemTime;

/// What becomes of a part that came while another response is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// One response of both.
    Both(Snapshot),
    /// It is stored in place of the other.
    New(Snapshot),
    /// The other one stays: it is the same representation, and has more of it.
    Stays,
}

/// Joins a part with what is stored, if both are of the same representation and nothing lies between
/// them. Else the longer one is stored while it is `fresh`. At most `limit` bytes.
pub(crate) fn join(
    stored: &Snapshot,
    fresh: bool,
    new: Snapshot,
    limit: usize,
    now: SystemTime,
) -> Joined {
    let extent = Extent::of(stored.status, &stored.headers, stored.body.len());
    let divisible = matches!(stored.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    let (Some(held), Some(got)) = (extent.filter(|_| divisible), Extent::of_part(&new.headers))
    else {
        return Joined::New(new);
    };
    let known = held.total.zip(got.total).is_none_or(|(one, other)| one == other);
    if !same_strong_tag(&stored.headers, &new.headers) || !known {
        return Joined::New(new);
    }
    let (start, end) = (held.start.min(got.start), held.end.max(got.end));
    let extent = Extent { start, end, total: held.total.or(got.total) };
    let touching = held.start <= got.end && got.start <= held.end;
    if touching && extent.length() <= limit as u64 {
        if extent == held && held.is_whole() {
            return Joined::Stays;
        }
        let (first, second) = match held.start <= got.start {
            true => ((held, &stored.body), (got, &new.body)),
            false => ((got, &new.body), (held, &stored.body)),
        };
        let headers = update::freshened(&stored.headers, &new.headers, now);
        return Joined::Both(spanning(extent, headers, splice(first, second)));
    }
    match fresh && held.length() > got.length() {
        true => Joined::Stays,
        false => Joined::New(new),
    }
}

/// The bytes of both, of which the first begins no later.
fn splice(first: (Extent, &Bytes), second: (Extent, &Bytes)) -> Bytes {
    let seen = first.0.end.saturating_sub(second.0.start);
    let seen = usize::try_from(seen).map_or(second.1.len(), |seen| seen.min(second.1.len()));
    let mut body = BytesMut::with_capacity(first.1.len() + second.1.len() - seen);
    body.extend_from_slice(first.1);
    body.extend_from_slice(&second.1[seen..]);
    body.freeze()
}

/// A response with these bytes: all that there are make a 200.
fn spanning(extent: Extent, mut headers: HeaderMap, body: Bytes) -> Snapshot {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if extent.is_whole() {
        headers.remove(CONTENT_RANGE);
        return Snapshot { status: StatusCode::OK, headers, body };
    }
    // Digits and signs only, so it always is a header value.
    if let Ok(range) = HeaderValue::try_from(extent.to_string()) {
        headers.insert(CONTENT_RANGE, range);
    }
    Snapshot { status: StatusCode::PARTIAL_CONTENT, headers, body }
}

/// A part as it is stored: one that turned out to be all there is, with a tag that says so, is a 200.
pub(crate) fn alone(part: Snapshot) -> Snapshot {
    match Extent::of_part(&part.headers) {
        Some(extent) if extent.is_whole() && strong_tag(&part.headers).is_some() => {
            spanning(extent, part.headers, part.body)
        }
        _ => part,
    }
}

/// Makes it a request for what is missing behind a stored part, to whoever has the same representation
/// still (RFC 9110, section 13.1.5). `false` if the part is none to be completed; nothing is changed
/// then.
pub(crate) fn ask_for_the_rest(stored: &Snapshot, limit: usize, request: &mut HeaderMap) -> bool {
    let extent = Extent::of_part(&stored.headers).filter(|extent| {
        let fits = extent.total.is_some_and(|total| total <= limit as u64);
        extent.start == 0 && fits && !extent.is_whole()
    });
    let (Some(extent), Some(tag)) = (extent, strong_tag(&stored.headers)) else { return false };
    let Ok(range) = HeaderValue::try_from(format!("bytes={}-", extent.end)) else { return false };
    request.insert(RANGE, range);
    request.insert(IF_RANGE, tag.clone());
    true
}

/// The head of the whole response, if the answer is what was missing behind the stored part.
pub(crate) fn completed(
    stored: &Snapshot,
    answer: &HeaderMap,
    now: SystemTime,
) -> Option<HeaderMap> {
    let held = Extent::of_part(&stored.headers)?;
    let got = Extent::of_part(answer)?;
    let fits = got.start == held.end && Some(got.end) == held.total && got.total == held.total;
    if !fits || !same_strong_tag(&stored.headers, answer) {
        return None;
    }
    let mut headers = update::freshened(&stored.headers, answer, now);
    headers.remove(CONTENT_RANGE);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(got.end));
    Some(headers)
}

/// Whether both are known to be of the same representation, byte for byte (RFC 9110, section 8.8.3.2).
pub(crate) fn same_strong_tag(one: &HeaderMap, other: &HeaderMap) -> bool {
    let tag = strong_tag(one);
    tag.is_some() && tag == strong_tag(other)
}

fn strong_tag(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b"0123456789";

    fn headers(tag: &str, range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(ETAG, tag), (CONTENT_RANGE, range)] {
            if !value.is_empty() {
                headers.insert(name, value.parse().unwrap());
            }
        }
        headers.insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        headers
    }

    fn part(tag: &str, start: usize, end: usize) -> Snapshot {
        let body = Bytes::from_static(&TEXT[start..end]);
        let headers = headers(tag, &format!("bytes {start}-{}/10", end - 1));
        Snapshot { status: StatusCode::PARTIAL_CONTENT, headers, body }
    }

    fn joined(one: &Snapshot, other: &Snapshot) -> Joined {
        join(one, true, other.clone(), 10, SystemTime::now())
    }

    #[test]
    fn only_the_same_strong_tag_joins() {
        for (one, other) in [
            ("\"a\"", "\"b\""),
            ("W/\"a\"", "W/\"a\""),
            ("", ""),
            ("\"a\"", ""),
            ("\"a\"", "W/\"a\""),
        ] {
            let new = part(other, 5, 9);
            assert_eq!(joined(&part(one, 0, 5), &new), Joined::New(new), "{one} {other}");
        }
        let mut longer = part("\"a\"", 5, 9);
        longer.headers.insert(CONTENT_RANGE, "bytes 5-8/11".parse().unwrap());
        assert_eq!(joined(&part("\"a\"", 0, 5), &longer), Joined::New(longer));
    }

    #[test]
    fn what_lies_apart_is_not_joined_and_the_longer_one_stays_while_it_is_fresh() {
        let (long, short) = (part("\"a\"", 0, 4), part("\"a\"", 6, 8));
        assert_eq!(joined(&long, &short), Joined::Stays);
        assert_eq!(joined(&short, &long), Joined::New(long.clone()));
        let stale = join(&long, false, short.clone(), 10, SystemTime::now());
        assert_eq!(stale, Joined::New(short));
        let over = join(&long, true, part("\"a\"", 4, 6), 5, SystemTime::now());
        assert_eq!(over, Joined::Stays, "more than may be stored");
    }

    #[test]
    fn all_bytes_make_a_200() {
        let Joined::Both(whole) = joined(&part("\"a\"", 0, 5), &part("\"a\"", 5, 10)) else {
            panic!("not joined")
        };
        assert_eq!((whole.status, &*whole.body), (StatusCode::OK, TEXT));
        assert!(!whole.headers.contains_key(CONTENT_RANGE));
        assert_eq!(whole.headers[CONTENT_LENGTH], "10");
        assert_eq!(joined(&whole, &part("\"a\"", 2, 4)), Joined::Stays);
        assert_eq!(alone(part("\"a\"", 0, 10)), whole);
        assert_eq!(alone(part("", 0, 10)), part("", 0, 10));
        assert_eq!(alone(part("\"a\"", 0, 9)), part("\"a\"", 0, 9));
    }

    #[test]
    fn a_part_at_the_front_is_completed_by_what_is_missing_and_nothing_else() {
        let ask = |stored: &Snapshot| {
            let mut request = HeaderMap::new();
            let asked = ask_for_the_rest(stored, 10, &mut request);
            let value = |name| request.get(name).map(|value| value.to_str().unwrap().to_owned());
            asked.then(|| (value(RANGE).unwrap(), value(IF_RANGE).unwrap()))
        };
        assert_eq!(ask(&part("\"a\"", 0, 4)), Some(("bytes=4-".into(), "\"a\"".into())));
        for stored in [part("\"a\"", 1, 4), part("W/\"a\"", 0, 4), part("", 0, 4)] {
            assert_eq!(ask(&stored), None, "{stored:?}");
        }
        let long = headers("\"a\"", "bytes 0-3/11");
        assert_eq!(ask(&Snapshot { headers: long, ..part("\"a\"", 0, 4) }), None, "too long");
        for (tag, range, fits) in [
            ("\"a\"", "bytes 4-9/10", true),
            ("\"b\"", "bytes 4-9/10", false),
            ("", "bytes 4-9/10", false),
            ("\"a\"", "bytes 4-9/*", false),
            ("\"a\"", "bytes 4-8/10", false),
            ("\"a\"", "bytes 3-9/10", false),
            ("\"a\"", "bytes 4-10/11", false),
            ("\"a\"", "", false),
        ] {
            let answer = headers(tag, range);
            let head = completed(&part("\"a\"", 0, 4), &answer, SystemTime::now());
            assert_eq!(head.is_some(), fits, "{tag} {range}");
            assert!(head.is_none_or(|head| head[CONTENT_LENGTH] == "10"));
        }
    }

    proptest! {
        #[test]
        fn a_join_has_the_bytes_that_its_range_says(
            one in (0usize..9, 1usize..9), other in (0usize..9, 1usize..9),
        ) {
            let [one, other] = [one, other].map(|(start, length)| part("\"a\"", start, (start + length).min(10)));
            let stored = match joined(&one, &other) {
                Joined::Both(stored) | Joined::New(stored) => stored,
                Joined::Stays => one,
            };
            let extent = Extent::of(stored.status, &stored.headers, stored.body.len()).unwrap();
            let bytes = extent.start as usize..extent.end as usize;
            prop_assert_eq!(&*stored.body, &TEXT[bytes]);
        }
    }
}

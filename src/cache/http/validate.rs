//! Conditions (RFC 9110, section 13): a client's, evaluated on a whole response, and the cache's own,
//! which ask the origin whether what is stored still holds (RFC 9111, section 4.3).
//!
//! The handler of an application never sees a client's conditions on a miss: its 304 could not be
//! stored, and those that wait for the same response would get nothing.

use crate::cache::http::date;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE,
        ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, TRANSFER_ENCODING,
    },
};
use std::time::SystemTime;

const DESCRIBES_CONTENT: [HeaderName; 6] = [
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    TRANSFER_ENCODING,
];

/// What a client has already, as its request says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    none_match: Vec<HeaderValue>,
    modified_since: Option<SystemTime>,
}

impl Conditions {
    /// The conditions of a request. Without any, this allocates nothing.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let none_match: Vec<_> = headers.get_all(IF_NONE_MATCH).iter().cloned().collect();
        // The older condition counts only without the newer one (RFC 9110, section 13.1.3).
        let modified_since = match none_match.is_empty() {
            true => date::of(headers, &IF_MODIFIED_SINCE),
            false => None,
        };
        Self { none_match, modified_since }
    }

    /// Whether the client asked by entity tags.
    pub(crate) fn has_tags(&self) -> bool {
        !self.none_match.is_empty()
    }

    /// Takes the conditions off a request that is to fetch the whole response.
    pub(crate) fn strip(headers: &mut HeaderMap) {
        headers.remove(IF_NONE_MATCH);
        headers.remove(IF_MODIFIED_SINCE);
    }

    /// Whether the client has the very response already and a 304 will do.
    pub(crate) fn not_modified(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.hold(status, headers, date::of(headers, &LAST_MODIFIED))
    }

    /// The same of a stored response: where it does not say when it was modified, it was when it was
    /// made (RFC 9111, section 4.3.2).
    pub(crate) fn stored_not_modified(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let made = || date::of(headers, &DATE).filter(|_| !headers.contains_key(LAST_MODIFIED));
        self.hold(status, headers, date::of(headers, &LAST_MODIFIED).or_else(made))
    }

    fn hold(&self, status: StatusCode, headers: &HeaderMap, modified: Option<SystemTime>) -> bool {
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return false;
        }
        if !self.none_match.is_empty() {
            let etag = headers.get(ETAG).map(HeaderValue::as_bytes);
            return self.none_match.iter().any(|line| matches(line.as_bytes(), etag));
        }
        self.modified_since.zip(modified).is_some_and(|(since, modified)| modified <= since)
    }

    /// Leaves the head of a 304: what describes a body that is not there goes (RFC 9110, section
    /// 15.4.5).
    pub(crate) fn strip_content(headers: &mut HeaderMap) {
        for name in DESCRIBES_CONTENT {
            headers.remove(name);
        }
    }
}

/// Asks by the validators of what is stored, beside what the client asks by. `false` if there are
/// none; nothing is changed then.
pub(crate) fn ask_again(stored: &HeaderMap, request: &mut HeaderMap) -> bool {
    let (tag, modified) = (stored.get(ETAG), stored.get(LAST_MODIFIED));
    if tag.is_none() && modified.is_none() {
        return false;
    }
    let own = tag.map(HeaderValue::as_bytes);
    let asked = request.get_all(IF_NONE_MATCH).iter().map(HeaderValue::as_bytes);
    let asked: Vec<_> = asked.filter(|line| line.trim_ascii() != b"*").collect();
    let known = own.is_none() || asked.iter().any(|line| matches(line, own));
    let lines =
        asked.into_iter().chain(own.filter(|_| !known)).collect::<Vec<_>>().join(&b", "[..]);
    Conditions::strip(request);
    // Without a tag of its own the cache could not tell whose the origin's answer is.
    if own.is_some()
        && let Ok(lines) = HeaderValue::from_bytes(&lines)
    {
        request.insert(IF_NONE_MATCH, lines);
    }
    if let Some(modified) = modified {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
    true
}

/// Whether the origin's 304 is about what is stored, not about what the client has (RFC 9111, section
/// 4.3.4).
pub(crate) fn still_holds(stored: &HeaderMap, answer: &HeaderMap, client: &Conditions) -> bool {
    let own = stored.get(ETAG).map(HeaderValue::as_bytes);
    match (own, answer.get(ETAG)) {
        (Some(own), Some(tag)) => same_tag(own, tag.as_bytes()),
        (Some(own), None) => {
            client.none_match.iter().all(|line| matches(line.as_bytes(), Some(own)))
        }
        (None, _) => true,
    }
}

/// Whether two entity tags are the same by weak comparison (RFC 9110, section 8.8.3.2).
pub(crate) fn same_tag(one: &[u8], other: &[u8]) -> bool {
    opaque(one) == opaque(other)
}

/// `If-None-Match` compares weakly (RFC 9110, section 8.8.3.2): `W/` makes no difference.
fn matches(line: &[u8], etag: Option<&[u8]>) -> bool {
    if line.trim_ascii() == b"*" {
        return true;
    }
    let Some(etag) = etag.map(opaque).filter(|etag| is_quoted(etag)) else { return false };
    let mut rest = line;
    while !rest.is_empty() {
        let (member, tail) = split_tag(rest);
        if opaque(member.trim_ascii()) == etag {
            return true;
        }
        rest = tail;
    }
    false
}

/// The member at the front of a list of entity tags, and what follows its comma. Unlike in a quoted
/// string, a backslash escapes nothing there.
fn split_tag(list: &[u8]) -> (&[u8], &[u8]) {
    let mut quoted = false;
    let comma = list.iter().position(|&byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    });
    comma.map_or((list, &[]), |at| (&list[..at], &list[at + 1..]))
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

fn is_quoted(tag: &[u8]) -> bool {
    tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        HeaderMap::from_iter(pairs)
    }

    fn not_modified(request: &[(&'static str, &str)], response: &[(&'static str, &str)]) -> bool {
        Conditions::of(&headers(request)).not_modified(StatusCode::OK, &headers(response))
    }

    #[test]
    fn the_caches_own_validators_stand_beside_the_clients() {
        let ask = |stored: &[(&'static str, &str)], request: &[(&'static str, &str)]| {
            let mut request = headers(request);
            let asked = ask_again(&headers(stored), &mut request);
            let value = |name| request.get(name).map(|value| value.to_str().unwrap().to_owned());
            (asked, value("if-none-match"), value("if-modified-since"))
        };
        let some = |value: &str| Some(value.to_owned());
        let tag = ("etag", "\"a\"");
        assert_eq!(ask(&[tag], &[]), (true, some("\"a\""), None));
        let client = ("if-none-match", "\"b\"");
        assert_eq!(ask(&[tag], &[client]), (true, some("\"b\", \"a\""), None));
        assert_eq!(ask(&[tag], &[("if-none-match", "W/\"a\"")]), (true, some("W/\"a\""), None));
        assert_eq!(ask(&[tag], &[("if-none-match", "*")]), (true, some("\"a\""), None));
        assert_eq!(ask(&[tag], &[("if-modified-since", "x")]), (true, some("\"a\""), None));
        let modified = ("last-modified", "x");
        assert_eq!(ask(&[modified], &[client]), (true, None, some("x")));
        assert_eq!(ask(&[tag, modified], &[]), (true, some("\"a\""), some("x")));
        assert_eq!(ask(&[], &[client]), (false, some("\"b\""), None));
    }

    #[test]
    fn a_304_is_about_the_tag_that_it_names() {
        let holds = |answer: &[(&'static str, &str)], client: &[(&'static str, &str)]| {
            let client = Conditions::of(&headers(client));
            still_holds(&headers(&[("etag", "\"a\"")]), &headers(answer), &client)
        };
        let client = [("if-none-match", "\"b\"")];
        assert!(holds(&[("etag", "W/\"a\"")], &client));
        assert!(!holds(&[("etag", "\"b\"")], &client));
        assert!(!holds(&[], &client), "it may be the client's");
        assert!(holds(&[], &[]));
        assert!(holds(&[], &[("if-none-match", "\"a\"")]));
    }

    #[test]
    fn an_entity_tag_matches_weakly_anywhere_in_the_list() {
        let tagged = [("etag", "\"b,c\"")];
        for list in ["\"b,c\"", "W/\"b,c\"", "\"a\" , W/\"b,c\"", "*", "\"x\\\", \"b,c\""] {
            assert!(not_modified(&[("if-none-match", list)], &tagged), "{list}");
        }
        for list in ["\"b\"", "b,c", "\"B,C\"", "", "w/\"b,c\""] {
            assert!(!not_modified(&[("if-none-match", list)], &tagged), "{list}");
        }
    }

    #[test]
    fn a_tag_may_have_bytes_that_are_no_ascii() {
        let tag = HeaderValue::from_bytes(b"\"a\xfc\"").unwrap();
        let request = HeaderMap::from_iter([(IF_NONE_MATCH, tag.clone())]);
        let stored = HeaderMap::from_iter([(ETAG, tag)]);
        assert!(Conditions::of(&request).not_modified(StatusCode::OK, &stored));
    }

    #[test]
    fn a_response_without_a_tag_matches_only_the_star() {
        assert!(!not_modified(&[("if-none-match", "\"\"")], &[]));
        assert!(not_modified(&[("if-none-match", "*")], &[]));
    }

    #[test]
    fn dates_count_to_the_second_and_only_without_tags() {
        let (old, new) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        let since = |date| [("if-modified-since", date)];
        assert!(not_modified(&since(old), &[("last-modified", old)]));
        assert!(not_modified(&since(new), &[("last-modified", old)]));
        assert!(!not_modified(&since(old), &[("last-modified", new)]));
        assert!(!not_modified(&since("yesterday"), &[("last-modified", old)]));
        let both = [("if-modified-since", new), ("if-none-match", "\"other\"")];
        assert!(!not_modified(&both, &[("last-modified", old), ("etag", "\"a\"")]));
    }

    #[test]
    fn a_condition_means_nothing_to_an_error_page() {
        let conditions = Conditions::of(&headers(&[("if-none-match", "*")]));
        assert!(!conditions.not_modified(StatusCode::NOT_FOUND, &HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn no_condition_panics(list in "[ -~]{0,40}", etag in "[ -~]{0,20}") {
            not_modified(&[("if-none-match", &list)], &[("etag", &etag)]);
        }

        #[test]
        fn a_tag_is_found_among_others(
            before in proptest::collection::vec("(W/)?\"[!#-~]{0,6}\"", 0..4),
            etag in "(W/)?\"[!#-~]{0,6}\"",
            after in proptest::collection::vec("(W/)?\"[!#-~]{0,6}\"", 0..4),
        ) {
            let list = [before, vec![etag.clone()], after].concat().join(", ");
            prop_assert!(not_modified(&[("if-none-match", &list)], &[("etag", &etag)]), "{}", list);
        }
    }
}

//! Responses that vary by fields of the request (RFC 9111, section 4.1).

use crate::{cache::http::directives::split_member, key::digest};
use http::{
    HeaderMap, HeaderName,
    header::{ACCEPT_LANGUAGE, VARY},
};
use std::borrow::Cow;

/// A response that varies by more fields than this is not stored: hardly a request would match.
pub(crate) const MAX_NAMES: usize = 8;

/// The fields that a response varies by, sorted, in lower case, separated by commas. `None` if it
/// matches no other request (`*`), varies by too many, or names what is no field.
pub(crate) fn names(response: &HeaderMap) -> Option<String> {
    let mut names = Vec::new();
    for line in response.get_all(VARY) {
        for name in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            match name {
                b"" => {}
                b"*" => return None,
                name => names.push(HeaderName::from_bytes(name).ok()?.as_str().to_owned()),
            }
        }
    }
    list(names)
}

/// What two such lists name together.
pub(crate) fn union(one: &str, other: &str) -> Option<String> {
    let names = one.split(',').chain(other.split(',')).filter(|name| !name.is_empty());
    list(names.map(str::to_owned).collect())
}

fn list(mut names: Vec<String>) -> Option<String> {
    names.sort_unstable();
    names.dedup();
    (names.len() <= MAX_NAMES).then(|| names.join(","))
}

/// The variant that a request asks for, of an entry that varies by `names`: a digest, since the
/// values may be secrets, and empty if it does not vary and its content asks nothing.
pub(crate) fn variant(names: &str, question: Option<&str>, request: &HeaderMap) -> String {
    if names.is_empty() {
        return question.unwrap_or_default().to_owned();
    }
    let values: Vec<_> = names.split(',').map(|name| normal(name, request)).collect();
    let asked = question.map(str::as_bytes);
    digest(values.iter().map(Vec::as_slice).chain(asked))
}

/// A field's value, so that lines, white space around commas and empty members make no difference;
/// nor does the order or the case of languages. A field that is not there differs from one that is
/// empty.
fn normal(name: &str, request: &HeaderMap) -> Vec<u8> {
    let lines = request.get_all(name);
    if lines.iter().next().is_none() {
        return Vec::new();
    }
    let mut members: Vec<Cow<'_, [u8]>> = Vec::new();
    for line in lines {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let (member, tail, _) = split_member(rest);
            members.push(member.trim_ascii().into());
            rest = tail;
        }
    }
    members.retain(|member| !member.is_empty());
    if name == ACCEPT_LANGUAGE.as_str() {
        for member in &mut members {
            let bare = member.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
            *member = bare.map(|byte| byte.to_ascii_lowercase()).collect();
        }
        members.sort_unstable();
    }
    [b"=".as_slice(), &members.join(&b',')].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn names_are_sorted_and_a_star_anywhere_matches_nothing() {
        assert_eq!(names(&map(&[])).as_deref(), Some(""));
        assert_eq!(names(&map(&[("vary", "B, a,,B"), ("vary", "c")])).as_deref(), Some("a,b,c"));
        for line in ["*", "a, *", "*, a", " * ", "a b", "a,b,c,d,e,f,g,h,i"] {
            assert_eq!(names(&map(&[("vary", line)])), None, "{line}");
        }
        assert_eq!(names(&map(&[("vary", ""), ("vary", "*")])), None);
        assert_eq!(union("a,c", "b,c").as_deref(), Some("a,b,c"));
        assert_eq!(union("", "").as_deref(), Some(""));
    }

    #[test]
    fn what_means_the_same_is_the_same_variant() {
        let of = |pairs: &[(&'static str, &str)]| variant("accept-language,foo", None, &map(pairs));
        assert_eq!(of(&[("foo", "1,2")]), of(&[("foo", " 1 ,\t2,")]));
        assert_eq!(of(&[("foo", "1, 2")]), of(&[("foo", "1"), ("foo", "2")]));
        assert_eq!(
            of(&[("accept-language", "de, EN;q=0.5")]),
            of(&[("accept-language", "en; q=0.5,de")])
        );
        let distinct = [
            of(&[]),
            of(&[("foo", "")]),
            of(&[("foo", "1")]),
            of(&[("foo", "2, 1")]),
            of(&[("foo", "1, 2")]),
            of(&[("foo", "\"1,2\"")]),
            of(&[("foo", "\"1, 2\"")]),
            of(&[("accept-language", "1")]),
        ];
        let set: std::collections::HashSet<_> = distinct.iter().collect();
        assert_eq!(set.len(), distinct.len());
        assert_eq!(variant("", None, &map(&[("foo", "1")])), "");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.insert(VARY, value.clone());
                headers.insert(ACCEPT_LANGUAGE, value);
                let _ = names(&headers);
                let _ = variant("accept-language,vary", None, &headers);
            }
        }
    }
}

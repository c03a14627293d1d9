//! Groups of stored responses (RFC 9875).

use crate::cache::{http::targeted::Parser, tag::Tag};
use http::{HeaderMap, HeaderName};

/// The groups that a response belongs to (section 2).
const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// The groups that a response invalidates (section 3).
const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// The longest name of a group. A cache has to know 32 characters (sections 2 and 3).
const MAX_NAME: usize = 256;

/// A response that belongs to more groups than a cache knows, or to one with a longer name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The tags of the groups that a response belongs to: of its own origin (section 2.1), of which the
/// scheme may not be known. None if the field is not valid.
pub(crate) fn of(
    response: &HeaderMap,
    (scheme, host): (Option<&str>, &str),
    limit: usize,
) -> Result<Vec<Tag>, TooMany> {
    let groups = strings(response, &CACHE_GROUPS).unwrap_or_default();
    if groups.len() > limit || groups.iter().any(|name| name.len() > MAX_NAME) {
        return Err(TooMany);
    }
    let scheme = scheme.unwrap_or_default();
    Ok(groups.iter().map(|name| Tag::group(scheme, host, name)).collect())
}

/// The tags of the groups that a response to an unsafe method invalidates. Its origin is that of the
/// request; where one of the two did not say the scheme, the host alone tells.
pub(crate) fn invalidated(
    response: &HeaderMap,
    (scheme, host): (Option<&str>, &str),
    limit: usize,
) -> Vec<Tag> {
    let groups = strings(response, &CACHE_GROUP_INVALIDATION).unwrap_or_default();
    let schemes: &[&str] = match &scheme {
        Some(scheme) => &[scheme, ""],
        None => &["", "http", "https"],
    };
    let tags = groups
        .iter()
        .flat_map(|name| schemes.iter().map(move |scheme| Tag::group(scheme, host, name)));
    tags.take(limit).collect()
}

/// A list of strings (RFC 9651, sections 3.1 and 3.3.3). A field with anything else in it is ignored
/// as a whole.
fn strings(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    let field = lines.join(&b',');
    let mut parser = Parser::new(&field);
    let mut members = Vec::new();
    while !parser.is_empty() {
        members.push(parser.text()?);
        parser.parameters()?;
        if !parser.next_member()? {
            break;
        }
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use sfv::{BareItem, ListEntry, Parser as Oracle};

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn read(lines: &[&str]) -> Option<Vec<String>> {
        strings(&headers(&CACHE_GROUPS, lines), &CACHE_GROUPS)
    }

    #[test]
    fn a_list_of_strings_is_read_and_any_fault_drops_all_of_it() {
        assert_eq!(read(&[]).unwrap(), Vec::<String>::new());
        assert_eq!(read(&["\"a\" ,\t\"b \\\" c\";x;y=1", "\"\""]).unwrap(), ["a", "b \" c", ""]);
        for line in ["a", "\"a", "\"a\",", "\"a\" b", "\"a\", b", "(\"a\")", "1", "\"a\\b\"", ","] {
            assert_eq!(read(&[line]), None, "{line}");
        }
    }

    #[test]
    fn a_group_belongs_to_one_origin() {
        let response = headers(&CACHE_GROUPS, &["\"a\""]);
        let change = headers(&CACHE_GROUP_INVALIDATION, &["\"a\""]);
        let hits = |stored, changed| {
            let (held, gone) =
                (of(&response, stored, 9).unwrap(), invalidated(&change, changed, 9));
            held.iter().any(|tag| gone.contains(tag))
        };
        let (https, http, unknown) = (Some("https"), Some("http"), None);
        for (stored, changed, expected) in [
            (https, https, true),
            (https, http, false),
            (https, unknown, true),
            (unknown, https, true),
            (unknown, unknown, true),
        ] {
            assert_eq!(hits((stored, "a.example"), (changed, "a.example")), expected);
            assert!(!hits((stored, "a.example"), (changed, "b.example")));
        }
    }

    #[test]
    fn thirty_two_groups_of_thirty_two_characters_are_known_and_more_are_told() {
        let line = |count: usize, length: usize| {
            let names: Vec<_> = (0..count).map(|n| format!("\"{n:0length$}\"")).collect();
            headers(&CACHE_GROUPS, &[&names.join(", ")])
        };
        let ask = |count, length| of(&line(count, length), (None, "a"), 32).map(|tags| tags.len());
        assert_eq!(ask(32, 32), Ok(32));
        assert_eq!(ask(1, 256), Ok(1));
        assert_eq!(ask(33, 1), Err(TooMany));
        assert_eq!(ask(1, 257), Err(TooMany));
    }

    proptest! {
        /// What the well-known parser takes as a list of strings, this one takes, and nothing else.
        #[test]
        fn it_agrees_with_the_well_known_parser(
            text in "[a \t,;=()\"\\\\1]{0,16}|(\"[a-c \\\\\"]{0,4}\"(;[a-z=1]{0,3})?( ?,[ \t]?)?){0,4}"
        ) {
            let list = Oracle::new(&text).parse::<sfv::List>().ok();
            let theirs = list.and_then(|list| {
                let text = |entry: &ListEntry| match entry {
                    ListEntry::Item(item) => match &item.bare_item {
                        BareItem::String(text) => Some(text.as_str().to_owned()),
                        _ => None,
                    },
                    ListEntry::InnerList(_) => None,
                };
                list.iter().map(text).collect::<Option<Vec<_>>>()
            });
            prop_assume!(HeaderValue::from_str(&text).is_ok());
            prop_assert_eq!(read(&[&text]), theirs, "{:?}", text);
        }

        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let headers = HeaderMap::from_iter([(CACHE_GROUPS, value)]);
                let _ = of(&headers, (None, "a"), 9);
            }
        }
    }
}

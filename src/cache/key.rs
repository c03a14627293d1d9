//! What makes two requests the same to the cache.

mod query;

pub use query::Query;

use crate::{cache::tag::Tag, key::digest};
use http::{
    HeaderMap, HeaderName, Uri,
    header::{COOKIE, HOST},
    request::Parts,
    uri::Authority,
};
use std::{fmt, ops::Range, sync::Arc};

/// A longer key is not worth its memory; such a request is passed through.
const MAX_KEY: usize = 8 * 1024;

type Custom = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// What of a request is part of its key, besides scheme, host, path and query.
///
/// Two requests get the same stored response if and only if all of it is the same, byte for byte.
/// The host is the one in the request's target, else its `Host` header; a request in which they
/// disagree is not cached at all. Within a nested axum router the path is the one the client sent.
///
/// ```
/// use towerkeep::cache::{CacheKey, Query};
///
/// let key = CacheKey::default()
///     .query(Query::sorted().drop(["utm_*"]))
///     .header("accept-language")
///     .cookie("theme")
///     .custom(|request| Some(request.extensions.get::<Tenant>()?.0.clone()));
/// # #[derive(Clone)] struct Tenant(String);
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct CacheKey {
    query: Query,
    headers: Vec<HeaderName>,
    cookies: Vec<Box<str>>,
    custom: Vec<Arc<Custom>>,
}

impl CacheKey {
    /// Which parameters of the query are part of the key, and in which order. Default:
    /// [`Query::exact`], all of them as they were sent.
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// Makes a request header part of the key: all of its lines, and whether it is there at all. A
    /// response whose `Vary` names it can be stored then.
    ///
    /// Every value that a client thinks of is an entry of its own, so declare headers with few.
    /// Default: none.
    ///
    /// # Panics
    ///
    /// If `name` is not a header name.
    pub fn header(mut self, name: impl TryInto<HeaderName>) -> Self {
        let Ok(name) = name.try_into() else {
            panic!("CacheKey::header was given something that is not a header name")
        };
        if !self.headers.contains(&name) {
            self.headers.push(name);
            // Two layers that declare the same headers in another order mean the same key.
            self.headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        }
        self
    }

    /// Makes one cookie part of the key: its value as it was sent, and whether it is there at all. One
    /// whose name is percent-encoded, which some frameworks decode, is told apart from both. A
    /// response whose `Vary` names `Cookie` can be stored then, so the handler must answer by no other
    /// cookie.
    ///
    /// Every value that a client thinks of is an entry of its own. Never declare a session's: its
    /// responses are its user's own. Default: none.
    ///
    /// # Panics
    ///
    /// If `name` is empty or has a `=`, a `;` or white space in it.
    pub fn cookie(mut self, name: &str) -> Self {
        let legal =
            !name.is_empty() && !name.contains(|c: char| "=;".contains(c) || c.is_whitespace());
        assert!(legal, "CacheKey::cookie was given {name:?}, which is not the name of a cookie");
        if !self.cookies.iter().any(|held| **held == *name) {
            self.cookies.push(name.into());
            self.cookies.sort();
        }
        self
    }

    /// Makes something of the application's own part of the key, such as the tenant or the plan that an
    /// outer layer has put into the request's extensions. A request for which it is `None` is handed on
    /// and not cached (`detail=no-key`). Called again, it adds another; layers that share entries
    /// add them in the same order. Default: none.
    pub fn custom(
        mut self,
        part: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.custom.push(Arc::new(part));
        self
    }

    /// Whether responses may vary by this request header.
    pub(crate) fn declares(&self, name: &str) -> bool {
        let is = |declared: &HeaderName| declared.as_str().eq_ignore_ascii_case(name);
        self.headers.iter().any(is) || (!self.cookies.is_empty() && is(&COOKIE))
    }

    /// Whether one URI may have several entries.
    pub(crate) fn tells_more_than_the_uri(&self) -> bool {
        !(self.headers.is_empty() && self.cookies.is_empty() && self.custom.is_empty())
    }

    /// The key of a request.
    pub(crate) fn of(&self, request: &Parts) -> Result<Key, KeyError> {
        let mut canonical = Vec::with_capacity(128);
        write_origin(&mut canonical, request.uri.scheme_str(), host(request)?);
        let start = canonical.len();
        let (sent, seen) = targets(request);
        write(&mut canonical, &[self.query.of(sent).as_bytes()]);
        // What nesting leaves of it is no news; a rewrite is.
        if !sent.ends_with(seen) {
            write(&mut canonical, &[b" ", self.query.of(seen).as_bytes()]);
        }
        let path = start..canonical.len();
        let sent = (canonical[start..] != *sent.as_bytes()).then(|| sent.into());
        for name in &self.headers {
            let values = request.headers.get_all(name).iter().map(|value| value.as_bytes());
            write_all(&mut canonical, [name.as_str().as_bytes(), b":"], values);
        }
        for name in &self.cookies {
            write_cookies(&mut canonical, name.as_bytes(), &request.headers);
        }
        for part in &self.custom {
            let part = part(request).ok_or(KeyError::NoKey)?;
            let length = part.len().to_string();
            write(&mut canonical, &[b"\n ", length.as_bytes(), b":", part.as_bytes()]);
        }
        if canonical.len() > MAX_KEY {
            return Err(KeyError::TooLong);
        }
        Ok(Key { canonical, path, sent })
    }

    /// The keys that requests for `uri` may have: HTTP/1 does not say the scheme, HTTP/2 does.
    pub(crate) fn all_of(&self, uri: &Uri) -> impl Iterator<Item = Key> {
        [None, Some("http"), Some("https")].into_iter().map(|scheme| {
            let mut canonical = Vec::new();
            let host = uri.authority().map_or("", Authority::as_str);
            write_origin(&mut canonical, scheme, host.as_bytes());
            let start = canonical.len();
            write(&mut canonical, &[self.query.of(target(uri)).as_bytes()]);
            let path = start..canonical.len();
            Key { canonical, path, sent: None }
        })
    }

    /// The key of the same request for another path and query.
    pub(crate) fn sibling(&self, key: &Key, target: &str) -> Key {
        let target = self.query.of(target);
        let (before, after) = (&key.canonical[..key.path.start], &key.canonical[key.path.end..]);
        let path = before.len()..before.len() + target.len();
        Key { canonical: [before, target.as_bytes(), after].concat(), path, sent: None }
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheKey")
            .field("query", &self.query)
            .field("headers", &self.headers)
            .field("cookies", &self.cookies)
            .field("custom", &self.custom.len())
            .finish()
    }
}

/// All that makes two requests the same, as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    canonical: Vec<u8>,
    /// Where its path and query stand, and those that the handler sees if it sees others.
    path: Range<usize>,
    /// Those that the client sent, unless they stand there just so.
    sent: Option<Box<str>>,
}

impl Key {
    /// The keys that the same request may have, as in [`CacheKey::all_of`].
    pub(crate) fn of_all_schemes(&self) -> [Key; 3] {
        let (_, host) = self.origin();
        let rest = &self.canonical[self.path.start..];
        ["", "http:", "https:"].map(|scheme| {
            let start = scheme.len() + 2 + host.len();
            let canonical = [scheme.as_bytes(), b"//", host.as_bytes(), rest].concat();
            Key { canonical, path: start..start + self.path.len(), sent: self.sent.clone() }
        })
    }

    /// The path and query that the client sent.
    pub(crate) fn target(&self) -> &str {
        let path = || std::str::from_utf8(&self.canonical[self.path.clone()]).unwrap_or_default();
        self.sent.as_deref().unwrap_or_else(path)
    }

    /// The scheme, if it is known, and the host, both in lower case.
    pub(crate) fn origin(&self) -> (Option<&str>, &str) {
        let origin = std::str::from_utf8(&self.canonical[..self.path.start]).unwrap_or_default();
        let (scheme, host) = origin.split_once("//").unwrap_or_default();
        (scheme.strip_suffix(':'), host)
    }

    /// The tag of all that is stored for its target, as far as the target is part of the key.
    pub(crate) fn tag(&self) -> Tag {
        let (_, host) = self.origin();
        let target = std::str::from_utf8(&self.canonical[self.path.clone()]).unwrap_or_default();
        // Behind a space stands what the handler sees.
        Tag::uri(host, target.split(' ').next().unwrap_or_default())
    }

    /// The name of its entry in a store.
    pub(crate) fn hash(&self) -> String {
        digest([self.as_bytes()])
    }

    /// The name of the entry of what is asked about it by content.
    pub(crate) fn hash_of_questions(&self) -> String {
        digest([self.as_bytes(), b"QUERY"])
    }

    /// Both.
    pub(crate) fn hashes(&self) -> [String; 2] {
        [self.hash(), self.hash_of_questions()]
    }

    /// All that makes two requests the same that ask this by their content.
    pub(crate) fn asking(&self, question: &str) -> Vec<u8> {
        // Neither a path nor a header's name has a line break or a space.
        [self.as_bytes(), b"\nQUERY ", question.as_bytes()].concat()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.canonical
    }
}

/// Why a request has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// The target and `Host` name different hosts, `Host` stands there twice, or it is not the name
    /// of a host. What the handler believes is its own business, so the response must not be given
    /// to others.
    AmbiguousHost,
    TooLong,
    /// The application says so.
    NoKey,
}

fn host(request: &Parts) -> Result<&[u8], KeyError> {
    let mut lines = request.headers.get_all(HOST).iter();
    let (line, more) = (lines.next().map(|line| line.as_bytes()), lines.next().is_some());
    let target = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (target, line) {
        _ if more => Err(KeyError::AmbiguousHost),
        (Some(target), Some(line)) if !target.eq_ignore_ascii_case(line) => {
            Err(KeyError::AmbiguousHost)
        }
        (Some(host), _) => Ok(host),
        (None, Some(host)) if host.iter().all(|&byte| may_name_a_host(byte)) => Ok(host),
        (None, Some(_)) => Err(KeyError::AmbiguousHost),
        (None, None) => Ok(b""),
    }
}

/// No server checks what a client writes into `Host`. With a slash in it, a part of the path could
/// pass for the host's, and the response to `/b` be stored as that to `/a/b`.
fn may_name_a_host(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"/?#@\\".contains(&byte)
}

/// Scheme and host are case-insensitive (RFC 9110, section 4.2.3).
fn write_origin(canonical: &mut Vec<u8>, scheme: Option<&str>, host: &[u8]) {
    if let Some(scheme) = scheme {
        write(canonical, &[scheme.as_bytes(), b":"]);
    }
    write(canonical, &[b"//", host]);
    canonical.make_ascii_lowercase();
}

/// The target as the client sent it, and the one that the handler sees.
fn targets(request: &Parts) -> (&str, &str) {
    let seen = target(&request.uri);
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions.get::<axum::extract::OriginalUri>() {
        return (target(&original.0), seen);
    }
    (seen, seen)
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

fn write(canonical: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| canonical.extend_from_slice(part));
}

/// A line for each value, or one that says that there is none.
fn write_all<'a>(
    canonical: &mut Vec<u8>,
    [name, separator]: [&[u8]; 2],
    values: impl Iterator<Item = &'a [u8]>,
) {
    let mut values = values.peekable();
    if values.peek().is_none() {
        write(canonical, &[b"\n", name]);
    }
    values.for_each(|value| write(canonical, &[b"\n", name, separator, value]));
}

/// The same for what may be read as the cookie with this name. Some frameworks decode names, and most
/// pass over a line that is no text: one client must not be able to have its answer stored for others
/// whose cookie is read in another way.
fn write_cookies(canonical: &mut Vec<u8>, name: &[u8], headers: &HeaderMap) {
    // No header's name begins with a semicolon or a space, and no cookie's has a space in it.
    let start = canonical.len();
    for line in headers.get_all(COOKIE) {
        let text: &[u8] = match line.to_str() {
            Ok(_) => b"=",
            Err(_) if std::str::from_utf8(line.as_bytes()).is_ok() => b" utf-8=",
            Err(_) => b" bytes=",
        };
        for pair in line.as_bytes().split(|&byte| byte == b';').map(<[u8]>::trim_ascii) {
            let Some(end) = pair.iter().position(|&byte| byte == b'=') else { continue };
            let (read, value) = (pair[..end].trim_ascii_end(), pair[end + 1..].trim_ascii_start());
            if read == name {
                write(canonical, &[b"\n;", name, text, value]);
            } else if *query::decoded(read) == *name {
                write(canonical, &[b"\n;", name, b" %", text, read, b"=", value]);
            }
        }
    }
    if canonical.len() == start {
        write(canonical, &[b"\n;", name]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = headers
            .iter()
            .fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn key(uri: &str, headers: &[(&str, &str)]) -> Result<Key, KeyError> {
        CacheKey::default().of(&request(uri, headers))
    }

    #[test]
    fn host_path_and_query_tell_requests_apart_and_the_case_of_the_host_does_not() {
        let one = key("/a?x=1", &[("host", "one.example")]).unwrap();
        assert_eq!(one, key("/a?x=1", &[("host", "ONE.example")]).unwrap());
        for (uri, host) in [
            ("/a?x=2", "one.example"),
            ("/a", "one.example"),
            ("/A?x=1", "one.example"),
            ("/a?x=1", "two.example"),
            ("/a?x=1", "one.example:8080"),
        ] {
            assert_ne!(one.hash(), key(uri, &[("host", host)]).unwrap().hash(), "{uri} {host}");
        }
    }

    #[test]
    fn a_request_that_names_two_hosts_has_no_key() {
        let same = key("http://one.example/", &[("host", "One.example")]);
        assert_eq!(same.unwrap(), key("http://one.example/", &[]).unwrap());
        let other = key("http://one.example/", &[("host", "two.example")]);
        assert_eq!(other, Err(KeyError::AmbiguousHost));
        let twice = key("/", &[("host", "one.example"), ("host", "one.example")]);
        assert_eq!(twice, Err(KeyError::AmbiguousHost));
    }

    #[test]
    fn a_part_of_the_path_cannot_pass_for_a_part_of_the_host() {
        for host in
            ["one.example/a", "one.example/a?x=", "one.example#", "me@one.example", "one example"]
        {
            assert_eq!(key("/b", &[("host", host)]), Err(KeyError::AmbiguousHost), "{host}");
        }
        assert!(key("/b", &[("host", "[::1]:8080")]).is_ok());
    }

    #[test]
    fn a_sibling_has_another_path_on_the_same_origin_and_nothing_else() {
        let declared = CacheKey::default().header("x-a");
        let of =
            |uri| declared.of(&request(uri, &[("x-a", "1"), ("host", "One.example")])).unwrap();
        assert_eq!(declared.sibling(&of("/a?b"), "/c"), of("/c"));
        assert_eq!(of("/a?b").target(), "/a?b");
        assert_eq!(of("/a?b").origin(), (None, "one.example"));
        let https = key("https://one.example/a", &[]).unwrap();
        assert_eq!(https.origin(), (Some("https"), "one.example"));
    }

    #[test]
    fn an_endless_key_is_refused() {
        assert_eq!(key(&format!("/{}", "x".repeat(MAX_KEY)), &[]), Err(KeyError::TooLong));
    }

    #[test]
    fn only_declared_headers_count_with_all_their_lines_and_their_absence() {
        let declared = CacheKey::default().header("x-b").header("X-A");
        let of = |headers: &[(&str, &str)]| declared.of(&request("/", headers)).unwrap();
        let keys = [
            of(&[]),
            of(&[("x-a", "")]),
            of(&[("x-a", "1")]),
            of(&[("x-b", "1")]),
            of(&[("x-a", "1"), ("x-a", "2")]),
            of(&[("x-a", "1, 2")]),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(of(&[("x-a", "1"), ("x-c", "9")]), keys[2]);
        assert!(declared.declares("x-A") && !declared.declares("x-c"));
        let swapped = CacheKey::default().header("x-a").header("x-b");
        assert_eq!(swapped.of(&request("/", &[("x-b", "1")])).unwrap(), keys[3]);
    }

    fn by(declared: &CacheKey, cookies: &[&str]) -> Key {
        let lines: Vec<_> = cookies.iter().map(|line| ("cookie", *line)).collect();
        declared.of(&request("/", &lines)).unwrap()
    }

    #[test]
    fn a_declared_cookie_counts_and_no_other() {
        let declared = CacheKey::default().cookie("theme").cookie("lang");
        let dark = by(&declared, &["theme=dark"]);
        for same in [&["sid=1; theme=dark"][..], &["a=b", " theme=dark ;x"], &["theme = dark;"]] {
            assert_eq!(by(&declared, same), dark, "{same:?}");
        }
        let keys = [
            dark,
            by(&declared, &[]),
            by(&declared, &["theme="]),
            by(&declared, &["Theme=dark"]),
            by(&declared, &["mytheme=dark"]),
            by(&declared, &["theme=dark; lang=de"]),
            by(&declared, &["lang=dark"]),
            by(&declared, &["theme=dark; theme=light"]),
            by(&declared, &["theme=light; theme=dark"]),
        ];
        // Neither of them has the cookie.
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len() - 2);
        assert!(declared.declares("cookie") && !CacheKey::default().declares("cookie"));
        assert_eq!(
            by(&CacheKey::default().cookie("lang").cookie("theme"), &["theme=dark"]),
            keys[0]
        );
    }

    /// Some frameworks decode the names of cookies, others do not: what one of them takes for the cookie
    /// must neither pass for a request without it nor for one with it.
    #[test]
    fn what_may_be_read_as_a_declared_cookie_counts_as_it_was_sent() {
        let declared = CacheKey::default().cookie("theme").cookie("lang");
        let keys = [
            by(&declared, &["theme=dark"]),
            by(&declared, &[]),
            by(&declared, &["%74heme=dark"]),
            by(&declared, &["them%65 = dark"]),
            by(&declared, &["%74heme=light"]),
            by(&declared, &["%74heme=light; theme=dark"]),
            by(&declared, &["theme=dark; %74heme=light"]),
            by(&declared, &["%6cang=dark"]),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        for other in ["%74hem=dark", "%2574heme=dark", "th+eme=dark", "%zz=1; %", "%74heme"] {
            assert_eq!(by(&declared, &[other]), keys[1], "{other}");
        }
    }

    /// Most frameworks ignore a line that is not text, with all that is in it.
    #[test]
    fn a_declared_cookie_in_a_line_that_is_no_text_is_told_apart() {
        let declared = CacheKey::default().cookie("theme");
        let of = |line: &[u8]| {
            let mut request = request("/", &[]);
            let value = http::HeaderValue::from_bytes(line).unwrap();
            request.headers.insert(COOKIE, value);
            declared.of(&request).unwrap()
        };
        let keys =
            [of(b"theme=dark"), of("theme=dark; x=\u{e9}".as_bytes()), of(b"theme=dark; x=\xff")];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(of(b"x=\xff"), of(b"x=1"), "nobody reads a theme there");
    }

    #[test]
    #[should_panic(expected = "\"a=b\", which is not the name of a cookie")]
    fn what_cannot_name_a_cookie_is_refused() {
        let _ = CacheKey::default().cookie("a=b");
    }

    #[test]
    fn a_part_of_the_applications_own_counts_and_without_it_there_is_no_key() {
        let part = |request: &Parts| {
            request.headers.get("x-plan").map(|plan| plan.to_str().unwrap().to_owned())
        };
        let declared = CacheKey::default().custom(part).custom(|_| Some("b".into()));
        let of = |plan| declared.of(&request("/", &[("x-plan", plan)]));
        assert_eq!(of("free"), of("free"));
        assert_ne!(of("free"), of("paid"));
        // Not two parts in other words.
        assert_ne!(of("a\t1:b"), of("a"));
        assert_eq!(declared.of(&request("/", &[])), Err(KeyError::NoKey));
    }

    #[test]
    fn the_query_is_what_the_rule_says_wherever_it_comes_from() {
        let declared = CacheKey::default().query(Query::sorted().drop(["utm_*"]));
        let of = |uri| declared.of(&request(uri, &[("host", "one.example")])).unwrap();
        let key = of("/a?b=1&utm_x=2&a=0");
        assert_eq!(key.hash(), of("/a?a=0&b=1").hash());
        assert_eq!(key.target(), "/a?b=1&utm_x=2&a=0", "what it is asked by is not forgotten");
        assert_eq!(declared.sibling(&key, "/c?b&a&utm_").hash(), of("/c?a&b").hash());
        let uri = "http://one.example/a?utm_y=3&b=1&a=0".parse().unwrap();
        assert!(declared.all_of(&uri).any(|one| one.hash() == key.hash()));
    }

    #[test]
    fn a_purge_finds_the_keys_of_http_1_and_http_2() {
        let all: Vec<_> =
            CacheKey::default().all_of(&"https://One.example/a?b".parse().unwrap()).collect();
        assert!(all.contains(&key("/a?b", &[("host", "one.example")]).unwrap()));
        assert!(all.contains(&key("https://one.example/a?b", &[]).unwrap()));
        assert!(all.contains(&key("http://one.example/a?b", &[]).unwrap()));
    }

    #[cfg(feature = "axum")]
    #[test]
    fn nesting_keeps_the_whole_path_and_a_rewrite_is_told_apart() {
        let sent = |sent: &str, seen: &str| {
            let mut request = request(seen, &[]);
            request.extensions.insert(axum::extract::OriginalUri(sent.parse().unwrap()));
            CacheKey::default().of(&request).unwrap()
        };
        assert_ne!(sent("/a/x", "/x"), sent("/b/x", "/x"));
        assert_eq!(sent("/a/x", "/x"), key("/a/x", &[]).unwrap());
        assert_ne!(sent("/a", "/tenant-1"), sent("/a", "/tenant-2"));
    }
}

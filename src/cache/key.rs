//! What makes two requests the same to the cache.

use crate::key::digest;
use http::{HeaderName, Request, Uri, header::HOST, uri::Authority};
use std::ops::Range;

/// A longer key is not worth its memory; such a request is passed through.
const MAX_KEY: usize = 8 * 1024;

/// What of a request is part of its key, besides scheme, host, path and query.
///
/// Two requests get the same stored response if and only if all of it is the same, byte for byte.
/// The host is the one in the request's target, else its `Host` header; a request in which they
/// disagree is not cached at all. Within a nested axum router the path is the one the client sent.
///
/// ```
/// use towerkeep::cache::CacheKey;
///
/// let key = CacheKey::default().header("accept-language").header("x-tenant");
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CacheKey {
    headers: Vec<HeaderName>,
}

impl CacheKey {
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

    /// Whether responses may vary by this request header.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.headers.iter().any(|declared| declared.as_str().eq_ignore_ascii_case(name))
    }

    /// The key of a request.
    pub(crate) fn of<B>(&self, request: &Request<B>) -> Result<Key, KeyError> {
        let uri = request.uri();
        let mut canonical = Vec::with_capacity(128);
        write_origin(&mut canonical, uri.scheme_str(), host(request)?);
        let start = canonical.len();
        write_path(&mut canonical, request);
        let path = start..canonical.len();
        for name in &self.headers {
            let mut values = request.headers().get_all(name).iter().peekable();
            if values.peek().is_none() {
                write(&mut canonical, &[b"\n", name.as_str().as_bytes()]);
            }
            for value in values {
                write(&mut canonical, &[b"\n", name.as_str().as_bytes(), b":", value.as_bytes()]);
            }
        }
        if canonical.len() > MAX_KEY {
            return Err(KeyError::TooLong);
        }
        Ok(Key { canonical, path })
    }
}

/// All that makes two requests the same, as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    canonical: Vec<u8>,
    /// Where its path and query stand.
    path: Range<usize>,
}

impl Key {
    /// The keys that requests for `uri` may have: HTTP/1 does not say the scheme, HTTP/2 does.
    pub(crate) fn all_of(uri: &Uri) -> impl Iterator<Item = Key> {
        [None, Some("http"), Some("https")].into_iter().map(|scheme| {
            let mut canonical = Vec::new();
            let host = uri.authority().map_or("", Authority::as_str);
            write_origin(&mut canonical, scheme, host.as_bytes());
            let start = canonical.len();
            write(&mut canonical, &[target(uri).as_bytes()]);
            let path = start..canonical.len();
            Key { canonical, path }
        })
    }

    /// The keys that the same request may have, as in [`all_of`](Self::all_of).
    pub(crate) fn of_all_schemes(&self) -> [Key; 3] {
        let (_, host) = self.origin();
        let rest = &self.canonical[self.path.start..];
        ["", "http:", "https:"].map(|scheme| {
            let start = scheme.len() + 2 + host.len();
            let canonical = [scheme.as_bytes(), b"//", host.as_bytes(), rest].concat();
            Key { canonical, path: start..start + self.path.len() }
        })
    }

    /// The key of the same request for another path and query.
    pub(crate) fn sibling(&self, target: &str) -> Key {
        let (before, after) =
            (&self.canonical[..self.path.start], &self.canonical[self.path.end..]);
        let path = before.len()..before.len() + target.len();
        Key { canonical: [before, target.as_bytes(), after].concat(), path }
    }

    /// The path and query that it has, as the client sent them.
    pub(crate) fn target(&self) -> &str {
        let path = std::str::from_utf8(&self.canonical[self.path.clone()]).unwrap_or_default();
        path.split(' ').next().unwrap_or_default()
    }

    /// The scheme, if it is known, and the host, both in lower case.
    pub(crate) fn origin(&self) -> (Option<&str>, &str) {
        let origin = std::str::from_utf8(&self.canonical[..self.path.start]).unwrap_or_default();
        let (scheme, host) = origin.split_once("//").unwrap_or_default();
        (scheme.strip_suffix(':'), host)
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
}

fn host<B>(request: &Request<B>) -> Result<&[u8], KeyError> {
    let mut lines = request.headers().get_all(HOST).iter();
    let (line, more) = (lines.next().map(|line| line.as_bytes()), lines.next().is_some());
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
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

/// The target as the client sent it, and beside it the one that the handler sees, unless that is the
/// same or the rest that nesting leaves of it.
fn write_path<B>(canonical: &mut Vec<u8>, request: &Request<B>) {
    let seen = target(request.uri());
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        let sent = target(&original.0);
        write(canonical, &[sent.as_bytes()]);
        if !sent.ends_with(seen) {
            write(canonical, &[b" ", seen.as_bytes()]);
        }
        return;
    }
    write(canonical, &[seen.as_bytes()]);
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

fn write(canonical: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| canonical.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = headers
            .iter()
            .fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
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
        assert_eq!(of("/a?b").sibling("/c"), of("/c"));
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

    #[test]
    fn a_purge_finds_the_keys_of_http_1_and_http_2() {
        let all: Vec<_> = Key::all_of(&"https://One.example/a?b".parse().unwrap()).collect();
        assert!(all.contains(&key("/a?b", &[("host", "one.example")]).unwrap()));
        assert!(all.contains(&key("https://one.example/a?b", &[]).unwrap()));
        assert!(all.contains(&key("http://one.example/a?b", &[]).unwrap()));
    }

    #[cfg(feature = "axum")]
    #[test]
    fn nesting_keeps_the_whole_path_and_a_rewrite_is_told_apart() {
        let sent = |sent: &str, seen: &str| {
            let mut request = request(seen, &[]);
            request.extensions_mut().insert(axum::extract::OriginalUri(sent.parse().unwrap()));
            CacheKey::default().of(&request).unwrap()
        };
        assert_ne!(sent("/a/x", "/x"), sent("/b/x", "/x"));
        assert_eq!(sent("/a/x", "/x"), key("/a/x", &[]).unwrap());
        assert_ne!(sent("/a", "/tenant-1"), sent("/a", "/tenant-2"));
    }
}

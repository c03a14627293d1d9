//! What a change makes stale (RFC 9111, section 4.4).

use http::{HeaderMap, HeaderName, Method, StatusCode};

/// Fields that name what has changed too.
pub(crate) const NAMES_CHANGED: [HeaderName; 2] =
    [http::header::LOCATION, http::header::CONTENT_LOCATION];

/// Whether a request with this method may change something: all that is not known to be safe.
pub(crate) fn may_change(method: &Method) -> bool {
    !(method.is_safe() || method.as_str() == "QUERY")
}

/// Whether the response says that it did.
pub(crate) fn has_changed(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// The targets on the same origin that the response names besides its own.
pub(crate) fn named(response: &HeaderMap, origin: Origin<'_>) -> Vec<String> {
    let values = NAMES_CHANGED.iter().filter_map(|name| response.get(name)?.to_str().ok());
    values.filter_map(|reference| origin.resolve(reference)).collect()
}

/// Whether a response says that it is what a GET of its own target would get (RFC 9110, sections 8.7
/// and 9.3.3).
pub(crate) fn is_of_its_target(response: &HeaderMap, origin: Origin<'_>) -> bool {
    let mut lines = response.get_all(http::header::CONTENT_LOCATION).iter();
    let (line, more) = (lines.next().and_then(|line| line.to_str().ok()), lines.next().is_some());
    !more && line.and_then(|reference| origin.resolve(reference)).as_deref() == Some(origin.path)
}

/// Where a request went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// If it is known.
    pub(crate) scheme: Option<&'a str>,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
}

impl Origin<'_> {
    /// Path and query of a reference to the same origin (RFC 3986, section 5.2).
    pub(crate) fn resolve(&self, reference: &str) -> Option<String> {
        let reference = reference.split('#').next().unwrap_or_default().trim();
        if let Some((scheme, rest)) = reference.split_once("://").filter(|(scheme, _)| {
            scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        }) {
            let same = self.scheme.is_none_or(|own| own.eq_ignore_ascii_case(scheme));
            let known = ["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme));
            return (same && known).then(|| self.on_same_host(rest)).flatten();
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return self.on_same_host(rest);
        }
        let path = self.path.split('?').next().unwrap_or_default();
        match reference.as_bytes().first()? {
            b'/' => Some(without_dots(reference)),
            b'?' => Some(format!("{path}{reference}")),
            // Another scheme, such as `urn:`.
            _ if reference.split(['/', '?']).next().is_some_and(|part| part.contains(':')) => None,
            _ => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                Some(without_dots(&format!("{folder}/{reference}")))
            }
        }
    }

    fn on_same_host(&self, rest: &str) -> Option<String> {
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(at);
        if !host.eq_ignore_ascii_case(self.host) {
            return None;
        }
        Some(match target.starts_with('/') {
            true => without_dots(target),
            false => format!("/{target}"),
        })
    }
}

/// RFC 3986, section 5.2.4, for a path that begins with a slash.
fn without_dots(target: &str) -> String {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    let path = format!("/{}", kept.join("/"));
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin<'_> = Origin { scheme: None, host: "a.example", path: "/x/y?z=1" };

    #[test]
    fn references_to_the_same_origin_are_resolved_and_others_are_not() {
        for (reference, expected) in [
            ("/p?q", Some("/p?q")),
            ("http://a.example/p#f", Some("/p")),
            ("HTTPS://A.example", Some("/")),
            ("https://a.example?q", Some("/?q")),
            ("//a.example/p", Some("/p")),
            ("?q", Some("/x/y?q")),
            ("p", Some("/x/p")),
            ("../p/./q/..", Some("/p/")),
            ("../../../p", Some("/p")),
            ("http://b.example/p", None),
            ("http://a.example:81/p", None),
            ("//b.example/p", None),
            ("ftp://a.example/p", None),
            ("urn:x", None),
            ("", None),
            ("#f", None),
        ] {
            assert_eq!(ORIGIN.resolve(reference).as_deref(), expected, "{reference}");
        }
        let https = Origin { scheme: Some("https"), ..ORIGIN };
        assert_eq!(https.resolve("http://a.example/p"), None);
    }

    #[test]
    fn only_methods_that_are_known_to_be_safe_change_nothing() {
        for (method, changes) in [
            ("GET", false),
            ("OPTIONS", false),
            ("TRACE", false),
            ("QUERY", false),
            ("POST", true),
            ("DELETE", true),
            ("M-SEARCH", true),
        ] {
            assert_eq!(may_change(&method.parse().unwrap()), changes, "{method}");
        }
    }

    proptest! {
        #[test]
        fn no_reference_makes_it_panic(reference in "[a-z:/?#. ]{0,20}|\\PC{0,20}") {
            if let Some(target) = ORIGIN.resolve(&reference) {
                prop_assert!(target.starts_with('/'));
            }
        }
    }
}

//! What makes two requests ask for the same.

use crate::{key::digest, marks::UserId};
use http::{
    HeaderName, Method, Uri,
    header::{
        AUTHORIZATION, COOKIE, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
        IF_UNMODIFIED_SINCE, PROXY_AUTHORIZATION, RANGE, UPGRADE,
    },
    request::Parts,
};

/// Whose answer it is. These always count.
const CREDENTIALS: [HeaderName; 3] = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];

/// Whether it is the whole answer, a part of it (206) or none (304, 412; RFC 9110, sections 13 and 14).
/// These always count, too: no `Vary` names them.
const CONDITIONS: [HeaderName; 6] =
    [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];

/// Headers that say something of the connection or of the trace, and nothing of the answer.
const IGNORED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "priority",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-request-id",
    "x-correlation-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
];

/// A request that may be coalesced.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    id: String,
    /// The headers that count; `None`: all but the ignored ones.
    vary: Option<Vec<HeaderName>>,
    identified: bool,
}

impl Asked {
    /// `None` if the request is of another method, or is to become something else than HTTP. `extra` is
    /// what the application adds.
    pub(crate) fn of(
        parts: &Parts,
        vary: Option<&[HeaderName]>,
        extra: Option<&str>,
    ) -> Option<Self> {
        let safe = parts.method == Method::GET || parts.method == Method::HEAD;
        if !safe || parts.headers.contains_key(UPGRADE) {
            return None;
        }
        let (host, target) = target(parts);
        let user = parts.extensions.get::<UserId>().map(UserId::as_str);
        let mut text: Vec<&[u8]> = vec![parts.method.as_str().as_bytes(), host, target.as_bytes()];
        for part in [extra, user] {
            if let Some(part) = part {
                text.push(b"+");
                text.push(part.as_bytes());
            }
            text.push(b"\n");
        }
        // Two servers may have two lists, as during an update.
        match vary {
            Some(vary) => text.extend(vary.iter().map(|name| name.as_str().as_bytes())),
            None => text.push(b"*"),
        }
        text.push(b"\n");
        let mut names: Vec<&HeaderName> = parts.headers.keys().collect();
        names.retain(|name| counts(name, vary));
        names.sort_unstable_by_key(|name| name.as_str());
        for name in names {
            text.push(name.as_str().as_bytes());
            let values = parts.headers.get_all(name).iter();
            text.extend(values.map(|value| value.as_bytes()));
            // What no value can be: so none passes for the next name.
            text.push(b"\n");
        }
        let known = CREDENTIALS.iter().any(|name| parts.headers.contains_key(name));
        let identified = known || user.is_some();
        Some(Self { id: digest(text), vary: vary.map(<[_]>::to_vec), identified })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether requests that differ in who asks are two.
    pub(crate) fn is_identified(&self) -> bool {
        self.identified
    }

    /// Whether requests that differ by this header, in lower case, are two.
    pub(crate) fn differs_by(&self, name: &str) -> bool {
        let name = HeaderName::from_bytes(name.as_bytes());
        name.is_ok_and(|name| name.as_str() != "*" && counts(&name, self.vary.as_deref()))
    }
}

fn counts(name: &HeaderName, vary: Option<&[HeaderName]>) -> bool {
    match vary {
        Some(vary) => {
            vary.contains(name) || CREDENTIALS.contains(name) || CONDITIONS.contains(name)
        }
        None => !IGNORED.contains(&name.as_str()) && !name.as_str().starts_with("x-b3-"),
    }
}

/// The host and the path with the query that the client asked for. A nested axum router strips its own
/// path off the URI.
fn target(parts: &Parts) -> (&[u8], &str) {
    let uri = original(parts);
    let host = match uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => parts.headers.get(http::header::HOST).map_or(&b""[..], |host| host.as_bytes()),
    };
    (host, uri.path_and_query().map_or("", |target| target.as_str()))
}

fn original(parts: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    &parts.uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use std::slice;

    fn asked(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn id(parts: &Parts) -> String {
        Asked::of(parts, None, None).unwrap().id
    }

    #[test]
    fn requests_that_may_have_different_answers_are_two() {
        let mut user = asked("GET", "/a", &[]);
        user.extensions.insert(UserId::new(""));
        let all = [
            asked("GET", "/a", &[]),
            user,
            asked("HEAD", "/a", &[]),
            asked("GET", "/b", &[]),
            asked("GET", "/a?x", &[]),
            asked("GET", "/a", &[("host", "x")]),
            asked("GET", "/a", &[("cookie", "id=1")]),
            asked("GET", "/a", &[("cookie", "id=2")]),
            asked("GET", "/a", &[("authorization", "id=1")]),
            asked("GET", "/a", &[("x-api-key", "1")]),
            asked("GET", "/a", &[("x-api-key", "")]),
            asked("GET", "/a", &[("accept", "a"), ("accept", "b")]),
            asked("GET", "/a", &[("accept", "ab")]),
            asked("GET", "/a", &[("range", "bytes=0-1")]),
            asked("GET", "/a", &[("x-forwarded-host", "evil")]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| id(other) != id(one)), "{one:?}");
        }
        for extra in ["", "tenant"] {
            assert_ne!(Asked::of(&all[0], None, Some(extra)).unwrap().id, id(&all[0]));
        }
    }

    #[test]
    fn what_says_nothing_of_the_answer_does_not_count() {
        let traced = asked("GET", "/a", &[("traceparent", "00-1-1-01"), ("x-b3-traceid", "1")]);
        assert_eq!(id(&traced), id(&asked("GET", "/a", &[])));
    }

    #[test]
    fn of_a_list_of_headers_credentials_are_always_part() {
        let vary = [HeaderName::from_static("accept")];
        let id = |headers: &[(&str, &str)]| {
            Asked::of(&asked("GET", "/a", headers), Some(&vary), None).unwrap().id
        };
        assert_eq!(id(&[("user-agent", "a")]), id(&[("user-agent", "b")]));
        assert_ne!(id(&[("accept", "a")]), id(&[("accept", "b")]));
        let credentials = ["cookie", "authorization", "proxy-authorization"];
        let parts = ["range", "if-range"];
        let conditions = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
        for name in [&credentials[..], &parts, &conditions].concat() {
            assert_ne!(id(&[(name, "a")]), id(&[(name, "b")]), "{name}");
            assert_ne!(id(&[(name, "a")]), id(&[]), "{name}");
        }
    }

    #[test]
    fn two_lists_of_headers_never_share() {
        // As during an update that adds a header on which the answer was found to depend.
        let id = |vary: Option<&[HeaderName]>| {
            Asked::of(&asked("GET", "/a", &[]), vary, None).unwrap().id
        };
        let [accept, tenant] = ["accept", "x-tenant"].map(HeaderName::from_static);
        let ids = [
            id(None),
            id(Some(&[])),
            id(Some(slice::from_ref(&accept))),
            id(Some(&[accept.clone(), tenant])),
        ];
        for (at, one) in ids.iter().enumerate() {
            assert!(!ids[..at].contains(one), "list {at}");
        }
    }

    #[test]
    fn only_what_is_safe_and_stays_http_is_coalesced() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PURGE"] {
            assert!(Asked::of(&asked(method, "/a", &[]), None, None).is_none(), "{method}");
        }
        let upgrade = asked("GET", "/a", &[("upgrade", "websocket")]);
        assert!(Asked::of(&upgrade, None, None).is_none());
    }
}

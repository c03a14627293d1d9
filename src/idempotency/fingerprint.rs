//! What makes two requests under one key the same request.

use crate::{
    idempotency::{layer::Canonical, store::Fingerprint},
    key,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{
    Uri,
    header::{CONTENT_TYPE, HOST},
    request::Parts,
    uri::Authority,
};

/// SHA-256 over the method, the host, the path with the query, the content type and the body as it was
/// sent, or as `canonical` has it, each with its length before it, so that no byte can move from one part
/// to the next.
pub(crate) fn fingerprint(
    parts: &Parts,
    body: &Bytes,
    canonical: Option<&Canonical>,
) -> Fingerprint {
    let compared = canonical.and_then(|canonical| canonical(parts, body));
    let body = compared.as_ref().unwrap_or(body);
    let uri = full_uri(parts);
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let method = parts.method.as_str();
    let host = host(parts, uri);
    let parts = [method.as_bytes(), &host, target.as_bytes(), content_type, body];
    Fingerprint::new(key::sha256(parts))
}

/// The host that the client asked, in lower case: two sites on one backend may have the same paths, and
/// users of the same names. Without the port, which the same site may have several of, one for each
/// server or protocol.
fn host(parts: &Parts, uri: &Uri) -> Vec<u8> {
    let named = parts.headers.get(HOST).map_or(&b""[..], |value| value.as_bytes());
    let host = match uri.authority() {
        Some(authority) => authority.host().to_owned().into_bytes(),
        None => match Authority::try_from(named) {
            Ok(authority) => authority.host().to_owned().into_bytes(),
            Err(_) => named.to_owned(),
        },
    };
    host.to_ascii_lowercase()
}

/// What a key begins with that was made of a request's content. No client can send it: keys are ASCII.
const BY_CONTENT: char = '≡';

/// The key of a request that has none.
pub(crate) fn content_key(fingerprint: &Fingerprint) -> String {
    format!("{BY_CONTENT}{}", URL_SAFE_NO_PAD.encode(fingerprint.as_bytes()))
}

/// Whether a key was made by [`content_key`].
pub(crate) fn is_content_key(key: &str) -> bool {
    key.starts_with(BY_CONTENT)
}

/// The URI that the client asked for. A nested axum router strips its own path off the URI, and
/// `/a/pay` must not pass for `/b/pay`.
fn full_uri(parts: &Parts) -> &Uri {
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

    static BODY: Bytes = Bytes::from_static(b"body");

    fn print(method: &str, uri: &str, content_type: &str, body: &str) -> Fingerprint {
        let request = Request::builder().method(method).uri(uri);
        let request = request.header(CONTENT_TYPE, content_type).body(()).unwrap();
        fingerprint(&request.into_parts().0, &Bytes::copy_from_slice(body.as_bytes()), None)
    }

    #[test]
    fn every_part_counts_and_none_runs_into_the_next() {
        let prints = [
            print("POST", "/a?x=1", "text/plain", "body"),
            print("PATCH", "/a?x=1", "text/plain", "body"),
            print("POST", "/a?x=2", "text/plain", "body"),
            print("POST", "/b?x=1", "text/plain", "body"),
            print("POST", "/a?x=1", "text/html", "body"),
            print("POST", "/a?x=1", "text/plain", "body "),
            print("POST", "/a?x=1", "text/plainb", "ody"),
            print("POST", "/a?x=1text", "/plain", "body"),
        ];
        for (at, one) in prints.iter().enumerate() {
            assert!(!prints[..at].contains(one), "request {at} passes for an earlier one");
        }
    }

    #[test]
    fn the_host_counts_however_it_is_named_and_its_port_does_not() {
        let print = |uri: &str, host: &str| {
            let request = Request::post(uri).header(HOST, host).body(()).unwrap();
            fingerprint(&request.into_parts().0, &BODY, None)
        };
        let ours = print("/a", "example.com");
        for (uri, host) in [
            ("/a", "EXAMPLE.com"),
            ("/a", "example.com:8080"),
            ("http://example.com/a", "example.com"),
            ("https://example.com:443/a", "example.com"),
            ("http://example.com/a", "proxy"),
        ] {
            assert_eq!(print(uri, host), ours, "{uri} {host}");
        }
        let others = ["example.org", "a.example.com", "", "example.com/", "[::1]:80", "a b"];
        for (at, host) in others.iter().enumerate() {
            assert_ne!(print("/a", host), ours, "{host}");
            others[..at].iter().for_each(|other| assert_ne!(print("/a", host), print("/a", other)));
        }
        assert_eq!(print("/a", "[::1]:80"), print("/a", "[::1]"));
    }

    #[test]
    fn other_headers_do_not_count() {
        let request = |trace| Request::post("/a").header("traceparent", trace).body(()).unwrap();
        let print = |trace| fingerprint(&request(trace).into_parts().0, &BODY, None);
        assert_eq!(print("1"), print("2"));
    }
}

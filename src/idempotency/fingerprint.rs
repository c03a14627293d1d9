//! What makes two requests under one key the same request.

use crate::{
    idempotency::{layer::Canonical, store::Fingerprint},
    key,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Uri, header::CONTENT_TYPE, request::Parts};

/// SHA-256 over the method, the path with the query, the content type and the body as it was sent,
/// or as `canonical` has it, each with its length before it, so that no byte can move from one part to
/// the next.
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
    Fingerprint::new(key::sha256([method.as_bytes(), target.as_bytes(), content_type, body]))
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
    fn the_host_and_other_headers_do_not_count() {
        let absolute = print("POST", "http://example.com/a?x=1", "text/plain", "body");
        assert_eq!(absolute, print("POST", "/a?x=1", "text/plain", "body"));
    }
}

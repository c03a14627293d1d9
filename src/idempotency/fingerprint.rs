//! What makes two requests under one key the same request.

use crate::{idempotency::store::Fingerprint, key};
use http::{Uri, header::CONTENT_TYPE, request::Parts};

/// SHA-256 over the method, the path with the query, the content type and the body as it was sent,
/// each with its length before it, so that no byte can move from one part to the next.
pub(crate) fn fingerprint(parts: &Parts, body: &[u8]) -> Fingerprint {
    let uri = full_uri(parts);
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let method = parts.method.as_str();
    Fingerprint::new(key::sha256([method.as_bytes(), target.as_bytes(), content_type, body]))
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
        fingerprint(&request.into_parts().0, body.as_bytes())
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

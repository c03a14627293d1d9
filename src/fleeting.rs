//! The headers of an answer that were meant for one client, one connection or one moment.

use http::{HeaderMap, HeaderName, header::CONNECTION};

/// The headers of an answer that hold for a later asker too.
pub(crate) fn lasting(headers: &HeaderMap) -> HeaderMap {
    let nominated: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let lasts = |name: &HeaderName| {
        let name = name.as_str();
        !FLEETING.contains(&name)
            && !FLEETING_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            && !nominated.iter().any(|nominated| nominated == name)
    };
    let kept = headers.iter().filter(|(name, _)| lasts(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

const FLEETING: &[&str] = &[
    // Credentials and challenges: they were the first asker's.
    "set-cookie",
    "www-authenticate",
    "proxy-authenticate",
    "authentication-info",
    "proxy-authentication-info",
    // The moment.
    "date",
    "age",
    "server-timing",
    // The connection (RFC 9110, section 7.6.1). Whoever sends the replay counts its length.
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "content-length",
    // The trace of the first request.
    "traceparent",
    "tracestate",
    "traceresponse",
    "baggage",
    "b3",
    "x-request-id",
    "x-correlation-id",
    "x-trace-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    // Said of another answer.
    "idempotent-replayed",
];

const FLEETING_PREFIXES: &[&str] = &["ratelimit", "x-ratelimit", "x-rate-limit", "x-b3-"];

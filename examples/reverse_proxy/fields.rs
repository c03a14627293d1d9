//! Which fields of a message go on, and which end here.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
    },
};
use std::net::IpAddr;

/// What the proxy calls itself in `Via`.
const NAME: &str = "towerkeep";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Removes what concerns one connection only (RFC 9110, section 7.6.1), but for `Host`: without it, an
/// upstream would answer for another site.
pub(crate) fn strip_connection(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| name != HOST)
        .collect();
    for name in listed {
        headers.remove(name);
    }
    // The body is framed anew, and a length beside the chunks was not its length.
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    for name in [CONNECTION, TE, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

/// What the upstream is to see of a request.
pub(crate) fn forward_request(headers: &mut HeaderMap, version: Version, peer: Option<IpAddr>) {
    // Asked of this connection, and answered on the next one since trailers are passed on.
    let trailers = takes_trailers(headers);
    strip_connection(headers);
    // Meant for this proxy, which does not ask for it.
    headers.remove(PROXY_AUTHORIZATION);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    add_via(headers, version);
    if let Some(peer) = peer {
        append(headers, FORWARDED_FOR, peer.to_string());
    }
}

/// What the client is to see of a response, interim ones included.
pub(crate) fn forward_response(headers: &mut HeaderMap, version: Version) {
    strip_connection(headers);
    add_via(headers, version);
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|line| {
        let mut codings = line.as_bytes().split(|&byte| byte == b',');
        codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// By which version the message came.
fn add_via(headers: &mut HeaderMap, version: Version) {
    let received = if version == Version::HTTP_10 { "1.0" } else { "1.1" };
    append(headers, VIA, format!("{received} {NAME}"));
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.append(name, value);
    }
}

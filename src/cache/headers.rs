//! The headers of what is stored, and of what is answered from it.

use crate::{
    body::ResponseBody,
    cache::{status::CacheStatus, store::Found, validate::Conditions, visit::Visit},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        AGE, CONNECTION, CONTENT_LENGTH, DATE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body::Body;
use std::time::SystemTime;

const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Fields of one connection that have no constant of their own.
const HOP_BY_HOP_NAMES: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authentication-info"];

/// Leaves what may be stored (RFC 9111, section 3.1) and dates it (RFC 9110, section 6.6.1).
pub(crate) fn to_store(headers: &HeaderMap, now: SystemTime) -> HeaderMap {
    let mut stored = headers.clone();
    for line in headers.get_all(CONNECTION) {
        for name in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if let Ok(name) = HeaderName::from_bytes(name) {
                stored.remove(name);
            }
        }
    }
    HOP_BY_HOP.iter().for_each(|name| drop(stored.remove(name)));
    HOP_BY_HOP_NAMES.iter().for_each(|name| drop(stored.remove(*name)));
    if !stored.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now))
    {
        stored.insert(DATE, date);
    }
    stored
}

/// The answer from what is stored: whole, a 304, or a head alone.
pub(crate) fn hit<B: Body<Data = Bytes>>(
    found: &Found,
    visit: &Visit,
) -> Response<ResponseBody<B>> {
    let snapshot = &found.response.snapshot;
    let mut headers = snapshot.headers.clone();
    headers.insert(AGE, HeaderValue::from(found.age.as_secs()));
    let status = match visit.collapsed {
        true => CacheStatus { collapsed: true, ttl: Some(found.fresh_for), ..visit.status() },
        false => CacheStatus::hit(found.fresh_for),
    };
    status.write(&mut headers);
    if visit.conditions.not_modified(snapshot.status, &headers) {
        return not_modified(headers);
    }
    let body = if visit.head {
        if !snapshot.body.is_empty() {
            // The length of the body that a GET would get, since there is none to measure.
            headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(snapshot.body.len()));
        }
        ResponseBody::empty()
    } else {
        ResponseBody::full(snapshot.body.clone())
    };
    let mut response = Response::new(body);
    *response.status_mut() = snapshot.status;
    *response.headers_mut() = headers;
    response
}

/// A 304 with the headers of the whole response.
pub(crate) fn not_modified<B: Body>(mut headers: HeaderMap) -> Response<ResponseBody<B>> {
    Conditions::strip_content(&mut headers);
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_one_connection_are_not_stored_and_a_date_is_added() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-end", "1"),
            ("content-encoding", "gzip"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let now = SystemTime::now();
        let stored = to_store(&headers, now);
        let mut names: Vec<_> = stored.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-encoding", "date", "x-end"]);
        assert_eq!(stored[DATE], httpdate::fmt_http_date(now).as_str());
    }

    #[test]
    fn the_date_of_the_origin_is_left_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(to_store(&headers, SystemTime::now()), headers);
    }
}

//! The answers that are made of what is stored.

use crate::{
    body::ResponseBody,
    cache::{
        http::{extent::Extent, range::Part, validate::Conditions},
        status::CacheStatus,
        store::Found,
        visit::Visit,
    },
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE},
};
use http_body::Body;

/// The answer from the store, for which nobody was asked.
pub(crate) fn hit<B: Body<Data = Bytes>>(
    found: &Found,
    visit: &Visit,
) -> Response<ResponseBody<B>> {
    let status = match visit.collapsed {
        true => CacheStatus { collapsed: true, ttl: Some(found.ttl()), ..visit.status() },
        false => CacheStatus::hit(found.ttl()),
    };
    stored(found, visit, status)
}

/// The answer from what is stored: whole, a part, a 304, or a head alone.
pub(crate) fn stored<B: Body<Data = Bytes>>(
    found: &Found,
    visit: &Visit,
    status: CacheStatus,
) -> Response<ResponseBody<B>> {
    visit.answered_with(found);
    let snapshot = &found.response.snapshot;
    let mut headers = snapshot.headers.clone();
    headers.insert(AGE, HeaderValue::from(found.age.as_secs()));
    status.write(&mut headers);
    if visit.is_known(snapshot.status, &headers) {
        return not_modified(headers);
    }
    let extent = Extent::of(snapshot.status, &headers, snapshot.body.len());
    let body = if visit.head {
        if !snapshot.body.is_empty() {
            // The length of the body that a GET would get, since there is none to measure.
            headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(snapshot.body.len()));
        }
        ResponseBody::empty()
    } else {
        match (visit.part(snapshot.status, &headers, extent), extent) {
            (Part::Whole, _) | (_, None) => ResponseBody::full(snapshot.body.clone()),
            (part, Some(extent)) => return partial(headers, &snapshot.body, extent, &part),
        }
    };
    with(snapshot.status, headers, body)
}

/// A 304 with the headers of the whole response.
pub(crate) fn not_modified<B: Body>(mut headers: HeaderMap) -> Response<ResponseBody<B>> {
    Conditions::strip_content(&mut headers);
    with(StatusCode::NOT_MODIFIED, headers, ResponseBody::empty())
}

/// What a client gets if an origin answered with a part that does not belong to what it was asked for.
pub(crate) fn mismatched<B: Body>(status: CacheStatus) -> Response<ResponseBody<B>> {
    let mut headers = HeaderMap::new();
    status.write(&mut headers);
    with(StatusCode::BAD_GATEWAY, headers, ResponseBody::empty())
}

/// What a client gets that wants an answer from the store or none (RFC 9111, section 5.2.1.7).
pub(crate) fn nothing_stored<B: Body>(status: CacheStatus) -> Response<ResponseBody<B>> {
    let mut headers = HeaderMap::new();
    status.write(&mut headers);
    with(StatusCode::GATEWAY_TIMEOUT, headers, ResponseBody::empty())
}

/// A 206, or the 416 that says how long the body is (RFC 9110, sections 15.3.7 and 15.5.17).
fn partial<B: Body<Data = Bytes>>(
    mut headers: HeaderMap,
    held: &Bytes,
    extent: Extent,
    part: &Part,
) -> Response<ResponseBody<B>> {
    let there = match part {
        Part::Bytes(bytes) => {
            // A store of an application's own may say more than it has.
            let at = extent.locate(bytes).filter(|at| at.end <= held.len());
            at.map(|at| (extent.describe(bytes), held.slice(at)))
        }
        Part::Whole | Part::Unsatisfiable => None,
    };
    let (status, range, body) = match there {
        Some((range, body)) => (StatusCode::PARTIAL_CONTENT, range, body),
        None => {
            Conditions::strip_content(&mut headers);
            headers.remove(ACCEPT_RANGES);
            let range = format!("bytes */{}", extent.total.unwrap_or(extent.end));
            (StatusCode::RANGE_NOT_SATISFIABLE, range, Bytes::new())
        }
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    // Digits and signs only, so it always is a header value.
    if let Ok(range) = HeaderValue::try_from(range) {
        headers.insert(CONTENT_RANGE, range);
    }
    with(status, headers, ResponseBody::full(body))
}

fn with<B: Body>(
    status: StatusCode,
    headers: HeaderMap,
    body: ResponseBody<B>,
) -> Response<ResponseBody<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

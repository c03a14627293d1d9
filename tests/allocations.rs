//! How often a request allocates on its way through a layer: what can be counted is held, what can only
//! be timed is in the benches.
//!
//! The crate `allocation-counter` replaces this test binary's allocator by one that counts each thread's
//! calls.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use std::convert::Infallible;
use tower::{Layer, Service, service_fn};
use towerkeep::{
    Backend, PeerAddr,
    rate_limit::{Charge, Headers, Policy, Quota, RateLimitLayer, RateLimitStore, by},
};

const ALGORITHMS: [fn(&str, u32) -> Policy; 5] = [
    |name, limit| Policy::gcra(name, Quota::per_day(limit)),
    |name, limit| Policy::token_bucket(name, Quota::per_day(limit)),
    |name, limit| Policy::fixed_window(name, Quota::per_day(limit)),
    |name, limit| Policy::sliding_window(name, Quota::per_day(limit)),
    |name, limit| Policy::sliding_log(name, Quota::per_day(limit)),
];

fn allocations<T>(step: impl FnOnce() -> T) -> (u64, T) {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(step()));
    (info.count_total, result.unwrap())
}

/// Asks for these policies on one key, often enough that it is made and has room for more.
fn checks(policies: &[Policy]) -> u64 {
    let store = Backend::memory();
    let charges: Vec<Charge> = policies.iter().map(|policy| Charge::new(policy, "k", 1)).collect();
    let check = || store.check(&charges).now_or_never().unwrap().unwrap();
    for _ in 0..5 {
        assert!(check().is_allowed());
    }
    let (count, verdict) = allocations(check);
    assert!(verdict.is_allowed());
    count
}

#[test]
fn a_check_of_a_key_that_is_known_allocates_nothing() {
    for make in ALGORITHMS {
        let policy = make("p", 100);
        assert_eq!(checks(std::slice::from_ref(&policy)), 0, "{policy:?}");
    }
    let policies: Vec<Policy> = (0..4).map(|n| ALGORITHMS[n](&format!("p{n}"), 100)).collect();
    assert_eq!(checks(&policies), 0);
}

/// What one request of a client allocates that was seen before, and its status. The service inside
/// allocates nothing.
fn request(limit: u32, policies: usize, headers: Headers) -> (u64, StatusCode) {
    let mut policies =
        (0..policies).map(|n| Policy::gcra(&format!("p{n}"), Quota::per_day(limit)).key(by::ip()));
    let layer = RateLimitLayer::new(Backend::memory(), policies.next().unwrap()).headers(headers);
    let layer = policies.fold(layer, RateLimitLayer::policy);
    let inner = |_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    };
    let mut service = layer.layer(service_fn(inner));
    let mut send = || {
        let mut request = Request::new(Full::<Bytes>::default());
        request.extensions_mut().insert(PeerAddr::new(([203, 0, 113, 200], 40_000).into()));
        allocations(|| service.call(request).now_or_never().unwrap().unwrap())
    };
    send();
    let (count, response) = send();
    (count, response.status())
}

#[test]
fn a_request_allocates_what_its_response_is_told_and_little_else() {
    // The counter's labels.
    let metrics = u64::from(cfg!(feature = "metrics"));
    // The key, what was decided, its place in the request's extensions; the two tables of a HeaderMap,
    // the value of each header.
    for policies in [1, 2] {
        assert_eq!(request(100, policies, Headers::Off), (3 + metrics, StatusCode::OK));
        assert_eq!(request(100, policies, Headers::Draft), (7 + metrics, StatusCode::OK));
    }
    // More than two charges are a list of their own, and so is what was taken for them; more than four
    // fill one more of each list: places, names, outcomes and what was healed.
    assert_eq!(request(100, 4, Headers::Draft), (9 + metrics, StatusCode::OK));
    assert_eq!(request(100, 8, Headers::Draft), (13 + metrics, StatusCode::OK));
}

#[test]
fn a_denied_request_allocates_a_problem_document_more() {
    let metrics = u64::from(cfg!(feature = "metrics"));
    // The key and what was decided; the names of the policies, thrice: as the typed reason, in the text
    // and in the list; the document, as it grows and as the body; the table of the response's extensions
    // and the reason in it; the tables of a HeaderMap and the value of each header.
    assert_eq!(request(1, 1, Headers::Draft), (17 + metrics, StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(request(1, 2, Headers::Draft), (17 + metrics, StatusCode::TOO_MANY_REQUESTS));
}

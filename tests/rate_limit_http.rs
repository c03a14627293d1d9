//! The rate limit as HTTP sees it: whom it takes for the client, and what its headers say, which a
//! parser of somebody else's reads.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::Harness,
    support::http::{client::HttpClient, server::HttpServer},
};
use axum::{Router, body::Body, response::Response, routing::get};
use http::{HeaderMap, Request, StatusCode, header::RETRY_AFTER};
use sfv::{BareItem, List, ListEntry, Parameters, Parser};
use std::time::Duration;
use tower::ServiceExt;
use towerkeep::{
    Backend, ClientAddr, PeerAddr, TrustedProxies,
    rate_limit::{Headers, Policy, Quota, RateLimitLayer, Rejection, Rule, by},
};

on_every_backend! {
    every_header_is_a_structured_field_that_means_what_it_says,
    what_two_layers_say_is_one_list,
    a_partition_key_is_the_same_for_one_client_on_all_servers_and_names_nobody,
}

const SECRET: [u8; 32] = [7; 32];

/// The test asks what is said, not how fast.
const PATIENT: Duration = Duration::from_secs(30);

/// Each algorithm, with names, numbers and windows at the edges; and what is said of it.
fn policies() -> Vec<(Policy, i64, Option<i64>)> {
    let aligned = Rule::aligned_window(Quota::per_day(2)).unwrap();
    let longest = Quota::new(3, Duration::from_secs(400 * 24 * 60 * 60)).unwrap();
    let shortest = Quota::new(4_000_000_000, Duration::from_millis(1)).unwrap();
    let long_name = "n".repeat(32);
    vec![
        (Policy::gcra("-", Quota::per_second(20).burst(40)), 40, Some(2)),
        (Policy::gcra("rounded.up", Quota::per_minute(7)), 7, Some(61)),
        (Policy::token_bucket(&long_name, shortest), 4_000_000_000, Some(1)),
        (Policy::token_bucket("slow", Quota::per_day(1).burst(2)), 2, Some(2 * 86_400)),
        (Policy::fixed_window("0_0", longest), 3, Some(34_560_000)),
        (Policy::new("aligned", aligned).unwrap(), 2, Some(86_400)),
        (Policy::sliding_window("...", Quota::per_hour(4)), 4, Some(3_600)),
        (Policy::sliding_log("Log-1", Quota::per_hour(3)), 3, Some(3_600)),
        (Policy::concurrency("at-once", 100_000), 100_000, None),
        (Policy::concurrency("one", 1), 1, None),
    ]
}

fn app(layer: RateLimitLayer) -> Router {
    Router::new().route("/", get(async || "ok")).layer(layer.deadline(PATIENT))
}

/// A request of the proxy at 10.0.0.1, or of whom it is said to be.
fn request(forwarded_for: &[&str]) -> Request<Body> {
    let lines = forwarded_for.iter();
    let request =
        lines.fold(Request::get("/"), |request, line| request.header("x-forwarded-for", *line));
    let peer = PeerAddr::new(([10, 0, 0, 1], 4711).into());
    request.extension(peer).body(Body::empty()).unwrap()
}

async fn answer(app: &Router, forwarded_for: &[&str]) -> Response {
    app.clone().oneshot(request(forwarded_for)).await.unwrap()
}

async fn status(app: &Router, forwarded_for: &[&str]) -> u16 {
    answer(app, forwarded_for).await.status().as_u16()
}

/// The members of a list field, all of which are Strings.
fn members(headers: &HeaderMap, name: &str) -> Vec<(String, Parameters)> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    let field = lines.join(&b", "[..]);
    let list: List = Parser::new(&field).parse().unwrap_or_else(|error| {
        panic!("{name}: {}: {error}", String::from_utf8_lossy(&field));
    });
    let member = |entry: ListEntry| match entry {
        ListEntry::Item(item) => {
            let name = item.bare_item.as_string().expect("a String").as_str().to_owned();
            (name, item.params)
        }
        ListEntry::InnerList(_) => panic!("{name} has an inner list"),
    };
    list.into_iter().map(member).collect()
}

fn integer(parameters: &Parameters, name: &str) -> Option<i64> {
    parameters.get(name).map(|value| value.as_integer().expect("an Integer").into())
}

fn has_only(parameters: &Parameters, known: &[&str]) {
    for name in parameters.keys() {
        assert!(known.contains(&name.as_str()), "{name:?} is not in the draft");
    }
}

/// What the draft's headers say of a policy.
#[derive(Debug)]
struct Told {
    name: String,
    quota: i64,
    window: Option<i64>,
    remaining: i64,
    more_in: Option<i64>,
    key: Option<Vec<u8>>,
}

fn bytes(parameters: &Parameters) -> Option<Vec<u8>> {
    let key = parameters.get("pk").map(BareItem::as_byte_sequence);
    key.map(|bytes| bytes.expect("a Byte Sequence").to_vec())
}

/// Both fields, which name the same policies in the same order.
fn told(headers: &HeaderMap) -> Vec<Told> {
    let (policies, limits) = (members(headers, "ratelimit-policy"), members(headers, "ratelimit"));
    assert_eq!(policies.len(), limits.len());
    let both = policies.into_iter().zip(limits).map(|((name, policy), (same, limit))| {
        assert_eq!(name, same);
        has_only(&policy, &["q", "w", "pk"]);
        has_only(&limit, &["r", "t", "pk"]);
        assert_eq!(bytes(&policy), bytes(&limit));
        let told = Told {
            name,
            quota: integer(&policy, "q").expect("q is required"),
            window: integer(&policy, "w"),
            remaining: integer(&limit, "r").expect("r is required"),
            more_in: integer(&limit, "t"),
            key: bytes(&limit),
        };
        assert!(told.quota > 0 && told.window.is_none_or(|window| window > 0), "{told:?}");
        assert!((0..=told.quota).contains(&told.remaining), "{told:?}");
        assert!(told.more_in.is_none_or(|wait| wait > 0), "{told:?}");
        told
    });
    both.collect()
}

/// Of a denied response: it may be tried again when the policies that denied it have more, not before.
fn retry_fits(response: &Response, told: &[Told]) {
    let retry: Option<i64> =
        response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().parse().unwrap());
    let Some(Rejection::Limited { violated, .. }) = response.extensions().get() else {
        assert_eq!(retry, None);
        return;
    };
    let denied = told.iter().filter(|told| violated.iter().any(|name| **name == *told.name));
    let more_in = denied.map(|told| told.more_in).max().expect("somebody denied it");
    assert_eq!(retry, more_in, "{told:?}");
    assert!(retry.is_none_or(|seconds| seconds > 0));
}

fn legacy_fits(headers: &HeaderMap, told: &[Told]) {
    let number = |name: &str| -> i64 { headers[name].to_str().unwrap().parse().unwrap() };
    let tightest = told.iter().min_by_key(|told| told.remaining).unwrap();
    assert_eq!(number("x-ratelimit-remaining"), tightest.remaining);
    assert_eq!(number("x-ratelimit-limit"), tightest.quota);
    assert!(number("x-ratelimit-reset") > 0);
}

async fn every_header_is_a_structured_field_that_means_what_it_says(harness: Harness) {
    for (n, style) in
        [Headers::Draft, Headers::Legacy, Headers::Both, Headers::Off].into_iter().enumerate()
    {
        let mut denied = 0;
        // Alone, and at last all together.
        let mut cases: Vec<_> = policies().into_iter().map(|case| vec![case]).collect();
        cases.push(policies());
        for (at, case) in cases.into_iter().enumerate() {
            let key = || by::header("x-key");
            let expected: Vec<_> =
                case.iter().map(|(policy, q, w)| (policy.name().to_owned(), *q, *w)).collect();
            let mut all = case.into_iter().map(|(policy, ..)| policy.key(key()));
            let layer = RateLimitLayer::new(harness.backend.clone(), all.next().unwrap());
            let app = app(all.fold(layer, RateLimitLayer::policy).headers(style));
            for turn in 0..6 {
                let mut request = request(&[]);
                let key = format!("{n}-{at}");
                request.headers_mut().insert("x-key", key.parse().unwrap());
                let response = app.clone().oneshot(request).await.unwrap();
                denied += usize::from(response.status() == StatusCode::TOO_MANY_REQUESTS);
                let headers = response.headers();
                let (draft, legacy) = (
                    matches!(style, Headers::Draft | Headers::Both),
                    matches!(style, Headers::Legacy | Headers::Both),
                );
                assert_eq!(headers.contains_key("ratelimit"), draft);
                assert_eq!(headers.contains_key("x-ratelimit-limit"), legacy);
                let told = told(headers);
                if draft {
                    let said: Vec<_> = told
                        .iter()
                        .map(|told| (told.name.clone(), told.quota, told.window))
                        .collect();
                    // What was denied without asking the store names those that are known to deny.
                    let is_said = said.iter().all(|said| expected.contains(said));
                    assert!(is_said && (turn > 0 || said == expected), "{said:?}");
                    retry_fits(&response, &told);
                }
                if draft && legacy {
                    legacy_fits(headers, &told);
                }
            }
        }
        assert!(denied > 10, "{denied} denied");
    }
}

async fn what_two_layers_say_is_one_list(harness: Harness) {
    let layer = |name: &str, limit| {
        let policy = Policy::fixed_window(name, Quota::per_hour(limit));
        RateLimitLayer::new(harness.backend.clone(), policy)
            .headers(Headers::Both)
            .deadline(PATIENT)
    };
    let app =
        app(layer("inner", 2).policy(Policy::concurrency("slots", 5))).layer(layer("outer", 3));
    let mut seen = Vec::new();
    for _ in 0..4 {
        let response = answer(&app, &[]).await;
        let told = told(response.headers());
        retry_fits(&response, &told);
        legacy_fits(response.headers(), &told);
        let said: Vec<_> = told.into_iter().map(|told| (told.name, told.remaining)).collect();
        seen.push((response.status().as_u16(), said));
    }
    let names = |seen: &(u16, Vec<(String, i64)>)| -> Vec<String> {
        seen.1.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(seen[0].0, 200);
    assert_eq!(names(&seen[0]), ["inner", "slots", "outer"]);
    assert_eq!(seen[2].0, 429, "the inner layer denies");
    assert_eq!(names(&seen[2]), ["inner", "slots", "outer"]);
    assert_eq!((seen[3].0, names(&seen[3])), (429, vec!["outer".to_owned()]));
}

async fn a_partition_key_is_the_same_for_one_client_on_all_servers_and_names_nobody(
    harness: Harness,
) {
    let server = |secret: [u8; 32]| {
        let policy = Policy::gcra("burst", Quota::per_hour(10));
        let daily = Policy::fixed_window("daily", Quota::per_day(10)).key((by::route(), by::ip()));
        let layer = RateLimitLayer::new(harness.backend.clone(), policy).policy(daily);
        app(layer.trust_proxies(["10.0.0.0/8"]).partition_key(secret))
    };
    let keys = async |app: &Router, client: &str| -> [Vec<u8>; 2] {
        let told = told(answer(app, &[client]).await.headers());
        let keys: Vec<_> = told.into_iter().map(|told| told.key.expect("there is a pk")).collect();
        keys.try_into().unwrap()
    };
    let servers = [server(SECRET), server(SECRET)];
    let ann = keys(&servers[0], "203.0.113.7").await;
    assert_eq!(keys(&servers[1], "203.0.113.7").await, ann);
    assert!(ann.iter().all(|key| key.len() == 16), "{ann:?}");
    assert_ne!(ann[0], ann[1], "they count by different keys");
    let bob = keys(&servers[0], "203.0.113.8").await;
    let elsewhere = keys(&server([8; 32]), "203.0.113.7").await;
    for other in [bob, elsewhere] {
        assert!(other[0] != ann[0] && other[1] != ann[1]);
    }
}

fn by_address(limit: u32) -> RateLimitLayer {
    RateLimitLayer::new(Backend::memory(), Policy::gcra("address", Quota::per_hour(limit)))
}

#[tokio::test]
async fn each_client_behind_a_proxy_has_a_count_whatever_it_forges() {
    let app = app(by_address(1).trust_proxies(["10.0.0.0/8"]));
    assert_eq!(status(&app, &["203.0.113.7"]).await, 200);
    assert_eq!(status(&app, &["203.0.113.8"]).await, 200, "the count is the proxy's");
    for forged in [&["1.2.3.4, 203.0.113.7"] as &[&str], &["1.2.3.4", "203.0.113.7, 10.0.0.2"]] {
        assert_eq!(status(&app, forged).await, 429, "{forged:?}");
    }
    let mut stranger = request(&["203.0.113.9"]);
    let peer = PeerAddr::new(([198, 51, 100, 1], 4711).into());
    stranger.extensions_mut().insert(peer);
    for (client, expected) in [("203.0.113.9", 200), ("203.0.113.10", 429)] {
        let mut request = request(&[client]);
        request.extensions_mut().insert(peer);
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), expected, "a peer that is not trusted has one count");
    }
}

#[tokio::test]
async fn what_a_layer_has_found_holds_further_in_unless_one_has_a_setting_of_its_own() {
    let handler = get(async |client: ClientAddr| client.to_string());
    let inner = |layer: RateLimitLayer| Router::new().route("/", handler.clone()).layer(layer);
    let outer = || by_address(10).trust_proxies(["10.0.0.0/8"]);
    let text = async |app: &Router, client: &str| {
        let response = answer(app, &[client]).await;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };

    let app = inner(by_address(1)).layer(outer());
    for client in ["203.0.113.7", "203.0.113.8"] {
        assert_eq!(
            text(&app, client).await,
            (200, client.into()),
            "the inner layer counts the proxy"
        );
        assert_eq!(text(&app, client).await.0, 429);
    }

    let app = inner(by_address(1).trust_proxies(TrustedProxies::hops(0))).layer(outer());
    assert_eq!(text(&app, "203.0.113.7").await, (200, "10.0.0.1".into()));
    assert_eq!(text(&app, "203.0.113.8").await.0, 429);

    let app = inner(by_address(1));
    assert_eq!(text(&app, "203.0.113.7").await, (200, "10.0.0.1".into()), "nobody is trusted");
    let nobody = Router::new().route("/", handler.clone());
    let response = nobody.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("into_make_service_with_connect_info"));
}

#[tokio::test]
async fn a_closure_that_chooses_sees_the_client_and_not_the_proxy() {
    let office = |parts: &http::request::Parts| {
        let client = ClientAddr::of(&parts.extensions);
        client.is_some_and(|client| client.to_string() == "203.0.113.7")
    };
    let app = app(by_address(1).trust_proxies(["10.0.0.1"]).allow(office));
    for _ in 0..3 {
        assert_eq!(status(&app, &["203.0.113.7"]).await, 200);
    }
    assert_eq!(status(&app, &["203.0.113.8"]).await, 200);
    assert_eq!(status(&app, &["203.0.113.8"]).await, 429);
}

#[tokio::test]
async fn over_a_real_connection_the_lines_of_a_header_are_one_list() {
    let layer = by_address(10).trust_proxies(["127.0.0.0/8", "::1"]);
    let app = Router::new().route("/", get(async |client: ClientAddr| client.to_string()));
    let server = HttpServer::start(app.layer(layer)).await;
    for client in [HttpClient::http1(), HttpClient::http2()] {
        let request = Request::get(server.url("/"))
            .header("x-forwarded-for", "1.2.3.4")
            .header("x-forwarded-for", "203.0.113.7:55")
            .header("forwarded", "for=5.6.7.8")
            .header("x-forwarded-for", "127.0.0.9");
        let reply = client.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.text(), "203.0.113.7");
    }
}

#[test]
#[should_panic(expected = "write \"10.0.0.0/8\" for the network")]
fn a_network_that_cannot_be_is_refused_when_the_layer_is_made() {
    let _ = by_address(1).trust_proxies(vec!["192.0.2.1".to_owned(), "10.0.0.1/8".to_owned()]);
}

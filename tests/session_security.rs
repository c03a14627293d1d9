//! What a hostile client may try on a session, one test for each row: fixation, tampering, forging,
//! stale keys, leftovers, floods, and names that a browser would refuse.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{
        http::{client::HttpClient, cookies::CookieJar, server::HttpServer},
        proxy::FaultProxy,
        server::RedisServer,
    },
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Request},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use proptest::{prelude::*, test_runner::TestRunner};
use std::{panic::catch_unwind, time::Duration};
use tower::ServiceExt;
use towerkeep::{
    Backend,
    session::{
        CookieKey, Error, LazySession, SameSite, Session, SessionLayer, SessionStore, Token,
    },
};

on_every_backend! {
    a_cookie_that_was_planted_before_a_login_is_worth_nothing_after_it,
    no_cookie_that_was_tampered_with_is_anybodys,
    a_key_is_replaced_without_logging_anybody_out,
    a_logout_takes_the_cookie_from_the_browser_whatever_its_attributes,
    nothing_that_a_user_says_gets_into_the_set_cookie_header,
    a_sealed_cookie_is_nobody_under_the_name_of_another_layer,
}

const COOKIE: &str = "__Host-sid";
const LONG: Duration = Duration::from_secs(60);

fn routes() -> Router {
    Router::new()
        .route("/show", get(show))
        .route("/set/{value}", get(set))
        .route("/login/{user}", get(login))
        .route("/logout", get(async |session: Session| session.destroy()))
}

async fn show(session: Session) -> Result<String, Error> {
    let user = session.user().map_or("nobody".to_owned(), |user| user.to_string());
    Ok(format!("{user} {}", session.get::<String>("value")?.unwrap_or_default()))
}

async fn set(session: Session, Path(value): Path<String>) -> Result<(), Error> {
    session.set("value", &value)
}

async fn login(session: Session, Path(user): Path<String>) -> Result<(), Error> {
    session.login(user)
}

fn layer(store: impl SessionStore) -> SessionLayer {
    SessionLayer::new(store)
}

fn key(secret: u8) -> CookieKey {
    CookieKey::new([secret; 32])
}

/// The three ways in which a token stands in its cookie.
fn seals(store: impl SessionStore + Clone) -> [SessionLayer; 3] {
    let layer = layer(store);
    [layer.clone(), layer.clone().signing_keys([key(1)]), layer.encryption_keys([key(1)])]
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn cookies(&self) -> Vec<&str> {
        let lines = self.headers.get_all(header::SET_COOKIE).iter();
        lines.map(|line| line.to_str().unwrap()).collect()
    }

    /// The value of the one cookie that it sets.
    fn cookie(&self) -> String {
        let [line] = self.cookies()[..] else { panic!("not one cookie: {:?}", self.headers) };
        line.split_once(';').unwrap().0.split_once('=').unwrap().1.to_owned()
    }
}

/// A request that carries this as its `Cookie` header, if it is any.
async fn send(app: &Router, path: &str, cookies: &[u8]) -> Page {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    if !cookies.is_empty() {
        let cookies = HeaderValue::from_bytes(cookies).unwrap();
        request.headers_mut().insert(header::COOKIE, cookies);
    }
    let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    Page { status: head.status, headers: head.headers, text }
}

/// A request of who has this cookie.
async fn with(app: &Router, path: &str, value: &str) -> Page {
    send(app, path, format!("{COOKIE}={value}").as_bytes()).await
}

async fn a_cookie_that_was_planted_before_a_login_is_worth_nothing_after_it(harness: Harness) {
    for layer in seals(harness.backend.clone()) {
        let app = routes().layer(layer);
        // One that the attacker made up, and one that the server gave the attacker.
        let given = send(&app, "/set/bait", b"").await.cookie();
        for planted in [Token::random().encode(), given] {
            let own = with(&app, "/login/ann", &planted).await.cookie();
            assert_ne!(own, planted);
            assert_eq!(with(&app, "/show", &planted).await.text, "nobody ");
            assert!(with(&app, "/show", &own).await.text.starts_with("ann "));
        }
    }
}

async fn no_cookie_that_was_tampered_with_is_anybodys(harness: Harness) {
    for layer in seals(harness.backend.clone()) {
        let app = routes().layer(layer);
        let own = send(&app, "/login/ann", b"").await.cookie();
        let mut forgeries = vec![own[1..].to_owned(), own[..own.len() - 1].to_owned()];
        forgeries.extend(["A", "=", "%", " ", "\"", "\t"].map(|more| format!("{own}{more}x")));
        forgeries.push(own.to_lowercase());
        forgeries.push(format!("\"{own}\""));
        for at in 0..own.len() {
            let mut forged = own.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            forgeries.push(String::from_utf8(forged).unwrap());
        }
        for forged in forgeries {
            let page = with(&app, "/show", &forged).await;
            assert_eq!((page.status, &*page.text), (StatusCode::OK, "nobody "), "{forged}");
            assert!(page.cookies().is_empty(), "{:?}", page.headers);
        }
        assert_eq!(with(&app, "/show", &own).await.text, "ann ");
    }
}

async fn a_key_is_replaced_without_logging_anybody_out(harness: Harness) {
    type Keys = fn(SessionLayer, Vec<CookieKey>) -> SessionLayer;
    let kinds: [Keys; 2] = [SessionLayer::signing_keys, SessionLayer::encryption_keys];
    for keys in kinds {
        let app = |of: &[u8]| {
            let layer = layer(harness.backend.clone());
            routes().layer(keys(layer, of.iter().copied().map(key).collect()))
        };
        let (before, during, after) = (app(&[1]), app(&[2, 1]), app(&[2]));
        let active = send(&before, "/login/ann", b"").await.cookie();
        let absent = send(&before, "/login/bob", b"").await.cookie();
        let new = send(&during, "/login/cid", b"").await.cookie();
        assert_eq!(with(&after, "/show", &new).await.text, "cid ", "the first key seals");

        let page = with(&during, "/show", &active).await;
        assert_eq!(page.text, "ann ");
        assert!(!page.cookies()[0].contains("Max-Age"), "{:?}", page.headers);
        let resealed = page.cookie();
        assert!(with(&during, "/show", &resealed).await.cookies().is_empty(), "once is enough");

        // One field set or read alone is as good.
        for alone in ["set", "get"] {
            let cookie = send(&before, "/login/dan", b"").await.cookie();
            let fields = Router::new()
                .route("/set", get(async |lazy: LazySession| lazy.set_field("a", &1).await))
                .route(
                    "/get",
                    get(async |lazy: LazySession| lazy.get_field::<u8>("a").await.map(drop)),
                )
                .layer(keys(layer(harness.backend.clone()), vec![key(2), key(1)]));
            let page = with(&fields, &format!("/{alone}"), &cookie).await;
            assert!(with(&after, "/show", &page.cookie()).await.text.starts_with("dan"), "{alone}");
        }

        // A session that has ended is not given its cookie again, by whatever key.
        let ended = send(&before, "/login/eve", b"").await.cookie();
        with(&before, "/logout", &ended).await;
        assert!(with(&during, "/show", &ended).await.cookies().is_empty());

        assert_eq!(with(&after, "/show", &resealed).await.text, "ann ");
        for old in [active, absent] {
            assert_eq!(with(&after, "/show", &old).await.text, "nobody ");
        }
    }
}

/// A browser at `https://www.example.com`.
fn browser() -> CookieJar {
    CookieJar::new("www.example.com", true)
}

async fn a_logout_takes_the_cookie_from_the_browser_whatever_its_attributes(harness: Harness) {
    let layer = || layer(harness.backend.clone());
    let cases = [
        layer(),
        layer().cookie_name("id"),
        layer().cookie_name("__Secure-id").cookie_path("/app"),
        layer().cookie_domain("example.com").same_site(SameSite::Strict),
        layer().cookie_domain(".Example.com").cookie_path("/app").max_age(LONG),
        layer().same_site(SameSite::None).partitioned(true),
        layer().cookie_domain("example.com").partitioned(true).signing_keys([key(1)]),
        layer().insecure_plain_http(),
        layer().insecure_script_access().encryption_keys([key(1)]),
    ];
    for layer in cases {
        let app = Router::new().nest("/app", routes()).layer(layer.clone());
        let mut jar = browser();
        for (path, cookies) in [("/app/login/ann", 1), ("/app/show", 1), ("/app/logout", 0)] {
            let sent = jar.header(path).unwrap_or_default();
            let page = send(&app, path, sent.as_bytes()).await;
            jar.store(path, &page.headers);
            assert_eq!(jar.len(), cookies, "after {path}: {:?}, with {layer:?}", page.headers);
            if path == "/app/show" {
                assert_eq!(page.text, "ann ", "{sent}");
            }
        }
    }
}

async fn nothing_that_a_user_says_gets_into_the_set_cookie_header(harness: Harness) {
    for layer in seals(harness.backend.clone()) {
        let app = routes().layer(layer);
        for evil in ["x%0d%0aSet-Cookie:%20a=b", "x;%20Domain=evil.example", "%00", "%C3%BC"] {
            for path in [format!("/login/{evil}"), format!("/set/{evil}")] {
                let page = send(&app, &path, b"").await;
                let value = page.cookie();
                let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+/=".contains(&byte);
                assert!(value.bytes().all(legal), "{value}");
                let attributes = "; HttpOnly; SameSite=Lax; Secure; Path=/";
                assert_eq!(page.cookies(), [format!("{COOKIE}={value}{attributes}")]);
            }
        }
    }
}

async fn a_sealed_cookie_is_nobody_under_the_name_of_another_layer(harness: Harness) {
    let seals = seals(harness.backend.clone());
    for (n, layer) in seals.into_iter().enumerate() {
        let admin = routes().layer(layer.clone().cookie_name("__Host-admin"));
        let value = send(&routes().layer(layer), "/login/root", b"").await.cookie();
        let moved = send(&admin, "/show", format!("__Host-admin={value}").as_bytes()).await;
        // Without a seal, only a prefix of its own keeps one layer's sessions from the other.
        assert_eq!(moved.text, if n == 0 { "root " } else { "nobody " });
    }
}

/// Redis behind a proxy that counts.
async fn counted() -> (RedisServer, FaultProxy, Backend) {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let builder = Backend::builder().prefix(PREFIX).deadline(LONG);
    let backend = builder.redis(proxy.url()).await.unwrap();
    (server, proxy, backend)
}

#[tokio::test]
async fn a_cookie_that_was_not_sealed_here_costs_no_command() {
    let (server, proxy, backend) = counted().await;
    let [plain, sealed @ ..] = seals(backend.clone()).map(|layer| routes().layer(layer));
    let unsealed = send(&plain, "/login/ann", b"").await.cookie();
    for (n, app) in sealed.iter().enumerate() {
        let own = send(app, "/login/ann", b"").await.cookie();
        let other = send(app, "/login/bob", b"").await.cookie();
        let elsewhere = layer(backend.clone());
        let elsewhere = match n {
            0 => elsewhere.signing_keys([key(9)]),
            _ => elsewhere.encryption_keys([key(9)]),
        };
        let foreign = send(&routes().layer(elsewhere), "/login/ann", b"").await.cookie();
        let half = own.len() / 2;
        let spliced = format!("{}{}", &own[..half], &other[half..]);
        proxy.reset();
        for forged in [&unsealed, &foreign, &spliced, &own[..87 - 44], &Token::random().encode()] {
            let page = with(app, "/show", forged).await;
            assert_eq!((page.status, &*page.text), (StatusCode::OK, "nobody "), "{forged}");
        }
        assert_eq!(proxy.commands(), [], "a forged cookie reached Redis");
        let (page, turns) = proxy.turns_of(with(app, "/show", &own)).await;
        assert_eq!((&*page.text, turns), ("ann ", 1));
        if n == 1 {
            let keys = server.command(&["KEYS", "*"]).texts();
            let names = |key: &String| own.contains(key.rsplit(':').next().unwrap());
            assert!(!keys.iter().any(names), "{own} names a key of {keys:?}");
        }
    }
}

#[tokio::test]
async fn of_a_flood_of_cookies_two_are_asked_for() {
    let (_server, proxy, backend) = counted().await;
    let app = routes().layer(layer(backend));
    let own = send(&app, "/login/ann", b"").await.cookie();
    let made_up = |count| {
        let pairs = (0..count).map(|_| format!("{COOKIE}={}; ", Token::random().encode()));
        pairs.collect::<String>()
    };
    let own = format!("{COOKIE}={own}");
    for (cookies, text, expected) in [
        (format!("{}{own}", made_up(1)), "ann ", 2),
        (format!("{own}; {}", made_up(500)), "ann ", 1),
        (format!("{}{own}", made_up(500)), "nobody ", 2),
    ] {
        let (page, turns) = proxy.turns_of(send(&app, "/show", cookies.as_bytes())).await;
        assert_eq!((&*page.text, turns), (text, expected));
    }
}

#[tokio::test]
async fn an_oversized_cookie_header_is_answered_or_refused_and_nobody_else_waits() {
    let (_server, proxy, backend) = counted().await;
    let server = HttpServer::start(routes().layer(layer(backend))).await;
    proxy.reset();
    for http in [HttpClient::http1(), HttpClient::http2()] {
        for size in [10_000, 100_000, 5_000_000] {
            for filler in ["A", "; ", "__Host-sid=; "] {
                let cookies = format!("{COOKIE}={}", filler.repeat(size / filler.len()));
                let request = Request::get(server.url("/show")).header(header::COOKIE, cookies);
                // hyper refuses the largest ones itself, with a status or by hanging up.
                if let Ok(reply) = http.try_send(request.body(Body::empty()).unwrap()).await {
                    let refused = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                    assert!([StatusCode::OK, refused].contains(&reply.status), "{reply:?}");
                    assert!(reply.status == refused || reply.text() == "nobody ", "{reply:?}");
                }
            }
        }
        assert_eq!(http.get(&server.url("/show")).await.text(), "nobody ");
    }
    assert_eq!(proxy.commands(), []);
}

/// Headers without a cookie of the session's name that has the shape of a token.
fn malformed() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(0x20u8..=0xff, 0..200);
    let value = prop_oneof![
        "[A-Za-z0-9_-]{0,42}",
        "[A-Za-z0-9_-]{44,100}",
        "[A-Za-z0-9_-]{20}[!-,./:<-@\\[-^`{-~][A-Za-z0-9_-]{22}",
        "[A-Za-z0-9_-]{42}[B-DF-HJ-LN-PR-TV-XZ]",
    ];
    let named = proptest::collection::vec((value, "[ -~]{0,20}"), 1..5).prop_map(|cookies| {
        let pairs = cookies.into_iter().map(|(value, noise)| {
            let noise = noise.replace(COOKIE, "");
            format!("{noise}; {COOKIE}={value};")
        });
        pairs.collect::<String>().into_bytes()
    });
    prop_oneof![bytes, named]
}

#[test]
fn no_malformed_cookie_panics_fails_or_reaches_redis() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_server, proxy, backend) = runtime.block_on(counted());
    let apps = seals(backend).map(|layer| routes().layer(layer));
    proxy.reset();
    let result = TestRunner::default().run(&malformed(), |cookies| {
        prop_assume!(!cookies.contains(&0x7f));
        for app in &apps {
            let page = runtime.block_on(send(app, "/show", &cookies));
            prop_assert_eq!((page.status, &*page.text), (StatusCode::OK, "nobody "));
            prop_assert!(page.cookies().is_empty());
        }
        prop_assert_eq!(proxy.turns(), 0);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_sealed_layer_asks_for_nothing_that_only_has_the_shape_of_a_token() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_server, proxy, backend) = runtime.block_on(counted());
    let [_, signed, encrypted] = seals(backend).map(|layer| routes().layer(layer));
    proxy.reset();
    let shapes = prop_oneof![
        "[A-Za-z0-9_-]{43}",
        "[A-Za-z0-9+/]{43}=[A-Za-z0-9_-]{43}",
        "[A-Za-z0-9+/]{95}=",
        "[A-Za-z0-9+/]{94}==",
    ];
    let result = TestRunner::default().run(&shapes, |value| {
        for app in [&signed, &encrypted] {
            let page = runtime.block_on(with(app, "/show", &value));
            prop_assert_eq!((page.status, &*page.text), (StatusCode::OK, "nobody "));
        }
        prop_assert_eq!(proxy.turns(), 0);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_layer_whose_cookie_a_browser_would_refuse_cannot_be_built() {
    type Build = fn(SessionLayer) -> SessionLayer;
    let cases: [(&str, Build); 12] = [
        ("__Secure-sid", |layer| layer.cookie_name("__Host-id").cookie_domain("example.com")),
        ("__Secure-sid", |layer| layer.cookie_path("/app").cookie_name("__Host-id")),
        ("without Secure", |layer| layer.insecure_plain_http().cookie_name("__Secure-id")),
        ("without HttpOnly", |layer| layer.insecure_script_access().cookie_name("__Http-id")),
        ("SameSite=None", |layer| layer.insecure_plain_http().same_site(SameSite::None)),
        ("partitioned", |layer| layer.partitioned(true).insecure_plain_http()),
        ("Max-Age", |layer| layer.max_age(Duration::ZERO)),
        ("RFC 6265", |layer| layer.cookie_name("sid\r\nSet-Cookie: a")),
        ("path", |layer| layer.cookie_path("/\r\nSet-Cookie: a=b")),
        ("host", |layer| layer.cookie_domain("example.com\r\nSet-Cookie: a=b")),
        ("no key", |layer| layer.signing_keys([])),
        ("no key", |layer| layer.encryption_keys([])),
    ];
    for (fault, build) in cases {
        let built = catch_unwind(|| build(layer(Backend::memory())));
        let panic = built.expect_err(fault);
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.unwrap_or_else(|| panic.downcast_ref::<&str>().unwrap().to_string());
        assert!(message.contains(fault), "{fault}: {message}");
    }
}

//! The example `login_throttle`, driven over real HTTP through a proxy that tells the clients' addresses.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

#[expect(dead_code, reason = "its `main` is not called here")]
#[path = "../examples/login_throttle.rs"]
mod example;

use crate::{
    harness::Harness,
    support::http::{
        client::{HttpClient, Reply},
        server::HttpServer,
    },
};
use axum::body::Body;
use http::{Request, StatusCode, header::CONTENT_TYPE};
use std::time::Duration;
use towerkeep::TrustedProxies;

on_every_backend! {
    wrong_passwords_for_an_account_are_stopped_wherever_they_come_from,
    wrong_passwords_from_an_address_are_stopped_whatever_it_forges,
    right_passwords_never_count,
    who_goes_on_after_the_limit_is_banned,
    who_tries_a_trap_is_banned,
    a_form_that_is_none_is_refused_and_counts_for_nobody,
}

const RIGHT: &str = "user=ann&password=correct+horse";

struct Site {
    server: HttpServer,
    client: HttpClient,
}

impl Site {
    async fn start(harness: &Harness) -> Self {
        let proxies = TrustedProxies::networks(["127.0.0.1"]).unwrap();
        let server = HttpServer::start(example::app(&harness.backend, proxies)).await;
        Self { server, client: HttpClient::http1() }
    }

    async fn send(&self, from: &str, form: &str) -> Reply {
        let request = Request::post(self.server.url("/login"))
            .header("x-forwarded-for", from)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.client.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }

    async fn attempt(&self, from: &str, form: &str) -> u16 {
        self.send(from, form).await.status.as_u16()
    }
}

async fn wrong_passwords_for_an_account_are_stopped_wherever_they_come_from(harness: Harness) {
    let site = Site::start(&harness).await;
    for n in 0..5 {
        // However the name is written, it is one account.
        let form = format!("user={}&password={n}", if n % 2 == 0 { "ann" } else { "ANN" });
        assert_eq!(site.attempt(&format!("203.0.113.{n}"), &form).await, 401);
    }
    let denied = site.send("203.0.113.99", RIGHT).await;
    assert_eq!(denied.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denied.header("retry-after"), Some("300"));
    let bob = "user=bob&password=battery+staple";
    assert_eq!(site.attempt("203.0.113.1", bob).await, 200, "another account");
    harness.advance(Duration::from_secs(300));
    assert_eq!(site.attempt("203.0.113.99", RIGHT).await, 200);
}

async fn wrong_passwords_from_an_address_are_stopped_whatever_it_forges(harness: Harness) {
    let site = Site::start(&harness).await;
    for n in 0..10 {
        let (from, form) = (format!("1.2.3.{n}, 203.0.113.7"), format!("user=u{n}&password=x"));
        assert_eq!(site.attempt(&from, &form).await, 401);
    }
    assert_eq!(site.attempt("9.9.9.9, 203.0.113.7", "user=u&password=x").await, 429);
    assert_eq!(site.attempt("203.0.113.8", RIGHT).await, 200, "another address");
}

async fn right_passwords_never_count(harness: Harness) {
    let site = Site::start(&harness).await;
    for _ in 0..30 {
        assert_eq!(site.attempt("203.0.113.7", RIGHT).await, 200);
    }
}

async fn who_goes_on_after_the_limit_is_banned(harness: Harness) {
    let site = Site::start(&harness).await;
    let wrong = |n: u32| format!("user=u{n}&password=x");
    for n in 0..10 {
        assert_eq!(site.attempt("203.0.113.7", &wrong(n)).await, 401);
    }
    for n in 0..19 {
        let denied = site.send("203.0.113.7", &wrong(n)).await;
        assert_eq!(denied.header("retry-after"), Some("60"), "denied, and not banned yet");
    }
    let banned = site.send("203.0.113.7", RIGHT).await;
    assert!(banned.text().contains("abnormal-usage-detected"), "{}", banned.text());
    assert_eq!(banned.header("retry-after"), Some("3600"));
    assert_eq!(site.attempt("203.0.113.8", RIGHT).await, 200, "another address");
    harness.advance(Duration::from_secs(3_600));
    assert_eq!(site.attempt("203.0.113.7", RIGHT).await, 200);
}

async fn who_tries_a_trap_is_banned(harness: Harness) {
    let site = Site::start(&harness).await;
    // One customer has the whole of a /64.
    assert_eq!(site.attempt("2001:db8::1", "user=Root&password=toor").await, 401);
    let banned = site.send("2001:db8::2", RIGHT).await;
    assert_eq!(banned.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(banned.text().contains("abnormal-usage-detected"), "{}", banned.text());
    assert_eq!(banned.header("retry-after"), Some("3600"));
    assert_eq!(site.attempt("2001:db8:0:1::1", RIGHT).await, 200, "another customer");
    harness.advance(Duration::from_secs(3_600));
    assert_eq!(site.attempt("2001:db8::2", RIGHT).await, 200);
}

async fn a_form_that_is_none_is_refused_and_counts_for_nobody(harness: Harness) {
    let site = Site::start(&harness).await;
    for _ in 0..12 {
        assert_eq!(site.attempt("203.0.113.7", "user=ann").await, 422);
        let long = format!("user=ann&password={}", "x".repeat(2_000));
        assert_eq!(site.attempt("203.0.113.7", &long).await, 413);
    }
    assert_eq!(site.attempt("203.0.113.7", RIGHT).await, 200);
}

//! The example `limits_by_plan`, driven over real HTTP: its tenants on one port, its operator on another.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

#[expect(dead_code, reason = "its `main` is not called here")]
#[path = "../examples/limits_by_plan.rs"]
mod example;

use crate::{
    harness::Harness,
    support::http::{
        client::{HttpClient, Reply},
        server::HttpServer,
    },
};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::Value;
use std::time::Duration;

on_every_backend! {
    each_plan_has_its_own_limits_and_says_so,
    an_operator_looks_at_a_tenant_and_gives_it_a_fresh_start_or_a_ban,
    another_plan_holds_from_the_next_request_on,
    nobody_finds_a_key_by_trying,
}

/// A server of the API, and its operator's port.
struct Api {
    public: HttpServer,
    operator: HttpServer,
    client: HttpClient,
}

impl Api {
    async fn start(harness: &Harness) -> Self {
        let tenants = example::Tenants::default();
        let limits = example::limits(harness.backend.clone());
        let app = example::app(&harness.backend, limits.clone(), tenants.clone());
        let public = HttpServer::start(app).await;
        let operator = HttpServer::start(example::admin(limits, tenants)).await;
        Self { public, operator, client: HttpClient::http1() }
    }

    async fn report(&self, key: &str) -> Reply {
        let request = Request::get(self.public.url("/report")).header("x-api-key", key);
        self.client.send(request.body(Body::empty()).unwrap()).await
    }

    /// How many of so many reports are given.
    async fn given(&self, key: &str, of: usize) -> usize {
        let mut given = 0;
        for _ in 0..of {
            given += usize::from(self.report(key).await.status == StatusCode::OK);
        }
        given
    }

    async fn operate(&self, method: Method, path: &str) -> Reply {
        let request = Request::builder().method(method).uri(self.operator.url(path));
        self.client.send(request.body(Body::empty()).unwrap()).await
    }

    async fn done(&self, method: Method, path: &str) {
        let reply = self.operate(method, path).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{path}: {}", reply.text());
    }

    async fn look(&self, tenant: &str) -> Value {
        let reply = self.operate(Method::GET, &format!("/tenants/{tenant}")).await;
        serde_json::from_slice(&reply.body).unwrap()
    }
}

async fn each_plan_has_its_own_limits_and_says_so(harness: Harness) {
    let api = Api::start(&harness).await;
    let free = api.report("acme-key").await;
    assert!(free.text().contains("acme; 4 more"), "{}", free.text());
    let policies = "\"burst\";q=5;w=10, \"daily\";q=1000;w=86400";
    assert_eq!(free.header("ratelimit-policy"), Some(policies));
    assert_eq!(free.header("x-ratelimit-remaining"), Some("4"));
    let pro = api.report("globex-key").await;
    assert!(pro.text().contains("globex; 49 more"), "{}", pro.text());
    let policies = "\"burst\";q=50;w=10, \"daily\";q=100000;w=86400";
    assert_eq!(pro.header("ratelimit-policy"), Some(policies));
    assert_eq!((api.given("acme-key", 10).await, api.given("globex-key", 10).await), (4, 10));
    let denied = api.report("acme-key").await;
    assert_eq!(denied.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(denied.text().contains("\"violated-policies\":[\"burst\"]"), "{}", denied.text());
    harness.advance(Duration::from_secs(2));
    assert_eq!(api.given("acme-key", 2).await, 1);
}

async fn an_operator_looks_at_a_tenant_and_gives_it_a_fresh_start_or_a_ban(harness: Harness) {
    let api = Api::start(&harness).await;
    api.given("globex-key", 10).await;
    let seen = api.look("globex").await;
    assert_eq!((&seen["plan"], &seen["burst"]["remaining"]), (&"pro".into(), &40.into()), "{seen}");
    assert_eq!(seen["daily"]["remaining"], 99_990);
    api.done(Method::POST, "/tenants/globex/reset").await;
    let seen = api.look("globex").await;
    assert_eq!(seen["burst"]["remaining"], 50);
    assert_eq!(seen["daily"]["remaining"], 100_000);

    api.done(Method::PUT, "/tenants/globex/ban?seconds=60").await;
    assert_eq!(api.look("globex").await["daily"]["banned"], true);
    let banned = api.report("globex-key").await;
    assert_eq!((banned.status.as_u16(), banned.header("retry-after")), (429, Some("60")));
    assert!(banned.text().contains("abnormal-usage-detected"), "{}", banned.text());
    assert_eq!(api.given("acme-key", 1).await, 1, "only one tenant is banned");
    api.done(Method::DELETE, "/tenants/globex/ban").await;
    assert_eq!(api.given("globex-key", 1).await, 1);

    let reply = api.operate(Method::GET, "/tenants/nobody").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

async fn another_plan_holds_from_the_next_request_on(harness: Harness) {
    let api = Api::start(&harness).await;
    assert_eq!(api.given("acme-key", 6).await, 5);
    api.done(Method::PUT, "/tenants/acme/plan/pro").await;
    assert_eq!(api.given("acme-key", 40).await, 40);
    api.done(Method::PUT, "/tenants/acme/plan/free").await;
    assert_eq!(api.given("acme-key", 6).await, 5);
    let seen = api.look("acme").await;
    assert_eq!(
        (&seen["plan"], &seen["daily"]["remaining"]),
        (&"free".into(), &950.into()),
        "{seen}"
    );
}

async fn nobody_finds_a_key_by_trying(harness: Harness) {
    let api = Api::start(&harness).await;
    api.given("acme-key", 5).await;
    for guess in 0..10 {
        let reply = api.report(&format!("guess-{guess}-key")).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
        assert!(reply.header("ratelimit").is_none());
    }
    assert_eq!(api.report("globex-key").await.status, StatusCode::TOO_MANY_REQUESTS);
    harness.advance(Duration::from_secs(60));
    assert_eq!(api.report("globex-key").await.status, StatusCode::OK);
}

//! A session in a browser, over HTTP/1 and HTTP/2: what is left in its jar after requests that overlap
//! with a login, a rotation and a logout.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::Harness,
    support::http::{
        browser::Browser,
        client::{HttpClient, Reply},
        server::HttpServer,
    },
};
use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::StatusCode;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet};
use towerkeep::session::{CookieKey, Error, Session, SessionLayer};

on_every_backend! {
    a_visit_from_the_first_page_to_the_logout,
    a_login_survives_the_requests_that_it_overtakes,
    a_login_survives_the_requests_that_come_late_with_the_old_cookie,
    a_login_survives_the_writes_that_it_overtakes_while_a_key_is_replaced,
    a_rotation_survives_what_it_overtakes,
    a_logout_in_one_tab_holds_in_the_other,
    a_closed_browser_is_logged_out_unless_the_cookie_outlives_it,
    a_logout_on_one_device_is_none_on_another,
}

const COOKIE: &str = "__Host-sid";

/// How many requests are under way at a time.
const TABS: u32 = 8;

/// Where requests wait that have their session and have not answered yet.
#[derive(Clone)]
struct Gate {
    arrived: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Gate {
    fn closed() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), go: Arc::new(Semaphore::new(0)) }
    }

    async fn pass(&self) {
        self.arrived.add_permits(1);
        self.go.acquire().await.unwrap().forget();
    }

    /// Waits until so many stand in front of it.
    async fn wait_for(&self, requests: u32) {
        self.arrived.acquire_many(requests).await.unwrap().forget();
    }

    /// Lets so many pass.
    fn open(&self, requests: u32) {
        self.go.add_permits(requests as usize);
    }
}

struct Site {
    server: HttpServer,
    gate: Gate,
}

impl Site {
    async fn open(layer: SessionLayer) -> Self {
        let gate = Gate::closed();
        let app = Router::new()
            .route("/", get(show))
            .route("/cart", post(add))
            .route("/login/{user}", post(login))
            .route("/rotate", post(async |session: Session| session.rotate()))
            .route("/logout", post(async |session: Session| session.destroy()))
            .route("/slow", get(slow_show))
            .route("/slow/cart", post(slow_add))
            .with_state(gate.clone())
            .layer(layer);
        Self { server: HttpServer::start(app).await, gate }
    }

    fn browsers(&self) -> [Arc<Browser>; 2] {
        [HttpClient::http1(), HttpClient::http2()]
            .map(|http| Arc::new(Browser::with(http, self.server.addr(), true)))
    }
}

/// The user and how much is in the cart.
async fn show(session: Session) -> Result<String, Error> {
    let user = session.user().map_or("nobody".to_owned(), |user| user.to_string());
    Ok(format!("{user} {}", session.get::<i64>("cart")?.unwrap_or_default()))
}

async fn add(session: Session) -> Result<(), Error> {
    session.incr("cart", 1).map(drop)
}

async fn login(session: Session, Path(user): Path<String>) -> Result<(), Error> {
    session.login(user)
}

async fn slow_show(session: Session, State(gate): State<Gate>) -> Result<String, Error> {
    gate.pass().await;
    show(session).await
}

async fn slow_add(session: Session, State(gate): State<Gate>) -> Result<(), Error> {
    gate.pass().await;
    add(session).await
}

fn cookie(browser: &Browser) -> Option<String> {
    browser.jar().get(COOKIE).map(|cookie| cookie.value.clone())
}

async fn ok(reply: impl Future<Output = Reply>) -> String {
    let reply = reply.await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    reply.text().to_owned()
}

/// Requests of the same browser that read and write, half and half.
fn tabs(browser: &Arc<Browser>, read: &'static str, write: &'static str) -> JoinSet<Reply> {
    let tab = |n| {
        let browser = browser.clone();
        async move {
            if n % 2 == 0 && read != write {
                browser.get(read).await
            } else {
                browser.post(write, "").await
            }
        }
    };
    (0..TABS).map(tab).collect()
}

fn assert_no_cookie(replies: &[Reply]) {
    for reply in replies {
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.header("set-cookie"), None, "it takes the new cookie's place");
    }
}

async fn a_visit_from_the_first_page_to_the_logout(harness: Harness) {
    let site = Site::open(SessionLayer::new(harness.backend.clone())).await;
    for browser in site.browsers() {
        assert_eq!(ok(browser.get("/")).await, "nobody 0");
        assert!(browser.jar().is_empty(), "who only looks gets no cookie");
        ok(browser.post("/cart", "")).await;
        let anonymous = cookie(&browser).unwrap();
        {
            let jar = browser.jar();
            let kept = jar.get(COOKIE).unwrap();
            assert!(kept.secure && kept.http_only && kept.path == "/" && kept.domain.is_none());
            assert_eq!((kept.same_site.as_deref(), kept.expires), (Some("Lax"), None));
        }
        ok(browser.post("/login/ann", "")).await;
        let logged_in = cookie(&browser).unwrap();
        assert_ne!(logged_in, anonymous);
        assert_eq!(ok(browser.get("/")).await, "ann 1");
        ok(browser.post("/rotate", "")).await;
        assert_ne!(cookie(&browser).unwrap(), logged_in);
        assert_eq!(ok(browser.get("/")).await, "ann 1");
        ok(browser.post("/logout", "")).await;
        assert!(browser.jar().is_empty());
        assert_eq!(ok(browser.get("/")).await, "nobody 0");
        for old in [anonymous, logged_in] {
            browser.jar().set(COOKIE, &old);
            assert_eq!(ok(browser.get("/")).await, "nobody 0");
        }
    }
    if harness.is_shared() {
        assert!(harness.keys("*").is_empty(), "nothing is left of the visits");
    }
}

async fn a_login_survives_the_requests_that_it_overtakes(harness: Harness) {
    let site = Site::open(SessionLayer::new(harness.backend.clone())).await;
    for browser in site.browsers() {
        ok(browser.post("/cart", "")).await;
        let overtaken = tabs(&browser, "/slow", "/slow/cart");
        site.gate.wait_for(TABS).await;
        ok(browser.post("/login/ann", "")).await;
        site.gate.open(TABS);
        assert_no_cookie(&overtaken.join_all().await);
        assert_eq!(ok(browser.get("/")).await, "ann 1", "a write under the old cookie held");
    }
}

async fn a_login_survives_the_requests_that_come_late_with_the_old_cookie(harness: Harness) {
    let site = Site::open(SessionLayer::new(harness.backend.clone())).await;
    for browser in site.browsers() {
        ok(browser.post("/cart", "")).await;
        let late = Arc::new(browser.at(site.server.addr()));
        ok(browser.post("/login/ann", "")).await;
        let replies = tabs(&late, "/", "/cart").join_all().await;
        assert_no_cookie(&replies);
        for reply in replies.iter().filter(|reply| !reply.body.is_empty()) {
            assert_eq!(reply.text(), "nobody 0");
        }
        assert_eq!(ok(browser.get("/")).await, "ann 1");
    }
}

async fn a_login_survives_the_writes_that_it_overtakes_while_a_key_is_replaced(harness: Harness) {
    let layer = SessionLayer::new(harness.backend.clone());
    let (old, new) = (CookieKey::random(), CookieKey::random());
    let before = Site::open(layer.clone().signing_keys([old.clone()])).await;
    let during = Site::open(layer.signing_keys([new, old])).await;
    for browser in before.browsers() {
        ok(browser.post("/cart", "")).await;
        // Each of these would be given its cookie anew, under the new key.
        let browser = Arc::new(browser.at(during.server.addr()));
        let overtaken = tabs(&browser, "/slow/cart", "/slow/cart");
        during.gate.wait_for(TABS).await;
        ok(browser.post("/login/ann", "")).await;
        during.gate.open(TABS);
        assert_no_cookie(&overtaken.join_all().await);
        assert_eq!(ok(browser.get("/")).await, "ann 1");
    }
}

async fn a_rotation_survives_what_it_overtakes(harness: Harness) {
    let site = Site::open(SessionLayer::new(harness.backend.clone())).await;
    for browser in site.browsers() {
        ok(browser.post("/login/ann", "")).await;
        let overtaken = tabs(&browser, "/slow", "/slow/cart");
        site.gate.wait_for(TABS).await;
        ok(browser.post("/rotate", "")).await;
        site.gate.open(TABS);
        assert_no_cookie(&overtaken.join_all().await);
        assert_eq!(ok(browser.get("/")).await, "ann 0");
    }
}

async fn a_logout_in_one_tab_holds_in_the_other(harness: Harness) {
    let site = Site::open(SessionLayer::new(harness.backend.clone())).await;
    for browser in site.browsers() {
        ok(browser.post("/login/ann", "")).await;
        let overtaken = tabs(&browser, "/slow", "/slow/cart");
        site.gate.wait_for(TABS).await;
        ok(browser.post("/logout", "")).await;
        site.gate.open(TABS);
        assert_no_cookie(&overtaken.join_all().await);
        assert!(browser.jar().is_empty(), "a request that came too late logged in again");
        assert_eq!(ok(browser.get("/")).await, "nobody 0");
    }
}

async fn a_closed_browser_is_logged_out_unless_the_cookie_outlives_it(harness: Harness) {
    let layer = SessionLayer::new(harness.backend.clone());
    let day = Duration::from_secs(24 * 60 * 60);
    for (layer, left) in [(layer.clone(), "nobody 0"), (layer.max_age(day), "ann 0")] {
        let site = Site::open(layer).await;
        for browser in site.browsers() {
            ok(browser.post("/login/ann", "")).await;
            browser.jar().close();
            assert_eq!(ok(browser.get("/")).await, left);
            browser.jar().advance(day);
            assert_eq!(ok(browser.get("/")).await, "nobody 0");
        }
    }
}

async fn a_logout_on_one_device_is_none_on_another(harness: Harness) {
    let site = Site::open(SessionLayer::new(harness.backend.clone())).await;
    let [laptop, phone] = site.browsers();
    for device in [&laptop, &phone] {
        ok(device.post("/login/ann", "")).await;
        ok(device.post("/cart", "")).await;
    }
    ok(laptop.post("/logout", "")).await;
    assert_eq!(ok(laptop.get("/")).await, "nobody 0");
    assert_eq!(ok(phone.get("/")).await, "ann 1");
}

//! The example `login`, driven over real HTTP by browsers that keep cookies.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

#[expect(dead_code, reason = "its `main` is not called here")]
#[path = "../examples/login/main.rs"]
mod login;

use crate::{
    harness::{Harness, PREFIX},
    support::http::{
        browser::Browser,
        client::{HttpClient, Reply},
        server::HttpServer,
    },
};
use axum::body::Body;
use http::{Request, StatusCode, header};
use std::time::Duration;

on_every_backend! {
    an_account_is_made_once_and_opened_by_its_password,
    a_user_sees_their_devices_and_logs_one_out,
    a_user_logs_out_on_all_other_devices_or_everywhere,
    nobody_logs_out_the_device_of_another,
    who_is_remembered_comes_back_after_the_browser_was_closed,
    a_form_on_another_site_is_refused,
    what_a_client_says_of_itself_is_shown_as_text,
}

const COOKIE: &str = "__Host-sid";
const LAPTOP: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const PHONE: &str =
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1";

/// A browser of a kind, on the site.
struct Device {
    browser: Browser,
    agent: String,
}

impl Device {
    fn new(server: &HttpServer, agent: &str) -> Self {
        let browser = Browser::with(HttpClient::http1(), server.addr(), true);
        Self { browser, agent: agent.to_owned() }
    }

    async fn send(&self, request: http::request::Builder, body: &str) -> Reply {
        let request = request
            .header(header::USER_AGENT, &self.agent)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.browser.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn home(&self) -> String {
        let reply = self.send(Request::get("/"), "").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.text().to_owned()
    }

    async fn post(&self, path: &str, form: &str) -> Reply {
        self.send(Request::post(path), form).await
    }

    /// Sends a form that is accepted, and follows to the next page.
    async fn submit(&self, path: &str, form: &str) -> String {
        let reply = self.post(path, form).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{}", reply.text());
        let next = reply.header("location").unwrap();
        let reply = self.send(Request::get(next), "").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.text().to_owned()
    }

    fn cookie(&self) -> Option<String> {
        self.browser.jar().get(COOKIE).map(|cookie| cookie.value.clone())
    }
}

async fn site(harness: &Harness) -> HttpServer {
    HttpServer::start(login::app(harness.backend.clone(), PREFIX)).await
}

const ANN: &str = "name=ann&password=correct+horse";
const BOB: &str = "name=bob&password=battery+staple";

/// The handles of the devices on a page that can be logged out.
fn handles(page: &str) -> Vec<&str> {
    let forms = page.split("name=\"handle\" value=\"").skip(1);
    forms.map(|form| form.split('"').next().unwrap()).collect()
}

fn is_logged_in(page: &str) -> bool {
    page.contains("Hello, ")
}

async fn an_account_is_made_once_and_opened_by_its_password(harness: Harness) {
    let server = site(&harness).await;
    let (laptop, phone) = (Device::new(&server, LAPTOP), Device::new(&server, PHONE));
    assert!(laptop.home().await.contains("Register"));
    assert_eq!(laptop.cookie(), None);
    let page = laptop.submit("/register", ANN).await;
    assert!(page.contains("Hello, ann") && page.contains("Your account is ready"), "{page}");
    let again = laptop.home().await;
    assert!(again.contains("2 times") && !again.contains("Your account is ready"), "{again}");

    for (path, form, status, reason) in [
        ("/register", ANN, StatusCode::CONFLICT, "taken"),
        ("/register", "name=cid&password=short", StatusCode::UNPROCESSABLE_ENTITY, "8 to 200"),
        ("/register", "name=%3Cb%3E&password=longenough", StatusCode::UNPROCESSABLE_ENTITY, "name"),
        ("/login", "name=ann&password=wrong", StatusCode::UNAUTHORIZED, "Name or password"),
        ("/login", "name=nobody&password=wrong", StatusCode::UNAUTHORIZED, "Name or password"),
    ] {
        let reply = phone.post(path, form).await;
        assert_eq!(reply.status, status, "{form}: {}", reply.text());
        assert!(reply.text().contains(reason), "{form}: {}", reply.text());
        assert_eq!(phone.cookie(), None);
    }
    assert!(phone.submit("/login", ANN).await.contains("Hello, ann"));

    let before = laptop.cookie().unwrap();
    let bye = laptop.submit("/logout", "").await;
    assert!(bye.contains("You are logged out.") && laptop.cookie().is_none());
    laptop.browser.jar().set(COOKIE, &before);
    assert!(!is_logged_in(&laptop.home().await), "the old cookie still opens the account");
}

async fn a_user_sees_their_devices_and_logs_one_out(harness: Harness) {
    let server = site(&harness).await;
    let (laptop, phone) = (Device::new(&server, LAPTOP), Device::new(&server, PHONE));
    laptop.submit("/register", ANN).await;
    phone.submit("/login", ANN).await;
    let page = laptop.home().await;
    assert!(page.contains("Firefox on Linux") && page.contains("Safari on iPhone"), "{page}");
    assert_eq!(page.matches("this device").count(), 1);
    let [handle] = handles(&page)[..] else { panic!("one other device: {page}") };
    assert!(!phone.cookie().unwrap().contains(&page), "the page shows a credential");
    let after = laptop.submit("/revoke", &format!("handle={handle}")).await;
    assert!(after.contains("That device is logged out."), "{after}");
    assert!(handles(&after).is_empty());
    assert!(after.contains("logged out another device"), "the trail says so: {after}");
    assert!(!is_logged_in(&phone.home().await));
    let again = laptop.submit("/revoke", &format!("handle={handle}")).await;
    assert!(again.contains("already"), "{again}");
    assert_eq!(laptop.post("/revoke", "handle=..").await.status, StatusCode::BAD_REQUEST);
}

async fn a_user_logs_out_on_all_other_devices_or_everywhere(harness: Harness) {
    let server = site(&harness).await;
    let devices = [LAPTOP, PHONE, "curl/8.0"].map(|agent| Device::new(&server, agent));
    devices[0].submit("/register", ANN).await;
    devices[1].submit("/login", ANN).await;
    devices[2].submit("/login", ANN).await;
    let page = devices[0].submit("/logout-everywhere", "keep=this").await;
    assert!(is_logged_in(&page) && page.contains("Logged out on 2 other devices"), "{page}");
    for device in &devices[1..] {
        assert!(!is_logged_in(&device.home().await));
    }
    devices[1].submit("/login", ANN).await;
    let page = devices[0].submit("/logout-everywhere", "").await;
    assert!(page.contains("You are logged out on 2 devices."), "{page}");
    assert_eq!(devices[0].cookie(), None);
    for device in &devices {
        assert!(!is_logged_in(&device.home().await));
    }
}

async fn nobody_logs_out_the_device_of_another(harness: Harness) {
    let server = site(&harness).await;
    let agents = [LAPTOP, PHONE, LAPTOP];
    let [ann, phone, bob] = agents.map(|agent| Device::new(&server, agent));
    ann.submit("/register", ANN).await;
    phone.submit("/login", ANN).await;
    bob.submit("/register", BOB).await;
    let page = ann.home().await;
    let handle = handles(&page)[0];
    let page = bob.submit("/revoke", &format!("handle={handle}")).await;
    assert!(page.contains("already"), "{page}");
    bob.submit("/logout-everywhere", "").await;
    assert!(is_logged_in(&phone.home().await) && is_logged_in(&ann.home().await));
}

async fn who_is_remembered_comes_back_after_the_browser_was_closed(harness: Harness) {
    let server = site(&harness).await;
    let (home, cafe) = (Device::new(&server, LAPTOP), Device::new(&server, LAPTOP));
    home.submit("/register", ANN).await;
    home.submit("/login", &format!("{ANN}&remember=on")).await;
    cafe.submit("/login", ANN).await;
    for device in [&home, &cafe] {
        device.browser.jar().close();
    }
    assert!(!is_logged_in(&cafe.home().await));
    let page = home.home().await;
    assert!(is_logged_in(&page) && page.contains("remembered"), "{page}");
    // Longer than a day, which is all that others have.
    let days = Duration::from_secs(10 * 24 * 60 * 60);
    harness.advance(days);
    home.browser.jar().advance(days);
    assert!(is_logged_in(&home.home().await));
    harness.advance(days * 2);
    assert!(!is_logged_in(&home.home().await));
}

async fn a_form_on_another_site_is_refused(harness: Harness) {
    let server = site(&harness).await;
    let ann = Device::new(&server, LAPTOP);
    ann.submit("/register", ANN).await;
    let own = format!("http://{}", server.addr());
    for (name, value, allowed) in [
        ("origin", "https://evil.example", false),
        ("origin", "null", false),
        ("sec-fetch-site", "cross-site", false),
        ("sec-fetch-site", "same-site", false),
        ("sec-fetch-site", "same-origin", true),
        ("origin", &own, true),
    ] {
        let request = Request::post("/login").header(name, value);
        let reply = ann.send(request, ANN).await;
        let expected = if allowed { StatusCode::SEE_OTHER } else { StatusCode::FORBIDDEN };
        assert_eq!(reply.status, expected, "{name}: {value}");
    }
    assert!(is_logged_in(&ann.home().await));
}

async fn what_a_client_says_of_itself_is_shown_as_text(harness: Harness) {
    let server = site(&harness).await;
    let evil = Device::new(&server, "<script>alert(1)</script>");
    let page = evil.submit("/register", ANN).await;
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let reply = evil.send(Request::get("/"), "").await;
    assert!(reply.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
}

//! The session layer, over memory and Redis, over axum and a plain service.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{
        http::{client::HttpClient, cookies::CookieJar, server::HttpServer},
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Request},
    middleware::{Next, from_fn},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::{
    Backend, StoreError, StoreFuture, Tasks, UserId,
    marks::{Finish, SessionTouched},
    session::{
        Committed, Created, Delta, Destroyed, Error, Key, LazySession, Limits, NewSession,
        OnStoreError, Record, Selector, Session, SessionLayer, SessionStore, Swap, Swapped, Token,
        Trail, UserStore, VerifierHash,
    },
};

on_every_backend! {
    a_visitor_for_whom_nothing_is_stored_leaves_no_trace,
    what_is_set_is_there_at_the_next_request,
    concurrent_requests_keep_all_their_changes,
    concurrent_writes_of_as_many_fields_as_there_may_be_are_all_kept,
    an_id_that_the_server_never_made_is_not_adopted,
    a_login_gives_a_new_cookie_and_the_old_one_fails,
    a_login_as_another_user_leaves_nothing_of_the_first,
    a_login_clicked_twice_logs_in_twice,
    a_logout_holds_everywhere_at_once,
    what_is_set_after_a_logout_begins_another_session,
    a_failed_request_saves_nothing_but_a_logout,
    a_session_that_ends_meanwhile_stays_ended,
    a_session_slides_and_its_cookie_with_it,
    whoever_lets_a_handler_outlive_its_client_saves_its_session_once,
    a_plain_service_has_sessions_over_http_1_and_2,
}

const COOKIE: &str = "__Host-sid";
const VISITS: Key<u64> = Key::new("visits");

/// An application that does with its session what the path says.
fn routes() -> Router {
    Router::new()
        .route("/plain", get(async || "plain"))
        .route("/show", get(show))
        .route("/set/{field}/{value}", get(set))
        .route("/visit", get(visit))
        .route("/login/{user}", get(login))
        .route("/rotate", get(async |session: Session| session.rotate()))
        .route("/logout", get(async |session: Session| session.destroy()))
        .route("/fail/{field}/{value}", get(fail))
        .route("/fail-logout", get(fail_logout))
}

fn app(store: impl SessionStore) -> Router {
    routes().layer(SessionLayer::new(store))
}

/// The user and every field, as text.
async fn show(session: Session) -> Result<String, Error> {
    let mut shown = session.user().map(|user| user.to_string()).unwrap_or_default();
    for name in session.names() {
        let value: serde_json::Value = session.get(&name)?.unwrap();
        shown += &format!(" {name}={value}");
    }
    Ok(shown)
}

async fn set(session: Session, Path((field, value)): Path<(String, String)>) -> Result<(), Error> {
    session.set(&field, &value)
}

async fn visit(session: Session) -> Result<String, Error> {
    let visits = session.incr(VISITS, 1)?;
    assert_eq!(session.get(VISITS)?, Some(visits as u64));
    Ok(visits.to_string())
}

async fn login(session: Session, Path(user): Path<String>) -> Result<(), Error> {
    session.set("before", "login")?;
    session.login(user)?;
    session.set("after", "login")
}

async fn fail(
    session: Session,
    Path((field, value)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    session.set(&field, &value)?;
    session.rotate();
    Ok(StatusCode::INTERNAL_SERVER_ERROR)
}

async fn fail_logout(session: Session) -> Result<StatusCode, Error> {
    session.destroy();
    session.set("after", "logout")?;
    Ok(StatusCode::BAD_GATEWAY)
}

/// One browser, without a socket.
struct Visitor {
    app: Router,
    jar: Mutex<CookieJar>,
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    touched: bool,
    text: String,
}

impl Page {
    fn cookies(&self) -> usize {
        self.headers.get_all(header::SET_COOKIE).iter().count()
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Visitor {
    fn new(app: &Router) -> Self {
        Self { app: app.clone(), jar: Mutex::new(CookieJar::new("localhost", true)) }
    }

    /// Somebody else with the same cookies.
    fn copy(&self) -> Self {
        Self { app: self.app.clone(), jar: Mutex::new(self.jar.lock().unwrap().clone()) }
    }

    fn cookie(&self) -> Option<String> {
        self.jar.lock().unwrap().get(COOKIE).map(|cookie| cookie.value.clone())
    }

    fn plant(&self, value: &str) {
        self.jar.lock().unwrap().set(COOKIE, value);
    }

    async fn get(&self, path: &str) -> Page {
        let cookies = self.jar.lock().unwrap().header(path);
        let page = send(&self.app, path, cookies.as_deref().unwrap_or_default()).await;
        self.jar.lock().unwrap().store(path, &page.headers);
        page
    }

    async fn show(&self) -> String {
        let page = self.get("/show").await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        page.text
    }
}

async fn send(app: &Router, path: &str, cookies: &str) -> Page {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    if !cookies.is_empty() {
        request.headers_mut().insert(header::COOKIE, cookies.parse().unwrap());
    }
    let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Page {
        status: head.status,
        touched: SessionTouched::in_extensions(&head.extensions),
        headers: head.headers,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}

async fn a_visitor_for_whom_nothing_is_stored_leaves_no_trace(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    let plain = visitor.get("/plain").await;
    assert!(!plain.touched && plain.headers.get(header::VARY).is_none());
    let read = visitor.get("/show").await;
    // What it shows to a visitor without a session it does not show to everyone.
    assert!(read.touched);
    assert_eq!(read.header(header::VARY), "cookie");
    assert_eq!(read.header(header::CACHE_CONTROL), "private");
    for path in ["/rotate", "/logout"] {
        visitor.get(path).await;
    }
    assert_eq!(plain.cookies() + read.cookies(), 0);
    assert_eq!(visitor.cookie(), None);
    if harness.is_shared() {
        assert_eq!(harness.keys("*").len(), 0);
    }
}

async fn what_is_set_is_there_at_the_next_request(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    let first = visitor.get("/set/theme/dark").await;
    let cookie = first.header(header::SET_COOKIE).to_owned();
    let expected =
        format!("{COOKIE}={}; HttpOnly; SameSite=Lax; Secure; Path=/", visitor.cookie().unwrap());
    assert_eq!(cookie, expected);
    assert_eq!(first.header(header::VARY), "cookie");
    assert_eq!(first.header(header::CACHE_CONTROL), "private, no-store");
    assert!(first.touched);
    let second = visitor.get("/set/size/large").await;
    assert_eq!(second.cookies(), 0, "the cookie is sent when it changes, not otherwise");
    assert_eq!(visitor.show().await, " size=\"large\" theme=\"dark\"");
}

async fn concurrent_writes_of_as_many_fields_as_there_may_be_are_all_kept(harness: Harness) {
    let nodes = [app(harness.backend.clone()), app(harness.another().await)];
    let visitor = Visitor::new(&nodes[0]);
    visitor.get("/set/f0/new").await;
    let cookies = format!("{COOKIE}={}", visitor.cookie().unwrap());
    let writes: JoinSet<_> = (0..64)
        .map(|n| {
            let (node, cookies) = (nodes[n % 2].clone(), cookies.clone());
            async move { send(&node, &format!("/set/f{n}/x"), &cookies).await.status }
        })
        .collect();
    assert!(writes.join_all().await.into_iter().all(|status| status == StatusCode::OK));
    assert_eq!(visitor.show().await.matches("=\"x\"").count(), 64);
}

async fn concurrent_requests_keep_all_their_changes(harness: Harness) {
    let nodes = [app(harness.backend.clone()), app(harness.another().await)];
    let visitor = Visitor::new(&nodes[0]);
    visitor.get("/visit").await;
    let cookies = format!("{COOKIE}={}", visitor.cookie().unwrap());
    let mut requests = JoinSet::new();
    for n in 0..63 {
        let (node, cookies) = (nodes[n % 2].clone(), cookies.clone());
        requests.spawn(async move {
            send(&node, "/visit", &cookies).await;
            send(&node, &format!("/set/f{n}/x"), &cookies).await.status
        });
    }
    assert!(requests.join_all().await.into_iter().all(|status| status == StatusCode::OK));
    let shown = visitor.show().await;
    assert!(shown.contains("visits=64"), "{shown}");
    assert_eq!(shown.matches("=\"x\"").count(), 63);
}

async fn an_id_that_the_server_never_made_is_not_adopted(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    let planted = Token::random().encode();
    visitor.plant(&planted);
    assert_eq!(visitor.get("/show").await.cookies(), 0);
    visitor.get("/set/a/1").await;
    let given = visitor.cookie().unwrap();
    assert_ne!(given[..22], planted[..22], "the client chose its session's id");
    let attacker = Visitor::new(&visitor.app);
    attacker.plant(&planted);
    assert_eq!(attacker.show().await, "");
}

async fn a_login_gives_a_new_cookie_and_the_old_one_fails(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    visitor.get("/set/cart/full").await;
    let planted = visitor.copy();
    visitor.get("/login/ann").await;
    assert_eq!(visitor.show().await, "ann after=\"login\" before=\"login\" cart=\"full\"");

    let stale = planted.get("/show").await;
    assert_eq!(stale.text, "");
    assert_eq!(stale.cookies(), 0, "a removal would take the new cookie away from the browser");
    let before = visitor.cookie();
    visitor.get("/rotate").await;
    assert_ne!(visitor.cookie(), before);
    assert!(visitor.show().await.starts_with("ann "));
    // Logging in again as the same user is one more rotation.
    visitor.get("/login/ann").await;
    assert!(visitor.show().await.contains("cart=\"full\""));
}

async fn a_login_as_another_user_leaves_nothing_of_the_first(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    visitor.get("/login/ann").await;
    let ann = visitor.copy();
    visitor.get("/login/bob").await;
    assert_eq!(visitor.show().await, "bob after=\"login\"");
    assert_ne!(visitor.cookie().unwrap()[..21], ann.cookie().unwrap()[..21]);
    assert_eq!(ann.show().await, "", "ann's session outlives her browser's next user");
    if harness.is_shared() {
        assert_eq!(harness.keys("*:user:*"), [format!("{PREFIX}:user:bob")]);
        assert_eq!(harness.keys("*").len(), 2);
    }
}

/// Runs a handler that waits in the middle for `meanwhile` to be done, on the same session.
async fn while_handling<F>(
    harness: &Harness,
    visitor: &Visitor,
    path: &str,
    meanwhile: impl FnOnce() -> F,
) -> Page
where
    F: Future<Output = ()>,
{
    let (loaded, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gates = (loaded.clone(), go.clone());
    let slow = routes().layer(from_fn(move |session: Session, request: Request, next: Next| {
        let (loaded, go) = gates.clone();
        async move {
            loaded.notify_one();
            go.notified().await;
            drop(session);
            next.run(request).await
        }
    }));
    let slow = slow.layer(SessionLayer::new(harness.backend.clone()));
    let cookies = visitor.jar.lock().unwrap().header(path).unwrap();
    let request = tokio::spawn({
        let path = path.to_owned();
        async move { send(&slow, &path, &cookies).await }
    });
    loaded.notified().await;
    meanwhile().await;
    go.notify_one();
    request.await.unwrap()
}

async fn a_login_clicked_twice_logs_in_twice(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    visitor.get("/set/cart/full").await;
    let second = while_handling(&harness, &visitor, "/login/ann", async || {
        visitor.copy().get("/login/ann").await;
    })
    .await;
    assert_eq!((second.status, second.cookies()), (StatusCode::OK, 1));
    visitor.jar.lock().unwrap().store("/", &second.headers);
    // The first click holds the cart; the second is logged in all the same.
    assert_eq!(visitor.show().await, "ann after=\"login\"");
}

async fn a_logout_holds_everywhere_at_once(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    visitor.get("/login/ann").await;
    let mut elsewhere = visitor.copy();
    elsewhere.app = app(harness.another().await);
    let logout = visitor.get("/logout").await;
    assert!(logout.header(header::SET_COOKIE).contains("Max-Age=0"));
    assert_eq!(logout.header(header::CACHE_CONTROL), "private, no-store");
    assert_eq!(visitor.cookie(), None);
    assert_eq!(elsewhere.show().await, "");
    // The handler said so, so a cookie that no longer holds goes too.
    elsewhere.get("/logout").await;
    assert_eq!(elsewhere.cookie(), None);
}

async fn what_is_set_after_a_logout_begins_another_session(harness: Harness) {
    let app = Router::new().route(
        "/bye",
        get(async |session: Session| {
            session.destroy();
            session.set("flash", "bye")
        }),
    );
    let app = app.merge(routes()).layer(SessionLayer::new(harness.backend.clone()));
    let visitor = Visitor::new(&app);
    visitor.get("/login/ann").await;
    let old = visitor.copy();
    assert_eq!(visitor.get("/bye").await.cookies(), 1);
    assert_eq!(visitor.show().await, " flash=\"bye\"");
    assert_eq!(old.show().await, "");
}

async fn a_failed_request_saves_nothing_but_a_logout(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    assert_eq!(visitor.get("/fail/a/1").await.cookies(), 0);
    visitor.get("/set/a/1").await;
    let cookie = visitor.cookie();
    visitor.get("/fail/a/2").await;
    assert_eq!(visitor.cookie(), cookie, "a failed request rotated the session");
    assert_eq!(visitor.show().await, " a=\"1\"");

    let saving = SessionLayer::new(harness.backend.clone()).save_on_server_error(true);
    let mut saved = visitor.copy();
    saved.app = routes().layer(saving);
    saved.get("/fail/a/3").await;
    assert_eq!(saved.show().await, " a=\"3\"");

    visitor.plant(&saved.cookie().unwrap());
    let failed = visitor.get("/fail-logout").await;
    assert_eq!(failed.status, StatusCode::BAD_GATEWAY);
    assert_eq!(visitor.cookie(), None);
    assert_eq!(saved.show().await, "", "a logout that failed half-way is no logout");
}

async fn a_session_that_ends_meanwhile_stays_ended(harness: Harness) {
    let visitor = Visitor::new(&app(harness.backend.clone()));
    visitor.get("/set/a/1").await;
    let late = while_handling(&harness, &visitor, "/set/a/2", async || {
        visitor.copy().get("/logout").await;
    })
    .await;
    assert_eq!((late.status, late.cookies()), (StatusCode::OK, 0));
    assert_eq!(visitor.show().await, "");
}

async fn a_session_slides_and_its_cookie_with_it(harness: Harness) {
    let idle = Duration::from_secs(1_000);
    let layer = SessionLayer::new(harness.backend.clone()).idle_timeout(idle);
    let browser = Visitor::new(&routes().layer(layer.clone()));
    let persistent = Visitor::new(&routes().layer(layer.max_age(idle * 2)));
    for visitor in [&browser, &persistent] {
        visitor.get("/set/a/1").await;
    }
    let early = persistent.get("/show").await;
    assert_eq!(early.cookies(), 0, "nothing was used up of the idle timeout");
    for _ in 0..4 {
        // A twentieth of the idle timeout is the throttle.
        harness.advance(idle / 2);
        assert_eq!(browser.get("/show").await.cookies(), 0);
        let slid = persistent.get("/show").await;
        assert!(slid.header(header::SET_COOKIE).contains("Max-Age=2000"), "{:?}", slid.headers);
        assert_eq!(harness.backend.shutdown(Duration::from_secs(10)).await, 0);
    }
    assert_eq!(browser.show().await, " a=\"1\"");
    assert_eq!(persistent.show().await, " a=\"1\"");
    harness.advance(idle);
    assert_eq!(browser.show().await, "");
}

/// Like the idempotency layer: the handler goes on in a task of its own, and its session is finished
/// there, after a permit of the gate.
#[derive(Clone)]
struct Outliving {
    gate: Arc<Semaphore>,
    finished: Arc<Notify>,
    failures: Arc<AtomicUsize>,
}

impl Outliving {
    fn new(permits: usize) -> Self {
        let gate = Arc::new(Semaphore::new(permits));
        Self { gate, finished: Arc::default(), failures: Arc::default() }
    }

    fn app(&self, backend: &Backend) -> Router {
        let this = self.clone();
        let layer = from_fn(move |request, next| this.clone().run(request, next));
        routes().layer(layer).layer(SessionLayer::new(backend.clone()))
    }

    async fn run(self, request: Request, next: Next) -> axum::response::Response {
        let finish = request.extensions().get::<Finish>().unwrap().clone();
        let task = tokio::spawn(async move {
            let response = next.run(request).await;
            self.gate.acquire().await.unwrap().forget();
            for _ in 0..2 {
                let run = finish.run(response.status()).await;
                self.failures.fetch_add(usize::from(run.is_err()), SeqCst);
            }
            self.finished.notify_one();
            response
        });
        task.await.unwrap()
    }
}

async fn whoever_lets_a_handler_outlive_its_client_saves_its_session_once(harness: Harness) {
    let outliving = Outliving::new(4);
    let visitor = Visitor::new(&outliving.app(&harness.backend));
    assert_eq!(visitor.get("/visit").await.cookies(), 1, "the response knows of the commit");
    visitor.get("/visit").await;
    let before = visitor.cookie();
    visitor.get("/rotate").await;
    assert_ne!(visitor.cookie(), before);
    assert_eq!(visitor.show().await, " visits=2");
    outliving.finished.notified().await;

    // The client leaves: nobody polls the session layer once the handler has begun.
    let cookies = format!("{COOKIE}={}", visitor.cookie().unwrap());
    let mut request = Box::pin(send(&visitor.app, "/visit", &cookies));
    assert!((&mut request).now_or_never().is_none());
    drop(request);
    outliving.gate.add_permits(2);
    outliving.finished.notified().await;
    assert_eq!(visitor.show().await, " visits=3");
    assert_eq!(outliving.failures.load(SeqCst), 0);
}

#[tokio::test]
async fn a_session_that_could_not_be_finished_is_not_answered_as_if_it_were() {
    let outliving = Outliving::new(1);
    let full = Backend::builder().max_session_bytes(1).memory();
    let page = send(&outliving.app(&full), "/visit", "").await;
    assert_eq!((page.status, page.cookies()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    assert_eq!(outliving.failures.load(SeqCst), 2, "what failed once has failed");
}

async fn a_plain_service_has_sessions_over_http_1_and_2(harness: Harness) {
    let service = service_fn(async |request: http::Request<hyper::body::Incoming>| {
        let session = request.extensions().get::<LazySession>().unwrap().clone();
        let text = match session.load().await {
            Ok(session) => session.incr("visits", 1).unwrap().to_string(),
            Err(error) => error.to_string(),
        };
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    let service = SessionLayer::new(harness.backend.clone()).layer(service);
    let server = HttpServer::start(service).await;
    for http in [HttpClient::http1(), HttpClient::http2()] {
        let first = http.get(&server.url("/")).await;
        assert_eq!(first.text(), "1");
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let request = http::Request::get(server.url("/")).header("cookie", cookie);
        let second = http.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!((second.text(), second.header("set-cookie")), ("2", None));
    }
}

#[tokio::test]
async fn no_cookie_makes_a_request_fail() {
    let backend = Backend::memory();
    let app = app(backend);
    let token = Token::random().encode();
    let huge = format!("{COOKIE}={}", "A".repeat(1 << 20));
    let many = format!("{COOKIE}={token}; ").repeat(20_000);
    let cases = [
        format!("{COOKIE}="),
        COOKIE.to_owned(),
        format!("{COOKIE}={}", &token[..42]),
        format!("{COOKIE}={token}A"),
        format!("{COOKIE}=\"{token}\""),
        format!("{COOKIE}={}", "\u{fffd}"),
        ";;;=;;".to_owned(),
        huge,
        many,
    ];
    for cookies in cases {
        let mut request = Request::get("/show").body(Body::empty()).unwrap();
        let value = http::HeaderValue::from_bytes(cookies.as_bytes()).unwrap();
        request.headers_mut().insert(header::COOKIE, value);
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().get(header::SET_COOKIE).is_none());
    }
}

#[tokio::test]
async fn a_leftover_cookie_of_the_same_name_does_not_hide_the_right_one() {
    let app = app(Backend::memory());
    let visitor = Visitor::new(&app);
    visitor.get("/set/a/1").await;
    let (right, left) = (visitor.cookie().unwrap(), Token::random().encode());
    for cookies in [[&right, &left], [&left, &right]] {
        let line = cookies.map(|value| format!("{COOKIE}={value}")).join("; ");
        assert_eq!(send(&app, "/show", &line).await.text, " a=\"1\"");
    }
}

#[tokio::test]
async fn a_field_that_cannot_be_read_is_its_own_error_and_the_others_are_fine() {
    let app = Router::new().route(
        "/",
        get(async |session: Session| {
            assert!(session.get::<u64>("name").unwrap_err().is_decode());
            assert_eq!(session.get::<String>("name").unwrap().unwrap(), "ann");
            assert!(session.incr("name", 1).unwrap_err().is_not_an_integer());
            assert!(session.set(".v", &1).unwrap_err().status().is_server_error());
            assert!(session.set("large", &"x".repeat(70_000)).unwrap_err().is_too_large());
            assert_eq!(session.take::<String>("name").unwrap().unwrap(), "ann");
            assert_eq!(session.take::<String>("name").unwrap(), None);
        }),
    );
    let app = app.merge(routes()).layer(SessionLayer::new(Backend::memory()));
    let visitor = Visitor::new(&app);
    visitor.get("/set/name/ann").await;
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    assert_eq!(visitor.show().await, "");
}

#[tokio::test]
async fn a_handler_without_the_layer_is_told_which_one_is_missing() {
    let app = routes().route(
        "/optional",
        get(async |session: Option<Session>, lazy: Option<LazySession>| {
            assert!(session.is_none() && lazy.is_none());
        }),
    );
    let page = send(&app, "/show", "").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(page.header(header::CONTENT_TYPE), "application/problem+json");
    assert!(page.text.contains("SessionLayer"), "{}", page.text);
    assert_eq!(send(&app, "/optional", "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_handlers_own_cache_headers_stay() {
    let app = Router::new().route(
        "/",
        get(async |session: Session| {
            session.set("a", &1).unwrap();
            let headers = [(header::CACHE_CONTROL, "max-age=5"), (header::VARY, "Accept, Cookie")];
            (headers, "")
        }),
    );
    let page = send(&app.layer(SessionLayer::new(Backend::memory())), "/", "").await;
    assert_eq!(page.header(header::CACHE_CONTROL), "max-age=5");
    assert_eq!(page.headers.get_all(header::VARY).iter().count(), 1);
}

#[tokio::test]
async fn layers_further_in_learn_the_user_and_the_response_does_not_depend_on_it() {
    async fn who(request: Request, next: Next) -> axum::response::Response {
        let user = UserId::of(request.extensions()).await.unwrap();
        let mut response = next.run(request).await;
        let user = user.map_or("nobody".to_owned(), |user| user.to_string());
        response.headers_mut().insert("x-user", user.parse().unwrap());
        response
    }
    let app = routes().layer(from_fn(who)).layer(SessionLayer::new(Backend::memory()));
    let visitor = Visitor::new(&app);
    assert_eq!(visitor.get("/plain").await.header("x-user".parse().unwrap()), "nobody");
    visitor.get("/login/ann").await;
    let page = visitor.get("/plain").await;
    assert_eq!(page.header("x-user".parse().unwrap()), "ann");
    assert!(!page.touched, "a page that nobody's session went into is not private");
    // The extractor leaves the mark for whoever looks later.
    let app = Router::new().route(
        "/",
        get(async |_: Session, request: Request| {
            request.extensions().get::<UserId>().unwrap().to_string()
        }),
    );
    let backend = Backend::memory();
    let app = app.merge(routes()).layer(SessionLayer::new(backend));
    let visitor = Visitor::new(&app);
    visitor.get("/login/ann").await;
    assert_eq!(visitor.get("/").await.text, "ann");
}

#[tokio::test]
async fn two_sessions_under_two_names_keep_apart() {
    let backend = Backend::memory();
    let admin = SessionLayer::new(backend.clone()).cookie_name("__Host-admin");
    let app = Router::new().nest("/admin", routes().layer(admin)).merge(app(backend));
    let visitor = Visitor::new(&app);
    visitor.get("/set/a/site").await;
    visitor.get("/admin/set/a/admin").await;
    assert_eq!(visitor.get("/admin/show").await.text, " a=\"admin\"");
    assert_eq!(visitor.show().await, " a=\"site\"");
}

#[tokio::test]
async fn a_full_store_refuses_new_sessions_with_503() {
    let app = app(Backend::builder().max_session_bytes(50_000).memory());
    let mut visitors = Vec::new();
    let refused = loop {
        let visitor = Visitor::new(&app);
        let page = visitor.get("/set/a/1").await;
        if page.status != StatusCode::OK {
            break page;
        }
        visitors.push(visitor);
        assert!(visitors.len() < 500, "the store is never full");
    };
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((refused.header(header::RETRY_AFTER), refused.cookies()), ("1", 0));
    for visitor in visitors {
        assert_eq!(visitor.show().await, " a=\"1\"");
    }
}

/// A store whose commits wait for permits, and that counts.
#[derive(Clone)]
struct Gated {
    inner: Backend,
    gate: Arc<Semaphore>,
    started: Arc<Notify>,
    commits: Arc<AtomicUsize>,
    loads: Arc<AtomicUsize>,
}

impl Gated {
    fn new(inner: Backend) -> Self {
        Self {
            inner,
            gate: Arc::new(Semaphore::new(0)),
            started: Arc::default(),
            commits: Arc::default(),
            loads: Arc::default(),
        }
    }
}

impl SessionStore for Gated {
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>> {
        self.loads.fetch_add(1, SeqCst);
        let load = self.inner.load(selector);
        StoreFuture::boxed(async {
            tokio::task::yield_now().await;
            load.await
        })
    }

    fn load_field(&self, selector: &Selector, field: &str) -> StoreFuture<Option<Record>> {
        self.inner.load_field(selector, field)
    }

    fn create(&self, selector: &Selector, new: NewSession, limits: Limits) -> StoreFuture<Created> {
        self.inner.create(selector, new, limits)
    }

    fn commit(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        delta: Delta,
        limits: Limits,
    ) -> StoreFuture<Committed> {
        let (this, selector, presented) = (self.clone(), *selector, *presented);
        StoreFuture::boxed(async move {
            this.commits.fetch_add(1, SeqCst);
            this.started.notify_one();
            this.gate.acquire().await.unwrap().forget();
            this.inner.commit(&selector, &presented, delta, limits).await
        })
    }

    fn destroy(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        user: Option<&UserId>,
    ) -> StoreFuture<Destroyed> {
        self.inner.destroy(selector, presented, user)
    }

    fn swap(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        swap: Swap,
        limits: Limits,
    ) -> StoreFuture<Swapped> {
        self.inner.swap(selector, presented, swap, limits)
    }

    fn revoke(&self, selector: &Selector, user: &UserId) -> StoreFuture<Destroyed> {
        self.inner.revoke(selector, user)
    }

    fn tasks(&self) -> Tasks {
        self.inner.tasks().clone()
    }
}

impl UserStore for Gated {
    fn enlist(&self, user: &UserId, selector: &Selector, idle: Duration) -> StoreFuture<usize> {
        self.inner.enlist(user, selector, idle)
    }

    fn unlist(&self, user: &UserId, selectors: &[Selector], spared: Duration) -> StoreFuture<()> {
        self.inner.unlist(user, selectors, spared)
    }

    fn listed(&self, user: &UserId) -> StoreFuture<Vec<(Selector, Duration)>> {
        self.inner.listed(user)
    }

    fn append(&self, user: &UserId, events: Vec<Bytes>, trail: Trail) -> StoreFuture<()> {
        self.inner.append(user, events, trail)
    }

    fn recent(&self, user: &UserId, count: usize) -> StoreFuture<Vec<Bytes>> {
        self.inner.recent(user, count)
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn extractors_that_load_at_the_same_time_share_one_load() {
    let store = Gated::new(Backend::memory());
    let handler = async |lazy: LazySession, _: Session, _: Option<Session>| {
        let loads = (0..10).map(|_| lazy.load());
        let visits = futures_util::future::join_all(loads).await;
        visits.into_iter().all(|session| session.unwrap().user().is_none()).to_string()
    };
    let app = Router::new().route("/", get(handler)).merge(routes());
    let visitor = Visitor::new(&app.layer(SessionLayer::new(store.clone())));
    visitor.get("/set/a/1").await;
    assert_eq!(store.loads.load(SeqCst), 0, "there was no cookie to ask for");
    assert_eq!(visitor.get("/").await.text, "true");
    assert_eq!(store.loads.load(SeqCst), 1);
}

#[tokio::test]
async fn a_commit_whose_caller_left_is_carried_on_and_not_repeated() {
    let store = Gated::new(Backend::memory());
    let started = store.started.clone();
    let handler = async move |session: Session| {
        session.incr("n", 1).unwrap();
        tokio::select! {
            _ = session.commit() => panic!("the gate is closed"),
            () = started.notified() => {}
        }
        session.incr("n", 10).unwrap();
        assert_eq!(session.get::<u64>("n").unwrap(), Some(12));
    };
    let app = Router::new().route("/", get(handler)).merge(routes());
    let visitor = Visitor::new(&app.layer(SessionLayer::new(store.clone())));
    visitor.get("/set/m/1").await;
    store.gate.add_permits(1);
    let seed = Router::new()
        .route("/seed", get(async |session: Session| session.incr("n", 1).map(drop)))
        .layer(SessionLayer::new(store.inner.clone()));
    let cookies = format!("{COOKIE}={}", visitor.cookie().unwrap());
    send(&seed, "/seed", &cookies).await;
    store.gate.forget_permits(1);

    let request = tokio::spawn({
        let app = visitor.app.clone();
        async move { send(&app, "/", &cookies).await.status }
    });
    while store.commits.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    store.gate.add_permits(2);
    assert_eq!(request.await.unwrap(), StatusCode::OK);
    assert_eq!(store.commits.load(SeqCst), 2);
    assert!(visitor.show().await.contains("n=12"));
}

#[tokio::test]
async fn one_slide_is_under_way_at_a_time_and_no_response_waits_for_it() {
    let clock = towerkeep::Clock::manual();
    let store = Gated::new(Backend::builder().clock(clock.clone()).memory());
    let visitor = Visitor::new(&routes().layer(SessionLayer::new(store.clone())));
    visitor.get("/set/a/1").await;
    clock.advance(Duration::from_secs(3_600));
    for _ in 0..5 {
        assert_eq!(visitor.show().await, " a=\"1\"");
    }
    store.started.notified().await;
    assert_eq!(store.commits.load(SeqCst), 1);
    store.gate.add_permits(10);
    assert_eq!(store.inner.shutdown(LONG).await, 0);
    visitor.show().await;
    assert_eq!(store.inner.shutdown(LONG).await, 0);
    assert_eq!(store.commits.load(SeqCst), 1, "a slide was not due any more");
}

#[tokio::test]
async fn a_body_may_be_streamed_after_an_explicit_commit() {
    let handler = async |session: Session| {
        session.set("a", &1).unwrap();
        session.commit().await.unwrap();
        session.commit().await.unwrap();
        (StatusCode::INTERNAL_SERVER_ERROR, "streamed").into_response()
    };
    let app = Router::new().route("/", get(handler)).merge(routes());
    let visitor = Visitor::new(&app.layer(SessionLayer::new(Backend::memory())));
    assert_eq!(visitor.get("/").await.cookies(), 1, "what was saved needs its cookie");
    assert_eq!(visitor.show().await, " a=1");
}

/// A session layer over a real server behind a proxy.
async fn behind_proxy() -> (RedisServer, FaultProxy, Backend) {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let backend =
        Backend::builder().prefix(PREFIX).deadline(LONG).redis(proxy.url()).await.unwrap();
    (server, proxy, backend)
}

#[tokio::test]
async fn the_round_trips_of_every_kind_of_request() {
    let (server, proxy, backend) = behind_proxy().await;
    let visitor = Visitor::new(&app(backend.clone()));
    for path in ["/visit", "/visit", "/login/ann", "/logout"] {
        visitor.get(path).await; // The server learns the scripts.
    }
    proxy.reset();
    for _ in 0..1_000 {
        visitor.get("/show").await;
    }
    assert_eq!(server.command(&["DBSIZE"]).int(), 0);
    assert_eq!(proxy.commands(), [], "anonymous visits cost nothing");

    for (path, expected) in [
        ("/visit", 1),
        ("/plain", 0),
        ("/show", 1),
        ("/visit", 2),
        ("/rotate", 2),
        ("/login/ann", 2),
        ("/login/bob", 2),
        ("/logout", 2),
    ] {
        let (page, turns) = proxy.turns_of(visitor.get(path)).await;
        assert_eq!((page.status, turns), (StatusCode::OK, expected), "{path}");
    }
    visitor.plant("garbage");
    assert_eq!(proxy.turns_of(visitor.get("/show")).await.1, 0, "a wrong shape asks nobody");
    visitor.plant(&Token::random().encode());
    assert_eq!(proxy.turns_of(visitor.get("/show")).await.1, 1);
    assert_eq!(backend.shutdown(LONG).await, 0);
}

#[tokio::test]
async fn a_session_is_readable_by_others_and_holds_no_credential() {
    let (server, _proxy, backend) = behind_proxy().await;
    let visitor = Visitor::new(&app(backend.clone()));
    visitor.get("/visit").await;
    visitor.get("/login/ann").await;
    let mut keys = server.command(&["KEYS", "*"]).texts();
    keys.sort();
    let token = Token::parse(visitor.cookie().unwrap().as_bytes()).unwrap();
    let expected = [format!("{PREFIX}:session:{}", token.selector()), format!("{PREFIX}:user:ann")];
    assert_eq!(keys, expected);
    let hash = server.command(&["HGETALL", &keys[0]]).map();
    assert_eq!(hash["visits"], "1");
    assert_eq!(hash["after"], "\"login\"");
    assert_eq!(hash[".u"], "ann");
    assert_eq!(hash[".v"], token.hash().encode());
    let cookie = visitor.cookie().unwrap();
    assert!(!hash.values().any(|value| value.contains(&cookie[22..])));

    // Half of the idle timeout is used up: the next read gives it back, after its response.
    let ttl = || server.command(&["PTTL", &keys[0]]).int();
    let idle = 2 * 60 * 60 * 1_000;
    assert!(ttl() > idle - 60_000 && ttl() <= idle);
    server.command(&["PEXPIRE", &keys[0], &(idle / 2).to_string()]);
    visitor.show().await;
    assert_eq!(backend.shutdown(LONG).await, 0);
    assert!(ttl() > idle - 60_000, "the session did not slide");
    // Another program wrote a field: it is there, and the session goes on.
    server.command(&["HSET", &keys[0], "note", "\"from elsewhere\""]);
    assert!(visitor.show().await.contains("note=\"from elsewhere\""));
}

#[tokio::test]
async fn a_request_that_needs_its_session_gets_503_while_redis_is_down_and_others_go_on() {
    let (server, _proxy, backend) = behind_proxy().await;
    let strict = Visitor::new(&app(backend.clone()));
    strict.get("/set/a/1").await;
    let lenient = SessionLayer::new(backend.clone()).on_store_error(OnStoreError::Anonymous);
    let mut visitor = strict.copy();
    visitor.app = routes().layer(lenient);
    server.kill();

    assert_eq!(strict.get("/plain").await.status, StatusCode::OK);
    let refused = strict.get("/show").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.header(header::RETRY_AFTER), "1");
    assert_eq!(refused.header(header::CONTENT_TYPE), "application/problem+json");
    assert!(!refused.text.contains("127.0.0.1"), "{}", refused.text);

    assert_eq!(visitor.show().await, "");
    let write = visitor.get("/set/a/2").await;
    assert_eq!((write.status, write.cookies()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    let logout = visitor.get("/logout").await;
    assert_eq!(
        logout.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "nobody is told of a logout in vain"
    );

    // A new session cannot be saved either, and the response is not sent as if it were.
    let new = Visitor::new(&strict.app);
    let unsaved = new.get("/set/a/1").await;
    assert_eq!((unsaved.status, unsaved.cookies()), (StatusCode::SERVICE_UNAVAILABLE, 0));
}

#[tokio::test]
async fn a_hung_redis_holds_a_request_up_no_longer_than_the_deadline() {
    let (_server, proxy, backend) = behind_proxy().await;
    let deadline = Duration::from_millis(100);
    let layer = SessionLayer::new(backend).deadline(deadline).rejection(|error| {
        let reason = error.store_error().map_or("", StoreError::reason);
        let status = http::Response::builder().status(error.status());
        status.body(format!("custom: {reason}")).unwrap()
    });
    let visitor = Visitor::new(&routes().layer(layer));
    visitor.get("/set/a/1").await;
    proxy.set(Mode::BlackHole);
    let started = Instant::now();
    let page = visitor.get("/show").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(page.text, "custom: timeout");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // A commit of unknown outcome is not answered as if it were done.
    let new = Visitor::new(&visitor.app);
    assert_eq!(new.get("/set/a/1").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

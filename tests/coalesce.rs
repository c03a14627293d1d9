//! Identical reads that are under way at the same time, over every backend and in several processes.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::Harness,
    support::{
        http::{client::HttpClient, server::HttpServer},
        process::{self, ChildApp},
        proxy::FaultProxy,
        server::RedisServer,
    },
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, poll, stream};
use http::{HeaderName, StatusCode, header};
use http_body_util::BodyExt;
use std::{
    convert::Infallible,
    env,
    future::pending,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;
use towerkeep::{
    Backend, StoreError, StoreFuture, Tasks,
    coalesce::{CoalesceLayer, CoalesceStore, Coalesced, Flight, Joined},
    marks::SessionTouched,
    pubsub::Subscription,
};

on_every_backend! {
    of_64_identical_reads_on_two_servers_one_runs,
    a_leader_whose_client_leaves_is_replaced_by_one_who_waits,
    a_leader_is_followed_for_as_long_as_its_handler_runs,
    a_panic_is_the_leaders_alone,
    what_is_for_one_alone_sends_those_who_wait_to_the_handler,
    requests_of_strangers_are_never_one,
    whoever_comes_after_the_answer_leads_anew,
    nobody_waits_longer_than_the_wait,
    a_store_that_fails_leaves_each_process_to_itself,
    nested_in_itself_a_layer_does_not_wait_for_itself,
    a_server_that_vanished_is_waited_for_until_its_lease_ends,
    what_landed_is_for_those_who_followed_it,
    those_who_follow_are_told_how_old_the_answer_is,
    no_duration_is_too_long,
}

const PATIENCE: Duration = Duration::from_secs(30);
/// Who waits in vain waits for longer than a test does.
const LONG: Duration = Duration::from_secs(120);
const LEASE: Duration = Duration::from_secs(30);

/// A handler that counts its runs; the first ones wait at a gate.
#[derive(Clone)]
struct Page {
    runs: Arc<AtomicUsize>,
    waits: Arc<AtomicUsize>,
    started: Arc<Notify>,
    gate: Arc<Semaphore>,
}

impl Page {
    /// As many runs wait at the gate.
    fn waiting(runs: usize) -> Self {
        let (waits, gate) = (Arc::new(AtomicUsize::new(runs)), Arc::new(Semaphore::new(0)));
        Self { runs: Arc::default(), waits, started: Arc::default(), gate }
    }

    fn runs(&self) -> usize {
        self.runs.load(SeqCst)
    }

    fn app(&self, layer: CoalesceLayer) -> Router {
        let app = Router::new().route("/{what}", get(page)).with_state(self.clone());
        app.layer(layer)
    }

    async fn run(&self) -> usize {
        let run = self.runs.fetch_add(1, SeqCst) + 1;
        let waits = self.waits.fetch_update(SeqCst, SeqCst, |waits| waits.checked_sub(1)).is_ok();
        self.started.notify_one();
        if waits {
            self.gate.acquire().await.unwrap().forget();
        }
        run
    }
}

/// Answers as the path says.
async fn page(State(page): State<Page>, Path(what): Path<String>, request: Request) -> Response {
    let run = page.run().await;
    let text = format!("run {run}");
    match what.as_str() {
        "cookie" => ([(header::SET_COOKIE, format!("id={run}"))], text).into_response(),
        "no-store" => ([(header::CACHE_CONTROL, "no-store")], text).into_response(),
        "private" => ([(header::CACHE_CONTROL, "private")], text).into_response(),
        "limited" => (StatusCode::TOO_MANY_REQUESTS, text).into_response(),
        "stream" => Body::from_stream(stream::iter([Ok::<_, Infallible>(text)])).into_response(),
        "large" => (text + &" ".repeat(300_000)).into_response(),
        "aged" => {
            let date = "Sun, 06 Nov 1994 08:49:37 GMT";
            ([(header::AGE, "500"), (header::DATE, date)], text).into_response()
        }
        "session" => {
            request.extensions().get::<SessionTouched>().unwrap().set();
            text.into_response()
        }
        "panic" if run == 1 => panic!("a bug of the handler"),
        _ => text.into_response(),
    }
}

fn ask(path: &str) -> Request {
    let request = Request::get(path).extension(SessionTouched::default());
    request.body(Body::empty()).unwrap()
}

type Answer = BoxFuture<'static, (String, bool)>;

/// A request that is on its way: it has been polled once.
async fn on_its_way(app: &Router, request: Request) -> Answer {
    let app = app.clone();
    let mut answer = async move { answer(&app, request).await }.boxed();
    assert!(poll!(&mut answer).is_pending());
    answer
}

/// The answer, and whether it was made for another.
async fn answer(app: &Router, request: Request) -> (String, bool) {
    let response = app.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    (text.trim_end().to_owned(), head.extensions.get::<Coalesced>().is_some())
}

/// A store that tells when somebody follows.
#[derive(Clone)]
struct Spy {
    inner: Backend,
    followed: Arc<Semaphore>,
    failing: Arc<AtomicBool>,
    renewed: Arc<Notify>,
}

impl Spy {
    fn over(inner: Backend) -> Self {
        let (followed, failing) = (Arc::new(Semaphore::new(0)), Arc::default());
        Self { inner, followed, failing, renewed: Arc::default() }
    }

    async fn is_followed(&self) {
        let followed = timeout(PATIENCE, self.followed.acquire()).await;
        followed.expect("somebody follows").unwrap().forget();
    }
}

impl CoalesceStore for Spy {
    fn join(
        &self,
        flight: &Flight,
        following: Option<&str>,
        lease: Duration,
    ) -> StoreFuture<Joined> {
        if self.failing.load(SeqCst) {
            return StoreFuture::ready(Err(StoreError::unavailable("down, for a test")));
        }
        let (joined, followed) = (self.inner.join(flight, following, lease), self.followed.clone());
        let first = following.is_none();
        StoreFuture::boxed(async move {
            let joined = joined.await;
            if first && matches!(joined, Ok(Joined::Follow { .. })) {
                followed.add_permits(1);
            }
            joined
        })
    }

    fn renew(&self, flight: &Flight, lease: Duration) -> StoreFuture<bool> {
        let (renewed, tell) =
            (CoalesceStore::renew(&self.inner, flight, lease), self.renewed.clone());
        StoreFuture::boxed(async move {
            let renewed = renewed.await;
            tell.notify_one();
            renewed
        })
    }

    fn land(&self, flight: &Flight, outcome: Bytes, linger: Duration) -> StoreFuture<bool> {
        self.inner.land(flight, outcome, linger)
    }

    fn leave(&self, flight: &Flight) -> StoreFuture<bool> {
        self.inner.leave(flight)
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        CoalesceStore::watch(&self.inner, id)
    }

    fn tasks(&self) -> Tasks {
        CoalesceStore::tasks(&self.inner)
    }
}

/// Two servers of a fleet, with a page that both serve.
async fn fleet(
    harness: &Harness,
    page: &Page,
    set: impl Fn(CoalesceLayer) -> CoalesceLayer,
) -> ([Router; 2], Spy) {
    let [one, two] = harness.two_live().await;
    let spy = Spy::over(two);
    let wait = |layer: CoalesceLayer| set(layer.wait(LONG).lease(LONG));
    let apps =
        [page.app(wait(CoalesceLayer::new(one))), page.app(wait(CoalesceLayer::new(spy.clone())))];
    (apps, spy)
}

async fn of_64_identical_reads_on_two_servers_one_runs(harness: Harness) {
    let page = Page::waiting(1);
    let ([here, there], spy) = fleet(&harness, &page, |layer| layer).await;
    let leader = tokio::spawn(on_its_way(&here, ask("/page")).await);
    page.started.notified().await;
    let mut others = JoinSet::new();
    for _ in 0..31 {
        others.spawn(on_its_way(&here, ask("/page")).await);
    }
    for _ in 0..32 {
        others.spawn(on_its_way(&there, ask("/page")).await);
    }
    spy.is_followed().await;
    page.gate.add_permits(1);
    assert_eq!(leader.await.unwrap(), ("run 1".to_owned(), false));
    while let Some(other) = others.join_next().await {
        assert_eq!(other.unwrap(), ("run 1".to_owned(), true));
    }
    assert_eq!(page.runs(), 1);
}

async fn a_leader_whose_client_leaves_is_replaced_by_one_who_waits(harness: Harness) {
    let page = Page::waiting(1);
    let ([here, there], spy) = fleet(&harness, &page, |layer| layer).await;
    let leader = tokio::spawn(on_its_way(&here, ask("/page")).await);
    page.started.notified().await;
    let near = tokio::spawn(on_its_way(&here, ask("/page")).await);
    let far = tokio::spawn(on_its_way(&there, ask("/page")).await);
    spy.is_followed().await;
    leader.abort();
    let (near, far) = timeout(PATIENCE, async { (near.await, far.await) }).await.unwrap();
    for (text, _) in [near.unwrap(), far.unwrap()] {
        assert!(["run 2", "run 3"].contains(&text.as_str()), "{text}: a whole answer of another");
    }
    assert!(page.runs() > 1);
}

async fn a_leader_is_followed_for_as_long_as_its_handler_runs(harness: Harness) {
    let page = Page::waiting(1);
    let spies = harness.two_live().await.map(Spy::over);
    let [here, there] = spies.each_ref().map(|spy| {
        page.app(CoalesceLayer::new(spy.clone()).wait(LONG).lease(Duration::from_secs(1)))
    });
    let leader = tokio::spawn(on_its_way(&here, ask("/page")).await);
    // Each after a third of the lease: without them it would have ended by now.
    for _ in 0..4 {
        timeout(PATIENCE, spies[0].renewed.notified()).await.expect("it is renewed");
    }
    let follower = tokio::spawn(on_its_way(&there, ask("/page")).await);
    spies[1].is_followed().await;
    page.gate.add_permits(1);
    assert_eq!(leader.await.unwrap(), ("run 1".to_owned(), false));
    assert_eq!(follower.await.unwrap(), ("run 1".to_owned(), true));
}

async fn a_panic_is_the_leaders_alone(harness: Harness) {
    let page = Page::waiting(1);
    let ([here, there], spy) = fleet(&harness, &page, |layer| layer).await;
    let leader = on_its_way(&here, ask("/panic")).await;
    let leader = tokio::spawn(AssertUnwindSafe(leader).catch_unwind());
    page.started.notified().await;
    let near = tokio::spawn(on_its_way(&here, ask("/panic")).await);
    let far = tokio::spawn(on_its_way(&there, ask("/panic")).await);
    spy.is_followed().await;
    page.gate.add_permits(1);
    let panic = leader.await.unwrap().unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug of the handler"));
    for answer in [near.await.unwrap(), far.await.unwrap()] {
        assert!(["run 2", "run 3"].contains(&answer.0.as_str()), "{answer:?}");
    }
}

async fn what_is_for_one_alone_sends_those_who_wait_to_the_handler(harness: Harness) {
    for path in ["/cookie", "/no-store", "/private", "/limited", "/stream", "/large", "/session"] {
        let page = Page::waiting(1);
        let ([here, there], spy) = fleet(&harness, &page, |layer| layer).await;
        let leader = tokio::spawn(on_its_way(&here, ask(path)).await);
        page.started.notified().await;
        let near = tokio::spawn(on_its_way(&here, ask(path)).await);
        let far = tokio::spawn(on_its_way(&there, ask(path)).await);
        spy.is_followed().await;
        page.gate.add_permits(1);
        let mut texts = Vec::new();
        for answer in [leader, near, far] {
            let (text, shared) = timeout(PATIENCE, answer).await.unwrap().unwrap();
            assert!(!shared, "{path}");
            texts.push(text);
        }
        texts.sort();
        assert_eq!(texts, ["run 1", "run 2", "run 3"], "{path}");
    }
}

async fn requests_of_strangers_are_never_one(harness: Harness) {
    let page = Page::waiting(12);
    let ([app, _], _) = fleet(&harness, &page, |layer| {
        let tenant = HeaderName::from_static("x-tenant");
        layer.vary_by([header::ACCEPT]).key(move |parts| {
            let tenant = parts.headers.get(&tenant).map(|value| value.to_str().ok());
            Some(tenant.flatten().unwrap_or_default().to_owned())
        })
    })
    .await;
    let with = |headers: &[(&'static str, &'static str)]| {
        let mut request = ask("/page");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    };
    let mut requests = JoinSet::new();
    for headers in [
        &[][..],
        &[("authorization", "Bearer a")],
        &[("authorization", "Bearer b")],
        &[("cookie", "id=a")],
        &[("cookie", "id=b")],
        &[("x-tenant", "a")],
        &[("x-tenant", "b")],
        &[("accept", "text/html")],
        // The answer is a part, or none: not for one who asked for the whole.
        &[("range", "bytes=0-1")],
        &[("if-none-match", "\"a\"")],
    ] {
        requests.spawn(on_its_way(&app, with(headers)).await);
    }
    let mut head = ask("/page");
    *head.method_mut() = http::Method::HEAD;
    requests.spawn(on_its_way(&app, head).await);
    let mut with_body = ask("/page");
    *with_body.body_mut() = Body::from("a query");
    requests.spawn(on_its_way(&app, with_body).await);
    while page.runs() < 12 {
        timeout(PATIENCE, page.started.notified()).await.expect("each has its own run");
    }
    // One that differs in nothing that counts shares.
    let same = on_its_way(&app, with(&[("user-agent", "another")])).await;
    page.gate.add_permits(12);
    assert!(same.await.1);
    while let Some(answer) = requests.join_next().await {
        assert!(!answer.unwrap().1);
    }
    assert_eq!(page.runs(), 12);
}

async fn whoever_comes_after_the_answer_leads_anew(harness: Harness) {
    let page = Page::waiting(0);
    let backends = harness.two_live().await;
    let apps = backends.each_ref().map(|backend| page.app(CoalesceLayer::new(backend.clone())));
    for (run, server) in [0, 1, 1, 0].into_iter().enumerate() {
        let (text, shared) = answer(&apps[server], ask("/page")).await;
        assert_eq!((text, shared), (format!("run {}", run + 1), false));
        // The store is told behind the answer's back; until then the next would wait for it.
        assert_eq!(backends[server].shutdown(PATIENCE).await, 0);
    }
}

async fn nobody_waits_longer_than_the_wait(harness: Harness) {
    let page = Page::waiting(1);
    let ([here, there], _) =
        fleet(&harness, &page, |layer| layer.wait(Duration::from_millis(50))).await;
    let leader = tokio::spawn(on_its_way(&here, ask("/page")).await);
    page.started.notified().await;
    for app in [&here, &there] {
        let (text, shared) = timeout(PATIENCE, answer(app, ask("/page"))).await.unwrap();
        assert!(text != "run 1" && !shared, "{text}");
    }
    page.gate.add_permits(1);
    assert_eq!(leader.await.unwrap().0, "run 1");

    let page = Page::waiting(1);
    let (apps, _) = fleet(&harness, &page, |layer| layer.max_waiters(0)).await;
    let leader = tokio::spawn(on_its_way(&apps[0], ask("/page")).await);
    page.started.notified().await;
    for (app, run) in apps.iter().zip(["run 2", "run 3"]) {
        let alone = timeout(PATIENCE / 2, answer(app, ask("/page"))).await;
        assert_eq!(alone.expect("there is no room to wait").0, run);
    }
    leader.abort();
}

async fn a_store_that_fails_leaves_each_process_to_itself(harness: Harness) {
    let page = Page::waiting(1);
    let ([_, app], spy) = fleet(&harness, &page, |layer| layer).await;
    spy.failing.store(true, SeqCst);
    let leader = tokio::spawn(on_its_way(&app, ask("/page")).await);
    page.started.notified().await;
    let follower = on_its_way(&app, ask("/page")).await;
    page.gate.add_permits(1);
    assert_eq!(leader.await.unwrap(), ("run 1".to_owned(), false));
    assert_eq!(follower.await, ("run 1".to_owned(), true));
}

async fn nested_in_itself_a_layer_does_not_wait_for_itself(harness: Harness) {
    let page = Page::waiting(0);
    let layer = CoalesceLayer::new(harness.live().await).wait(PATIENCE * 10);
    let app = page.app(layer.clone()).layer(layer);
    let (text, _) = timeout(PATIENCE, answer(&app, ask("/page"))).await.expect("it does not wait");
    assert_eq!(text, "run 1");
}

async fn a_server_that_vanished_is_waited_for_until_its_lease_ends(harness: Harness) {
    let (gone, next) = (Flight::new("id", "gone"), Flight::new("id", "next"));
    assert_eq!(harness.join(&gone, None, LEASE).await.unwrap(), Joined::Lead);
    assert_eq!(
        harness.join(&gone, None, LEASE).await.unwrap(),
        Joined::Lead,
        "its answer was lost"
    );
    harness.advance(LEASE / 2);
    assert!(CoalesceStore::renew(&harness.backend, &gone, LEASE).await.unwrap());
    harness.advance(LEASE / 2);
    let Joined::Follow { leader, left } = harness.join(&next, None, LEASE).await.unwrap() else {
        panic!("it was renewed");
    };
    assert!(leader == "gone" && left <= LEASE / 2 && left > Duration::ZERO, "{left:?}");
    harness.advance(LEASE / 2);
    assert_eq!(harness.join(&next, Some("gone"), LEASE).await.unwrap(), Joined::Lead);

    assert!(!CoalesceStore::renew(&harness.backend, &gone, LEASE).await.unwrap());
    assert!(!harness.land(&gone, "stale".into(), LEASE).await.unwrap());
    assert!(!harness.leave(&gone).await.unwrap());
    let third = Flight::new("id", "third");
    let joined = harness.join(&third, Some("gone"), LEASE).await.unwrap();
    assert!(matches!(joined, Joined::Follow { leader, .. } if leader == "next"));
}

async fn what_landed_is_for_those_who_followed_it(harness: Harness) {
    let (first, follower) = (Flight::new("id", "first"), Flight::new("id", "follower"));
    let another = harness.another().await;
    harness.join(&first, None, LEASE).await.unwrap();
    let mut hints = CoalesceStore::watch(&another, "id").unwrap();
    assert!(hints.ready(PATIENCE).await);
    let joined = another.join(&follower, None, LEASE).await.unwrap();
    assert!(matches!(joined, Joined::Follow { .. }));
    assert!(harness.land(&first, "answer".into(), LEASE).await.unwrap());
    timeout(PATIENCE, hints.recv()).await.expect("it is told");
    let landed = another.join(&follower, Some("first"), LEASE).await.unwrap();
    assert_eq!(landed, Joined::Landed("answer".into()));
    let late = Flight::new("id", "late");
    assert_eq!(harness.join(&late, None, LEASE).await.unwrap(), Joined::Lead, "it is older");
    assert!(harness.leave(&late).await.unwrap());
    timeout(PATIENCE, hints.recv()).await.expect("it is told, too");
    harness.advance(LEASE);
    let later = another.join(&follower, Some("first"), LEASE).await.unwrap();
    assert_eq!(later, Joined::Lead, "it is not kept for long");
}

/// Or a cache on their way would keep it for longer than that of the leader.
async fn those_who_follow_are_told_how_old_the_answer_is(harness: Harness) {
    let page = Page::waiting(1);
    let ([app, _], _) = fleet(&harness, &page, |layer| layer).await;
    let mut requests = [(); 2].map(|()| app.clone().oneshot(ask("/aged")).boxed());
    for request in &mut requests {
        assert!(poll!(request).is_pending());
    }
    page.gate.add_permits(1);
    let [leader, follower] = requests;
    let (leader, follower) = tokio::join!(leader, follower);
    let (leader, follower) = (leader.unwrap(), follower.unwrap());
    assert!(follower.extensions().get::<Coalesced>().is_some());
    for name in [header::AGE, header::DATE] {
        assert_eq!(leader.headers().get(&name), follower.headers().get(&name), "{name}");
    }
}

async fn no_duration_is_too_long(harness: Harness) {
    let (first, second) = (Flight::new("id", "first"), Flight::new("id", "second"));
    for long in [Duration::MAX, Duration::from_micros(u64::MAX), Duration::from_millis(u64::MAX)] {
        assert_eq!(harness.join(&first, None, long).await.unwrap(), Joined::Lead, "{long:?}");
        assert!(CoalesceStore::renew(&harness.backend, &first, long).await.unwrap());
        let joined = harness.join(&second, None, long).await.unwrap();
        assert!(matches!(joined, Joined::Follow { left, .. } if left > LEASE), "{joined:?}");
        assert!(harness.land(&first, "answer".into(), long).await.unwrap());
        let landed = harness.join(&second, Some("first"), long).await.unwrap();
        assert_eq!(landed, Joined::Landed("answer".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_asks_twice_and_of_those_who_follow_one_of_each_other_process_asks_three_times() {
    let redis = RedisServer::start();
    let proxies = [(); 2].map(|()| FaultProxy::start(redis.port()));
    let [here, there] = proxies.each_ref().map(|proxy| Backend::redis(proxy.url()));
    let (here, there) = (here.await.unwrap(), there.await.unwrap());
    let (page, spy) = (Page::waiting(0), Spy::over(there.clone()));
    let [near, far] = [CoalesceLayer::new(here.clone()), CoalesceLayer::new(spy.clone())];
    // Nobody's renewals are among what is counted.
    let [near, far] = [near, far].map(|layer| page.app(layer.wait(PATIENCE).lease(LEASE * 10)));
    answer(&near, ask("/the-scripts-are-known")).await;
    assert_eq!(here.shutdown(PATIENCE).await, 0);

    let alone = async {
        answer(&near, ask("/page")).await;
        assert_eq!(here.shutdown(PATIENCE).await, 0);
    };
    assert_eq!(proxies[0].turns_of(alone).await.1, 2);

    page.waits.store(1, SeqCst);
    let followed_here = async {
        let leader = on_its_way(&near, ask("/page")).await;
        let leader = tokio::spawn(leader);
        page.started.notified().await;
        let followers =
            [on_its_way(&near, ask("/page")).await, on_its_way(&near, ask("/page")).await];
        page.gate.add_permits(1);
        assert!(!leader.await.unwrap().1);
        for follower in followers {
            assert!(follower.await.1);
        }
        assert_eq!(here.shutdown(PATIENCE).await, 0);
    };
    while page.started.notified().now_or_never().is_some() {}
    assert_eq!(proxies[0].turns_of(followed_here).await.1, 2);

    page.waits.store(1, SeqCst);
    proxies.iter().for_each(FaultProxy::reset);
    let leader = tokio::spawn(on_its_way(&near, ask("/page")).await);
    page.started.notified().await;
    let began = Instant::now();
    let mut followers = JoinSet::new();
    for _ in 0..3 {
        followers.spawn(on_its_way(&far, ask("/page")).await);
    }
    // When it comes, and when it has subscribed.
    while proxies[1].count("EVALSHA") < 2 {
        assert!(began.elapsed() < PATIENCE, "{:?}", proxies[1].counts());
        sleep(Duration::from_millis(1)).await;
    }
    page.gate.add_permits(1);
    assert!(!leader.await.unwrap().1);
    while let Some(follower) = followers.join_next().await {
        assert!(follower.unwrap().1);
    }
    assert_eq!([here.shutdown(PATIENCE).await, there.shutdown(PATIENCE).await], [0, 0]);
    assert_eq!(proxies[0].count("EVALSHA"), 2, "it matters to nobody how many follow");
    // And after the hint. Whoever is slow looks in between.
    let looks = began.elapsed().as_millis() as usize / 400;
    let (asked, subscribed) = (proxies[1].count("EVALSHA"), proxies[1].count("SUBSCRIBE"));
    assert!((3..=3 + looks).contains(&asked) && subscribed == 1, "{asked} {subscribed}");
}

const CHILD: &str = "server";

/// Not a test of its own: a server of the fleet, which counts in Redis and waits for it at the gate.
#[tokio::test]
async fn server() {
    if !process::is_child(CHILD) {
        return;
    }
    // A machine that is busy for a moment is no failure of the store.
    let backend = Backend::builder().deadline(PATIENCE).ping(PATIENCE / 4, PATIENCE);
    let backend = backend.redis(env::var("REDIS_URL").unwrap()).await.unwrap();
    let counts = backend.clone();
    let count = async move |what: &str| {
        let incr = towerkeep::connection::redis::cmd("INCR").arg(what).take();
        let _: u64 = counts.connection().unwrap().query(&incr).await.unwrap();
    };
    let (spy, gate) = (Spy::over(backend.clone()), backend.clone());
    let (follows, arrives, runs) = (count.clone(), count.clone(), count);
    let spied = spy.clone();
    tokio::spawn(async move {
        spied.is_followed().await;
        follows("follows").await;
    });
    let page = async move || {
        runs("runs").await;
        let exists = towerkeep::connection::redis::cmd("EXISTS").arg("open").take();
        while !gate.connection().unwrap().query::<bool>(&exists).await.unwrap() {
            sleep(Duration::from_millis(5)).await;
        }
        "page"
    };
    let arrived = from_fn(move |request: Request, next: Next| {
        let arrives = arrives.clone();
        async move {
            let mut answer = next.run(request).boxed();
            assert!(poll!(&mut answer).is_pending());
            arrives("arrived").await;
            answer.await
        }
    });
    let layer = CoalesceLayer::new(spy).wait(PATIENCE);
    let app: Router = Router::new().route("/", get(page)).layer(layer).layer(arrived);
    let server = HttpServer::start(app).await;
    process::announce(server.addr());
    pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_identical_reads_on_three_processes_one_runs() {
    let redis = RedisServer::start();
    let servers = [(); 3].map(|()| ChildApp::spawn(CHILD, &[("REDIS_URL", &redis.url())]));
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let url = format!("http://{}/", servers[n % 3].addr());
        // The servers listen on ports of their own; to their clients they are one.
        let request = Request::get(url).header("host", "shop.example").body(Body::empty());
        let request = request.unwrap();
        requests.spawn(async move { HttpClient::http1().send(request).await.text().to_owned() });
    }
    let is = |key: &str, expected: &str| {
        let value = redis.command(&["GET", key]);
        !value.is_nil() && value.text() == expected
    };
    timeout(PATIENCE, async {
        while !is("arrived", "64") || !is("follows", "2") {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("all arrive, and two of the servers follow the third");
    redis.command(&["SET", "open", "1"]);
    while let Some(text) = requests.join_next().await {
        assert_eq!(text.unwrap(), "page");
    }
    assert!(is("runs", "1"));
}

//! Two processes of one application over one Redis: one session, one limit, one fill, one run. And
//! what becomes of the application while its Redis is gone.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;

use crate::support::{
    http::{browser::Browser, client::HttpClient, client::Reply, server::HttpServer},
    process::{self, ChildApp},
    server::RedisServer,
};
use axum::{
    Router,
    extract::Path,
    http::{Request, header::CACHE_CONTROL},
    response::IntoResponse,
    routing::{get, post},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};
use towerkeep::{
    Backend,
    cache::CacheLayer,
    connection::redis,
    idempotency::{IdempotencyLayer, Idempotent, InFlight},
    rate_limit::{OnStoreError, Policy, Quota, RateLimitLayer, by},
    session::{self, Session, SessionLayer},
};

/// Longer than any deadline of a layer; a request that takes as long hangs.
const HANGS: Duration = Duration::from_secs(10);

/// One process of the fleet. Its handlers count their runs in Redis, where the test reads them.
#[tokio::test]
async fn app() {
    if !process::is_child("app") {
        return;
    }
    // The tests ask what is answered under load on a small machine, not how fast.
    let backend = Backend::builder().deadline(Duration::from_secs(3)).from_env().await.unwrap();
    let server = HttpServer::start(application(&backend)).await;
    process::announce(server.addr());
    future::pending::<()>().await;
}

fn application(backend: &Backend) -> Router {
    let runs = backend.clone();
    let count = async move |what: &str| -> u64 {
        let incr = redis::cmd("INCR").arg(format!("runs:{what}")).take();
        runs.connection().unwrap().query(&incr).await.unwrap_or_default()
    };
    let slow_page = {
        let count = count.clone();
        async move |Path(page): Path<String>| {
            let run = count(&page).await;
            sleep(Duration::from_millis(100)).await;
            ([(CACHE_CONTROL, "max-age=60")], format!("{page} {run}"))
        }
    };
    let order = async move |run: Idempotent, session: Session| {
        let order = count("orders").await;
        sleep(Duration::from_millis(100)).await;
        let mine = session.incr("orders", 1)?;
        Ok::<_, session::Error>(format!("order {order}, my {mine}, attempt {}", run.attempt()))
    };
    let orders = IdempotencyLayer::new(backend.clone())
        .in_flight(InFlight::Wait { max: Duration::from_secs(20) });
    let strict = Policy::gcra("strict", Quota::per_day(100)).key(by::everyone());
    let open = Policy::gcra("open", Quota::per_second(10_000)).key(by::everyone());
    Router::new()
        .route("/page/{page}", get(slow_page))
        .layer(CacheLayer::new(backend.clone()).deadline(Duration::from_secs(3)))
        .route("/order", post(order))
        .layer(orders)
        .route("/login/{user}", post(login))
        .route("/count", post(increment))
        .route("/field/{name}", post(set).get(read))
        .layer(SessionLayer::new(backend.clone()))
        .route(
            "/limited",
            get(async || "in").layer(
                RateLimitLayer::new(backend.clone(), strict)
                    .on_store_error(OnStoreError::Deny)
                    .deadline(Duration::from_secs(3)),
            ),
        )
        .layer(RateLimitLayer::new(backend.clone(), open))
}

async fn login(session: Session, Path(user): Path<String>) -> impl IntoResponse {
    session.login(user)
}

async fn increment(session: Session) -> Result<String, session::Error> {
    Ok(session.incr("count", 1)?.to_string())
}

async fn set(session: Session, Path(name): Path<String>) -> Result<(), session::Error> {
    session.set(&name, "set")
}

async fn read(session: Session, Path(name): Path<String>) -> Result<String, session::Error> {
    Ok(session.get::<serde_json::Value>(&name)?.unwrap_or_default().to_string())
}

struct Fleet {
    redis: RedisServer,
    apps: [ChildApp; 2],
}

impl Fleet {
    fn start() -> Self {
        let redis = RedisServer::start();
        let url = redis.url();
        let app = || ChildApp::spawn("app", &[("REDIS_URL", &url)]);
        let apps = [app(), app()];
        Self { redis, apps }
    }

    /// The same visitor, at either app by turns.
    fn visitor(&self, n: usize, browser: &Browser) -> Browser {
        browser.at(self.apps[n % 2].addr())
    }

    fn runs(&self, what: &str) -> i64 {
        self.redis.command(&["GET", &format!("runs:{what}")]).text().parse().unwrap()
    }
}

async fn all<T: Send + 'static>(
    requests: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    requests.into_iter().collect::<JoinSet<_>>().join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_one_session() {
    let fleet = Fleet::start();
    let browser = Browser::with(HttpClient::http2(), fleet.apps[0].addr(), true);
    assert_eq!(browser.post("/login/ann", "").await.status, 200);

    let increments = (0..64).map(|n| fleet.visitor(n, &browser));
    let increments = all(increments.map(|at| async move { at.post("/count", "").await })).await;
    assert!(increments.iter().all(|reply| reply.status == 200));
    let count = fleet.visitor(1, &browser).get("/field/count").await;
    assert_eq!(count.text(), "64");

    let writes = (0..60).map(|n| (fleet.visitor(n, &browser), format!("/field/f{n}")));
    let writes = all(writes.map(|(at, path)| async move { at.post(&path, "").await })).await;
    assert!(writes.iter().all(|reply| reply.status == 200));

    let key = fleet.redis.command(&["KEYS", "towerkeep:session:*"]).texts().pop().unwrap();
    let stored = fleet.redis.command(&["HGETALL", &key]).map();
    assert_eq!(stored["count"], "64", "readable by anyone who reads JSON");
    assert!((0..60).all(|n| stored[&format!("f{n}")] == "\"set\""), "{stored:?}");
    assert!(fleet.redis.command(&["PTTL", &key]).int() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_fill_a_page_once_and_share_one_limit() {
    let fleet = Fleet::start();
    // By the name of the site, as a load balancer passes it on: the cache keeps hosts apart.
    let http = HttpClient::http1();
    let get = |n: usize, path: &'static str| {
        let request = Request::get(fleet.apps[n % 2].url(path)).header("host", "shop.example");
        let (http, request) = (http.clone(), request.body(String::new().into()).unwrap());
        async move { http.send(request).await }
    };
    let pages = all((0..100).map(|n| get(n, "/page/news"))).await;
    let texts: BTreeSet<&str> = pages.iter().map(Reply::text).collect();
    assert_eq!(texts, BTreeSet::from(["news 1"]));
    assert_eq!(fleet.runs("news"), 1);

    let mut statuses = BTreeMap::new();
    for reply in all((0..1_000).map(|n| get(n, "/limited"))).await {
        *statuses.entry(reply.status.as_u16()).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 100), (429, 900)]));
}

async fn order(browser: Browser, key: &'static str) -> Reply {
    let request = Request::post("/order").header("idempotency-key", key);
    browser.send(request.body(String::new().into()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_run_an_order_once() {
    let fleet = Fleet::start();
    let browser = Browser::with(HttpClient::http2(), fleet.apps[0].addr(), true);
    assert_eq!(browser.post("/login/ann", "").await.status, 200);
    let orders = (0..64).map(|n| order(fleet.visitor(n, &browser), "\"one\""));
    let orders = all(orders.collect::<Vec<_>>()).await;
    for reply in &orders {
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "order 1, my 1, attempt 1"));
    }
    let first = orders.iter().filter(|reply| reply.header("idempotent-replayed").is_none());
    assert_eq!((first.count(), fleet.runs("orders")), (1, 1));
    assert_eq!(browser.get("/field/orders").await.text(), "1");
}

/// What the layers answer while there is no Redis, and that they work again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_dies_under_load_costs_its_policy_and_nothing_more() {
    let fleet = Fleet::start();
    let browser = Browser::with(HttpClient::http2(), fleet.apps[0].addr(), true);
    assert_eq!(browser.post("/login/ann", "").await.status, 200);

    let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for n in 0..16 {
        let browser = browser.at(fleet.apps[0].addr());
        let (stop, slowest) = (stop.clone(), slowest.clone());
        load.spawn(async move {
            while !stop.load(SeqCst) {
                let started = Instant::now();
                let reply = match n % 3 {
                    0 => browser.post("/count", "").await,
                    1 => browser.get("/page/busy").await,
                    _ => browser.get("/limited").await,
                };
                slowest.fetch_max(started.elapsed().as_millis() as usize, SeqCst);
                let told = [200, 429, 500, 503].contains(&reply.status.as_u16());
                assert!(told, "{}: {}", reply.status, reply.text());
            }
        });
    }

    sleep(Duration::from_millis(200)).await;
    fleet.redis.kill();
    sleep(Duration::from_millis(300)).await;

    // Cache and rate limit fail open, session and idempotency fail closed.
    let page = browser.get("/page/outage").await;
    assert_eq!(page.status, 200);
    assert!(page.header("cache-status").is_some_and(|said| !said.contains("hit")));
    let session = browser.post("/count", "").await;
    assert_eq!(session.status, 503);
    assert!(session.header("retry-after").is_some());
    let order_refused = order(browser.at(fleet.apps[0].addr()), "\"o\"").await;
    assert_eq!(order_refused.status, 503);
    assert!(order_refused.header("retry-after").is_some());
    assert_eq!(browser.get("/limited").await.status, 503, "this limit was told to deny");

    fleet.redis.restart();
    let back = async {
        loop {
            let login = browser.post("/login/ann", "").await;
            if login.status == 200 && browser.get("/limited").await.status == 200 {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("the app recovers by itself");
    let done = order(browser.at(fleet.apps[0].addr()), "\"after\"").await;
    assert_eq!((done.status.as_u16(), done.text()), (200, "order 1, my 1, attempt 1"));

    stop.store(true, SeqCst);
    load.join_all().await;
    let slowest = Duration::from_millis(slowest.load(SeqCst) as u64);
    assert!(slowest < HANGS, "a request took {slowest:?}");
}

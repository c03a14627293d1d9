//! The cache as a layer, over memory and Redis, over axum and a plain service.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::Harness,
    support::{
        http::{client::HttpClient, server::HttpServer},
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use towerkeep::{
    Backend, ResponseBody, StoreError, StoreFuture,
    cache::{
        Address, CacheKey, CacheLayer, CacheStore, Fill, FillReply, LeaseReply, Lookup, Policy,
        Query, Verdict,
    },
    marks::SessionTouched,
};

on_every_backend! {
    a_stored_response_is_answered_with_its_age_and_the_handler_rests,
    what_is_not_for_everyone_is_never_replayed,
    hosts_queries_and_declared_headers_never_mix,
    a_key_is_made_of_what_the_application_says,
    head_is_answered_from_get_and_never_poisons_it,
    conditions_are_answered_from_the_whole_response,
    what_is_not_the_caches_business_passes_and_says_so,
    a_hundred_misses_run_the_handler_once,
    two_processes_run_the_handler_once,
    a_client_that_leaves_in_the_middle_loses_nothing_for_the_others,
    a_client_that_leaves_before_the_head_loses_nothing_for_the_others,
    a_panic_reaches_its_client_and_the_next_one_tries,
    an_error_reaches_its_client_and_the_next_one_tries,
    waiters_stop_waiting_after_their_time,
    a_body_over_the_limit_passes_with_back_pressure_and_nobody_waits,
    a_slow_client_does_not_hold_up_the_others,
    a_body_that_breaks_off_or_is_cut_is_not_stored,
    nobody_waits_for_what_cannot_be_stored,
    nobody_waits_for_what_varies_by_too_much,
    a_fill_that_is_refused_gives_its_lease_back,
    a_lease_whose_grant_is_not_heard_is_given_back,
    a_client_with_authorization_holds_nobody_up,
    what_was_read_before_a_purge_is_not_stored_after_it,
    a_session_touched_while_the_body_is_read_is_seen,
    a_cache_within_a_cache_does_not_wait_for_itself,
    routes_and_nested_routers_keep_apart,
    a_shutdown_waits_for_the_fill,
    a_fill_without_an_end_is_given_up,
}

/// Long enough for anything that should happen; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

type App = BoxCloneSyncService<Request<Body>, Response<ResponseBody<Body>>, Infallible>;

/// What a handler answers in its run of that number, from 1.
type Answer = dyn Fn(usize, &Request<Body>) -> Response<Body> + Send + Sync;

/// A handler that counts its runs, and lets them end only when it is told to.
struct Origin {
    runs: AtomicUsize,
    running: AtomicUsize,
    ended: AtomicUsize,
    gate: Semaphore,
    answer: Box<Answer>,
}

impl Origin {
    /// Answers at once.
    fn open(
        answer: impl Fn(usize, &Request<Body>) -> Response<Body> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let origin = Self::gated(answer);
        origin.let_go(Semaphore::MAX_PERMITS);
        origin
    }

    /// Answers each run when it is let go.
    fn gated(
        answer: impl Fn(usize, &Request<Body>) -> Response<Body> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (runs, running, ended) = Default::default();
        Arc::new(Self { runs, running, ended, gate: Semaphore::new(0), answer: Box::new(answer) })
    }

    fn runs(&self) -> usize {
        self.runs.load(SeqCst)
    }

    fn let_go(&self, runs: usize) {
        self.gate.add_permits(runs);
    }

    async fn has_run(&self, times: usize) {
        until(|| self.runs() >= times, "the handler runs").await;
    }

    fn app(self: &Arc<Self>, layer: &CacheLayer) -> App {
        let origin = self.clone();
        BoxCloneSyncService::new(layer.layer(service_fn(move |request: Request<Body>| {
            let origin = origin.clone();
            async move {
                let run = origin.runs.fetch_add(1, SeqCst) + 1;
                origin.running.fetch_add(1, SeqCst);
                let _ends = Ends(origin.clone());
                origin.gate.acquire().await.unwrap().forget();
                Ok::<_, Infallible>((origin.answer)(run, &request))
            }
        })))
    }
}

/// Counts the end of a run, however it ends.
struct Ends(Arc<Origin>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
        self.0.ended.fetch_add(1, SeqCst);
    }
}

/// A layer that a busy machine does not keep from its store: a lookup may take its time.
fn cache(store: impl CacheStore) -> CacheLayer {
    CacheLayer::new(store).deadline(PATIENCE)
}

async fn until(mut holds: impl FnMut() -> bool, what: &str) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn fresh(body: impl Into<Body>) -> Response<Body> {
    with("max-age=60", body)
}

fn with(cache_control: &str, body: impl Into<Body>) -> Response<Body> {
    Response::builder().header("cache-control", cache_control).body(body.into()).unwrap()
}

fn counted() -> Arc<Origin> {
    Origin::open(|run, _| fresh(format!("run {run}")))
}

#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn cache_status(&self) -> &str {
        self.headers["cache-status"].to_str().unwrap()
    }

    /// `hit`, or why it went forward: all but what depends on the time.
    fn verdict(&self) -> String {
        let parts = self.cache_status().split("; ").skip(1);
        parts.filter(|part| !part.starts_with("ttl=")).collect::<Vec<_>>().join("; ")
    }
}

async fn send(app: &App, request: Request<Body>) -> Reply {
    let exchange = async {
        let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    };
    timeout(PATIENCE, exchange).await.expect("a whole response")
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request = headers
        .iter()
        .fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

async fn ask(app: &App, uri: &str) -> Reply {
    send(app, request(uri, &[])).await
}

fn spawn(app: &App, uri: &str, headers: &[(&str, &str)]) -> JoinHandle<Reply> {
    let (app, request) = (app.clone(), request(uri, headers));
    tokio::spawn(async move { send(&app, request).await })
}

/// A body that the test writes, frame by frame.
fn streamed() -> (mpsc::UnboundedSender<Result<&'static str, std::io::Error>>, Body) {
    let (sender, mut frames) = mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    let frames = futures_util::StreamExt::map(stream, |data: Result<_, _>| {
        data.map(|data: &'static str| Frame::data(Bytes::from_static(data.as_bytes())))
    });
    (sender, Body::new(StreamBody::new(frames)))
}

/// Hands out one body for the first run.
fn once(body: Body) -> impl Fn() -> Body + Send + Sync {
    let body = Mutex::new(Some(body));
    move || body.lock().unwrap().take().expect("the handler runs once")
}

async fn a_stored_response_is_answered_with_its_age_and_the_handler_rests(harness: Harness) {
    let origin = Origin::open(|run, _| {
        let mut response = with("max-age=60", format!("run {run}"));
        *response.status_mut() = StatusCode::CREATED;
        response.headers_mut().insert("x-mine", "1".parse().unwrap());
        response.headers_mut().insert("connection", "x-hop".parse().unwrap());
        response.headers_mut().insert("x-hop", "1".parse().unwrap());
        response
    });
    let app = origin.app(&cache(harness.backend.clone()));
    let first = ask(&app, "/a").await;
    assert_eq!((first.text(), first.verdict().as_str()), ("run 1", "fwd=uri-miss; stored"));
    assert!(!first.headers.contains_key("age"));
    harness.tasks().drain(PATIENCE).await;

    harness.advance(Duration::from_secs(7));
    let hit = ask(&app, "/a").await;
    assert_eq!((hit.status, hit.text()), (StatusCode::CREATED, "run 1"));
    assert_eq!(hit.headers["age"], "7");
    // The time that the body took counts too: a few real milliseconds.
    let expected = ["towerkeep; hit; ttl=53", "towerkeep; hit; ttl=52"];
    assert!(expected.contains(&hit.cache_status()), "{:?}", hit.headers);
    assert_eq!(hit.headers["x-mine"], "1");
    assert!(hit.headers.contains_key("date") && !hit.headers.contains_key("x-hop"));

    harness.advance(Duration::from_secs(53));
    assert_eq!(ask(&app, "/a").await.text(), "run 2", "it was stale");
}

async fn what_is_not_for_everyone_is_never_replayed(harness: Harness) {
    type Handler = fn(&Request<Body>) -> Response<Body>;
    let cases: [(&str, &str, Handler); 12] = [
        ("no-freshness", "", |_| Response::new("x".into())),
        ("no-store", "", |_| with("max-age=60, no-store", "x")),
        ("private", "", |_| with("max-age=60, private", "x")),
        ("no-cache", "", |_| with("max-age=60, no-cache", "x")),
        ("set-cookie", "", |_| {
            let mut response = fresh("x");
            response.headers_mut().insert("set-cookie", "id=1".parse().unwrap());
            response
        }),
        ("session", "", |request| {
            // Touched by the handler, told by the request's mark.
            if let Some(mark) = request.extensions().get::<SessionTouched>() {
                mark.set();
            }
            fresh("x")
        }),
        ("session", "", |_| {
            let (mark, mut response) = (SessionTouched::default(), fresh("x"));
            mark.set();
            response.extensions_mut().insert(mark);
            response
        }),
        ("authorization", "authorization", |_| fresh("x")),
        ("vary", "", |_| {
            let mut response = fresh("x");
            response.headers_mut().insert("vary", "cookie".parse().unwrap());
            response
        }),
        ("event-stream", "", |_| {
            let mut response = fresh("x");
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            response
        }),
        ("status", "", |_| {
            let mut response = fresh("x");
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            response
        }),
        ("too-large", "", |_| fresh("x".repeat(100))),
    ];
    for (at, (reason, header, answer)) in cases.into_iter().enumerate() {
        let origin = Origin::open(move |_, request| answer(request));
        let app = origin.app(&cache(harness.backend.clone()).body_limit(99));
        for run in 1..=3 {
            let mut request = request(&format!("/{at}"), &[]);
            request.extensions_mut().insert(SessionTouched::default());
            if !header.is_empty() {
                request.headers_mut().insert(header, "x".parse().unwrap());
            }
            let reply = send(&app, request).await;
            assert_eq!(origin.runs(), run, "{reason}: a response was replayed");
            if run == 1 {
                assert_eq!(reply.verdict(), format!("fwd=uri-miss; detail={reason}"));
            }
            assert!(!reply.headers.contains_key("age"));
            harness.tasks().drain(PATIENCE).await;
        }
    }
}

async fn hosts_queries_and_declared_headers_never_mix(harness: Harness) {
    let origin = Origin::open(|_, request| {
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
        let mut response =
            fresh(format!("{:?} {} {:?}", header("host"), request.uri(), header("x-tenant")));
        response.headers_mut().insert("vary", "X-Tenant".parse().unwrap());
        response
    });
    let layer = cache(harness.backend.clone()).key(CacheKey::default().header("x-tenant"));
    let app = origin.app(&layer);
    let mut different = 0;
    for host in ["one.example", "two.example"] {
        for uri in ["/a", "/a?b", "/a?b=1", "/A", "/a/"] {
            for tenant in [Some("1"), Some("2"), None] {
                let mut headers = vec![("host", host)];
                headers.extend(tenant.map(|tenant| ("x-tenant", tenant)));
                different += 1;
                let expected = format!("{:?} {uri} {tenant:?}", Some(host));
                for verdict in ["fwd=uri-miss; stored", "hit"] {
                    let reply = send(&app, request(uri, &headers)).await;
                    assert_eq!((reply.text(), reply.verdict().as_str()), (&*expected, verdict));
                    harness.tasks().drain(PATIENCE).await;
                }
            }
        }
    }
    assert_eq!(origin.runs(), different);
    // A target that names another host than `Host` could be answered by the name of either.
    let reply = send(&app, request("http://one.example/a", &[("host", "two.example")])).await;
    assert_eq!(reply.verdict(), "fwd=bypass; detail=ambiguous-host");
}

async fn a_key_is_made_of_what_the_application_says(harness: Harness) {
    let origin = Origin::open(|run, _| {
        let mut response = fresh(format!("run {run}"));
        response.headers_mut().insert("vary", "cookie".parse().unwrap());
        response
    });
    let key = CacheKey::default()
        .query(Query::sorted().drop(["utm_*"]))
        .cookie("theme")
        .custom(|request| request.headers.get("x-tenant")?.to_str().ok().map(Into::into));
    let layer = cache(harness.backend.clone()).key(key);
    let app = origin.app(&layer);
    let one = [("x-tenant", "one"), ("cookie", "theme=dark; sid=1")];
    let other = [("x-tenant", "two"), ("cookie", "theme=dark")];
    let light = [("x-tenant", "one"), ("cookie", "theme=light")];
    for (target, headers, run, verdict) in [
        ("/a?b=1&a=2", &one[..], 1, "fwd=uri-miss"),
        ("/a?utm_source=x&a=2&b=1", &one, 1, "hit"),
        ("/a?a=2&b=1", &[one[0], ("cookie", "sid=2;theme=dark")], 1, "hit"),
        ("/a?a=2&b=2", &one, 2, "fwd=uri-miss"),
        ("/a?a=2&b=1", &other, 3, "fwd=uri-miss"),
        ("/a?a=2&b=1", &light, 4, "fwd=uri-miss"),
        ("/a?a=2&b=1", &[], 5, "fwd=bypass"),
        ("/a?b=1&a=2", &light, 4, "hit"),
    ] {
        let got = send(&app, request(target, headers)).await;
        assert_eq!(got.text(), format!("run {run}"), "{target}");
        assert!(got.verdict().starts_with(verdict), "{target}: {}", got.verdict());
        harness.backend.shutdown(PATIENCE).await;
    }
    let bypassed = ask(&app, "/a").await;
    assert!(bypassed.headers["cache-status"].to_str().unwrap().ends_with("detail=no-key"));
}

async fn head_is_answered_from_get_and_never_poisons_it(harness: Harness) {
    let origin = Origin::open(|_, request| {
        let body = if request.method() == "HEAD" { "" } else { "whole" };
        fresh(body)
    });
    let app = origin.app(&cache(harness.backend.clone()));
    let head = || Request::head("/a").body(Body::empty()).unwrap();
    assert_eq!(send(&app, head()).await.verdict(), "fwd=uri-miss; detail=head");
    assert_eq!(ask(&app, "/a").await.text(), "whole");
    harness.tasks().drain(PATIENCE).await;
    let hit = send(&app, head()).await;
    assert_eq!((hit.verdict().as_str(), hit.text()), ("hit", ""));
    assert_eq!(hit.headers["content-length"], "5");
    assert_eq!(ask(&app, "/a").await.text(), "whole");
    assert_eq!(origin.runs(), 2);
}

async fn conditions_are_answered_from_the_whole_response(harness: Harness) {
    let origin = Origin::open(|_, request| {
        let conditional = request.headers().contains_key("if-none-match");
        assert!(!conditional, "the handler's 304 could not be stored");
        let mut response = fresh("whole");
        response.headers_mut().insert("etag", "\"v1\"".parse().unwrap());
        response.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        response
    });
    let app = origin.app(&cache(harness.backend.clone()));
    for verdict in ["fwd=uri-miss; fwd-status=200; stored", "hit"] {
        let reply = send(&app, request("/a", &[("if-none-match", "\"v0\", W/\"v1\"")])).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(reply.verdict(), verdict);
        assert_eq!(reply.headers["etag"], "\"v1\"");
        assert!(!reply.headers.contains_key("content-type"));
        harness.tasks().drain(PATIENCE).await;
    }
    let other = send(&app, request("/a", &[("if-none-match", "\"v2\"")])).await;
    assert_eq!((other.status, other.text()), (StatusCode::OK, "whole"));
    assert_eq!(origin.runs(), 1);
}

async fn what_is_not_the_caches_business_passes_and_says_so(harness: Harness) {
    let origin = counted();
    let app = origin.app(&cache(harness.backend.clone()));
    ask(&app, "/a").await;
    harness.tasks().drain(PATIENCE).await;
    let plain = |request: http::request::Builder| request.body(Body::empty()).unwrap();
    for (request, verdict) in [
        (plain(Request::post("/a")), "fwd=method"),
        (plain(Request::get("/a").header("range", "bytes=0-1")), "fwd=bypass; detail=range"),
        (plain(Request::get("/a").header("upgrade", "x")), "fwd=bypass; detail=upgrade"),
        (plain(Request::get("/a").header("if-match", "\"x\"")), "fwd=bypass; detail=precondition"),
        (Request::get("/a").body("fat".into()).unwrap(), "fwd=bypass; detail=request-body"),
    ] {
        let before = origin.runs();
        assert_eq!(send(&app, request).await.verdict(), verdict);
        assert_eq!(origin.runs(), before + 1, "{verdict}");
    }
    assert_eq!(ask(&app, "/a").await.text(), "run 1", "what is stored was touched");
}

async fn a_hundred_misses_run_the_handler_once(harness: Harness) {
    let origin = Origin::gated(|run, _| fresh(format!("run {run}")));
    let app = origin.app(&cache(harness.live().await));
    let mut waiting = JoinSet::new();
    for _ in 0..100 {
        let app = app.clone();
        waiting.spawn(async move { ask(&app, "/a").await });
    }
    origin.has_run(1).await;
    // Those that have not looked yet look in this time; if they do not, they are hits.
    sleep(Duration::from_millis(100)).await;
    origin.let_go(100);
    let replies = waiting.join_all().await;
    assert_eq!(origin.runs(), 1);
    assert!(replies.iter().all(|reply| reply.text() == "run 1"));
    let leaders = replies.iter().filter(|reply| reply.verdict() == "fwd=uri-miss; stored");
    assert_eq!(leaders.count(), 1);
    assert!(replies.iter().any(|reply| reply.verdict() == "fwd=uri-miss; collapsed"));
}

async fn two_processes_run_the_handler_once(harness: Harness) {
    let origin = Origin::gated(|run, _| fresh(format!("run {run}")));
    // Layers of their own have flights of their own, as processes have.
    let apps = harness.two_live().await.map(|backend| origin.app(&cache(backend)));
    let mut waiting = JoinSet::new();
    for n in 0..100 {
        let app = apps[n % 2].clone();
        waiting.spawn(async move { ask(&app, "/a").await });
    }
    origin.has_run(1).await;
    sleep(Duration::from_millis(100)).await;
    origin.let_go(100);
    let replies = waiting.join_all().await;
    assert_eq!(origin.runs(), 1);
    assert!(replies.iter().all(|reply| reply.text() == "run 1"));
}

async fn a_client_that_leaves_in_the_middle_loses_nothing_for_the_others(harness: Harness) {
    let (frames, body) = streamed();
    let body = once(body);
    let origin = Origin::open(move |_, _| fresh(body()));
    let app = origin.app(&cache(harness.live().await));
    let response = app.clone().oneshot(request("/a", &[])).await.unwrap();
    frames.send(Ok("one ")).unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "one ", "the first client gets what there is");
    let follower = spawn(&app, "/a", &[]);
    drop(body);
    frames.send(Ok("two")).unwrap();
    drop(frames);
    assert_eq!(follower.await.unwrap().text(), "one two");
    assert_eq!(ask(&app, "/a").await.verdict(), "hit");
    assert_eq!(origin.runs(), 1);
}

async fn a_client_that_leaves_before_the_head_loses_nothing_for_the_others(harness: Harness) {
    let origin = Origin::gated(|run, _| fresh(format!("run {run}")));
    let app = origin.app(&cache(harness.live().await));
    let leader = spawn(&app, "/a", &[]);
    origin.has_run(1).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    let follower = spawn(&app, "/a", &[]);
    origin.let_go(1);
    assert_eq!(follower.await.unwrap().text(), "run 1");
}

async fn a_panic_reaches_its_client_and_the_next_one_tries(harness: Harness) {
    let origin = Origin::gated(|run, _| match run {
        1 => panic!("boom"),
        _ => fresh(format!("run {run}")),
    });
    let app = origin.app(&cache(harness.live().await));
    let leader = spawn(&app, "/a", &[]);
    origin.has_run(1).await;
    let followers: Vec<_> = (0..10).map(|_| spawn(&app, "/a", &[])).collect();
    sleep(Duration::from_millis(50)).await;
    origin.let_go(1);
    assert!(leader.await.unwrap_err().is_panic(), "the panic is the first client's");
    origin.has_run(2).await;
    origin.let_go(10);
    for follower in followers {
        assert_eq!(follower.await.unwrap().text(), "run 2");
    }
    assert_eq!(origin.runs(), 2);
}

async fn an_error_reaches_its_client_and_the_next_one_tries(harness: Harness) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    let service = service_fn(move |_: Request<Body>| {
        let run = counter.fetch_add(1, SeqCst) + 1;
        async move {
            match run {
                1 => Err("no upstream"),
                _ => Ok(fresh(format!("run {run}"))),
            }
        }
    });
    let app = cache(harness.backend.clone()).layer(service);
    let error = app.clone().oneshot(request("/a", &[])).await.unwrap_err();
    assert_eq!(error, "no upstream");
    let response = app.clone().oneshot(request("/a", &[])).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "run 2");

    // An error page says nothing about the next response either.
    let origin = Origin::open(|run, _| match run {
        1 => Response::builder().status(502).body("down".into()).unwrap(),
        _ => fresh(format!("run {run}")),
    });
    let app = origin.app(&cache(harness.backend.clone()));
    let replies = [ask(&app, "/b").await, ask(&app, "/b").await];
    assert_eq!(replies[0].verdict(), "fwd=uri-miss; detail=no-freshness");
    assert_eq!(replies[1].verdict(), "fwd=uri-miss; stored");
}

async fn waiters_stop_waiting_after_their_time(harness: Harness) {
    let origin = Origin::gated(|run, _| fresh(format!("run {run}")));
    let backend = harness.live().await;
    let wait = Duration::from_millis(150);
    let app = origin.app(&cache(backend.clone()).wait(wait));
    // Another layer over the same backend is another process to the first.
    let elsewhere = origin.app(&cache(backend).wait(wait));
    let leader = spawn(&app, "/a", &[]);
    origin.has_run(1).await;
    let followers = [spawn(&app, "/a", &[]), spawn(&elsewhere, "/a", &[])];
    origin.has_run(3).await;
    assert_eq!(origin.running.load(SeqCst), 3, "they run beside the slow one");
    origin.let_go(3);
    for follower in followers {
        let reply = follower.await.unwrap();
        assert_eq!(reply.verdict(), "fwd=uri-miss; detail=waited-too-long");
    }
    assert_eq!(leader.await.unwrap().verdict(), "fwd=uri-miss; stored");
}

async fn a_body_over_the_limit_passes_with_back_pressure_and_nobody_waits(harness: Harness) {
    const CHUNK: usize = 16 << 10;
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let origin = Origin::open(move |run, _| {
        if run > 1 {
            return fresh("small");
        }
        let counter = counter.clone();
        let chunks = futures_util::stream::iter(0..200).then(move |_| {
            counter.fetch_add(1, SeqCst);
            async { Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; CHUNK]))) }
        });
        fresh(Body::new(StreamBody::new(chunks)))
    });
    use futures_util::StreamExt;
    let app = origin.app(&cache(harness.live().await).body_limit(100_000));
    let response = app.clone().oneshot(request("/a", &[])).await.unwrap();
    // The fill learns that it is too long, and tells: the next one does not wait for the rest.
    let reply = ask(&app, "/a").await;
    assert_eq!(reply.verdict(), "fwd=uri-miss; detail=uncacheable");
    let unread = made.load(SeqCst);
    assert!(unread < 20, "{unread} of 200 chunks were read for a client that reads none");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 200 * CHUNK, "it passes whole");
    assert_eq!(origin.runs(), 2);
}

async fn a_slow_client_does_not_hold_up_the_others(harness: Harness) {
    let origin = Origin::open(|_, _| {
        let chunks =
            (0..50).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; 10_000]))));
        fresh(Body::new(StreamBody::new(futures_util::stream::iter(chunks))))
    });
    let app = origin.app(&cache(harness.live().await));
    let unread = app.clone().oneshot(request("/a", &[])).await.unwrap();
    let reply = ask(&app, "/a").await;
    assert_eq!((reply.body.len(), origin.runs()), (500_000, 1));
    assert_eq!(unread.into_body().collect().await.unwrap().to_bytes().len(), 500_000);
}

async fn a_body_that_breaks_off_or_is_cut_is_not_stored(harness: Harness) {
    let origin = Origin::open(|run, _| match run {
        1 => {
            let (frames, body) = streamed();
            frames.send(Ok("half")).unwrap();
            frames.send(Err(std::io::Error::other("reset"))).unwrap();
            fresh(body)
        }
        2 => {
            let (frames, body) = streamed();
            frames.send(Ok("half")).unwrap();
            let mut response = fresh(body);
            response.headers_mut().insert("content-length", "8".parse().unwrap());
            response
        }
        _ => fresh("whole"),
    });
    let app = origin.app(&cache(harness.live().await));
    let broken = app.clone().oneshot(request("/a", &[])).await.unwrap();
    assert!(broken.into_body().collect().await.is_err(), "the client sees the break, not an end");
    assert_eq!(ask(&app, "/a").await.text(), "half", "the client sees the end that there was");
    let reply = ask(&app, "/a").await;
    assert_eq!((reply.text(), reply.verdict().as_str()), ("whole", "fwd=uri-miss; stored"));
}

async fn nobody_waits_for_what_cannot_be_stored(harness: Harness) {
    let origin = Origin::gated(|_, _| with("private", "mine"));
    let backend = harness.live().await;
    let app = origin.app(&cache(backend.clone()));
    let elsewhere = origin.app(&cache(backend));
    let first = spawn(&app, "/a", &[]);
    origin.has_run(1).await;
    let followers: Vec<_> =
        (0..10).map(|n| spawn(if n % 2 == 0 { &app } else { &elsewhere }, "/a", &[])).collect();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(origin.runs(), 1, "they wait for the first");
    origin.let_go(1);
    first.await.unwrap();
    // All at a time: none is let go before all run.
    origin.has_run(11).await;
    assert_eq!(origin.running.load(SeqCst), 10);
    origin.let_go(10);
    for follower in followers {
        assert_eq!(follower.await.unwrap().verdict(), "fwd=uri-miss; detail=uncacheable");
    }
}

/// Each response varies by a few fields, and all of them by more than an entry may have.
async fn nobody_waits_for_what_varies_by_too_much(harness: Harness) {
    let origin = Origin::open(|run, request| {
        let vary = if request.headers()["a"] == "1" { "a,b,c,d,e" } else { "a,f,g,h,i,j" };
        let mut response = fresh(format!("run {run}"));
        response.headers_mut().insert("vary", vary.parse().unwrap());
        response
    });
    let backend = harness.live().await;
    let layer = cache(backend.clone()).policy(Policy::proxy()).wait(Duration::ZERO);
    let app = origin.app(&layer);
    assert_eq!(send(&app, request("/a", &[("a", "1")])).await.text(), "run 1");
    until_stored_for(&app, || request("/a", &[("a", "1")])).await;
    for _ in 0..2 {
        let reply = send(&app, request("/a", &[("a", "2")])).await;
        assert_eq!(reply.verdict(), "fwd=vary-miss; stored", "nobody holds its lease");
        backend.tasks().drain(PATIENCE).await;
    }
}

/// A store to which every response is too old on its arrival, and whose leases may be granted too late.
struct Unhelpful {
    store: Backend,
    late: bool,
    releases: Arc<AtomicUsize>,
}

impl CacheStore for Unhelpful {
    fn lookup(&self, address: &Address) -> StoreFuture<Lookup> {
        self.store.lookup(address)
    }

    fn lease(
        &self,
        address: &Address,
        token: &str,
        length: Duration,
        seen: Option<&str>,
    ) -> StoreFuture<LeaseReply> {
        let (reply, late) = (self.store.lease(address, token, length, seen), self.late);
        StoreFuture::boxed(async move {
            let reply = reply.await?;
            if late { Err(StoreError::timeout("a lease", length)) } else { Ok(reply) }
        })
    }

    fn renew(&self, address: &Address, token: &str, length: Duration) -> StoreFuture<bool> {
        self.store.renew(address, token, length)
    }

    fn fill(&self, address: &Address, token: &str, mut fill: Fill) -> StoreFuture<FillReply> {
        (fill.lifetime, fill.stale) = (Duration::ZERO, Duration::ZERO);
        self.store.fill(address, token, fill)
    }

    fn release(&self, address: &Address, token: &str, verdict: Verdict) -> StoreFuture<bool> {
        let (released, releases) =
            (self.store.release(address, token, verdict), self.releases.clone());
        StoreFuture::boxed(async move {
            let released = released.await?;
            releases.fetch_add(released.into(), SeqCst);
            Ok(released)
        })
    }

    fn purge(&self, entries: &[String]) -> StoreFuture<u64> {
        self.store.purge(entries)
    }
}

async fn a_fill_that_is_refused_gives_its_lease_back(harness: Harness) {
    gives_back(harness.live().await, false, "fwd=uri-miss; stored").await;
}

async fn a_lease_whose_grant_is_not_heard_is_given_back(harness: Harness) {
    gives_back(harness.live().await, true, "fwd=uri-miss; detail=store-unavailable").await;
}

async fn gives_back(store: Backend, late: bool, verdict: &str) {
    let releases = Arc::<AtomicUsize>::default();
    let store = Unhelpful { store, late, releases: releases.clone() };
    let app = counted().app(&cache(store).wait(Duration::ZERO));
    for run in 1..=2 {
        assert_eq!(ask(&app, "/a").await.verdict(), verdict, "run {run}");
        until(|| releases.load(SeqCst) == run, "the lease is given back").await;
    }
}

async fn a_client_with_authorization_holds_nobody_up(harness: Harness) {
    let origin = Origin::gated(|_, request| {
        let name = request.headers().get("authorization");
        fresh(format!("for {}", name.map_or("everyone", |name| name.to_str().unwrap())))
    });
    let app = origin.app(&cache(harness.live().await));
    let alice = spawn(&app, "/a", &[("authorization", "alice")]);
    origin.has_run(1).await;
    let anyone = spawn(&app, "/a", &[]);
    origin.has_run(2).await;
    origin.let_go(2);
    assert_eq!(alice.await.unwrap().text(), "for alice");
    assert_eq!(anyone.await.unwrap().text(), "for everyone");
    // What is stored does not say that it may be shared with those who are known.
    until_stored(&app, "/a").await;
    origin.let_go(1);
    let bob = send(&app, request("/a", &[("authorization", "bob")])).await;
    assert_eq!(bob.text(), "for bob");
    assert_eq!(bob.verdict(), "fwd=request; detail=authorization");

    let shared = Origin::open(|run, _| with("public, max-age=60", format!("run {run}")));
    let backend = harness.live().await;
    let app = shared.app(&cache(backend.clone()));
    let known = || request("/shared", &[("authorization", "x")]);
    assert_eq!(send(&app, known()).await.verdict(), "fwd=uri-miss; stored");
    backend.shutdown(PATIENCE).await;
    assert_eq!(send(&app, known()).await.verdict(), "hit");
    assert_eq!(ask(&app, "/shared").await.verdict(), "hit");
    assert_eq!(shared.runs(), 1);
}

/// The body's end may reach its client before the fill reaches the store.
async fn until_stored(app: &App, uri: &str) {
    until_stored_for(app, || request(uri, &[])).await;
}

async fn until_stored_for(app: &App, request: impl Fn() -> Request<Body>) {
    let wait = async {
        while send(app, request()).await.verdict() != "hit" {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it is stored");
}

async fn reconnected(backend: &Backend) {
    let wait = async {
        while backend.connection().unwrap().ping(Duration::from_millis(100)).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the link is back");
}

async fn what_was_read_before_a_purge_is_not_stored_after_it(harness: Harness) {
    let origin = Origin::gated(|run, _| fresh(format!("run {run}")));
    let layer = cache(harness.live().await);
    let app = origin.app(&layer);
    let uri = "http://one.example/a";
    let old = spawn(&app, uri, &[]);
    origin.has_run(1).await;
    assert!(!layer.handle().purge(&uri.parse().unwrap()).await.unwrap());
    let late = spawn(&app, uri, &[]);
    sleep(Duration::from_millis(20)).await;
    origin.let_go(1);
    assert_eq!(old.await.unwrap().text(), "run 1");
    origin.has_run(2).await;
    origin.let_go(1);
    assert_eq!(late.await.unwrap().text(), "run 2", "it asked after the purge");
    until_stored(&app, uri).await;
    assert!(layer.handle().purge(&uri.parse().unwrap()).await.unwrap());
    origin.let_go(1);
    assert_eq!(ask(&app, uri).await.text(), "run 3");
}

async fn a_session_touched_while_the_body_is_read_is_seen(harness: Harness) {
    let (frames, body) = streamed();
    let body = once(body);
    let origin = Origin::open(move |run, _| if run == 1 { fresh(body()) } else { fresh("new") });
    let app = origin.app(&cache(harness.live().await));
    let mark = SessionTouched::default();
    let mut first = request("/a", &[]);
    first.extensions_mut().insert(mark.clone());
    let response = app.clone().oneshot(first).await.unwrap();
    frames.send(Ok("for Alice")).unwrap();
    mark.set();
    drop(frames);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "for Alice");
    assert_eq!(ask(&app, "/a").await.text(), "new");
}

async fn a_cache_within_a_cache_does_not_wait_for_itself(harness: Harness) {
    let layer = cache(harness.live().await);
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    let handler = get(async move || {
        counter.fetch_add(1, SeqCst);
        ([("cache-control", "max-age=60")], "body")
    });
    let router = Router::new().route("/a", handler.layer(layer.clone()));
    let router = router.route_layer(layer.clone()).layer(layer.clone());
    let ask = async || {
        let response = router.clone().oneshot(request("/a", &[])).await.unwrap();
        let verdicts = response.headers().get_all("cache-status").iter().count();
        assert_eq!(verdicts, 1, "one cache speaks");
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let started = Instant::now();
    assert_eq!(ask().await, "body");
    assert!(started.elapsed() < Duration::from_secs(10), "it waited for its own lease");
    assert_eq!(ask().await, "body");
    assert_eq!(runs.load(SeqCst), 1);
}

async fn routes_and_nested_routers_keep_apart(harness: Harness) {
    let layer = cache(harness.backend.clone());
    let names = |router: &'static str| {
        Router::new()
            .route("/x", get(async move || ([("cache-control", "max-age=60")], router)))
            .layer(layer.clone())
    };
    let router = Router::new()
        .nest("/a", names("a"))
        .nest("/b", names("b"))
        .nest("/a/deep", names("deep"))
        .merge(names("root"));
    for _ in 0..2 {
        for (path, body) in [("/a/x", "a"), ("/b/x", "b"), ("/a/deep/x", "deep"), ("/x", "root")] {
            let response = router.clone().oneshot(request(path, &[])).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
            harness.tasks().drain(PATIENCE).await;
        }
    }
}

async fn a_shutdown_waits_for_the_fill(harness: Harness) {
    let origin = Origin::gated(|run, _| fresh(format!("run {run}")));
    let backend = harness.live().await;
    let app = origin.app(&cache(backend.clone()));
    let client = spawn(&app, "/a", &[]);
    origin.has_run(1).await;
    client.abort();
    assert_eq!(backend.shutdown(Duration::from_millis(20)).await, 1, "the handler runs still");
    origin.let_go(1);
    assert_eq!(backend.shutdown(PATIENCE).await, 0);
    assert_eq!(ask(&app, "/a").await.verdict(), "hit");
}

async fn a_fill_without_an_end_is_given_up(harness: Harness) {
    let limit = Duration::from_millis(100);
    // A handler that never answers ends with its client.
    let origin = Origin::gated(|_, _| unreachable!("it is never let go"));
    let backend = harness.live().await;
    let app = origin.app(&cache(backend.clone()).fill_timeout(limit));
    let client = spawn(&app, "/a", &[]);
    origin.has_run(1).await;
    let follower = spawn(&app, "/a", &[]);
    origin.has_run(2).await;
    client.abort();
    follower.abort();
    until(|| origin.ended.load(SeqCst) == 2, "the handlers end with their clients").await;

    // A body that never ends, too: as long as its client reads, it goes on.
    let (frames, body) = streamed();
    let body = once(body);
    let origin = Origin::open(move |_, _| fresh(body()));
    let app = origin.app(&cache(backend.clone()).fill_timeout(limit));
    let mut response = app.clone().oneshot(request("/b", &[])).await.unwrap().into_body();
    sleep(limit * 2).await;
    frames.send(Ok("late")).unwrap();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "late");
    drop(response);
    until(|| frames.is_closed(), "the body ends with its client").await;
    assert_eq!(backend.shutdown(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_hit_from_memory_is_the_very_bytes_that_were_stored() {
    let app = Origin::open(|_, _| fresh("x".repeat(100_000))).app(&cache(Backend::memory()));
    ask(&app, "/a").await;
    until_stored(&app, "/a").await;
    let (one, two) = (ask(&app, "/a").await, ask(&app, "/a").await);
    assert_eq!(one.body.len(), 100_000);
    assert_eq!(one.body.as_ptr(), two.body.as_ptr(), "a body was copied");
}

#[tokio::test]
async fn a_hit_is_one_round_trip_and_a_miss_is_three() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let app = counted().app(&cache(backend.clone()));
    ask(&app, "/warm-up").await; // the server learns the scripts
    backend.shutdown(PATIENCE).await;
    let miss = async {
        ask(&app, "/a").await;
        backend.shutdown(PATIENCE).await;
    };
    assert_eq!(proxy.turns_of(miss).await.1, 3, "look up, lease, fill");
    let (hit, turns) = proxy.turns_of(ask(&app, "/a")).await;
    assert_eq!((hit.verdict().as_str(), turns), ("hit", 1));
}

#[tokio::test]
async fn of_those_that_wait_in_one_process_one_asks_redis() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let origin = Origin::gated(|run, _| fresh(format!("run {run}")));
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let app = origin.app(&cache(backend.clone()));
    let clients: Vec<_> = (0..50).map(|_| spawn(&app, "/a", &[])).collect();
    until(|| proxy.count("HMGET") == 50, "all have looked").await;
    sleep(Duration::from_millis(200)).await;
    origin.let_go(1);
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "run 1");
    }
    backend.shutdown(PATIENCE).await;
    let scripts = proxy.count("EVALSHA");
    // The lease and the fill of the one; a few more on a machine so busy that some look up late.
    assert!((2..10).contains(&scripts), "{scripts} scripts for 50 clients");
}

#[tokio::test]
async fn without_its_store_every_request_is_answered_by_the_handler() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    // The store would wait for ever; the layer's own 100 ms hold.
    let backend = Backend::builder().deadline(PATIENCE).redis(proxy.url()).await.unwrap();
    let origin = counted();
    let app = origin.app(&CacheLayer::new(backend.clone()));
    ask(&app, "/a").await;
    until_stored(&app, "/a").await;

    for fault in ["hung", "dead"] {
        match fault {
            "hung" => proxy.set(Mode::BlackHole),
            _ => redis.kill(),
        }
        let before = origin.runs();
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            let app = app.clone();
            clients.spawn(async move { ask(&app, "/a").await });
        }
        for reply in clients.join_all().await {
            assert_eq!(reply.status, StatusCode::OK);
            assert_eq!(reply.verdict(), "fwd=bypass; detail=store-unavailable", "{fault}");
        }
        assert_eq!(origin.runs(), before + 20);
        // The deadline is 100 ms; the rest is for a slow machine.
        assert!(started.elapsed() < Duration::from_secs(2), "{fault}: {:?}", started.elapsed());
        proxy.set(Mode::Pass);
    }
    redis.restart();
    until_stored(&app, "/a").await;
}

#[tokio::test]
async fn a_store_that_fails_after_the_lookup_costs_no_request() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let origin = counted();
    let app = origin.app(&cache(backend.clone()));
    ask(&app, "/warm-up").await;
    backend.shutdown(PATIENCE).await;
    // The lookup passes; the lease, then the fill, is lost.
    for (passes, verdict) in
        [(1, "fwd=uri-miss; detail=store-unavailable"), (2, "fwd=uri-miss; stored")]
    {
        proxy.plan([(passes, Mode::HangUp)]);
        let reply = ask(&app, &format!("/{passes}")).await;
        assert_eq!((reply.status, reply.verdict().as_str()), (StatusCode::OK, verdict));
        backend.shutdown(PATIENCE).await;
        proxy.set(Mode::Pass);
        reconnected(&backend).await;
    }
}

#[tokio::test]
async fn a_process_that_lost_its_lease_does_not_overwrite_its_heir() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let lease = Duration::from_secs(1);
    let layer = |backend| cache(backend).lease(lease);
    let cut_off = Origin::gated(|_, _| fresh("stale"));
    let heir = Origin::open(|_, _| fresh("new"));
    let one = Backend::redis(proxy.url()).await.unwrap();
    let stale = cut_off.app(&layer(one.clone()));
    let new = heir.app(&layer(Backend::redis(redis.url()).await.unwrap()));

    let first = spawn(&stale, "/a", &[]);
    cut_off.has_run(1).await;
    let waiter = spawn(&new, "/a", &[]);
    sleep(lease * 2).await;
    assert_eq!(heir.runs(), 0, "the lease is renewed while the handler runs");
    proxy.set(Mode::BlackHole);
    assert_eq!(waiter.await.unwrap().text(), "new", "taken over once the lease had ended");
    proxy.set(Mode::Pass);
    reconnected(&one).await;
    cut_off.let_go(1);
    assert_eq!(first.await.unwrap().text(), "stale", "its own client gets what it made");
    one.shutdown(PATIENCE).await;
    for app in [&stale, &new] {
        let reply = ask(app, "/a").await;
        assert_eq!((reply.text(), reply.verdict().as_str()), ("new", "hit"));
    }
}

#[tokio::test]
async fn a_real_server_serves_hits_over_http_1_and_2_and_lets_upgrades_through() {
    let layer = cache(Backend::memory()).policy(Policy::fixed(Duration::from_secs(60)));
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    let upgrade = get(async |socket: axum::extract::ws::WebSocketUpgrade| {
        socket.on_upgrade(async |mut socket| {
            let _ = socket.send("hello".into()).await;
        })
    });
    let router = Router::new()
        .route("/a", get(async move || format!("run {}", counter.fetch_add(1, SeqCst) + 1)))
        .route("/socket", upgrade)
        .route_layer(layer);
    let server = HttpServer::start(router).await;
    for (client, expected) in [(HttpClient::http1(), "run 1"), (HttpClient::http2(), "run 2")] {
        // HTTP/2 says the scheme, HTTP/1 does not: two keys.
        for _ in 0..3 {
            let reply = client.get(&server.url("/a")).await;
            assert_eq!((reply.text(), reply.all("content-length")), (expected, vec!["5"]));
        }
        let head = Request::head(server.url("/a")).body(Body::empty()).unwrap();
        let reply = client.send(head).await;
        assert_eq!((reply.text(), reply.header("content-length")), ("", Some("5")));
        assert!(reply.header("cache-status").unwrap().contains("hit"));
    }
    let handshake = "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = support::http::client::write_raw(server.addr(), handshake).await;
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("hello"), "{answer}");
}

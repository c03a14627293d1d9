//! The idempotency layer, over memory and Redis, over axum and a plain service.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{
        http::{client::HttpClient, server::HttpServer},
        proxy::FaultProxy,
        server::RedisServer,
    },
};
use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{HeaderMap, Method, StatusCode, header::RETRY_AFTER};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use std::{
    convert::Infallible,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    task::JoinSet,
};
use tower::{
    Layer, ServiceExt, service_fn,
    util::{MapFutureLayer, MapRequestLayer},
};
use towerkeep::{
    Backend, RequestBody, StoreError, StoreFuture, Tasks, UserId,
    idempotency::{
        Begun, Claim, Completed, Fingerprint, IdempotencyLayer, IdempotencyStore, Idempotent,
        InFlight, KeyError, MemoryStore, Orphan, Outcome, Rejection, Terms,
    },
    marks::{Finish, UserLookup},
    pubsub::Subscription,
};

on_every_backend! {
    of_many_concurrent_requests_one_runs_and_the_others_get_409,
    of_many_concurrent_requests_one_runs_and_the_others_get_its_answer,
    a_handler_whose_client_leaves_runs_to_its_end_once_and_its_answer_is_replayed,
    a_lease_is_renewed_for_as_long_as_the_handler_runs_and_no_longer,
    a_run_that_was_taken_over_records_nothing,
    a_panic_is_raised_to_the_client_and_leaves_a_pending_record,
    an_orphan_is_rejected_if_so_wished,
    another_request_under_a_used_key_is_422,
    a_stored_answer_is_replayed_without_what_was_meant_for_the_first_asker,
    an_answer_that_is_too_large_streams_through_and_never_runs_again,
    a_stream_of_events_is_passed_on_as_it_comes,
    an_answer_that_comes_bit_by_bit_is_sent_as_it_comes_and_replayed_as_a_whole,
    an_answer_that_comes_bit_by_bit_is_kept_whole_although_its_client_leaves,
    an_answer_without_an_end_is_passed_on_and_becomes_a_tombstone,
    an_answer_that_breaks_after_its_beginning_is_not_recorded,
    the_last_byte_of_a_known_length_is_sent_when_it_is_recorded,
    the_status_decides_what_is_stored_unless_the_handler_does,
    what_another_version_wrote_is_409_and_never_run_again,
    a_failed_commit_leaves_the_record_to_its_lease,
    a_complete_that_fails_does_not_hold_the_answer_up_and_is_sent_until_it_lands,
    a_complete_that_always_fails_is_sent_until_the_lease_ends_and_no_longer,
    a_client_that_leaves_while_the_store_is_asked_leaves_nothing_behind,
    a_begin_without_an_answer_is_503_and_leaves_nothing_behind,
    one_who_waits_runs_when_the_first_gives_up,
    a_wait_has_an_end_and_a_limit,
    a_handler_learns_that_its_lease_was_lost_and_the_next_one_that_it_is_not_the_first,
    a_lease_counts_from_when_it_was_asked_for,
    a_handler_that_takes_too_long_is_stopped_and_leaves_a_pending_record,
    the_end_of_the_process_waits_for_handlers_whose_clients_left,
    keys_of_different_scopes_have_nothing_to_do_with_each_other,
    every_run_of_a_request_has_the_same_downstream_key_and_a_higher_fence,
    a_plain_service_is_guarded_over_http_2,
    two_plain_services_have_settings_of_their_own_over_one_backend,
}

const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(30);

/// What the handlers under test do and see.
#[derive(Clone, Default)]
struct Shop {
    runs: Arc<AtomicUsize>,
    commits: Arc<AtomicUsize>,
    started: Arc<Notify>,
    gate: Arc<Gate>,
}

/// A closed door.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Gate {
    async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }

    fn let_in(&self, requests: usize) {
        self.0.add_permits(requests);
    }
}

impl Shop {
    fn runs(&self) -> usize {
        self.runs.load(SeqCst)
    }

    /// A router whose handlers count their runs. `/pay` answers, `/slow` waits at the gate,
    /// `/status/{code}` answers with that status.
    fn router(&self, layer: IdempotencyLayer) -> Router {
        let (fast, slow, status, commits) =
            (self.clone(), self.clone(), self.clone(), self.commits.clone());
        Router::new()
            .route("/pay", post(async move || fast.run()).put(async || "put"))
            .route("/free", get(async |idem: Option<Idempotent>| format!("{}", idem.is_some())))
            .route(
                "/slow",
                post(async move || {
                    slow.started.notify_one();
                    slow.gate.pass().await;
                    slow.run()
                }),
            )
            .route(
                "/status/{code}",
                post(async move |axum::extract::Path(code): axum::extract::Path<u16>| {
                    (StatusCode::from_u16(code).unwrap(), status.run())
                }),
            )
            .layer(layer)
            .layer(MapRequestLayer::new(move |mut request: Request| {
                let commits = commits.clone();
                Finish::of(request.extensions_mut()).register(move |_| {
                    commits.fetch_add(1, SeqCst);
                    StoreFuture::ready(Ok(()))
                });
                request
            }))
    }

    fn run(&self) -> String {
        format!("run {}", self.runs.fetch_add(1, SeqCst) + 1)
    }
}

/// A response that was read to its end.
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: String,
    rejection: Option<Rejection>,
}

impl Reply {
    fn is_replay(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }
}

fn keyed(path: &str, key: &str, body: impl Into<Body>) -> Request {
    let request = Request::post(path).header("idempotency-key", format!("\"{key}\""));
    request.extension(UserId::new("alice")).body(body.into()).unwrap()
}

async fn send(app: &Router, request: Request) -> Reply {
    read(app.clone().oneshot(request).await.unwrap()).await
}

async fn read(response: Response) -> Reply {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply {
        status: head.status.as_u16(),
        rejection: head.extensions.get::<Rejection>().cloned(),
        headers: head.headers,
        body: String::from_utf8(body.into()).unwrap(),
    }
}

/// Sends until the answer is other than "in flight".
async fn settle(app: &Router, request: impl Fn() -> Request) -> Reply {
    let started = Instant::now();
    loop {
        let reply = send(app, request()).await;
        if !matches!(reply.rejection, Some(Rejection::InFlight { .. })) {
            return reply;
        }
        assert!(started.elapsed() < PATIENCE, "it is still in flight");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A store that answers as a test wants, and otherwise as the backend does.
#[derive(Clone)]
struct Spy {
    inner: Backend,
    rules: Arc<Rules>,
}

#[derive(Default)]
struct Rules {
    claims: Mutex<Vec<Claim>>,
    begins: Mutex<Begins>,
    failing_completes: AtomicUsize,
    /// What a `complete` passes before it is done.
    before_complete: Mutex<Option<Arc<Gate>>>,
    refused_renewals: AtomicUsize,
    renewed: Notify,
}

#[derive(Clone, Copy, Default)]
enum Begins {
    #[default]
    Answer,
    /// It is done, and the answer never comes.
    Hang,
    /// It is done, and the answer is lost.
    Lose,
    /// It is done, and the answer is late.
    Late(Duration),
}

impl Spy {
    fn over(backend: Backend) -> Self {
        Self { inner: backend, rules: Arc::default() }
    }

    fn last_claim(&self) -> Claim {
        self.rules.claims.lock().unwrap().last().unwrap().clone()
    }

    fn begins(&self, begins: Begins) {
        *self.rules.begins.lock().unwrap() = begins;
    }
}

impl IdempotencyStore for Spy {
    fn begin(&self, claim: &Claim, fingerprint: &Fingerprint, terms: Terms) -> StoreFuture<Begun> {
        self.rules.claims.lock().unwrap().push(claim.clone());
        let begun = self.inner.begin(claim, fingerprint, terms);
        match *self.rules.begins.lock().unwrap() {
            Begins::Answer => begun,
            Begins::Hang => StoreFuture::boxed(async {
                begun.await?;
                std::future::pending().await
            }),
            Begins::Lose => StoreFuture::boxed(async {
                begun.await?;
                Err(StoreError::timeout("begin", Duration::ZERO))
            }),
            Begins::Late(by) => StoreFuture::boxed(async move {
                let begun = begun.await;
                tokio::time::sleep(by).await;
                begun
            }),
        }
    }

    fn renew(&self, claim: &Claim, terms: Terms) -> StoreFuture<bool> {
        if self.rules.refused_renewals.load(SeqCst) > 0 {
            return StoreFuture::ready(Ok(false));
        }
        let (renewed, rules) = (self.inner.renew(claim, terms), self.rules.clone());
        StoreFuture::boxed(async move {
            let renewed = renewed.await;
            rules.renewed.notify_one();
            renewed
        })
    }

    fn complete(&self, claim: &Claim, outcome: Bytes, terms: Terms) -> StoreFuture<Completed> {
        if self.rules.failing_completes.load(SeqCst) > 0 {
            return StoreFuture::ready(Err(StoreError::timeout("complete", Duration::ZERO)));
        }
        let completed = self.inner.complete(claim, outcome, terms);
        match self.rules.before_complete.lock().unwrap().clone() {
            Some(gate) => StoreFuture::boxed(async move {
                gate.pass().await;
                completed.await
            }),
            None => completed,
        }
    }

    fn abandon(&self, claim: &Claim) -> StoreFuture<bool> {
        self.inner.abandon(claim)
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        self.inner.watch(id)
    }

    fn tasks(&self) -> Tasks {
        IdempotencyStore::tasks(&self.inner)
    }
}

async fn of_many_concurrent_requests_one_runs_and_the_others_get_409(harness: Harness) {
    let shop = Shop::default();
    let apps = harness.two_live().await.map(|backend| shop.router(IdempotencyLayer::new(backend)));
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let app = apps[n % 2].clone();
        requests.spawn(async move { send(&app, keyed("/slow", "k", "order")).await });
    }
    for _ in 0..63 {
        let reply = requests.join_next().await.unwrap().unwrap();
        assert_eq!(reply.status, 409, "{}", reply.body);
        assert!(matches!(reply.rejection, Some(Rejection::InFlight { .. })));
        assert!(reply.headers.contains_key(RETRY_AFTER));
    }
    shop.gate.let_in(64);
    let first = requests.join_next().await.unwrap().unwrap();
    assert_eq!((first.status, first.body.as_str(), shop.runs()), (200, "run 1", 1));
    assert!(!first.is_replay());
    let retry = send(&apps[1], keyed("/slow", "k", "order")).await;
    assert!(retry.is_replay());
    assert_eq!((retry.status, retry.body.as_str(), shop.runs()), (200, "run 1", 1));
}

async fn of_many_concurrent_requests_one_runs_and_the_others_get_its_answer(harness: Harness) {
    let shop = Shop::default();
    let apps = harness.two_live().await.map(|backend| {
        let wait = InFlight::Wait { max: PATIENCE };
        shop.router(IdempotencyLayer::new(backend).in_flight(wait))
    });
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let app = apps[n % 2].clone();
        requests.spawn(async move { send(&app, keyed("/slow", "k", "order")).await });
    }
    shop.started.notified().await;
    tokio::time::sleep(Duration::from_millis(50)).await; // most of them wait by now
    shop.gate.let_in(64);
    let replies = requests.join_all().await;
    assert_eq!(shop.runs(), 1);
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == "run 1"));
    assert_eq!(replies.iter().filter(|reply| reply.is_replay()).count(), 63);
}

async fn a_handler_whose_client_leaves_runs_to_its_end_once_and_its_answer_is_replayed(
    harness: Harness,
) {
    for (key, client) in [("\"h1\"", HttpClient::http1()), ("\"h2\"", HttpClient::http2())] {
        let shop = Shop::default();
        let app = shop.router(IdempotencyLayer::new(harness.live().await).insecure_unscoped());
        let left = Arc::new(Notify::new());
        let leaving = left.clone();
        let app = app.layer(MapFutureLayer::new(move |future| {
            let leaving = Leaving(leaving.clone());
            async move {
                let _leaving = leaving;
                future.await
            }
        }));
        let server = HttpServer::start(app).await;
        let request = || {
            let request = Request::post(server.url("/slow")).header("idempotency-key", key);
            request.body(Body::from("order")).unwrap()
        };
        tokio::select! {
            _ = client.try_send(request()) => panic!("the handler waits at the gate"),
            () = shop.started.notified() => {}
        }
        left.notified().await;
        // The server has noticed that the client left; only now may the handler go on.
        shop.gate.let_in(1);
        let started = Instant::now();
        let retry = loop {
            let reply = client.send(request()).await;
            if reply.status != 409 {
                break reply;
            }
            assert!(started.elapsed() < PATIENCE);
        };
        assert_eq!((retry.status.as_u16(), retry.text()), (200, "run 1"));
        assert_eq!(retry.header("idempotent-replayed"), Some("true"));
        assert_eq!((shop.runs(), shop.commits.load(SeqCst)), (1, 1));
    }
}

/// Tells when the future that holds it is dropped.
struct Leaving(Arc<Notify>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

async fn a_lease_is_renewed_for_as_long_as_the_handler_runs_and_no_longer(harness: Harness) {
    let shop = Shop::default();
    let spy = Spy::over(harness.live().await);
    let lease = Duration::from_secs(3);
    let app = shop.router(IdempotencyLayer::new(spy.clone()).lease(lease));
    let running = app.clone();
    let running = tokio::spawn(async move { send(&running, keyed("/slow", "k", "order")).await });
    shop.started.notified().await;
    // Four renewals, each after a third of the lease: without them it would have ended by now.
    for _ in 0..4 {
        let renewed = tokio::time::timeout(PATIENCE, spy.rules.renewed.notified()).await;
        renewed.expect("the lease is renewed");
    }
    let retry = send(&app, keyed("/slow", "k", "order")).await;
    assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })));
    shop.gate.let_in(1);
    assert_eq!(running.await.unwrap().body, "run 1");
    assert!(send(&app, keyed("/slow", "k", "order")).await.is_replay());
    let _ = spy.rules.renewed.notified().now_or_never(); // one that came just before the end
    let late = tokio::time::timeout(lease / 2, spy.rules.renewed.notified()).await;
    assert!(late.is_err(), "a renewal came after the end");
}

/// Also shows that these tests can see two runs of a request, where one would be wrong.
async fn a_run_that_was_taken_over_records_nothing(harness: Harness) {
    let entered = Arc::new(AtomicUsize::new(0));
    let started = Arc::new(Notify::new());
    let gates = Arc::new([Gate::default(), Gate::default()]);
    let (seen, starting, closed) = (entered.clone(), started.clone(), gates.clone());
    let app: Router = Router::new()
        .route(
            "/",
            post(async move || {
                let run = seen.fetch_add(1, SeqCst);
                starting.notify_one();
                closed[run].pass().await;
                format!("run {run}")
            }),
        )
        .layer(IdempotencyLayer::new(harness.backend.clone()).lease(LEASE));
    let request = || keyed("/", "k", "order");
    let run = || {
        let app = app.clone();
        tokio::spawn(async move { send(&app, request()).await })
    };
    let paused = run();
    started.notified().await;
    // By the store's clock the lease has ended, and no renewal came: the holder was paused.
    harness.advance(LEASE);
    let successor = run();
    started.notified().await;

    gates[0].let_in(1);
    assert_eq!(paused.await.unwrap().body, "run 0");
    let retry = send(&app, request()).await;
    assert!(
        matches!(retry.rejection, Some(Rejection::InFlight { .. })),
        "a stale answer is stored"
    );
    gates[1].let_in(1);
    assert_eq!(successor.await.unwrap().body, "run 1");
    assert_eq!(send(&app, request()).await.body, "run 1");
    assert_eq!(entered.load(SeqCst), 2);
}

async fn a_panic_is_raised_to_the_client_and_leaves_a_pending_record(harness: Harness) {
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = runs.clone();
    let app: Router = Router::new()
        .route(
            "/",
            post(async move |idem: Idempotent| {
                assert!(seen.fetch_add(1, SeqCst) > 0, "the first run panics");
                format!("attempt {}", idem.attempt())
            }),
        )
        .layer(IdempotencyLayer::new(harness.backend.clone()).lease(LEASE));
    let request = || keyed("/", "k", "order");
    let (first_app, first_request) = (app.clone(), request());
    let first = tokio::spawn(async move { first_app.oneshot(first_request).await.map(drop) });
    assert!(first.await.unwrap_err().is_panic());
    assert!(matches!(send(&app, request()).await.rejection, Some(Rejection::InFlight { .. })));
    harness.advance(LEASE);
    let second = send(&app, request()).await;
    assert_eq!((second.status, second.body.as_str()), (200, "attempt 2"));
}

async fn an_orphan_is_rejected_if_so_wished(harness: Harness) {
    let shop = Shop::default();
    let layer = IdempotencyLayer::new(harness.backend.clone()).on_orphan(Orphan::Reject);
    let app = shop.router(layer.lease(LEASE).time_limit(Duration::from_millis(20)));
    assert_eq!(send(&app, keyed("/slow", "k", "order")).await.status, 503);
    harness.advance(LEASE);
    for _ in 0..2 {
        let reply = send(&app, keyed("/slow", "k", "order")).await;
        assert_eq!(reply.status, 409);
        assert_eq!(reply.rejection, Some(Rejection::Orphan { attempts: 1 }));
    }
}

async fn another_request_under_a_used_key_is_422(harness: Harness) {
    let shop = Shop::default();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let app = shop.router(layer.methods([Method::POST, Method::PUT]));
    let nested = Router::new().nest("/shop", app.clone()).nest("/bank", app.clone());
    assert_eq!(send(&app, keyed("/pay", "k", "order")).await.status, 200);
    let with = |change: fn(&mut Request)| {
        let mut request = keyed("/pay", "k", "order");
        change(&mut request);
        request
    };
    for (what, request) in [
        ("body", keyed("/pay", "k", "order!")),
        ("path", keyed("/status/200", "k", "order")),
        ("query", keyed("/pay?x=1", "k", "order")),
        (
            "host",
            with(|request| {
                request.headers_mut().insert("host", "other.example".parse().unwrap());
            }),
        ),
        ("method", with(|request| *request.method_mut() = Method::PUT)),
        (
            "content type",
            with(|request| {
                request.headers_mut().insert("content-type", "text/plain".parse().unwrap());
            }),
        ),
    ] {
        let reply = send(&app, request).await;
        assert_eq!((reply.status, reply.rejection), (422, Some(Rejection::Mismatch)), "{what}");
    }
    assert_eq!(send(&app, keyed("/pay", "k", "order")).await.status, 200);
    assert_eq!(shop.runs(), 1);

    assert_eq!(send(&nested, keyed("/shop/pay", "nested", "order")).await.status, 200);
    assert_eq!(send(&nested, keyed("/bank/pay", "nested", "order")).await.status, 422);
}

async fn a_stored_answer_is_replayed_without_what_was_meant_for_the_first_asker(harness: Harness) {
    let app: Router = Router::new()
        .route(
            "/",
            post(async || {
                let headers = [
                    ("location", "/orders/1"),
                    ("set-cookie", "id=secret"),
                    ("date", "then"),
                    ("x-ratelimit-remaining", "3"),
                    ("traceparent", "00-1-2-01"),
                ];
                (StatusCode::CREATED, headers, "made")
            }),
        )
        .layer(IdempotencyLayer::new(harness.backend.clone()));
    let first = send(&app, keyed("/", "k", "order")).await;
    assert_eq!(first.headers["set-cookie"], "id=secret");
    assert!(!first.is_replay());
    let replay = send(&app, keyed("/", "k", "order")).await;
    assert!(replay.is_replay());
    assert_eq!((replay.status, replay.body.as_str()), (201, "made"));
    assert_eq!(replay.headers["location"], "/orders/1");
    for dropped in ["set-cookie", "date", "x-ratelimit-remaining", "traceparent"] {
        assert!(!replay.headers.contains_key(dropped), "{dropped}");
    }
}

async fn an_answer_that_is_too_large_streams_through_and_never_runs_again(harness: Harness) {
    const CHUNK: usize = 1_024;
    let (runs, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, counted) = (runs.clone(), made.clone());
    let app: Router = Router::new()
        .route(
            "/",
            post(async move || {
                seen.fetch_add(1, SeqCst);
                Body::from_stream(stream::unfold(0, move |n| {
                    let counted = counted.clone();
                    async move {
                        counted.fetch_add(1, SeqCst);
                        (n < 100).then(|| (Ok::<_, Infallible>(vec![n as u8; CHUNK]), n + 1))
                    }
                }))
            }),
        )
        .layer(IdempotencyLayer::new(harness.backend.clone()).stored_limit(4 * CHUNK));
    let response = app.clone().oneshot(keyed("/", "k", "order")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(made.load(SeqCst) < 10, "{} chunks were made unread", made.load(SeqCst));

    // The outcome is recorded before the body has been read.
    let retry = send(&app, keyed("/", "k", "order")).await;
    let status = StatusCode::OK;
    assert_eq!((retry.status, retry.rejection), (409, Some(Rejection::Tombstone { status })));
    assert!(!retry.headers.contains_key(RETRY_AFTER));

    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected: Vec<u8> = (0..100).flat_map(|n| vec![n; CHUNK]).collect();
    assert_eq!(body, expected);
    assert_eq!(runs.load(SeqCst), 1);
}

async fn a_stream_of_events_is_passed_on_as_it_comes(harness: Harness) {
    let app: Router = Router::new()
        .route(
            "/",
            post(async || {
                let first = stream::once(async { Ok::<_, Infallible>("data: 1\n\n") });
                let body = stream::StreamExt::chain(first, stream::pending());
                ([("content-type", "text/event-stream; charset=utf-8")], Body::from_stream(body))
            }),
        )
        .layer(IdempotencyLayer::new(harness.backend.clone()));
    let answer = app.clone().oneshot(keyed("/", "k", "order"));
    let response = tokio::time::timeout(PATIENCE, answer).await.expect("it is held up").unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    let retry = send(&app, keyed("/", "k", "order")).await;
    assert!(matches!(retry.rejection, Some(Rejection::Tombstone { .. })));
}

/// An app whose answer is "begin ", then what the test sends; an answer whose sender is dropped ends.
fn piecemeal(layer: IdempotencyLayer) -> (Router, mpsc::UnboundedSender<Piece>, Arc<AtomicUsize>) {
    let (sender, pieces) = mpsc::unbounded_channel::<Piece>();
    let (pieces, runs) = (Arc::new(Mutex::new(Some(pieces))), Arc::new(AtomicUsize::new(0)));
    let seen = runs.clone();
    let app = Router::new()
        .route(
            "/",
            post(async move || {
                seen.fetch_add(1, SeqCst);
                let pieces = pieces.lock().unwrap().take().expect("it runs once");
                let rest = stream::unfold(pieces, async |mut pieces| {
                    pieces.recv().await.map(|piece| (piece, pieces))
                });
                let first = stream::once(async { Ok(Bytes::from_static(b"begin ")) });
                Body::from_stream(stream::StreamExt::chain(first, Box::pin(rest)))
            }),
        )
        .layer(layer);
    (app, sender, runs)
}

type Piece = Result<Bytes, &'static str>;

/// The answer's body, of which the first piece has come.
async fn begun(app: &Router) -> Body {
    let answer = app.clone().oneshot(keyed("/", "k", "order"));
    let response = tokio::time::timeout(PATIENCE, answer).await.expect("it is held up").unwrap();
    let mut body = response.into_body();
    assert_eq!(piece(&mut body).await, "begin ");
    body
}

async fn piece(body: &mut Body) -> Bytes {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("it is held up");
    frame.unwrap().unwrap().into_data().unwrap()
}

async fn an_answer_that_comes_bit_by_bit_is_sent_as_it_comes_and_replayed_as_a_whole(
    harness: Harness,
) {
    let (app, pieces, runs) = piecemeal(IdempotencyLayer::new(harness.backend.clone()));
    let mut body = begun(&app).await;
    for n in 0..3 {
        let retry = send(&app, keyed("/", "k", "order")).await;
        assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })), "it has no end yet");
        pieces.send(Ok(Bytes::from(format!("{n} ")))).unwrap();
        assert_eq!(piece(&mut body).await, format!("{n} "));
    }
    drop(pieces);
    assert!(body.frame().await.is_none());
    // The end is sent when it is recorded.
    let retry = send(&app, keyed("/", "k", "order")).await;
    assert!(retry.is_replay());
    assert_eq!((retry.body.as_str(), runs.load(SeqCst)), ("begin 0 1 2 ", 1));
}

async fn an_answer_that_comes_bit_by_bit_is_kept_whole_although_its_client_leaves(
    harness: Harness,
) {
    let (app, pieces, runs) = piecemeal(IdempotencyLayer::new(harness.backend.clone()));
    drop(begun(&app).await);
    for _ in 0..100 {
        pieces.send(Ok(Bytes::from_static(b"x"))).unwrap();
    }
    drop(pieces);
    let retry = settle(&app, || keyed("/", "k", "order")).await;
    assert!(retry.is_replay());
    assert_eq!(retry.body, format!("begin {}", "x".repeat(100)));
    assert_eq!(runs.load(SeqCst), 1);
}

async fn an_answer_without_an_end_is_passed_on_and_becomes_a_tombstone(harness: Harness) {
    let layer = IdempotencyLayer::new(harness.backend.clone());
    for (layer, more) in [
        (layer.clone().stored_limit(100), 100),
        (layer.time_limit(Duration::from_millis(50)).scope(|_| Some("other".into())), 1),
    ] {
        let (app, pieces, runs) = piecemeal(layer);
        let mut body = begun(&app).await;
        for n in 0..more {
            pieces.send(Ok(Bytes::from(format!("{n}")))).unwrap();
            assert_eq!(piece(&mut body).await, format!("{n}"));
        }
        let retry = settle(&app, || keyed("/", "k", "order")).await;
        assert!(matches!(retry.rejection, Some(Rejection::Tombstone { .. })), "{}", retry.body);
        // Nobody waits for its end at a shutdown, and it still goes on.
        assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
        pieces.send(Ok(Bytes::from_static(b"still"))).unwrap();
        assert_eq!(piece(&mut body).await, "still");
        drop(body);
        tokio::time::timeout(PATIENCE, pieces.closed()).await.expect("it ends with its client");
        assert_eq!(runs.load(SeqCst), 1);
    }
}

async fn an_answer_that_breaks_after_its_beginning_is_not_recorded(harness: Harness) {
    let (app, pieces, _) = piecemeal(IdempotencyLayer::new(harness.backend.clone()));
    let mut body = begun(&app).await;
    pieces.send(Err("cut")).unwrap();
    assert!(body.frame().await.unwrap().unwrap_err().to_string().contains("cut"));
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
    let retry = send(&app, keyed("/", "k", "order")).await;
    assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })));
}

/// A body of known length, whose first piece is there and whose second takes a moment.
struct Halting(Vec<&'static str>, bool);

impl Halting {
    fn body() -> Body {
        Body::new(Self(vec!["end", "begin "], false))
    }
}

impl http_body::Body for Halting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.len() == 1 && !mem::replace(&mut self.1, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[tokio::test]
async fn an_answer_of_known_length_that_comes_in_pieces_is_announced_as_long_as_it_is() {
    let app: Router = Router::new()
        .route("/", post(async || Halting::body()))
        .layer(IdempotencyLayer::new(MemoryStore::default()).insecure_unscoped());
    let server = HttpServer::start(app).await;
    for (key, client) in [("\"h1\"", HttpClient::http1()), ("\"h2\"", HttpClient::http2())] {
        for replayed in [None, Some("true")] {
            let request = Request::post(server.url("/")).header("idempotency-key", key);
            let reply = client.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!((reply.text(), reply.header("content-length")), ("begin end", Some("9")));
            assert_eq!(reply.header("idempotent-replayed"), replayed);
        }
    }
}

/// Its client has then read all there is, and may ask again.
async fn the_last_byte_of_a_known_length_is_sent_when_it_is_recorded(harness: Harness) {
    let spy = Spy::over(harness.backend.clone());
    let gate = Arc::new(Gate::default());
    *spy.rules.before_complete.lock().unwrap() = Some(gate.clone());
    let layer = IdempotencyLayer::new(spy);
    for (key, app) in [
        ("hint", Router::new().route("/", post(async || Halting::body()))),
        (
            "header",
            Router::new().route(
                "/",
                post(async || {
                    let pieces = stream::iter(["begin ", "end"]).then(async |piece| {
                        tokio::task::yield_now().await;
                        Ok::<_, Infallible>(piece)
                    });
                    ([("content-length", "9")], Body::from_stream(Box::pin(pieces)))
                }),
            ),
        ),
    ] {
        let app = app.layer(layer.clone());
        let response = app.clone().oneshot(keyed("/", key, "order")).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(piece(&mut body).await, "begin ");
        let early = tokio::time::timeout(Duration::from_millis(50), body.frame()).await;
        assert!(early.is_err(), "{key}: it is not recorded yet");
        gate.let_in(1);
        assert_eq!(piece(&mut body).await, "end");
        assert!(send(&app, keyed("/", key, "order")).await.is_replay());
    }
}

#[tokio::test]
async fn trailers_are_sent_and_replayed_over_http_1_and_2_however_the_body_comes() {
    fn frames() -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let frames = ["bo", "dy"].map(|data| Frame::data(Bytes::from(data)));
        stream::iter(frames.into_iter().chain([Frame::trailers(trailers)]).map(Ok))
    }
    let announced = [("trailer", "x-sum")];
    let at_once = async move || (announced, Body::new(StreamBody::new(frames())));
    let bit_by_bit = async move || {
        let frames = frames().then(async |frame| {
            tokio::task::yield_now().await;
            frame
        });
        (announced, Body::new(StreamBody::new(Box::pin(frames))))
    };
    let app: Router = Router::new()
        .route("/at-once", post(at_once))
        .route("/bit-by-bit", post(bit_by_bit))
        .layer(IdempotencyLayer::new(MemoryStore::default()).insecure_unscoped());
    let server = HttpServer::start(app).await;
    for (http, client) in [("h1", HttpClient::http1()), ("h2", HttpClient::http2())] {
        for path in ["/at-once", "/bit-by-bit"] {
            for replayed in [None, Some("true")] {
                let request = Request::post(server.url(path)).header("te", "trailers");
                let request = request.header("idempotency-key", format!("\"{http}{path}\""));
                let reply = client.send(request.body(Body::empty()).unwrap()).await;
                assert_eq!((reply.text(), reply.header("idempotent-replayed")), ("body", replayed));
                let trailers = reply.trailers.as_ref().expect("trailers are sent");
                assert_eq!(trailers["x-sum"], "7", "{http} {path}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_announces_a_body_which_it_may_not_have_is_whole() {
    let app: Router = Router::new()
        .route(
            "/",
            get(async || "body")
                .post(async || (StatusCode::NOT_MODIFIED, [("content-length", "4")])),
        )
        .layer(IdempotencyLayer::new(MemoryStore::default()).methods([Method::HEAD, Method::POST]));
    for method in [Method::HEAD, Method::POST] {
        for replayed in [false, true] {
            let mut request = keyed("/", method.as_str(), Body::empty());
            *request.method_mut() = method.clone();
            assert_eq!(send(&app, request).await.is_replay(), replayed, "{method}");
        }
    }
}

#[tokio::test]
async fn a_layer_within_another_leaves_its_requests_to_it() {
    let shop = Shop::default();
    let layer = IdempotencyLayer::new(MemoryStore::default());
    let wait = InFlight::Wait { max: PATIENCE * 10 };
    let app = shop.router(layer.clone().in_flight(wait)).layer(layer);
    for replayed in [false, true] {
        let reply = tokio::time::timeout(PATIENCE, send(&app, keyed("/pay", "k", "order"))).await;
        let reply = reply.expect("it does not wait for itself");
        assert_eq!((reply.body.as_str(), reply.is_replay()), ("run 1", replayed));
    }
    let keyless = Request::post("/pay").body(Body::empty()).unwrap();
    assert_eq!(send(&app, keyless).await.body, "run 2");
}

#[tokio::test]
async fn what_a_response_has_to_wait_for_has_an_end_as_well() {
    let limit = Duration::from_millis(50);
    let (_, app) = memory_app(|layer| layer.time_limit(limit));
    let app = app.layer(MapRequestLayer::new(|mut request: Request| {
        let never = |_| StoreFuture::boxed(std::future::pending());
        Finish::of(request.extensions_mut()).register(never);
        request
    }));
    for path in ["/pay", "/status/500"] {
        let reply = tokio::time::timeout(PATIENCE, send(&app, keyed(path, path, "order"))).await;
        let reply = reply.expect("it has an end");
        assert_eq!((reply.status, reply.rejection), (503, Some(Rejection::TimeLimit { limit })));
        let retry = send(&app, keyed(path, path, "order")).await;
        assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })), "{path}");
    }
}

async fn the_status_decides_what_is_stored_unless_the_handler_does(harness: Harness) {
    let shop = Shop::default();
    let app = shop.router(IdempotencyLayer::new(harness.backend.clone()));
    for (code, stored) in [(200, true), (302, true), (404, true), (422, true), (401, false)]
        .into_iter()
        .chain([(403, false), (408, false), (409, false), (425, false), (429, false)])
        .chain([(500, false), (503, false)])
    {
        let path = format!("/status/{code}");
        let first = send(&app, keyed(&path, &format!("k{code}"), "order")).await;
        let again = send(&app, keyed(&path, &format!("k{code}"), "order")).await;
        assert_eq!((first.status, again.status), (code, code));
        assert_eq!(again.is_replay(), stored, "{code}");
        assert_eq!(first.body == again.body, stored, "{code}");
    }

    let decided =
        |status: StatusCode, by_extension: Option<Outcome>, by_handle: Option<Outcome>| {
            let layer = IdempotencyLayer::new(harness.backend.clone());
            let handler = async move |idem: Idempotent| -> Response {
                by_handle.into_iter().for_each(|outcome| idem.decide(outcome));
                match by_extension {
                    Some(outcome) => (status, Extension(outcome), "x").into_response(),
                    None => (status, "x").into_response(),
                }
            };
            Router::<()>::new().route("/", post(handler)).layer(layer)
        };
    use Outcome::{Retryable, Store, Tombstone};
    let (good, bad) = (StatusCode::OK, StatusCode::BAD_GATEWAY);
    for (n, (app, expected)) in [
        (decided(bad, Some(Store), None), "replay"),
        (decided(bad, None, Some(Store)), "replay"),
        (decided(good, Some(Retryable), None), "run"),
        (decided(good, None, Some(Retryable)), "run"),
        (decided(good, Some(Store), Some(Retryable)), "replay"),
        (decided(good, Some(Tombstone), None), "tombstone"),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("decided {n}");
        let first = send(&app, keyed("/", &key, "order")).await;
        assert_eq!(first.body, "x", "the first asker gets the answer whatever becomes of it");
        let again = send(&app, keyed("/", &key, "order")).await;
        let found = match again.rejection {
            Some(Rejection::Tombstone { .. }) => "tombstone",
            Some(other) => panic!("{other:?}"),
            None if again.is_replay() => "replay",
            None => "run",
        };
        assert_eq!(found, expected, "case {n}");
    }
}

async fn what_another_version_wrote_is_409_and_never_run_again(harness: Harness) {
    let shop = Shop::default();
    let spy = Spy::over(harness.backend.clone());
    let app = shop.router(IdempotencyLayer::new(spy.clone()));

    // A record that is as ours, with an outcome that is not.
    spy.rules.failing_completes.store(1, SeqCst);
    assert_eq!(send(&app, keyed("/pay", "outcome", "order")).await.status, 200);
    let outcome = Bytes::from_static(&[9, 1, 0, 0]);
    let terms = Terms::new(LEASE, LEASE);
    let completed = harness.complete(&spy.last_claim(), outcome, terms).await.unwrap();
    assert_eq!(completed, Completed::Stored);
    spy.rules.failing_completes.store(0, SeqCst);
    let reply = send(&app, keyed("/pay", "outcome", "order")).await;
    assert_eq!((reply.status, reply.rejection), (409, Some(Rejection::Unreadable)));

    // A record of another format.
    if harness.is_shared() {
        for (key, fields) in [("newer", &["v", "2"][..]), ("foreign", &["x", "y"][..])] {
            assert_eq!(send(&app, keyed("/pay", key, "order")).await.status, 200);
            let record = format!("{PREFIX}:idempotency:{{{}}}", spy.last_claim().id());
            if key == "foreign" {
                harness.command(&["DEL", &record]);
            }
            harness.command(&[&["HSET", &record], fields].concat());
            let reply = send(&app, keyed("/pay", key, "order")).await;
            assert_eq!(
                (reply.status, reply.rejection),
                (409, Some(Rejection::Unreadable)),
                "{key}"
            );
        }
        assert_eq!(shop.runs(), 3);
    } else {
        assert_eq!(shop.runs(), 1);
    }
}

async fn a_failed_commit_leaves_the_record_to_its_lease(harness: Harness) {
    let shop = Shop::default();
    let layer = IdempotencyLayer::new(harness.backend.clone()).lease(LEASE);
    let app = shop.router(layer).layer(MapRequestLayer::new(|mut request: Request| {
        let failing = request.headers().contains_key("x-failing");
        Finish::of(request.extensions_mut()).register(move |_| {
            let failed = StoreError::unavailable("the session could not be saved");
            StoreFuture::ready(if failing { Err(failed) } else { Ok(()) })
        });
        request
    }));
    for path in ["/pay", "/status/500"] {
        let runs = shop.runs();
        let mut request = keyed(path, path, "order");
        request.headers_mut().insert("x-failing", "1".parse().unwrap());
        send(&app, request).await;
        let retry = send(&app, keyed(path, path, "order")).await;
        assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })), "{path}");
        harness.advance(LEASE);
        assert!(send(&app, keyed(path, path, "order")).await.body.starts_with("run"));
        assert_eq!(shop.runs(), runs + 2);
    }
}

async fn a_complete_that_fails_does_not_hold_the_answer_up_and_is_sent_until_it_lands(
    harness: Harness,
) {
    let shop = Shop::default();
    let spy = Spy::over(harness.backend.clone());
    let app = shop.router(IdempotencyLayer::new(spy.clone()));
    spy.rules.failing_completes.store(1, SeqCst);
    let first = send(&app, keyed("/pay", "k", "order")).await;
    assert_eq!((first.status, first.body.as_str()), (200, "run 1"));
    let retry = send(&app, keyed("/pay", "k", "order")).await;
    assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })), "it was given up");
    spy.rules.failing_completes.store(0, SeqCst);
    let retry = settle(&app, || keyed("/pay", "k", "order")).await;
    assert!(retry.is_replay());
    assert_eq!((retry.body.as_str(), shop.runs()), ("run 1", 1));
}

/// A store may refuse this answer for ever, and grant every renewal.
async fn a_complete_that_always_fails_is_sent_until_the_lease_ends_and_no_longer(harness: Harness) {
    let shop = Shop::default();
    let backend = harness.live().await;
    let spy = Spy::over(backend.clone());
    let app = shop.router(IdempotencyLayer::new(spy.clone()).lease(Duration::from_secs(1)));
    spy.rules.failing_completes.store(1, SeqCst);
    assert_eq!(send(&app, keyed("/pay", "k", "order")).await.body, "run 1");
    assert_eq!(backend.shutdown(PATIENCE).await, 0, "it goes on and on");
    spy.rules.failing_completes.store(0, SeqCst);
    assert_eq!(settle(&app, || keyed("/pay", "k", "order")).await.body, "run 2");
}

async fn a_client_that_leaves_while_the_store_is_asked_leaves_nothing_behind(harness: Harness) {
    let shop = Shop::default();
    let spy = Spy::over(harness.backend.clone());
    let app = shop.router(IdempotencyLayer::new(spy.clone()));
    spy.begins(Begins::Hang);
    let request = app.clone().oneshot(keyed("/pay", "k", "order"));
    let left = tokio::time::timeout(Duration::from_millis(300), request).await;
    assert!(left.is_err(), "the store has not answered");
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
    spy.begins(Begins::Answer);
    let reply = send(&app, keyed("/pay", "k", "order")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "run 1"));
}

async fn a_begin_without_an_answer_is_503_and_leaves_nothing_behind(harness: Harness) {
    let shop = Shop::default();
    let spy = Spy::over(harness.backend.clone());
    let app = shop.router(IdempotencyLayer::new(spy.clone()));
    spy.begins(Begins::Lose);
    let reply = send(&app, keyed("/pay", "k", "order")).await;
    assert_eq!((reply.status, reply.rejection), (503, Some(Rejection::Unavailable)));
    assert_eq!(reply.headers[RETRY_AFTER], "1");
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
    spy.begins(Begins::Answer);
    let reply = send(&app, keyed("/pay", "k", "order")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "run 1"));
}

async fn one_who_waits_runs_when_the_first_gives_up(harness: Harness) {
    let [first, second] = harness.two_live().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Gate::default());
    let app = |backend| {
        let (runs, gate) = (runs.clone(), gate.clone());
        let layer = IdempotencyLayer::new(backend).in_flight(InFlight::Wait { max: PATIENCE });
        Router::<()>::new()
            .route(
                "/",
                post(async move || match runs.fetch_add(1, SeqCst) {
                    0 => {
                        gate.pass().await;
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                    _ => StatusCode::OK,
                }),
            )
            .layer(layer)
    };
    let (first, second) = (app(first), app(second));
    let failing = tokio::spawn(async move { send(&first, keyed("/", "k", "order")).await });
    while runs.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = tokio::spawn(async move { send(&second, keyed("/", "k", "order")).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    gate.let_in(1);
    assert_eq!(failing.await.unwrap().status, 500);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(runs.load(SeqCst), 2);
}

async fn a_wait_has_an_end_and_a_limit(harness: Harness) {
    let shop = Shop::default();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let brief = layer.clone().in_flight(InFlight::Wait { max: Duration::from_millis(60) });
    let crowded = layer.in_flight(InFlight::Wait { max: PATIENCE * 10 }).max_waiters(0);
    let (brief, crowded) = (shop.router(brief), shop.router(crowded));
    let running = brief.clone();
    let running = tokio::spawn(async move { send(&running, keyed("/slow", "k", "order")).await });
    shop.started.notified().await;
    for app in [&brief, &crowded] {
        let reply = tokio::time::timeout(PATIENCE, send(app, keyed("/slow", "k", "order"))).await;
        let reply = reply.expect("it does not wait longer than it may");
        assert!(matches!(reply.rejection, Some(Rejection::InFlight { .. })));
    }
    shop.gate.let_in(1);
    assert_eq!(running.await.unwrap().status, 200);
}

async fn a_handler_learns_that_its_lease_was_lost_and_the_next_one_that_it_is_not_the_first(
    harness: Harness,
) {
    let spy = Spy::over(harness.backend.clone());
    spy.rules.refused_renewals.store(1, SeqCst);
    let lease = Duration::from_secs(3);
    let app: Router = Router::new()
        .route(
            "/",
            post(async |idem: Idempotent| {
                idem.check()?;
                if idem.attempt() == 1 {
                    idem.lost().await;
                }
                idem.check()?;
                Ok::<_, towerkeep::idempotency::LeaseLost>(format!("attempt {}", idem.attempt()))
            }),
        )
        .layer(IdempotencyLayer::new(spy).lease(lease));
    let reply = send(&app, keyed("/", "k", "order")).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("lost"), "{}", reply.body);
    // It may have had its effect before it looked, so it does not count as one that never was.
    harness.advance(lease);
    assert_eq!(send(&app, keyed("/", "k", "order")).await.body, "attempt 2");
}

async fn a_lease_counts_from_when_it_was_asked_for(harness: Harness) {
    let spy = Spy::over(harness.backend.clone());
    let lease = Duration::from_millis(100);
    spy.begins(Begins::Late(lease));
    let app: Router = Router::new()
        .route("/", post(async |idem: Idempotent| idem.check()))
        .layer(IdempotencyLayer::new(spy).lease(lease));
    assert_eq!(send(&app, keyed("/", "k", "order")).await.status, 503, "it is lost already");
}

async fn a_handler_that_takes_too_long_is_stopped_and_leaves_a_pending_record(harness: Harness) {
    let shop = Shop::default();
    let limit = Duration::from_millis(20);
    let layer = IdempotencyLayer::new(harness.backend.clone()).time_limit(limit).lease(LEASE);
    let app = shop.router(layer);
    let reply = send(&app, keyed("/slow", "k", "order")).await;
    assert_eq!((reply.status, reply.rejection), (503, Some(Rejection::TimeLimit { limit })));
    let retry = send(&app, keyed("/slow", "k", "order")).await;
    assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })));
    harness.advance(LEASE);
    shop.gate.let_in(1);
    assert_eq!(send(&app, keyed("/slow", "k", "order")).await.body, "run 1");
}

async fn the_end_of_the_process_waits_for_handlers_whose_clients_left(harness: Harness) {
    let shop = Shop::default();
    let app = shop.router(IdempotencyLayer::new(harness.backend.clone()));
    tokio::select! {
        _ = send(&app, keyed("/slow", "k", "order")) => panic!("the handler waits at the gate"),
        () = shop.started.notified() => {}
    }
    assert_eq!(harness.backend.shutdown(Duration::from_millis(10)).await, 1);
    shop.gate.let_in(1);
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
    assert!(send(&app, keyed("/slow", "k", "order")).await.is_replay(), "the outcome is recorded");
}

async fn keys_of_different_scopes_have_nothing_to_do_with_each_other(harness: Harness) {
    let shop = Shop::default();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let by_user = shop.router(layer.clone());
    let as_user = |user: Option<&str>| {
        let mut request = keyed("/pay", "k", "order");
        request.extensions_mut().remove::<UserId>();
        user.map(|user| request.extensions_mut().insert(UserId::new(user)));
        request
    };
    assert_eq!(send(&by_user, as_user(Some("alice"))).await.body, "run 1");
    assert_eq!(send(&by_user, as_user(Some("bob"))).await.body, "run 2");
    assert_eq!(send(&by_user, as_user(Some("alice"))).await.body, "run 1");

    let nobody = send(&by_user, as_user(None)).await;
    assert_eq!((nobody.status, nobody.rejection), (403, Some(Rejection::ScopeMissing)));

    // The session has not been loaded: the layer makes it load.
    let mut lazy = as_user(None);
    let lookup = || StoreFuture::ready(Ok(Some(UserId::new("bob"))));
    lazy.extensions_mut().insert(UserLookup::new(lookup));
    assert_eq!(send(&by_user, lazy).await.body, "run 2");
    let mut broken = as_user(None);
    let lookup = || StoreFuture::ready(Err(StoreError::unavailable("no session store")));
    broken.extensions_mut().insert(UserLookup::new(lookup));
    assert_eq!(send(&by_user, broken).await.status, 503);

    let by_tenant = shop.router(layer.clone().scope(|parts| {
        let user = parts.extensions.get::<UserId>()?;
        let tenant = parts.headers.get("x-tenant")?.to_str().ok()?;
        Some(format!("{tenant}/{user}"))
    }));
    let mut request = as_user(Some("alice"));
    request.headers_mut().insert("x-tenant", "a".parse().unwrap());
    assert_eq!(send(&by_tenant, request).await.body, "run 3");
    assert_eq!(send(&by_tenant, as_user(Some("alice"))).await.status, 403);

    let unscoped = shop.router(layer.insecure_unscoped());
    assert_eq!(send(&unscoped, as_user(None)).await.body, "run 4");
    assert_eq!(send(&unscoped, as_user(Some("alice"))).await.body, "run 4");
}

async fn every_run_of_a_request_has_the_same_downstream_key_and_a_higher_fence(harness: Harness) {
    let app: Router = Router::new()
        .route(
            "/",
            post(async |idem: Idempotent| {
                let (psp, mail) = (idem.downstream_key("psp"), idem.downstream_key("mail"));
                let text =
                    format!("{} {} {psp} {mail} {}", idem.attempt(), idem.fence(), idem.key());
                (StatusCode::INTERNAL_SERVER_ERROR, text)
            }),
        )
        .layer(IdempotencyLayer::new(harness.backend.clone()));
    let run = async |key: &str| {
        let reply = send(&app, keyed("/", key, "order")).await;
        let words: Vec<String> = reply.body.split(' ').map(str::to_owned).collect();
        words
    };
    let (first, second, other) = (run("k").await, run("k").await, run("other").await);
    assert!(second[1].parse::<u64>().unwrap() > first[1].parse().unwrap());
    assert_eq!(first[2..], second[2..]);
    assert_ne!(first[2], first[3]);
    assert_ne!(first[2], other[2]);
    assert_eq!((first[0].as_str(), first[4].as_str()), ("1", "k"));
}

async fn a_plain_service_is_guarded_over_http_2(harness: Harness) {
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = runs.clone();
    let inner = service_fn(move |request: http::Request<RequestBody<Incoming>>| {
        let seen = seen.clone();
        async move {
            let attempt = request.extensions().get::<Idempotent>().map(Idempotent::attempt);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            seen.fetch_add(1, SeqCst);
            let text = format!("{attempt:?} {}", String::from_utf8_lossy(&body));
            Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::from(text)))
        }
    });
    let layer = IdempotencyLayer::new(harness.backend.clone()).insecure_unscoped();
    let server = HttpServer::start(layer.layer(inner)).await;
    let client = HttpClient::http2();
    let request = |key: Option<&str>| {
        let mut request = Request::post(server.url("/"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request.body(Body::from("order")).unwrap()
    };
    for replayed in [None, Some("true")] {
        let reply = client.send(request(Some("\"k\""))).await;
        assert_eq!(reply.text(), "Some(1) order");
        assert_eq!(reply.header("idempotent-replayed"), replayed);
        assert_eq!(reply.header("content-length"), Some("13"));
    }
    assert_eq!(client.send(request(None)).await.text(), "None order");
    assert_eq!(client.send(request(Some("k"))).await.status, 400);
    assert_eq!(runs.load(SeqCst), 2);
}

/// Each with a layer of its own, as axum has it with its routes.
async fn two_plain_services_have_settings_of_their_own_over_one_backend(harness: Harness) {
    type Asked = http::Request<RequestBody<Full<Bytes>>>;
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = runs.clone();
    let inner = service_fn(move |_: Asked| {
        let run = seen.fetch_add(1, SeqCst) + 1;
        async move { Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::from(format!("{run}")))) }
    });
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let open = layer.clone().layer(inner.clone());
    let strict = layer.lenient().require(Method::POST).layer(inner);
    let service = service_fn(move |request: http::Request<Full<Bytes>>| {
        let strict_path = request.uri().path() == "/strict";
        let service = if strict_path { strict.clone() } else { open.clone() };
        service.oneshot(request)
    });
    let ask = async |path: &str, key: Option<&str>| {
        let mut request = http::Request::post(path).extension(UserId::new("alice"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response =
            service.clone().oneshot(request.body(Full::default()).unwrap()).await.unwrap();
        let replayed = response.headers().contains_key("idempotent-replayed");
        (response.status().as_u16(), replayed)
    };
    for (path, key, found) in [
        ("/open", None, (200, false)),
        ("/open", Some("bare"), (400, false)),
        ("/open", Some("\"k\""), (200, false)),
        ("/open", Some("\"k\""), (200, true)),
        ("/strict", None, (400, false)),
        ("/strict", Some("bare"), (200, false)),
        ("/strict", Some("\"bare\""), (200, true)),
        ("/strict", Some("\"k\""), (422, false)),
    ] {
        assert_eq!(ask(path, key).await, found, "{path} {key:?}");
    }
    assert_eq!(runs.load(SeqCst), 3);
}

fn memory_app(layer: impl FnOnce(IdempotencyLayer) -> IdempotencyLayer) -> (Shop, Router) {
    let shop = Shop::default();
    let app = shop.router(layer(IdempotencyLayer::new(MemoryStore::default())));
    (shop, app)
}

#[tokio::test]
async fn a_malformed_key_is_400_and_says_what_is_wrong() {
    let (shop, app) = memory_app(|layer| layer);
    let long = format!("\"{}\"", "x".repeat(256));
    for (value, error, words) in [
        (&b""[..], KeyError::Empty, "empty"),
        (b"\"\"", KeyError::Empty, "empty"),
        (b"8e03978e-40d5-43dd", KeyError::NotString, "double quotes"),
        (b"\"open", KeyError::Unterminated, "closing"),
        (b"\"a\\b\"", KeyError::Escape, "backslash"),
        (b"\"a\tb\"", KeyError::Character(9), "0x09"),
        (b"\"\xff\"", KeyError::Character(255), "0xff"),
        (b"\"a\";X", KeyError::Parameter, "parameter"),
        (b"\"a\" b", KeyError::Trailing, "more text"),
        (b"\"a\", \"b\"", KeyError::Several, "more than one"),
        (long.as_bytes(), KeyError::TooLong, "255"),
    ] {
        let mut request = keyed("/pay", "k", "order");
        request.headers_mut().insert("idempotency-key", value.try_into().unwrap());
        let reply = send(&app, request).await;
        assert_eq!((reply.status, reply.rejection), (400, Some(Rejection::KeyMalformed(error))));
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(problem["status"], 400);
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
        assert!(problem["type"].as_str().unwrap().ends_with("#variant.KeyMalformed"));
    }
    let mut twice = keyed("/pay", "k", "order");
    twice.headers_mut().append("idempotency-key", "\"k\"".parse().unwrap());
    let reply = send(&app, twice).await;
    assert_eq!(reply.rejection, Some(Rejection::KeyMalformed(KeyError::Several)));
    assert_eq!(shop.runs(), 0);

    let (_, lenient) = memory_app(IdempotencyLayer::lenient);
    let mut bare = keyed("/pay", "k", "order");
    bare.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    assert_eq!(send(&lenient, bare).await.body, "run 1");
    assert!(
        send(&lenient, keyed("/pay", "k", "order")).await.is_replay(),
        "quoted, it is the same"
    );
}

#[tokio::test]
async fn a_request_without_a_key_passes_unless_its_method_requires_one() {
    let (shop, open) = memory_app(|layer| layer);
    let (_, strict) = memory_app(|layer| layer.require(Method::POST).require(Method::PUT));
    let bare = |method: &str| Request::builder().method(method).uri("/pay").body(Body::empty());
    for expected in ["run 1", "run 2"] {
        assert_eq!(send(&open, bare("POST").unwrap()).await.body, expected);
    }
    for method in ["POST", "PUT"] {
        let reply = send(&strict, bare(method).unwrap()).await;
        assert_eq!((reply.status, reply.rejection), (400, Some(Rejection::KeyMissing)), "{method}");
    }
    let mut put = keyed("/pay", "k", "order");
    *put.method_mut() = Method::PUT;
    let reply = send(&open, put).await;
    assert_eq!((reply.body.as_str(), reply.is_replay()), ("put", false));
    assert_eq!(shop.runs(), 2);

    let mut safe = keyed("/free", "k", Body::empty());
    *safe.method_mut() = Method::GET;
    assert_eq!(send(&open, safe).await.body, "false", "a GET is never guarded");
}

#[tokio::test]
async fn a_handler_that_needs_the_handle_says_who_is_to_blame_for_its_lack() {
    let handler = async |idem: Idempotent| format!("{}", idem.attempt());
    let guarded: Router = Router::new()
        .route("/", post(handler).get(handler))
        .layer(IdempotencyLayer::new(MemoryStore::default()));
    let plain: Router = Router::new().route("/", post(handler));
    let keyless = || Request::post("/").body(Body::empty()).unwrap();
    assert_eq!(send(&guarded, keyless()).await.rejection, Some(Rejection::KeyMissing));
    assert_eq!(send(&plain, keyless()).await.rejection, Some(Rejection::NotGuarded));
    let get = send(&guarded, Request::get("/").body(Body::empty()).unwrap()).await;
    assert_eq!((get.status, get.rejection), (500, Some(Rejection::NotGuarded)));
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_however_it_comes() {
    let (shop, app) = memory_app(|layer| layer.request_limit(10));
    assert_eq!(send(&app, keyed("/pay", "fits", "0123456789")).await.status, 200);
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    let endless = stream::repeat_with(move || {
        counted.fetch_add(1, SeqCst);
        Ok::<_, Infallible>("0123")
    });
    for body in [Body::from("0123456789a"), Body::from_stream(endless)] {
        let reply = send(&app, keyed("/pay", "large", body)).await;
        let limit = 10;
        assert_eq!((reply.status, reply.rejection), (413, Some(Rejection::BodyTooLarge { limit })));
    }
    assert_eq!(read.load(SeqCst), 3, "reading stops at the limit");
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_or_breaks_runs_nothing() {
    let (shop, app) = memory_app(|layer| layer.request_timeout(Duration::from_millis(20)));
    let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let reply = send(&app, keyed("/pay", "k", never)).await;
    assert_eq!((reply.status, reply.rejection), (408, Some(Rejection::BodyTimeout)));
    let broken = Body::from_stream(stream::iter([Ok(Bytes::from("or")), Err("cut")]));
    let reply = send(&app, keyed("/pay", "k", broken)).await;
    assert_eq!((reply.status, reply.rejection), (400, Some(Rejection::BodyBroken)));
    assert_eq!(shop.runs(), 0);
}

#[tokio::test]
async fn a_body_that_breaks_on_its_way_out_is_broken_for_the_client_and_not_stored() {
    let app: Router = Router::new()
        .route(
            "/",
            post(async || {
                let parts = [Ok(Bytes::from("ha")), Ok(Bytes::from("lf")), Err("cut")];
                Body::from_stream(stream::iter(parts))
            }),
        )
        .layer(IdempotencyLayer::new(MemoryStore::default()));
    let response = app.clone().oneshot(keyed("/", "k", "order")).await.unwrap();
    let mut body = response.into_body();
    let mut text = Vec::new();
    let error = loop {
        match body.frame().await.expect("a broken body has no clean end") {
            Ok(frame) => text.extend(frame.into_data().unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(text, b"half");
    assert!(error.to_string().contains("cut"), "{error}");
    let retry = send(&app, keyed("/", "k", "order")).await;
    assert!(matches!(retry.rejection, Some(Rejection::InFlight { .. })));
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_handed_on_and_leaves_a_pending_record() {
    let inner = service_fn(async |_: http::Request<RequestBody<Full<Bytes>>>| {
        Err::<http::Response<Full<Bytes>>, _>("no route")
    });
    let service = IdempotencyLayer::new(MemoryStore::default()).insecure_unscoped().layer(inner);
    let request = || {
        let request = http::Request::post("/").header("idempotency-key", "\"k\"");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    assert_eq!(service.clone().oneshot(request()).await.unwrap_err(), "no route");
    assert_eq!(service.oneshot(request()).await.unwrap().status(), 409);
}

#[tokio::test]
async fn a_full_memory_is_503_for_new_keys_and_runs_no_old_one_again() {
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = runs.clone();
    let backend = Backend::builder().max_idempotency_bytes(15_000).memory();
    let app: Router = Router::new()
        .route(
            "/",
            post(async move || {
                seen.fetch_add(1, SeqCst);
                "x".repeat(10_000)
            }),
        )
        .layer(IdempotencyLayer::new(backend));
    let mut handled = 0;
    let refused = loop {
        let reply = send(&app, keyed("/", &format!("k{handled}"), "order")).await;
        if reply.status != 200 {
            break reply;
        }
        handled += 1;
    };
    assert_eq!((refused.status, refused.rejection), (503, Some(Rejection::Unavailable)));
    assert!(
        handled > 1,
        "there is no room for a second answer, but for the note that there was one"
    );
    for n in 0..handled {
        let reply = send(&app, keyed("/", &format!("k{n}"), "order")).await;
        let tombstone = matches!(reply.rejection, Some(Rejection::Tombstone { .. }));
        assert_eq!((reply.is_replay(), tombstone), (n == 0, n > 0), "key {n}");
    }
    assert_eq!(runs.load(SeqCst), handled);
}

#[tokio::test]
async fn a_rejection_may_be_rendered_by_the_application() {
    let (_, app) = memory_app(|layer| {
        layer.require(Method::POST).rejection(|rejection| {
            http::Response::builder().status(418).body(rejection.to_string()).unwrap()
        })
    });
    let reply = send(&app, Request::post("/pay").body(Body::empty()).unwrap()).await;
    assert_eq!((reply.status, reply.rejection), (418, Some(Rejection::KeyMissing)));
    assert!(reply.body.contains("Idempotency-Key"));
}

#[tokio::test]
async fn a_redis_that_is_down_or_hangs_is_503_within_the_deadline_and_nothing_runs() {
    let server = RedisServer::start();
    let backend = Backend::redis(server.url()).await.unwrap();
    let shop = Shop::default();
    let app = shop.router(IdempotencyLayer::new(backend));
    assert_eq!(send(&app, keyed("/pay", "before", "order")).await.status, 200);
    server.pause();
    for round in 0..2 {
        let started = Instant::now();
        let reply = send(&app, keyed("/pay", "during", "order")).await;
        assert_eq!((reply.status, reply.rejection), (503, Some(Rejection::Unavailable)));
        assert!(reply.headers.contains_key(RETRY_AFTER));
        // One deadline of 250 ms, and room for a busy machine.
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        if round == 0 {
            server.kill();
        }
    }
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn a_run_is_two_round_trips_and_a_replay_one() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let shop = Shop::default();
    let app = shop.router(IdempotencyLayer::new(backend));
    for path in ["/pay", "/status/500"] {
        send(&app, keyed(path, &format!("the scripts of {path} are known"), "order")).await;
    }
    for (key, expected) in [("k", 2), ("k", 1), ("other", 2)] {
        let (reply, turns) = proxy.turns_of(send(&app, keyed("/pay", key, "order"))).await;
        assert_eq!((reply.status, turns), (200, expected), "{key}");
    }
    for (path, key, body, status, expected) in [
        ("/pay", "k", "another order", 422, 1),
        ("/status/500", "given up", "order", 500, 2),
        ("/status/429", "given up too", "order", 429, 2),
    ] {
        let (reply, turns) = proxy.turns_of(send(&app, keyed(path, key, body))).await;
        assert_eq!((reply.status, turns), (status, expected), "{path}");
    }
    let running = app.clone();
    let running = tokio::spawn(async move { send(&running, keyed("/slow", "s", "order")).await });
    shop.started.notified().await;
    let (busy, turns) = proxy.turns_of(send(&app, keyed("/slow", "s", "order"))).await;
    assert_eq!((busy.status, turns), (409, 1));
    shop.gate.let_in(1);
    assert_eq!(running.await.unwrap().status, 200);
    let keyless = Request::post("/pay").body(Body::empty()).unwrap();
    let (_, turns) = proxy.turns_of(send(&app, keyless)).await;
    assert_eq!(turns, 0);
}

#[tokio::test]
async fn a_renewal_and_each_verb_of_an_operator_is_one_round_trip() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let layer = IdempotencyLayer::new(backend.clone());
    let (app, records) = (Shop::default().router(layer.clone()), layer.records());
    let claim = Claim::new("id", "token");
    for round in ["the scripts are known after it", "counted"] {
        send(&app, keyed("/pay", "k", "order")).await;
        let mut turns = Vec::new();
        turns.push(
            proxy.turns_of(backend.renew(&claim, Terms::new(LEASE, LEASE)).map(drop)).await.1,
        );
        turns.push(proxy.turns_of(records.get("alice", "k").map(drop)).await.1);
        turns.push(proxy.turns_of(records.answer("alice", "k").map(drop)).await.1);
        let answer = http::Response::new(Bytes::new());
        let settled = records.force_complete("alice", "k", answer).map(drop);
        turns.push(proxy.turns_of(settled).await.1);
        turns.push(proxy.turns_of(records.forget("alice", "k").map(drop)).await.1);
        if round == "counted" {
            assert_eq!(turns, [1; 5]);
        }
    }
}

//! What an application sets and an operator asks, of idempotent requests, over every backend.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::harness::{Harness, PREFIX};
use axum::{
    Router,
    body::Body,
    extract::Request,
    response::Response as AxumResponse,
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tower::ServiceExt;
use towerkeep::{
    UserId,
    idempotency::{
        Begun, Claim, Completed, Fingerprint, IdempotencyLayer, IdempotencyStore, Idempotent,
        InFlight, Orphan, Recorded, Rejection, Settled, Standing, Terms,
    },
};

on_every_backend! {
    an_operator_sees_where_a_request_stands_and_its_answer_only_if_asked,
    an_orphan_that_was_settled_is_replayed_and_nothing_else_can_be,
    a_holder_that_was_only_paused_cannot_undo_what_was_settled,
    a_forgotten_request_runs_as_the_first_with_a_higher_fence,
    whoever_waits_is_told_of_what_an_operator_did,
    records_are_named_by_the_scope_of_their_layer,
    what_another_version_wrote_can_only_be_forgotten,
    a_request_without_a_key_is_told_by_its_content_for_the_window,
    equal_requests_of_two_users_are_two_whatever_the_scope_of_keys,
    of_many_equal_requests_without_a_key_one_runs,
    a_run_without_a_key_that_vanished_is_known_beyond_its_lease,
    a_content_is_never_taken_for_a_key,
    an_orphan_without_a_key_that_was_settled_is_replayed_for_the_window,
    a_body_is_compared_as_the_application_says,
    each_route_has_settings_of_its_own_over_one_backend,
    an_outcome_is_replayed_for_the_retention_and_then_runs_anew,
}

const LEASE: Duration = Duration::from_secs(30);
/// Long enough for what passes by itself in a server to be far less than [`BRIEF`].
const WINDOW: Duration = Duration::from_secs(60);
const BRIEF: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// A handler that counts its runs and does what its path says.
#[derive(Clone)]
struct Till {
    runs: Arc<AtomicUsize>,
    started: Arc<Notify>,
    gate: Arc<Semaphore>,
}

impl Till {
    fn new() -> Self {
        let (runs, started) = (Arc::default(), Arc::default());
        Self { runs, started, gate: Arc::new(Semaphore::new(0)) }
    }

    fn runs(&self) -> usize {
        self.runs.load(SeqCst)
    }

    fn app(&self, layer: IdempotencyLayer) -> Router {
        let (pay, slow) = (self.clone(), self.clone());
        Router::new()
            .route("/pay", post(async move |idem: Option<Idempotent>| pay.run(idem.as_ref())))
            .route(
                "/slow",
                post(async move || {
                    slow.started.notify_one();
                    slow.gate.acquire().await.unwrap().forget();
                    slow.run(None)
                }),
            )
            .route("/vanish", post(async || -> &'static str { panic!("the server dies") }))
            .layer(layer)
    }

    fn run(&self, idem: Option<&Idempotent>) -> String {
        let run = self.runs.fetch_add(1, SeqCst) + 1;
        format!("run {run}, attempt {:?}", idem.map(Idempotent::attempt))
    }
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: String,
    rejection: Option<Rejection>,
}

impl Reply {
    fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }
}

/// A request of Alice.
fn request(path: &str, key: Option<&str>, body: &str) -> Request {
    let mut request = Request::post(path).extension(UserId::new("alice"));
    if let Some(key) = key {
        request = request.header("idempotency-key", format!("\"{key}\""));
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn send(app: &Router, request: Request) -> Reply {
    read(app.clone().oneshot(request).await.unwrap()).await
}

async fn read(response: AxumResponse) -> Reply {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply {
        status: head.status.as_u16(),
        rejection: head.extensions.get::<Rejection>().cloned(),
        headers: head.headers,
        body: String::from_utf8(body.into()).unwrap(),
    }
}

/// Sends a request whose handler panics, so that its record is left behind.
async fn vanish(app: &Router, key: Option<&str>) {
    let request = request("/vanish", key, "order");
    let sent = AssertUnwindSafe(app.clone().oneshot(request)).catch_unwind().await;
    assert!(sent.is_err(), "the panic is raised again");
}

fn receipt(text: &str) -> Response<Bytes> {
    let receipt = Response::builder().status(201).header("location", "/receipts/1");
    receipt.header("set-cookie", "id=1").body(Bytes::from(text.to_owned())).unwrap()
}

async fn an_operator_sees_where_a_request_stands_and_its_answer_only_if_asked(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let (app, records) = (till.app(layer.clone()), layer.records());
    assert_eq!(records.get("alice", "k").await.unwrap(), None);
    assert!(records.answer("alice", "k").await.unwrap().is_none());

    tokio::select! {
        _ = send(&app, request("/slow", Some("k"), "order")) => panic!("it waits at the gate"),
        () = till.started.notified() => {}
    }
    let passed = Duration::from_secs(10);
    harness.advance(passed);
    let look = records.get("alice", "k").await.unwrap().unwrap();
    assert_eq!(look.state, Standing::Running { left: LEASE - passed });
    assert_eq!((look.attempts, look.age), (1, passed));
    assert!(look.left <= Duration::from_secs(86_400) - passed && look.left > LEASE);
    assert!(records.answer("alice", "k").await.unwrap().is_none(), "there is none yet");

    till.gate.add_permits(1);
    assert_eq!(harness.backend.shutdown(PATIENCE).await, 0);
    let done = records.get("alice", "k").await.unwrap().unwrap();
    assert_eq!((done.state, done.outcome.as_ref()), (Standing::Complete, None));
    assert_eq!(done.fence, look.fence);
    let Some(Recorded::Answer(answer)) = records.answer("alice", "k").await.unwrap() else {
        panic!("it is complete");
    };
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"run 1, attempt None"[..]));

    let brief = layer.stored_limit(10);
    send(&till.app(brief.clone()), request("/pay", Some("large"), "order")).await;
    let recorded = brief.records().answer("alice", "large").await.unwrap();
    assert!(matches!(recorded, Some(Recorded::Tombstone(StatusCode::OK))), "{recorded:?}");
}

async fn an_orphan_that_was_settled_is_replayed_and_nothing_else_can_be(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone()).on_orphan(Orphan::Reject);
    let (app, records) = (till.app(layer.clone()), layer.clone().stored_limit(500).records());
    let settle = async |text: &str| records.force_complete("alice", "k", receipt(text)).await;
    assert_eq!(settle("nothing").await.unwrap(), Settled::Absent);
    assert_eq!(records.get("alice", "k").await.unwrap(), None, "it made no record");

    vanish(&app, Some("k")).await;
    let running = settle("too early").await.unwrap();
    assert_eq!(running, Settled::Running { left: LEASE });
    harness.advance(LEASE);
    let orphan = send(&app, request("/vanish", Some("k"), "order")).await;
    assert_eq!(orphan.rejection, Some(Rejection::Orphan { attempts: 1 }));
    let look = records.get("alice", "k").await.unwrap().unwrap();
    assert_eq!((look.state, look.attempts, look.age), (Standing::Orphan, 1, LEASE));

    let error = settle(&"x".repeat(500)).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("500 bytes"), "{error}");
    assert_eq!(settle("charged").await.unwrap(), Settled::Settled);
    let replay = send(&app, request("/vanish", Some("k"), "order")).await;
    assert_eq!((replay.status, replay.body.as_str(), replay.is_replay()), (201, "charged", true));
    assert_eq!(replay.headers["location"], "/receipts/1");
    assert!(!replay.headers.contains_key("set-cookie"));
    let other = send(&app, request("/vanish", Some("k"), "another order")).await;
    assert_eq!(other.rejection, Some(Rejection::Mismatch), "the request is still known");

    assert_eq!(settle("another answer").await.unwrap(), Settled::Complete);
    let replay = send(&app, request("/vanish", Some("k"), "order")).await;
    assert_eq!(replay.body, "charged");
    harness.advance(Duration::from_secs(86_400));
    assert_eq!(records.get("alice", "k").await.unwrap(), None, "it ends as any other");
}

async fn a_holder_that_was_only_paused_cannot_undo_what_was_settled(harness: Harness) {
    let terms = Terms::new(LEASE, LEASE * 10);
    let (paused, print) = (Claim::new("id", "paused"), Fingerprint::new([1; 32]));
    harness.begin(&paused, &print, terms).await.unwrap();
    harness.advance(LEASE);
    let theirs = harness.settle("id", "theirs".into(), terms).await.unwrap();
    assert_eq!(theirs, Settled::Settled);
    let completed = harness.complete(&paused, "ours".into(), terms).await.unwrap();
    assert_eq!(completed, Completed::Lost);
    assert!(!harness.renew(&paused, terms).await.unwrap());
    assert!(!harness.abandon(&paused).await.unwrap());
    let begun = harness.begin(&Claim::new("id", "next"), &print, terms).await.unwrap();
    assert_eq!(begun, Begun::Replay("theirs".into()));
}

async fn a_forgotten_request_runs_as_the_first_with_a_higher_fence(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone()).on_orphan(Orphan::Reject);
    let (app, records) = (till.app(layer.clone()), layer.records());
    assert!(!records.forget("alice", "k").await.unwrap());
    vanish(&app, Some("k")).await;
    let before = records.get("alice", "k").await.unwrap().unwrap();
    assert!(records.forget("alice", "k").await.unwrap());

    // Forgotten, the key may be used for something else.
    let reply = send(&app, request("/pay", Some("k"), "order")).await;
    assert_eq!(reply.body, "run 1, attempt Some(1)");
    let after = records.get("alice", "k").await.unwrap().unwrap();
    assert!(after.fence > before.fence, "though the clock stood still");
    assert!(records.forget("alice", "k").await.unwrap(), "a complete one as well");
    let reply = send(&app, request("/pay", Some("k"), "order")).await;
    assert_eq!(reply.body, "run 2, attempt Some(1)");
}

async fn whoever_waits_is_told_of_what_an_operator_did(harness: Harness) {
    let terms = Terms::new(LEASE, LEASE * 10);
    let another = harness.another().await;
    for id in ["forgotten", "settled"] {
        let mut watch = another.watch(id).unwrap();
        assert!(watch.ready(PATIENCE).await);
        let print = Fingerprint::new([1; 32]);
        harness.begin(&Claim::new(id, "gone"), &print, terms).await.unwrap();
        harness.advance(LEASE);
        match id {
            "forgotten" => assert!(harness.forget(id).await.unwrap()),
            _ => drop(harness.settle(id, "answer".into(), terms).await.unwrap()),
        }
        tokio::time::timeout(PATIENCE, watch.recv()).await.expect("it is told");
    }
}

async fn records_are_named_by_the_scope_of_their_layer(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let by_tenant = layer.clone().scope(|_| Some("alice".to_owned()));
    let unscoped = layer.clone().insecure_unscoped();
    let layers = [layer, by_tenant, unscoped];
    for (at, layer) in layers.iter().enumerate() {
        send(&till.app(layer.clone()), request("/pay", Some("k"), "order")).await;
        assert_eq!(till.runs(), at + 1, "the scopes have nothing to do with each other");
        assert!(layer.records().get("alice", "k").await.unwrap().is_some());
        for other in &layers[at + 1..] {
            assert_eq!(other.records().get("alice", "k").await.unwrap(), None);
        }
        assert_eq!(layer.records().get("alice", "K").await.unwrap(), None);
    }
    assert_eq!(layers[0].records().get("bob", "k").await.unwrap(), None);
    assert!(layers[2].records().get("whoever", "k").await.unwrap().is_some());
}

async fn what_another_version_wrote_can_only_be_forgotten(harness: Harness) {
    if !harness.is_shared() {
        return; // a memory has one version
    }
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let (app, records) = (Till::new().app(layer.clone()), layer.records());
    send(&app, request("/pay", Some("k"), "order")).await;
    let keys = harness.keys(&format!("{PREFIX}:idempotency:*"));
    let record = keys.iter().find(|key| !key.ends_with(":f")).unwrap();
    harness.command(&["HSET", record, "v", "2"]);
    assert!(records.get("alice", "k").await.unwrap_err().is_corrupt());
    assert!(records.answer("alice", "k").await.unwrap_err().is_corrupt());
    let settled = records.force_complete("alice", "k", receipt("charged")).await;
    assert!(settled.unwrap_err().is_corrupt());
    assert!(records.forget("alice", "k").await.unwrap());
    assert!(!send(&app, request("/pay", Some("k"), "order")).await.is_replay());
}

async fn a_request_without_a_key_is_told_by_its_content_for_the_window(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let off = till.app(layer.clone());
    for run in ["run 1, attempt None", "run 2, attempt None"] {
        assert_eq!(send(&off, request("/pay", None, "order")).await.body, run);
    }

    let app = till.app(layer.dedup_by_content(WINDOW));
    let first = send(&app, request("/pay", None, "order")).await;
    assert_eq!((first.body.as_str(), first.is_replay()), ("run 3, attempt Some(1)", false));
    harness.advance(WINDOW - BRIEF);
    let again = send(&app, request("/pay", None, "order")).await;
    assert!(again.is_replay());
    assert_eq!(again.body, first.body);
    for (path, body) in [("/pay", "another"), ("/pay?to=bob", "order")] {
        assert!(!send(&app, request(path, None, body)).await.is_replay(), "{path} {body}");
    }
    let mut typed = request("/pay", None, "order");
    typed.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert!(!send(&app, typed).await.is_replay());
    assert_eq!(till.runs(), 6);

    harness.advance(BRIEF);
    let later = send(&app, request("/pay", None, "order")).await;
    assert_eq!(later.body, "run 7, attempt Some(1)", "the window is over");
}

async fn equal_requests_of_two_users_are_two_whatever_the_scope_of_keys(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone()).dedup_by_content(WINDOW);
    let as_user = |user: Option<&str>| {
        let mut request = request("/pay", None, "order");
        request.extensions_mut().remove::<UserId>();
        user.map(|user| request.extensions_mut().insert(UserId::new(user)));
        request
    };
    for (layer, run) in [(layer.clone(), 1), (layer.insecure_unscoped(), 1)] {
        let app = till.app(layer);
        let alice = send(&app, as_user(Some("alice"))).await;
        assert_eq!(alice.body, format!("run {run}, attempt Some(1)"));
        let bob = send(&app, as_user(Some("bob"))).await;
        assert_eq!(bob.body, "run 2, attempt Some(1)");
        let nobody = send(&app, as_user(None)).await;
        assert_eq!((nobody.status, nobody.rejection), (403, Some(Rejection::ScopeMissing)));
    }
    assert_eq!(till.runs(), 2);
}

async fn of_many_equal_requests_without_a_key_one_runs(harness: Harness) {
    let till = Till::new();
    let wait = InFlight::Wait { max: PATIENCE };
    let apps = harness.two_live().await.map(|backend| {
        till.app(IdempotencyLayer::new(backend).dedup_by_content(WINDOW).in_flight(wait))
    });
    let mut requests = JoinSet::new();
    for n in 0..32 {
        let app = apps[n % 2].clone();
        requests.spawn(async move { send(&app, request("/slow", None, "order")).await.body });
    }
    till.started.notified().await;
    till.gate.add_permits(32);
    while let Some(body) = requests.join_next().await {
        assert_eq!(body.unwrap(), "run 1, attempt None");
    }
    assert_eq!(till.runs(), 1);
}

async fn a_run_without_a_key_that_vanished_is_known_beyond_its_lease(harness: Harness) {
    let layer = IdempotencyLayer::new(harness.backend.clone()).dedup_by_content(WINDOW);
    let app = Till::new().app(layer.on_orphan(Orphan::Reject));
    vanish(&app, None).await;
    harness.advance(LEASE + WINDOW - BRIEF);
    let retry = send(&app, request("/vanish", None, "order")).await;
    assert_eq!(retry.rejection, Some(Rejection::Orphan { attempts: 1 }));
    harness.advance(BRIEF);
    vanish(&app, None).await;
}

async fn a_content_is_never_taken_for_a_key(harness: Harness) {
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let note = seen.clone();
    let layer = IdempotencyLayer::new(harness.backend.clone()).dedup_by_content(WINDOW);
    let handler = post(async move |idem: Idempotent| *note.lock().unwrap() = idem.key().to_owned());
    let app: Router = Router::new().route("/", handler).layer(layer.clone().lenient());
    assert_eq!(send(&app, request("/", None, "order")).await.status, 200);
    let key = seen.lock().unwrap().clone();
    let look = layer.records().get("alice", &key).await.unwrap().unwrap();
    assert_eq!(look.state, Standing::Complete, "an operator names it by that");
    let forged = send(&app, request("/", Some(&key), "order")).await;
    assert_eq!(forged.status, 400, "no client can");

    // And one that has a key goes by that alone.
    assert!(!send(&app, request("/", Some("k"), "order")).await.is_replay());
    let required: Router =
        Router::new().route("/", post(async || "")).layer(layer.require(Method::POST));
    let keyless = send(&required, request("/", None, "order")).await;
    assert_eq!(keyless.rejection, Some(Rejection::KeyMissing));
}

async fn an_orphan_without_a_key_that_was_settled_is_replayed_for_the_window(harness: Harness) {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let note = seen.clone();
    let handler = post(async move |idem: Idempotent| -> &'static str {
        *note.lock().unwrap() = Some(idem.key().to_owned());
        panic!("the server dies")
    });
    let layer = IdempotencyLayer::new(harness.backend.clone()).dedup_by_content(WINDOW);
    let app: Router = Router::new().route("/vanish", handler).layer(layer.clone());
    vanish(&app, None).await;
    harness.advance(LEASE);
    let key = seen.lock().unwrap().take().unwrap();
    let settled = layer.records().force_complete("alice", &key, receipt("charged")).await;
    assert_eq!(settled.unwrap(), Settled::Settled);
    harness.advance(WINDOW - BRIEF);
    assert!(send(&app, request("/vanish", None, "order")).await.is_replay());
    harness.advance(BRIEF);
    vanish(&app, None).await;
}

async fn a_body_is_compared_as_the_application_says(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let (one, same) = (r#"{"to":"bob","cents":12}"#, r#"{ "cents": 12, "to": "bob" }"#);
    let other = r#"{"to":"bob","cents":13}"#;
    let strict = till.app(layer.clone());
    send(&strict, request("/pay", Some("strict"), one)).await;
    let reply = send(&strict, request("/pay", Some("strict"), same)).await;
    assert_eq!(reply.rejection, Some(Rejection::Mismatch));

    let canonical = till.app(layer.canonical_body(|parts, body| {
        assert_eq!(parts.method, Method::POST);
        let fields: std::collections::BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(body).ok()?;
        Some(serde_json::to_vec(&fields).unwrap().into())
    }));
    send(&canonical, request("/pay", Some("k"), one)).await;
    assert!(send(&canonical, request("/pay", Some("k"), same)).await.is_replay());
    for different in [other, "no JSON"] {
        let reply = send(&canonical, request("/pay", Some("k"), different)).await;
        assert_eq!(reply.rejection, Some(Rejection::Mismatch), "{different}");
    }
    send(&canonical, request("/pay", Some("text"), "no JSON")).await;
    assert!(send(&canonical, request("/pay", Some("text"), "no JSON")).await.is_replay());
}

async fn each_route_has_settings_of_its_own_over_one_backend(harness: Harness) {
    let till = Till::new();
    let layer = IdempotencyLayer::new(harness.backend.clone());
    let handler = || {
        let till = till.clone();
        async move |idem: Option<Idempotent>| till.run(idem.as_ref())
    };
    let app: Router = Router::new()
        .route("/open", post(handler()).layer(layer.clone()))
        .route("/strict", post(handler()).layer(layer.clone().require(Method::POST)))
        .route("/brief", post(handler()).layer(layer.clone().retain(WINDOW)))
        .route("/forms", post(handler()).layer(layer.clone().dedup_by_content(WINDOW)))
        .route("/put", post(handler()).put(handler()).layer(layer.clone().methods([Method::PUT])))
        .route("/bare", post(handler()).layer(layer.lenient()))
        .route("/free", get(async || "free"));
    assert_eq!(send(&app, request("/open", None, "")).await.body, "run 1, attempt None");
    assert_eq!(send(&app, request("/strict", None, "")).await.status, 400);
    assert_eq!(send(&app, request("/forms", None, "")).await.body, "run 2, attempt Some(1)");

    assert_eq!(send(&app, request("/put", Some("k"), "")).await.body, "run 3, attempt None");
    let put = || {
        let mut put = request("/put", Some("put"), "");
        *put.method_mut() = Method::PUT;
        put
    };
    assert_eq!(send(&app, put()).await.body, "run 4, attempt Some(1)");
    assert!(send(&app, put()).await.is_replay());

    let bare = |path: &str| {
        let mut bare = request(path, None, "");
        bare.headers_mut().insert("idempotency-key", "bare".parse().unwrap());
        bare
    };
    assert_eq!(send(&app, bare("/bare")).await.status, 200);
    assert_eq!(send(&app, bare("/open")).await.status, 400);

    for path in ["/open", "/brief"] {
        send(&app, request(path, Some(path), "")).await;
    }
    harness.advance(WINDOW);
    assert!(send(&app, request("/open", Some("/open"), "")).await.is_replay());
    assert!(!send(&app, request("/brief", Some("/brief"), "")).await.is_replay());

    // One backend and one user, so one space of keys: a key is for one request, wherever it goes.
    let elsewhere = send(&app, request("/strict", Some("/open"), "")).await;
    assert_eq!(elsewhere.rejection, Some(Rejection::Mismatch));
}

async fn an_outcome_is_replayed_for_the_retention_and_then_runs_anew(harness: Harness) {
    let till = Till::new();
    let hour = Duration::from_secs(3_600);
    let app = till.app(IdempotencyLayer::new(harness.backend.clone()).retain(hour));
    send(&app, request("/pay", Some("k"), "order")).await;
    harness.advance(hour - BRIEF);
    assert!(send(&app, request("/pay", Some("k"), "order")).await.is_replay());
    harness.advance(BRIEF);
    let anew = send(&app, request("/pay", Some("k"), "another order")).await;
    assert_eq!(anew.body, "run 2, attempt Some(1)", "a replay does not prolong it");
}

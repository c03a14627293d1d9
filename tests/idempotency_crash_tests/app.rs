//! One process of the fleet. It stops at a step of a request, so that a test can do something to it
//! there, and notes in Redis, with Redis's time, what it held and when its handlers ran.

use crate::{
    harness::PREFIX,
    support::{
        http::server::HttpServer,
        process::{self, ChildApp},
    },
};
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use bytes::Bytes;
use std::{env, future, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use towerkeep::{
    Backend, StoreFuture, Tasks,
    connection::redis::{self, FromRedisValue},
    idempotency::{
        Begun, Claim, Completed, Fingerprint, IdempotencyLayer, IdempotencyStore, Idempotent,
        InFlight, Orphan, Terms,
    },
    pubsub::Subscription,
};

const APP: &str = "tests::app::app";

/// How long a step may take on a small machine under load.
pub(super) const PATIENT: Duration = Duration::from_secs(20);

/// The steps of a request at which a process may stand still.
pub(super) const STEPS: [&str; 5] =
    ["before_begin", "after_begin", "during", "before_complete", "after_complete"];

/// Not a test of its own: what the child processes run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app() {
    if !process::is_child(APP) {
        return;
    }
    let site = Site::open().await;
    let ms = |name: &str| env::var(name).ok().map(|ms| Duration::from_millis(ms.parse().unwrap()));
    let mut layer = IdempotencyLayer::new(site.clone())
        .insecure_unscoped()
        .lease(ms("LEASE").unwrap())
        .time_limit(PATIENT * 3);
    if let Some(max) = ms("WAIT") {
        layer = layer.in_flight(InFlight::Wait { max });
    }
    if env::var_os("REJECT").is_some() {
        layer = layer.on_orphan(Orphan::Reject);
    }
    let routes = Router::new().route("/{key}", post(pay)).layer(layer).with_state(site.clone());
    let server = HttpServer::start(routes).await;
    let mut end = signal(SignalKind::terminate()).unwrap();
    process::announce(server.addr());
    end.recv().await;
    println!("ENDING");
    server.stop().await;
    println!("ENDED {}", site.store.shutdown(PATIENT).await);
}

/// Starts a child. `REDIS_URL` is where its records are, `NOTES_URL` where its notes go, which no test
/// cuts off; `AT` is the step at which it stops, until there is a key `go:` and that step.
pub(super) fn spawn(envs: &[(&str, &str)]) -> ChildApp {
    ChildApp::spawn(APP, envs)
}

async fn pay(
    State(site): State<Site>,
    Path(key): Path<String>,
    idem: Idempotent,
) -> (StatusCode, String) {
    site.note(&key, format!("start {} {}", idem.fence(), idem.attempt())).await;
    tokio::select! {
        () = site.stop("during") => {}
        () = tell_of_the_loss(&idem) => {}
    }
    let ended = site.time().await;
    site.note(&key, format!("end {} {ended}", idem.fence())).await;
    (site.status, format!("attempt {}", idem.attempt()))
}

/// Never ends: a handler that does not heed the loss of its lease is the one to be feared.
async fn tell_of_the_loss(idem: &Idempotent) {
    idem.lost().await;
    println!("LOST {}", idem.check().is_err());
    future::pending().await
}

/// The backend's store, which stops and notes.
#[derive(Clone)]
struct Site {
    store: Backend,
    notes: Backend,
    at: String,
    renews: bool,
    status: StatusCode,
}

impl Site {
    async fn open() -> Self {
        let builder = || Backend::builder().prefix(PREFIX);
        let store = builder().deadline(Duration::from_secs(2)).from_env().await.unwrap();
        let notes = builder().deadline(PATIENT).redis(env::var("NOTES_URL").unwrap());
        let at = env::var("AT").unwrap_or_default();
        let renews = env::var_os("IDLE").is_none();
        let status = env::var("STATUS").map_or(StatusCode::OK, |status| status.parse().unwrap());
        Self { store, notes: notes.await.unwrap(), at, renews, status }
    }

    async fn query<T: FromRedisValue + Send + 'static>(&self, cmd: &redis::Cmd) -> T {
        self.notes.connection().unwrap().query(cmd).await.unwrap()
    }

    async fn time(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.query(&redis::cmd("TIME")).await;
        seconds * 1_000_000 + micros
    }

    async fn note(&self, list: &str, note: String) {
        self.query::<u64>(redis::cmd("RPUSH").arg(format!("notes:{list}")).arg(note)).await;
    }

    async fn stop(&self, step: &str) {
        if self.at != step {
            return;
        }
        println!("AT {step}");
        while !self.query::<bool>(redis::cmd("EXISTS").arg(format!("go:{step}"))).await {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl IdempotencyStore for Site {
    fn begin(&self, claim: &Claim, fingerprint: &Fingerprint, terms: Terms) -> StoreFuture<Begun> {
        let (site, claim, fingerprint) = (self.clone(), claim.clone(), *fingerprint);
        StoreFuture::boxed(async move {
            site.stop("before_begin").await;
            let begun = site.store.begin(&claim, &fingerprint, terms).await;
            if let Ok(Begun::Acquired { fence, .. }) = &begun {
                let lease = terms.lease.as_micros();
                site.note("leases", format!("begun {} {fence} {lease}", claim.token())).await;
                site.stop("after_begin").await;
            }
            begun
        })
    }

    fn renew(&self, claim: &Claim, terms: Terms) -> StoreFuture<bool> {
        let (site, claim) = (self.clone(), claim.clone());
        StoreFuture::boxed(async move {
            if !site.renews {
                return Ok(true);
            }
            let asked = site.time().await;
            let renewed = site.store.renew(&claim, terms).await;
            if let Ok(true) = renewed {
                site.note("leases", format!("renewed {} {asked}", claim.token())).await;
            }
            println!("RENEWED {renewed:?}");
            renewed
        })
    }

    fn complete(&self, claim: &Claim, outcome: Bytes, terms: Terms) -> StoreFuture<Completed> {
        let (site, claim) = (self.clone(), claim.clone());
        StoreFuture::boxed(async move {
            site.stop("before_complete").await;
            let completed = site.store.complete(&claim, outcome, terms).await;
            println!("COMPLETED {completed:?}");
            site.stop("after_complete").await;
            completed
        })
    }

    fn abandon(&self, claim: &Claim) -> StoreFuture<bool> {
        let (site, claim) = (self.clone(), claim.clone());
        StoreFuture::boxed(async move {
            site.stop("before_abandon").await;
            let abandoned = site.store.abandon(&claim).await;
            println!("ABANDONED {abandoned:?}");
            abandoned
        })
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        self.store.watch(id)
    }

    fn tasks(&self) -> Tasks {
        IdempotencyStore::tasks(&self.store)
    }
}

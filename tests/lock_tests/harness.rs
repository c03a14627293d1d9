//! What every test of the locks runs over.

use crate::support::{resp::RespClient, server::RedisServer};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use towerkeep::{
    Backend, Clock, StoreFuture, Tasks,
    lock::{Attempt, LockStore, Locks},
    pubsub::Subscription,
};

pub(super) const PREFIX: &str = "t";

/// A wait that no test that works comes near.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A TTL and a poll interval that no test outlives: what happens has another cause.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Two processes' views of the same locks.
pub(super) struct Harness {
    pub(super) backends: [Backend; 2],
    clock: Clock,
    pub(super) server: Option<RedisServer>,
}

impl Harness {
    pub(super) async fn memory(clock: Clock) -> Self {
        let backend = Backend::builder().clock(clock.clone()).memory();
        Self { backends: [backend.clone(), backend], clock, server: None }
    }

    pub(super) async fn redis(clock: Clock) -> Self {
        let server = RedisServer::start();
        let backends = [
            redis_at(&server.url(), clock.clone()).await,
            redis_at(&server.url(), clock.clone()).await,
        ];
        Self { backends, clock, server: Some(server) }
    }

    pub(super) fn locks(&self) -> [Locks; 2] {
        self.backends.clone().map(|backend| Locks::new(backend).poll(HOUR))
    }

    /// Moves the manual clock, and shortens the TTLs on the server as the time would have.
    pub(super) fn advance(&self, by: Duration) {
        self.clock.advance(by);
        if let Some(server) = &self.server {
            age(&mut server.client(), by);
        }
    }

    /// Waits for the releases by `Drop`.
    pub(super) async fn settle(&self) {
        for backend in &self.backends {
            assert_eq!(backend.shutdown(PATIENCE).await, 0);
        }
    }
}

pub(super) async fn redis_at(url: &str, clock: Clock) -> Backend {
    Backend::builder()
        .prefix(PREFIX)
        .clock(clock)
        .deadline(Duration::from_secs(5))
        .redis(url)
        .await
        .unwrap()
}

fn age(client: &mut RespClient, by: Duration) {
    for key in client.command(&["KEYS", &format!("{PREFIX}:*")]).texts() {
        let left = client.command(&["PTTL", &key]).int();
        assert!(left >= 0, "{key} has no TTL");
        client.command(&["PEXPIRE", &key, &(left - by.as_millis() as i64).to_string()]);
    }
}

/// A store that counts, and that keeps the answers to acquisitions back while it is told to.
#[derive(Clone)]
pub(super) struct Spy {
    store: Backend,
    counts: Arc<Counts>,
    replies: Arc<Semaphore>,
    deaf: bool,
}

#[derive(Default)]
struct Counts {
    acquires: AtomicUsize,
    renewals: AtomicUsize,
}

impl Spy {
    pub(super) fn new(store: &Backend) -> Self {
        let replies = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { store: store.clone(), counts: Arc::default(), replies, deaf: false }
    }

    /// Keeps every answer back until [`reply`](Spy::reply).
    pub(super) fn keep_replies(self) -> Self {
        Self { replies: Arc::new(Semaphore::new(0)), ..self }
    }

    /// Gets no hints.
    pub(super) fn deaf(self) -> Self {
        Self { deaf: true, ..self }
    }

    pub(super) fn reply(&self) {
        self.replies.add_permits(1);
    }

    pub(super) fn acquires(&self) -> usize {
        self.counts.acquires.load(SeqCst)
    }

    pub(super) fn renewals(&self) -> usize {
        self.counts.renewals.load(SeqCst)
    }
}

impl LockStore for Spy {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        let (spy, attempt) = (self.clone(), self.store.acquire(name, token, ttl));
        StoreFuture::boxed(async move {
            let attempt = attempt.await;
            spy.counts.acquires.fetch_add(1, SeqCst);
            spy.replies.acquire().await.unwrap().forget();
            attempt
        })
    }

    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        let (spy, renewal) = (self.clone(), self.store.renew(name, token, ttl));
        StoreFuture::boxed(async move {
            let renewal = renewal.await;
            spy.counts.renewals.fetch_add(1, SeqCst);
            renewal
        })
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        self.store.release(name, token)
    }

    fn subscribe(&self, name: &str) -> Option<Subscription> {
        if self.deaf { None } else { self.store.subscribe(name) }
    }

    fn tasks(&self) -> Tasks {
        self.store.tasks().clone()
    }
}

/// Waits for what another task is about to do.
pub(super) async fn eventually(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs each test over memory and over Redis.
macro_rules! over_both {
    ($clock:expr; $($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::tests::harness::Harness::memory($clock).await).await;
            })*
        }

        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::tests::harness::Harness::redis($clock).await).await;
            })*
        }
    };
}
pub(super) use over_both;

//! What the tests of the locks share.

use crate::harness::{Harness, PREFIX};
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

/// A wait that no test that works comes near.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A TTL and a poll interval that no test outlives: what happens has another cause.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Two processes' views of the same locks, by the test's clock.
pub(super) async fn two(harness: &Harness) -> [Backend; 2] {
    [harness.backend.clone(), harness.another().await]
}

/// The same, by the real time.
pub(super) async fn two_live(harness: &Harness) -> [Backend; 2] {
    harness.two_live().await
}

/// Locks that do not poll.
pub(super) fn locks(backends: &[Backend; 2]) -> [Locks; 2] {
    backends.clone().map(|backend| Locks::new(backend).poll(HOUR))
}

/// A backend as an application has it.
pub(super) async fn redis_at(url: &str) -> Backend {
    let builder = Backend::builder().prefix(PREFIX).deadline(Duration::from_secs(5));
    builder.redis(url).await.unwrap()
}

/// Waits for the releases by `Drop`.
pub(super) async fn settle(backends: &[Backend; 2]) {
    for backend in backends {
        assert_eq!(backend.shutdown(PATIENCE).await, 0);
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

    fn watch(&self, name: &str) -> Option<Subscription> {
        if self.deaf { None } else { self.store.watch(name) }
    }

    fn clock(&self) -> Clock {
        self.store.clock()
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

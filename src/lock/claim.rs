//! One attempt's hold on a lock: a name, a token, and what may be done with them.

use crate::{
    lease::{LeaseOps, release_within},
    lock::{policy::Attempt, store::LockStore},
    store::{StoreError, StoreFuture},
    telemetry,
};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

/// The name that metrics and logs know the locks by.
pub(super) const MIDDLEWARE: &str = "lock";

/// What an acquisition asks with. Its token is new for each, so a release of one can never hit
/// another.
pub(super) struct Claim {
    store: Arc<dyn LockStore>,
    id: String,
    token: String,
    ttl: Duration,
    /// A release has been asked for, be it that its answer was lost.
    released: AtomicBool,
}

impl Claim {
    pub(super) fn new(store: Arc<dyn LockStore>, id: &str, token: String, ttl: Duration) -> Self {
        Self { store, id: id.into(), token, ttl, released: AtomicBool::new(false) }
    }

    /// Asks the store once. May be dropped at any point: what it may have acquired is released.
    pub(super) fn ask(self: &Arc<Self>) -> Asking {
        let reply = self.store.acquire(&self.id, &self.token, self.ttl);
        Asking { claim: self.clone(), reply: Some(reply) }
    }

    /// Releases in a task what may or may not have been acquired.
    fn release_later(self: &Arc<Self>) {
        let claim = self.clone();
        self.store.tasks().spawn_if_possible(async move { claim.undo().await });
    }

    /// Releases what may or may not have been acquired, so that it is counted as neither.
    async fn undo(&self) {
        let release = || self.store.release(&self.id, &self.token);
        release_within(self.ttl, MIDDLEWARE, release).await;
    }
}

impl LeaseOps for Claim {
    fn renew(&self) -> StoreFuture<bool> {
        self.store.renew(&self.id, &self.token, self.ttl)
    }

    fn release(&self) -> StoreFuture<bool> {
        let reply = self.store.release(&self.id, &self.token);
        let again = self.released.swap(true, SeqCst);
        StoreFuture::boxed(async move {
            let ours = reply.await?;
            match (ours, again) {
                (true, _) => telemetry::count(telemetry::LOCK_TOTAL, "released"),
                (false, false) => telemetry::count(telemetry::LOCK_TOTAL, "lost"),
                // The release before, whose answer was lost, may have done it.
                (false, true) => {}
            }
            Ok(ours)
        })
    }
}

/// A question that is on its way.
pub(super) struct Asking {
    claim: Arc<Claim>,
    /// `None` once it was answered.
    reply: Option<StoreFuture<Attempt>>,
}

impl Future for Asking {
    type Output = Result<Attempt, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = self.reply.as_mut().expect("a question is polled to its end once");
        let answer = ready!(Pin::new(reply).poll(cx));
        self.reply = None;
        if let Err(error) = &answer {
            telemetry::store_failed(MIDDLEWARE, error);
            if is_unknown(error) {
                self.claim.release_later();
            }
        }
        Poll::Ready(answer)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(reply) = self.reply.take() else { return };
        let claim = self.claim.clone();
        // The answer is waited for, so that the release cannot overtake the question.
        self.claim.store.tasks().spawn_if_possible(async move {
            match reply.await {
                Ok(Attempt::Held { .. }) => {}
                Err(error) if !is_unknown(&error) => {}
                Ok(Attempt::Acquired { .. }) | Err(_) => claim.undo().await,
            }
        });
    }
}

/// Whether the lock may be ours in spite of the error.
fn is_unknown(error: &StoreError) -> bool {
    error.is_timeout() || error.is_corrupt()
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use super::*;
    use crate::{lock::memory::MemoryStore, telemetry::tests::Notes};

    /// What the holder does with its lock, and how that is counted.
    fn counted(holder: impl AsyncFnOnce(&Claim)) -> Vec<String> {
        let store: Arc<dyn LockStore> = Arc::new(MemoryStore::default());
        let claim = Claim::new(store, "a", "token".into(), Duration::from_secs(30));
        let claim = Arc::new(claim);
        let notes = Notes::default();
        ::metrics::with_local_recorder(&notes, || {
            tokio_test::block_on(async {
                assert!(matches!(claim.ask().await, Ok(Attempt::Acquired { .. })));
                holder(&claim).await;
            });
        });
        notes.lines()
    }

    #[test]
    fn a_lock_is_counted_as_released_or_lost_and_after_a_lost_answer_as_neither() {
        let line = |outcome| vec![format!("towerkeep_lock_outcomes_total outcome={outcome} +1")];
        let released = counted(async |claim| drop(claim.release().await));
        assert_eq!(released, line("released"));
        let lost = counted(async |claim| {
            claim.store.force_release("a").await.unwrap();
            assert!(!claim.release().await.unwrap());
        });
        assert_eq!(lost, line("lost"));
        let unknown = counted(async |claim| {
            drop(claim.release());
            assert!(!claim.release().await.unwrap());
        });
        assert_eq!(unknown, Vec::<String>::new());
    }
}

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
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// The name that metrics and logs know the locks by.
pub(super) const MIDDLEWARE: &str = "lock";

/// What an acquisition asks with. Its token is new for each, so a release of one can never hit
/// another.
pub(super) struct Claim {
    pub(super) store: Arc<dyn LockStore>,
    pub(super) id: String,
    pub(super) token: String,
    pub(super) ttl: Duration,
}

impl Claim {
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
        StoreFuture::boxed(async move {
            let ours = reply.await?;
            telemetry::count(telemetry::LOCK_TOTAL, if ours { "released" } else { "lost" });
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

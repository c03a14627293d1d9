//! Units that were taken together, and how what is left of them goes back.

use crate::{
    rate_limit::store::{Charge, RateLimitStore},
    telemetry,
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::task::AbortHandle;

/// Units that were taken together. Times are in µs.
pub(super) struct Batch {
    /// The charge to give them back by.
    pub(super) charge: Charge,
    pub(super) left: AtomicU64,
    pub(super) ends: u64,
    /// What the store had left then, and when all would have been back.
    pub(super) behind: u64,
    pub(super) reset_at: u64,
    pub(super) giving_back: OnceLock<AbortHandle>,
}

impl Batch {
    /// A quota that was changed is for the store to count.
    pub(super) fn is_for(&self, charge: &Charge, now: u64) -> bool {
        self.ends > now && self.charge.rule == charge.rule
    }

    /// Takes so many, and returns how many are left.
    pub(super) fn take(&self, cost: u64) -> Option<u64> {
        let taken = self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(cost));
        let left = taken.ok()? - cost;
        if left == 0
            && let Some(task) = self.giving_back.get()
        {
            task.abort();
        }
        Some(left)
    }

    /// Puts back what another charge of the same request was not there for. After its end it is lost
    /// until it comes back by itself.
    pub(super) fn put_back(&self, cost: u64) {
        self.left.fetch_add(cost, SeqCst);
    }

    /// Nothing is taken any more; returns what was left.
    pub(super) fn close(&self) -> u64 {
        self.left.swap(0, SeqCst)
    }
}

/// What is left at the end of its time, or when the process shuts down, is as if it had not been taken.
pub(super) async fn give_back_after(
    store: Arc<dyn RateLimitStore>,
    batch: Arc<Batch>,
    length: Duration,
) {
    let tasks = store.tasks();
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        () = tasks.draining() => {}
    }
    give_back(&*store, &batch, batch.close()).await;
}

pub(super) async fn give_back(store: &dyn RateLimitStore, batch: &Batch, left: u64) {
    let mut charge = batch.charge.clone();
    charge.cost = left;
    if left > 0
        && let Err(error) = store.refund(&[charge]).await
    {
        // They count until they come back by themselves.
        telemetry::store_failed("rate_limit", &error);
    }
}

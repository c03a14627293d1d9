//! The leases of one request, from before the store is asked until the response's body has ended.

use crate::{
    rate_limit::store::{Charge, RateLimitStore},
    telemetry,
};
use std::{fmt, mem, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// Leases that are given back when it is dropped, in a task of its own. It is made before the store is
/// asked, so that a lease whose answer nobody waits for any more goes back as well.
pub(crate) struct HeldLeases {
    store: Arc<dyn RateLimitStore>,
    charges: Vec<Charge>,
    renewal: Option<JoinHandle<()>>,
}

impl HeldLeases {
    /// The leases among these charges, if there are any.
    pub(crate) fn of(store: &Arc<dyn RateLimitStore>, charges: &[Charge]) -> Option<Self> {
        let leases =
            charges.iter().filter(|charge| charge.rule.is_concurrency() && charge.cost > 0);
        let charges: Vec<Charge> = leases.cloned().collect();
        (!charges.is_empty()).then(|| Self { store: store.clone(), charges, renewal: None })
    }

    /// Keeps the leases until it is dropped.
    pub(crate) fn renew(mut self) -> Self {
        let shortest = self.charges.iter().filter_map(|charge| charge.rule.lease_length()).min();
        let every = shortest.unwrap_or(Duration::from_secs(30)) / 3;
        let (store, charges) = (self.store.clone(), self.charges.clone());
        self.renewal = Some(self.store.tasks().spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                match store.renew(&charges).await {
                    Ok(verdict) if verdict.outcomes().iter().all(|outcome| !outcome.allowed) => {
                        return;
                    }
                    Ok(_) => {}
                    // A third of the lease later it is tried again.
                    Err(error) => telemetry::store_failed("rate_limit", &error),
                }
            }
        }));
        self
    }

    /// There is nothing to give back: the store has said that nothing was taken.
    pub(crate) fn disarm(mut self) {
        self.charges.clear();
    }
}

impl Drop for HeldLeases {
    fn drop(&mut self) {
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
        if self.charges.is_empty() {
            return;
        }
        let (store, charges) = (self.store.clone(), mem::take(&mut self.charges));
        self.store.tasks().spawn_if_possible(async move {
            if let Err(error) = store.refund(&charges).await {
                // They end by themselves.
                telemetry::store_failed("rate_limit", &error);
            }
        });
    }
}

impl fmt::Debug for HeldLeases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLeases").field("leases", &self.charges.len()).finish_non_exhaustive()
    }
}

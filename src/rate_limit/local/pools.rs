//! The units that are held, by key.

use crate::{
    clock::Clock,
    expiring::{Entry, Expiring, WhenFull},
    rate_limit::{
        local::{batch::Batch, lease::units},
        outcome::Outcome,
        store::Charge,
    },
};
use std::sync::{Arc, atomic::Ordering::SeqCst};

/// How many keys' units are held: about 5 MB. Those of one that has to go are given back in their time.
const CAPACITY: usize = 10_000;

/// What is held of each key.
#[derive(Debug)]
pub(super) struct Pools(Expiring<Pool>);

/// What is held of one key.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) batch: Option<Arc<Batch>>,
    /// Until when there are too few to take many at once.
    pub(super) scarce_until: u64,
}

impl Pools {
    pub(super) fn new(clock: Clock) -> Self {
        Self(Expiring::new(clock, CAPACITY, WhenFull::EvictLeastRecentlyUsed))
    }

    pub(super) fn with<R>(&self, key: &str, step: impl FnOnce(&mut Entry<'_, Pool>) -> R) -> R {
        self.0.with(key, step)
    }

    pub(super) fn take(&self, charge: &Charge) -> Option<(Arc<Batch>, Outcome)> {
        self.with(&key(charge), |entry| {
            let now = entry.now_us();
            let batch = entry.get()?.batch.as_ref()?;
            if !batch.is_for(charge, now) {
                return None;
            }
            let left = batch.take(charge.cost)?;
            let reset_us = batch.reset_at.saturating_sub(now);
            let mut outcome = Outcome::from_micros(true, batch.behind + left, reset_us, Some(0));
            outcome.receipt = batch.charge.receipt;
            Some((batch.clone(), outcome))
        })
    }

    /// How many are here.
    pub(super) fn held(&self, charge: &Charge) -> u64 {
        self.with(&key(charge), |entry| {
            let now = entry.now_us();
            let batch = entry.get().and_then(|pool| pool.batch.as_ref());
            let batch = batch.filter(|batch| batch.is_for(charge, now));
            batch.map_or(0, |batch| batch.left.load(SeqCst))
        })
    }

    /// Whether none are here, and many may be there.
    pub(super) fn may_fetch(&self, charge: &Charge) -> bool {
        let is_scarce = |key: &str| {
            self.with(key, |entry| {
                let now = entry.now_us();
                entry.get().is_some_and(|pool| pool.scarce_until > now)
            })
        };
        charge.cost <= units(charge) && self.held(charge) == 0 && !is_scarce(&key(charge))
    }
}

pub(super) fn key(charge: &Charge) -> String {
    format!("{}:{}", charge.key, charge.policy)
}

//! Rate limits in this process's memory.

use crate::{
    context::Context,
    expiring::{Entry, Expiring, WhenFull},
    rate_limit::{
        policy::Rule,
        store::{Charge, Outcome, RateLimitStore, Verdict},
    },
    store::{StoreError, StoreFuture},
};
use smallvec::SmallVec;

/// How many counts are kept by default: about 40 MB.
pub(crate) const DEFAULT_CAPACITY: usize = 262_144;

/// Counts in memory. When there is no room for another, the one nearest to empty is forgotten.
#[derive(Debug)]
pub struct MemoryStore {
    tats: Expiring<u64>,
}

impl MemoryStore {
    pub(crate) fn new(context: &Context, capacity: usize) -> Self {
        // An entry expires when its bucket is empty: the soonest to expire is the nearest to empty.
        let when_full = WhenFull::EvictSoonestToExpire { may_evict: |_| true };
        Self { tats: Expiring::new(context.clock.clone(), capacity, when_full) }
    }

    fn decide(&self, charges: &[Charge]) -> Result<Verdict, StoreError> {
        let keys: SmallVec<[String; 4]> = charges.iter().map(key).collect();
        self.tats.with_all(&keys, |entries| {
            let now = entries.now_us();
            let mut steps: SmallVec<[_; 4]> = SmallVec::new();
            for (charge, key) in charges.iter().zip(&keys) {
                let Rule::Gcra(gcra) = charge.rule;
                let tat = entries.entry(key).get().copied();
                steps.push((gcra, gcra.decide(tat, now, charge.cost)));
            }
            let all = steps.iter().all(|(_, step)| step.allowed);
            for (key, (_, step)) in keys.iter().zip(&steps) {
                if all {
                    put(&mut entries.entry(key), step.after)?;
                } else if step.clamped {
                    put(&mut entries.entry(key), step.before)?;
                }
            }
            Ok(Verdict::new(steps.iter().map(|(gcra, step)| {
                let tat = if all { step.after } else { step.before };
                let remaining = gcra.remaining(tat, now);
                Outcome::from_micros(step.allowed, remaining, tat - now, step.retry_us)
            })))
        })
    }
}

impl Default for MemoryStore {
    /// A store on the system's clock that keeps up to 262,144 counts.
    fn default() -> Self {
        Self::new(&Context::default(), DEFAULT_CAPACITY)
    }
}

impl RateLimitStore for MemoryStore {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        StoreFuture::ready(self.decide(charges))
    }
}

fn key(charge: &Charge) -> String {
    format!("{}:{}", charge.key, charge.policy)
}

fn put(entry: &mut Entry<'_, u64>, tat: u64) -> Result<(), StoreError> {
    if tat <= entry.now_us() {
        entry.remove();
        return Ok(());
    }
    entry.insert(tat, tat, 1)
}

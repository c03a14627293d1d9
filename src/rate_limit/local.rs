//! Units that are taken from the store by the dozen and spent in this process.
//!
//! A store in front of the layer's own: what it hands out has been charged before, so that all
//! processes together never spend more than the store has charged.

mod batch;
mod lease;
mod pools;

pub(crate) use self::lease::LocalLease;

use self::{
    batch::{Batch, give_back, give_back_after},
    lease::units,
    pools::{Pool, Pools, key},
};
use crate::{
    clock::Clock,
    flight::{Flights, Leader, Role},
    rate_limit::{
        forgotten::Forgotten,
        outcome::{Outcome, Verdict},
        rule::Rule,
        store::{Charge, RateLimitStore, merged},
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// How often a request waits for others to fetch units before it asks for its own.
const ROUNDS: usize = 4;

/// A store of which units are leased. A cheap clone.
#[derive(Clone)]
pub(crate) struct Leasing(Arc<Inner>);

struct Inner {
    store: Arc<dyn RateLimitStore>,
    clock: Clock,
    pools: Pools,
    /// The keys of the pools that are void: what is under way then is not kept.
    forgotten: Forgotten,
    flights: Flights<()>,
}

impl Leasing {
    pub(crate) fn over(store: Arc<dyn RateLimitStore>) -> Self {
        Self::by(store.clock(), store)
    }

    fn by(clock: Clock, store: Arc<dyn RateLimitStore>) -> Self {
        let pools = Pools::new(clock.clone());
        let (forgotten, flights) = (Forgotten::default(), Flights::default());
        Self(Arc::new(Inner { store, clock, pools, forgotten, flights }))
    }

    /// The verdict, if there are units of every charge here.
    fn spend(&self, charges: &[Charge]) -> Option<Verdict> {
        let mut spent: Vec<(Arc<Batch>, Outcome)> = Vec::with_capacity(charges.len());
        for charge in charges {
            match self.0.pools.take(charge) {
                Some(one) => spent.push(one),
                None => {
                    for ((batch, _), charge) in spent.iter().zip(charges) {
                        batch.put_back(charge.cost);
                    }
                    return None;
                }
            }
        }
        Some(Verdict::new(spent.into_iter().map(|(_, outcome)| outcome)))
    }

    async fn fetch(self, charges: Vec<Charge>) -> Result<Verdict, StoreError> {
        for _ in 0..ROUNDS {
            if let Some(verdict) = self.spend(&charges) {
                return Ok(verdict);
            }
            let Some(at) = charges.iter().position(|charge| self.0.pools.may_fetch(charge)) else {
                break;
            };
            match self.0.flights.join(&key(&charges[at])) {
                // Nobody asks for so many twice at a time, or a process would hold twice as many.
                Role::Follow(flight) => drop(flight.outcome().await),
                // Others may have landed between the look and the start.
                Role::Lead(_) if !self.0.pools.may_fetch(&charges[at]) => {}
                Role::Lead(leader) => {
                    // In a task of its own: what was taken is not lost if the client leaves.
                    let fetched = self.clone().lead(charges, at, leader);
                    return match self.0.store.tasks().spawn(fetched).await {
                        Ok(verdict) => verdict,
                        Err(_) => Err(StoreError::interrupted("a local lease was not taken")),
                    };
                }
            }
        }
        self.ask(&charges).await
    }

    async fn ask(&self, charges: &[Charge]) -> Result<Verdict, StoreError> {
        let verdict = self.0.store.check(charges).await?;
        self.heed_bans(charges, &verdict);
        Ok(self.told(charges, &verdict))
    }

    /// Spends nothing any more under a ban that the store told of, such as one after denials.
    fn heed_bans(&self, charges: &[Charge], verdict: &Verdict) {
        for (charge, outcome) in charges.iter().zip(verdict.outcomes()) {
            if outcome.banned {
                self.forget(std::slice::from_ref(charge), false);
            }
        }
    }

    /// What the store said, for whom more is left here.
    fn told(&self, charges: &[Charge], verdict: &Verdict) -> Verdict {
        let told = charges.iter().zip(verdict.outcomes()).map(|(charge, outcome)| Outcome {
            remaining: outcome.remaining + self.0.pools.held(charge),
            ..*outcome
        });
        Verdict::new(told)
    }

    /// Takes many of the one at `at`, if they are there to take. Only a verdict that allows that is final.
    async fn lead(
        self,
        charges: Vec<Charge>,
        at: usize,
        leader: Leader<()>,
    ) -> Result<Verdict, StoreError> {
        let mut more = charges.clone();
        more[at].cost = units(&charges[at]);
        // Whether the request itself is denied is not known by this.
        more.iter_mut().for_each(|charge| charge.ban_after = None);
        let asked_at = self.0.clock.now().as_micros() as u64;
        let forgotten = self.0.forgotten.times(&key(&charges[at]));
        let verdict = self.0.store.check(&more).await?;
        self.heed_bans(&charges, &verdict);
        let of_many = verdict.outcomes().get(at).copied();
        match of_many {
            Some(outcome) if verdict.is_allowed() => {
                let left = more[at].cost - charges[at].cost;
                self.keep(&charges[at], left, asked_at, outcome, forgotten);
                let told = self.told(&charges, &verdict);
                leader.land(());
                Ok(told)
            }
            Some(outcome) if !verdict.is_banned() => {
                self.is_scarce(&charges[at], asked_at, outcome);
                leader.land(());
                self.ask(&charges).await
            }
            _ => Ok(verdict),
        }
    }

    /// Keeps what was taken beyond the request's own cost, until it is given back. Where the key was
    /// forgotten meanwhile nobody knows whether it was taken before or after: it is neither spent nor
    /// given back.
    fn keep(&self, charge: &Charge, left: u64, asked_at: u64, outcome: Outcome, forgotten: u64) {
        if left == 0 {
            return;
        }
        let reset_us = outcome.reset.as_micros() as u64;
        let length_us = match (charge.rule, charge.local_lease) {
            (_, None) => return,
            // What was taken in one window is not spent in the next.
            (Rule::FixedWindow(_), Some(lease)) => lease.length_us.min(reset_us),
            (_, Some(lease)) => lease.length_us,
        };
        let batch = Arc::new(Batch {
            charge: charge.clone().with_receipt(outcome.receipt),
            left: AtomicU64::new(left),
            ends: asked_at + length_us,
            behind: outcome.remaining,
            reset_at: asked_at + reset_us,
            giving_back: OnceLock::new(),
        });
        let key = key(charge);
        let replaced = self.0.pools.with(&key, |entry| {
            if self.0.forgotten.times(&key) != forgotten {
                batch.close();
                return None;
            }
            let (replaced, ends) = (entry.remove(), batch.ends);
            // Where there is no room, it goes back unused.
            let _ = entry.insert(Pool { batch: Some(batch.clone()), scarce_until: 0 }, ends, 1);
            replaced
        });
        if batch.left.load(SeqCst) > 0 {
            let (store, length) = (self.0.store.clone(), Duration::from_micros(length_us));
            let task = self.0.store.tasks().spawn(give_back_after(store, batch.clone(), length));
            let _ = batch.giving_back.set(task.abort_handle());
        }
        self.give_back_at_once(replaced);
    }

    /// Remembers that so many are not there to take.
    fn is_scarce(&self, charge: &Charge, asked_at: u64, outcome: Outcome) {
        let Some(lease) = charge.local_lease.filter(|_| !outcome.allowed) else { return };
        let retry_us = outcome.retry_after.map_or(u64::MAX, |retry| retry.as_micros() as u64);
        let scarce_until = asked_at + retry_us.min(lease.length_us);
        let replaced = self.0.pools.with(&key(charge), |entry| {
            let replaced = entry.remove();
            let _ = entry.insert(Pool { batch: None, scarce_until }, scarce_until, 1);
            replaced
        });
        self.give_back_at_once(replaced);
    }

    /// Units under another quota are never spent any more: held, they would add up with each change.
    fn give_back_at_once(&self, replaced: Option<Pool>) {
        let Some(batch) = replaced.and_then(|pool| pool.batch) else { return };
        let left = batch.close();
        if left > 0 {
            if let Some(task) = batch.giving_back.get() {
                task.abort();
            }
            let store = self.0.store.clone();
            self.0.store.tasks().spawn(async move { give_back(&*store, &batch, left).await });
        }
    }

    /// Spends nothing any more of what was taken before; what is void is not given back either.
    fn then_forget(
        &self,
        done: StoreFuture<()>,
        charges: &[Charge],
        are_void: bool,
    ) -> StoreFuture<()> {
        let (this, charges) = (self.clone(), charges.to_vec());
        StoreFuture::boxed(async move {
            let done = done.await;
            this.forget(&charges, are_void);
            done
        })
    }

    fn forget(&self, charges: &[Charge], are_void: bool) {
        for key in charges.iter().map(key) {
            self.0.forgotten.add(&key);
            let pool = self.0.pools.with(&key, |entry| entry.remove());
            if let Some(batch) = pool.and_then(|pool| pool.batch).filter(|_| are_void) {
                batch.close();
            }
        }
    }
}

impl RateLimitStore for Leasing {
    /// Where one charge has to be asked about in any case, all are: it is one round trip, and atomic.
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        let leases = |charge: &Charge| (1..=units(charge)).contains(&charge.cost);
        if charges.is_empty() || !charges.iter().all(leases) || merged(charges).is_some() {
            let (this, charges) = (self.clone(), charges.to_vec());
            return StoreFuture::boxed(async move { this.ask(&charges).await });
        }
        match self.spend(charges) {
            Some(verdict) => StoreFuture::ready(Ok(verdict)),
            None => StoreFuture::boxed(self.clone().fetch(charges.to_vec())),
        }
    }

    fn peek(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.0.store.peek(charges)
    }

    fn charge(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.0.store.charge(charges)
    }

    fn refund(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.0.store.refund(charges)
    }

    fn renew(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.0.store.renew(charges)
    }

    fn reset(&self, charges: &[Charge]) -> StoreFuture<()> {
        // They would be given back to a count that knows nothing of them.
        self.then_forget(self.0.store.reset(charges), charges, true)
    }

    fn ban(&self, charges: &[Charge], length: Duration) -> StoreFuture<()> {
        self.then_forget(self.0.store.ban(charges, length), charges, false)
    }

    fn unban(&self, charges: &[Charge]) -> StoreFuture<()> {
        self.0.store.unban(charges)
    }

    fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    fn tasks(&self) -> Tasks {
        self.0.store.tasks()
    }
}

impl fmt::Debug for Leasing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leasing").field("pools", &self.0.pools).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        context::Context,
        rate_limit::{MemoryStore, Policy, Quota},
    };

    #[tokio::test]
    async fn the_units_of_a_window_end_with_it_and_others_with_their_time() {
        let second = Duration::from_secs(1);
        let quota = Quota::new(100, second).unwrap();
        for (policy, lives) in
            [(Policy::fixed_window("p", quota), second), (Policy::gcra("p", quota), 10 * second)]
        {
            let clock = Clock::manual();
            let context = Context { clock: clock.clone(), ..Context::default() };
            let store = Arc::new(MemoryStore::new(&context, 100));
            let leasing = Leasing::by(clock.clone(), store);
            let charges = [Charge::new(&policy.local_lease(10, 10 * second), "k", 1)];
            leasing.check(&charges).await.unwrap();
            clock.advance(lives - Duration::from_micros(1));
            assert!(leasing.spend(&charges).is_some());
            clock.advance(Duration::from_micros(1));
            assert!(leasing.spend(&charges).is_none());
        }
    }

    #[tokio::test]
    async fn what_is_told_after_a_reset_was_perhaps_taken_before_and_is_neither_spent_nor_given_back()
     {
        let clock = Clock::manual();
        let context = Context { clock: clock.clone(), ..Context::default() };
        let store = Arc::new(MemoryStore::new(&context, 100));
        let leasing = Leasing::by(clock.clone(), store.clone());
        let policy = Policy::fixed_window("p", Quota::per_day(100));
        let charges = |cost| [Charge::new(&policy, "k", cost)];
        let leased = [Charge::new(&policy.clone().local_lease(10, Duration::from_secs(9)), "k", 1)];

        let forgotten = leasing.0.forgotten.times(&key(&leased[0]));
        let outcome = store.check(&charges(10)).await.unwrap().outcomes()[0];
        leasing.reset(&leased).await.unwrap();
        store.check(&charges(20)).await.unwrap();
        let asked_at = clock.now().as_micros() as u64;
        leasing.keep(&leased[0], 9, asked_at, outcome, forgotten);
        assert!(leasing.spend(&leased).is_none());
        assert_eq!(store.tasks().drain(Duration::from_secs(30)).await, 0);
        let left = store.peek(&charges(1)).await.unwrap().outcomes()[0].remaining;
        assert_eq!(left, 80, "given back, the twenty would be eleven");
    }
}

//! The policies of one call in Redis: in one step, or key by key where a cluster has no other way.

use crate::{
    connection::{Script, end_of},
    rate_limit::{
        outcome::{Outcome, Verdict},
        redis::{CHECK, REFUND, RedisStore},
        reply::Told,
        slots::groups,
        store::Charge,
    },
    store::StoreError,
};
use std::{
    mem,
    time::{Duration, Instant},
};

/// A cluster reaches only keys of one slot in a step.
impl RedisStore {
    /// Decides each key in a step of its own, and gives back what was taken if a later key denies. Until
    /// then others see less than there is, and never more.
    pub(super) async fn check_by_key(&self, charges: &[Charge]) -> Result<Verdict, StoreError> {
        if self.is_one_step(charges) {
            return self.each_key(&CHECK, "check", charges).await;
        }
        let clock = Left::of(self.redis.deadline);
        let mut groups = groups(charges);
        groups.sort_by_key(|group| group.iter().map(|&at| charges[at].rule.limit()).min());
        let mut found = vec![None; charges.len()];
        let mut taken = Taken { by: self, keys: Vec::new() };
        let mut allowed = true;
        for group in &groups {
            let of: Vec<Charge> = group.iter().map(|&at| charges[at].clone()).collect();
            // Once one has denied, the others are only asked where they stand.
            let verb = if allowed { "check" } else { "peek" };
            let outcomes = self.ask(&CHECK, verb, &of, &clock).await?;
            if allowed {
                taken.add(of, &outcomes);
            }
            allowed &= !outcomes.iter().any(Outcome::denies);
            for (&at, outcome) in group.iter().zip(outcomes) {
                found[at] = Some(outcome);
            }
        }
        if allowed {
            taken.keys.clear();
        }
        // Out of the list before it is asked: what is given back twice would let too many through.
        while let Some(charged) = taken.keys.pop() {
            // Denied it is in any case, and what is not given back ends by itself.
            let Ok(now) = self.give_back(&charged, &clock).await else { break };
            for (charge, now) in charged.iter().zip(now) {
                let at = charges.iter().position(|other| other.shares(charge));
                if let Some(told) = at.and_then(|at| found[at].as_mut()) {
                    (told.remaining, told.reset, told.receipt) = (now.remaining, now.reset, 0);
                }
            }
        }
        Ok(Verdict::new(found.into_iter().flatten()))
    }

    /// Tells each key in a step of its own; what one says is nothing to the others.
    pub(super) async fn each_key(
        &self,
        script: &'static Script,
        verb: &'static str,
        charges: &[Charge],
    ) -> Result<Verdict, StoreError> {
        let clock = Left::of(self.redis.deadline);
        if !charges.is_empty() && self.is_one_step(charges) {
            return Ok(Verdict::new(self.ask(script, verb, charges, &clock).await?));
        }
        let mut found = vec![None; charges.len()];
        for group in groups(charges) {
            let of: Vec<Charge> = group.iter().map(|&at| charges[at].clone()).collect();
            let outcomes = self.ask(script, verb, &of, &clock).await?;
            for (at, outcome) in group.into_iter().zip(outcomes) {
                found[at] = Some(outcome);
            }
        }
        Ok(Verdict::new(found.into_iter().flatten()))
    }

    /// Gives back what one key was charged. Whom that has denied meanwhile may pass again.
    async fn give_back(
        &self,
        charged: &[Charge],
        clock: &Left,
    ) -> Result<Vec<Outcome>, StoreError> {
        let told = self.ask(&REFUND, "refund", charged, clock).await;
        let keys = charged.iter().map(|charge| self.state_key(charge));
        self.denials.forget(&keys.collect::<Vec<_>>());
        told
    }

    async fn ask(
        &self,
        script: &'static Script,
        verb: &str,
        charges: &[Charge],
        clock: &Left,
    ) -> Result<Vec<Outcome>, StoreError> {
        let call = self.call(script, verb, charges);
        Told::of(charges).outcomes(self.redis.script_within(call, clock.left()).await?)
    }
}

/// What earlier keys have taken, until the last one has decided. Dropped before that, since a later key
/// failed or nobody waits for the verdict any more, it goes back as soon as it can.
struct Taken<'a> {
    by: &'a RedisStore,
    keys: Vec<Vec<Charge>>,
}

impl Taken<'_> {
    fn add(&mut self, charges: Vec<Charge>, outcomes: &[Outcome]) {
        let charged = charges.into_iter().zip(outcomes).filter(|(_, told)| told.receipt != 0);
        let charged = charged.map(|(charge, told)| charge.with_receipt(told.receipt));
        let charged: Vec<Charge> = charged.collect();
        if !charged.is_empty() {
            self.keys.push(charged);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let (by, keys) = (self.by.clone(), mem::take(&mut self.keys));
        self.by.redis.context.tasks.spawn_if_possible(async move {
            for charged in &keys {
                let clock = Left::of(by.redis.deadline);
                // One that fails ends by itself, as every count does.
                let _ = by.give_back(charged, &clock).await;
            }
        });
    }
}

/// What is left of a deadline.
pub(super) struct Left(Instant);

impl Left {
    pub(super) fn of(deadline: Duration) -> Self {
        Self(end_of(deadline))
    }

    pub(super) fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

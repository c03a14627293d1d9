//! The policies of one call in Redis: in one step, or key by key where a cluster has no other way.

use crate::{
    connection::Script,
    rate_limit::{
        outcome::{Outcome, Verdict},
        redis::{CHECK, REFUND, RedisStore},
        reply::Told,
        slots::groups,
        store::Charge,
    },
    store::StoreError,
};
use std::time::{Duration, Instant};

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
        let mut taken: Vec<Vec<Charge>> = Vec::new();
        let mut allowed = true;
        for group in &groups {
            let of: Vec<Charge> = group.iter().map(|&at| charges[at].clone()).collect();
            // Once one has denied, the others are only asked where they stand.
            let verb = if allowed { "check" } else { "peek" };
            let outcomes = match self.ask(&CHECK, verb, &of, &clock).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    self.give_back_later(taken);
                    return Err(error);
                }
            };
            if allowed {
                let charged = of.into_iter().zip(&outcomes).filter(|(_, told)| told.receipt != 0);
                let charged = charged.map(|(charge, told)| charge.with_receipt(told.receipt));
                taken.push(charged.collect());
            }
            allowed &= !outcomes.iter().any(Outcome::denies);
            for (&at, outcome) in group.iter().zip(outcomes) {
                found[at] = Some(outcome);
            }
        }
        if !allowed {
            for charged in taken.iter().filter(|charged| !charged.is_empty()) {
                let now = self.ask(&REFUND, "refund", charged, &clock).await?;
                for (charge, now) in charged.iter().zip(now) {
                    let at = charges.iter().position(|other| other.shares(charge));
                    if let Some(told) = at.and_then(|at| found[at].as_mut()) {
                        (told.remaining, told.reset, told.receipt) = (now.remaining, now.reset, 0);
                    }
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

    /// What was taken before a later key failed goes back as soon as it can.
    fn give_back_later(&self, taken: Vec<Vec<Charge>>) {
        let this = self.clone();
        self.redis.context.tasks.spawn_if_possible(async move {
            for charged in taken.iter().filter(|charged| !charged.is_empty()) {
                let clock = Left::of(this.redis.deadline);
                // One that fails ends by itself, as every count does.
                let _ = this.ask(&REFUND, "refund", charged, &clock).await;
            }
        });
    }
}

/// What is left of a deadline.
pub(super) struct Left(Instant);

impl Left {
    pub(super) fn of(deadline: Duration) -> Self {
        Self(Instant::now() + deadline)
    }

    pub(super) fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

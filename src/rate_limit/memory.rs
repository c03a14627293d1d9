//! Rate limits in this process's memory.

mod entry;

use self::entry::{Held, Name, Verb, change, count_denial, look, name, undo};
use crate::{
    clock::Clock,
    context::Context,
    expiring::{Entries, Expiring, Hashed, WhenFull},
    rate_limit::{
        ban_after::Mark,
        outcome::{LONGEST_BAN, Outcome, Outcomes, Verdict},
        rule::State,
        store::{Charge, RateLimitStore, merged},
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use smallvec::SmallVec;
use std::time::Duration;

/// How many counts are kept by default: about 50 MB.
pub(crate) const DEFAULT_CAPACITY: usize = 262_144;

/// Counts in memory. When there is no room for another, the one nearest to empty is forgotten, and
/// never a ban, denials that are counted towards one, or a count with nothing left: where there are only
/// such, a new key is refused ([`StoreError::is_full`]), which is a failure of the store to the layer.
#[derive(Debug)]
pub struct MemoryStore {
    counts: Expiring<Held>,
    clock: Clock,
    tasks: Tasks,
}

impl MemoryStore {
    pub(crate) fn new(context: &Context, capacity: usize) -> Self {
        // An entry expires when its count is empty: the soonest to expire is the nearest to empty. One
        // that could be evicted by a flood of other keys would be no limit.
        let may_evict = |held: &Held| held.mark == Mark::None && !held.exhausted;
        let when_full = WhenFull::EvictSoonestToExpire { may_evict };
        let counts = Expiring::new(context.clock.clone(), capacity, when_full);
        Self { counts, clock: context.clock.clone(), tasks: context.tasks.clone() }
    }

    /// `check.lua` says the same.
    fn decide(&self, verb: Verb, charges: &[Charge]) -> Result<Verdict, StoreError> {
        if let Some((distinct, places)) = merged(charges) {
            return Ok(self.decide(verb, &distinct)?.spread(&places));
        }
        self.step(charges, |entries, keys| {
            let now = entries.now_us();
            let mut outcomes = Outcomes::new();
            let mut healed = SmallVec::<[bool; 4]>::new();
            for (charge, key) in charges.iter().zip(keys) {
                let (mut outcome, heals) = look(entries, verb, charge, key, now);
                outcome.shadow = charge.shadow;
                outcomes.push(outcome);
                healed.push(heals);
            }
            let all = !outcomes.iter().any(Outcome::denies);
            for at in 0..charges.len() {
                let (charge, outcome) = (&charges[at], &mut outcomes[at]);
                if verb == Verb::Check {
                    count_denial(entries, charge, &keys[at], outcome);
                }
                let allowed = verb == Verb::Charge || (all && outcome.allowed);
                let takes = allowed && charge.cost > 0 && verb != Verb::Peek;
                if !takes && !healed[at] {
                    continue;
                }
                let changed = change(entries, charge, &keys[at], |held| {
                    if takes {
                        let cost = charge.capped_cost();
                        outcome.receipt =
                            charge.rule.take(&mut held.state, now, cost, charge.receipt);
                    }
                });
                match changed {
                    Ok((remaining, reset_us)) => {
                        outcome.remaining = remaining;
                        outcome.reset = Duration::from_micros(reset_us);
                    }
                    Err(error) => {
                        undo(entries, &charges[..at], &keys[..at], &outcomes);
                        return Err(error);
                    }
                }
            }
            Ok(Verdict::of(outcomes))
        })
    }

    /// Gives back, or counts leases anew. `refund.lua` says the same.
    fn settle(&self, renew: bool, charges: &[Charge]) -> Result<Verdict, StoreError> {
        self.step(charges, |entries, keys| {
            let now = entries.now_us();
            let mut outcomes = Outcomes::new();
            for (charge, key) in charges.iter().zip(keys) {
                let mut held = true;
                let (remaining, reset_us) =
                    change(entries, charge, key, |Held { state, .. }| {
                        charge.rule.heal(state, now);
                        if renew {
                            held = charge.rule.renew(state, now, charge.receipt);
                        } else if charge.cost > 0 {
                            charge.rule.give(state, now, charge.capped_cost(), charge.receipt);
                        }
                    })?;
                let mut outcome = Outcome::from_micros(held, remaining, reset_us, Some(0));
                outcome.shadow = charge.shadow;
                outcomes.push(outcome);
            }
            Ok(Verdict::of(outcomes))
        })
    }

    fn set_ban(&self, charges: &[Charge], length_us: u64) -> Result<(), StoreError> {
        self.step(charges, |entries, keys| {
            let now = entries.now_us();
            let mark = match length_us {
                0 => Mark::None,
                _ => Mark::Banned { until: now + length_us },
            };
            for (charge, key) in charges.iter().zip(keys) {
                change(entries, charge, key, |held| held.mark = mark)?;
            }
            Ok(())
        })
    }

    fn forget(&self, charges: &[Charge]) -> Result<(), StoreError> {
        self.step(charges, |entries, keys| {
            for (charge, key) in charges.iter().zip(keys) {
                change(entries, charge, key, |held| held.state = State::Vacant)?;
            }
            Ok(())
        })
    }

    /// One atomic step over the entries of all charges.
    fn step<R>(
        &self,
        charges: &[Charge],
        step: impl FnOnce(&mut Entries<'_, Held>, &[Hashed<Name>]) -> R,
    ) -> R {
        let keys = charges.iter().map(|charge| self.counts.hashed(name(charge)));
        let keys: SmallVec<[Hashed<Name>; 4]> = keys.collect();
        self.counts.with_all(&keys, |entries| step(entries, &keys))
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
        StoreFuture::ready(self.decide(Verb::Check, charges))
    }

    fn peek(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        StoreFuture::ready(self.decide(Verb::Peek, charges))
    }

    fn charge(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        StoreFuture::ready(self.decide(Verb::Charge, charges))
    }

    fn refund(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        StoreFuture::ready(self.settle(false, charges))
    }

    fn renew(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        StoreFuture::ready(self.settle(true, charges))
    }

    fn reset(&self, charges: &[Charge]) -> StoreFuture<()> {
        StoreFuture::ready(self.forget(charges))
    }

    fn ban(&self, charges: &[Charge], length: Duration) -> StoreFuture<()> {
        let length_us = length.min(LONGEST_BAN).as_micros() as u64;
        StoreFuture::ready(self.set_ban(charges, length_us))
    }

    fn unban(&self, charges: &[Charge]) -> StoreFuture<()> {
        StoreFuture::ready(self.set_ban(charges, 0))
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }
}

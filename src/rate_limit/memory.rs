//! Rate limits in this process's memory.

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

/// The bytes of a log or of leases that weigh as much as a count.
const BYTES_OF_A_COUNT: usize = 192;

/// `<key>:<policy>:<algorithm>`; a usual one is no allocation.
type Name = SmallVec<[u8; 96]>;

/// Counts in memory. When there is no room for another, the one nearest to empty is forgotten, and
/// never a ban, denials that are counted towards one, or a count with nothing left: where there are only
/// such, a new key is refused ([`StoreError::is_full`]), which is a failure of the store to the layer.
#[derive(Debug)]
pub struct MemoryStore {
    counts: Expiring<Held>,
    clock: Clock,
    tasks: Tasks,
}

/// What is known of one key.
#[derive(Clone, Debug, Default)]
struct Held {
    state: State,
    mark: Mark,
    /// Whether nothing was left when it was written.
    exhausted: bool,
}

/// What [`MemoryStore::decide`] is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Check,
    Peek,
    Charge,
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

/// What a charge would be told if it were alone, and whether its state was healed.
fn look(
    entries: &mut Entries<'_, Held>,
    verb: Verb,
    charge: &Charge,
    key: &Hashed<Name>,
    now: u64,
) -> (Outcome, bool) {
    let mut vacant = Held::default();
    let mut entry = entries.entry(key);
    let held = entry.get().unwrap_or(&mut vacant);
    if held.mark != Mark::None {
        held.mark = held.mark.at(now);
        // An entry that is kept for its mark outlives its count, which stays gone.
        if charge.rule.view(&mut held.state, now).reset_us == 0 {
            held.state = State::Vacant;
        }
    }
    let mut copy;
    let state = if verb == Verb::Peek {
        copy = held.state.clone();
        &mut copy
    } else {
        &mut held.state
    };
    let healed = charge.rule.heal(state, now);
    let retry = charge.rule.retry(state, now, charge.capped_cost(), charge.receipt);
    let view = charge.rule.view(state, now);
    let ban_us = held.mark.ban_us(now);
    let retry = ban_us.or(retry);
    let mut outcome = Outcome::from_micros(retry == Some(0), view.remaining, view.reset_us, retry);
    outcome.banned = ban_us.is_some();
    (outcome, healed && verb != Verb::Peek)
}

/// Counts a denial towards the ban that it may become.
fn count_denial(
    entries: &mut Entries<'_, Held>,
    charge: &Charge,
    key: &Hashed<Name>,
    outcome: &mut Outcome,
) {
    let Some(after) = charge.bans_after() else { return };
    if outcome.allowed || outcome.banned {
        return;
    }
    let now = entries.now_us();
    let mut mark = Mark::None;
    // Without room for its mark it is denied all the same.
    let _ = change(entries, charge, key, |held| {
        held.mark = after.deny(held.mark, now);
        mark = held.mark;
    });
    if let Some(left) = mark.ban_us(now) {
        outcome.banned = true;
        outcome.retry_after = Some(Duration::from_micros(left));
    }
}

/// Changes what is known of a key, and keeps it for as long as it says anything. Returns what remains,
/// and how long until all is back.
fn change(
    entries: &mut Entries<'_, Held>,
    charge: &Charge,
    key: &Hashed<Name>,
    change: impl FnOnce(&mut Held),
) -> Result<(u64, u64), StoreError> {
    let now = entries.now_us();
    let mut entry = entries.entry(key);
    let mut vacant = Held::default();
    let known = entry.get();
    let is_new = known.is_none();
    let held = known.unwrap_or(&mut vacant);
    change(held);
    let view = charge.rule.view(&mut held.state, now);
    held.exhausted = view.remaining == 0;
    held.mark = held.mark.at(now);
    if view.reset_us == 0 {
        held.state = State::Vacant;
    }
    let expires = (now + view.reset_us).max(held.mark.until());
    let weight = 1 + held.state.heap_bytes() / BYTES_OF_A_COUNT;
    match (expires > now, is_new) {
        (true, true) => entry.insert(vacant, expires, weight)?,
        (true, false) => entry.update(expires, weight),
        (false, _) => drop(entry.remove()),
    }
    Ok((view.remaining, view.reset_us))
}

/// Gives back what was taken before the store turned out to be full.
fn undo(
    entries: &mut Entries<'_, Held>,
    charges: &[Charge],
    keys: &[Hashed<Name>],
    outcomes: &[Outcome],
) {
    let now = entries.now_us();
    for ((charge, key), outcome) in charges.iter().zip(keys).zip(outcomes) {
        if outcome.receipt != 0 {
            let cost = charge.capped_cost();
            let give = |held: &mut Held| {
                charge.rule.give(&mut held.state, now, cost, outcome.receipt);
            };
            // What is there already needs no room.
            let _ = change(entries, charge, key, give);
        }
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

fn name(charge: &Charge) -> Name {
    let mut name = Name::new();
    for part in [&*charge.key, ":", &*charge.policy, ":", charge.rule.algorithm()] {
        name.extend_from_slice(part.as_bytes());
    }
    name
}

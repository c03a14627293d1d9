//! What is known of one key, and each step on it.

use crate::{
    expiring::{Entries, Hashed},
    rate_limit::{ban_after::Mark, outcome::Outcome, rule::State, store::Charge},
    store::StoreError,
};
use smallvec::SmallVec;
use std::time::Duration;

/// The bytes of a log or of leases that weigh as much as a count.
const BYTES_OF_A_COUNT: usize = 192;

/// `<key>:<policy>:<algorithm>`; a usual one is no allocation.
pub(super) type Name = SmallVec<[u8; 96]>;

/// What is known of one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) state: State,
    pub(super) mark: Mark,
    /// Whether nothing was left when it was written.
    pub(super) exhausted: bool,
}

/// What a store is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Check,
    Peek,
    Charge,
}

/// What a charge would be told if it were alone, and whether its state was healed.
pub(super) fn look(
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
pub(super) fn count_denial(
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
pub(super) fn change(
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
pub(super) fn undo(
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

pub(super) fn name(charge: &Charge) -> Name {
    let mut name = Name::new();
    for part in [&*charge.key, ":", &*charge.policy, ":", charge.rule.algorithm()] {
        name.extend_from_slice(part.as_bytes());
    }
    name
}

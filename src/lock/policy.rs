//! What becomes of a lock, without a store and without a clock: the twin of the scripts.

use crate::token::token;
use std::time::Duration;

/// Longest description of an owner, in bytes.
const MAX_OWNER: usize = 128;

/// What separates the random part of a token from the owner.
const OWNER: char = '@';

/// What an attempt to take a lock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempt {
    /// It is ours, with this fencing token.
    Acquired {
        /// Higher than that of every earlier holder.
        fence: u64,
    },
    /// Another holds it.
    Held {
        /// How long yet, if nobody renews or releases it.
        left: Duration,
    },
}

/// Who holds a lock, as an operator may see it: not the token, with which it could be released.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// What the holder's [`Locks::owner`](crate::lock::Locks::owner) says, if it was told.
    pub owner: Option<String>,
    /// Its fencing token.
    pub fence: u64,
    /// How long it holds the lock yet, if it neither renews nor releases it.
    pub left: Duration,
}

impl Holder {
    /// Of a lock that `token` holds.
    pub(super) fn new(token: &str, fence: u64, left_us: u64) -> Self {
        let owner = token.split_once(OWNER).map(|(_, owner)| owner.to_owned());
        Self { owner, fence, left: Duration::from_micros(left_us) }
    }
}

/// A token that nobody guesses, with the owner behind it.
pub(super) fn token_of(owner: Option<&str>) -> String {
    let random = token();
    match owner {
        Some(owner) => format!("{random}{OWNER}{owner}"),
        None => random,
    }
}

/// As much of a description as is kept.
pub(super) fn owner(description: &str) -> &str {
    let fits = |end: &usize| description.is_char_boundary(*end);
    let end = (0..=MAX_OWNER.min(description.len())).rev().find(fits);
    &description[..end.unwrap_or_default()]
}

/// What is known of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// The fence given out last, zero if none.
    fence: u64,
    holder: Option<Hold>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    token: Box<str>,
    deadline_us: u64,
}

impl Record {
    /// Takes a lock that nobody holds. Asked again by its holder, whose reply was lost, it says the
    /// same again and counts the TTL anew.
    pub(super) fn acquire(&mut self, token: &str, ttl_us: u64, now_us: u64) -> Attempt {
        match self.holder(now_us) {
            Some(holder) if &*holder.token != token => {
                return Attempt::Held { left: Duration::from_micros(holder.deadline_us - now_us) };
            }
            Some(_) => {}
            // Higher than the last one, and higher than the time: so it rises even if the last one
            // is forgotten.
            None => self.fence = (self.fence + 1).max(now_us),
        }
        self.holder = Some(Hold { token: token.into(), deadline_us: now_us + ttl_us });
        Attempt::Acquired { fence: self.fence }
    }

    /// Counts the TTL anew; `false` if the token does not hold the lock.
    pub(super) fn renew(&mut self, token: &str, ttl_us: u64, now_us: u64) -> bool {
        match self.holder(now_us) {
            Some(holder) if &*holder.token == token => {
                holder.deadline_us = now_us + ttl_us;
                true
            }
            _ => false,
        }
    }

    /// Gives the lock up; `false` if the token does not hold it.
    pub(super) fn release(&mut self, token: &str, now_us: u64) -> bool {
        let ours = self.holder(now_us).is_some_and(|holder| &*holder.token == token);
        if ours {
            self.holder = None;
        }
        ours
    }

    /// Who holds it.
    pub(super) fn held_by(&mut self, now_us: u64) -> Option<Holder> {
        let fence = self.fence;
        self.holder(now_us).map(|hold| Holder::new(&hold.token, fence, hold.deadline_us - now_us))
    }

    /// Takes the lock from whoever holds it; `false` if nobody does.
    pub(super) fn force_release(&mut self, now_us: u64) -> bool {
        let held = self.holder(now_us).is_some();
        if held {
            self.holder = None;
        }
        held
    }

    /// From when on the record says no more than an empty one: nobody holds the lock, and the time
    /// alone gives a higher fence. Only for a clock that never goes back.
    pub(super) fn forgettable_us(&self) -> u64 {
        let held_until = self.holder.as_ref().map_or(0, |holder| holder.deadline_us);
        held_until.max(self.fence + 1)
    }

    /// Whoever holds it; past the deadline nobody does.
    fn holder(&mut self, now_us: u64) -> Option<&mut Hold> {
        self.holder.as_mut().filter(|holder| holder.deadline_us > now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = 1_000;
    const NOW: u64 = 1_760_000_000_000_123;

    fn fence(attempt: Attempt) -> u64 {
        match attempt {
            Attempt::Acquired { fence } => fence,
            Attempt::Held { left } => panic!("held for {left:?}"),
        }
    }

    #[test]
    fn a_lock_is_held_until_its_deadline_and_not_at_it() {
        let mut record = Record::default();
        record.acquire("a", TTL, NOW);
        let left = Duration::from_micros(1);
        assert_eq!(record.acquire("b", TTL, NOW + TTL - 1), Attempt::Held { left });
        assert!(!record.renew("a", TTL, NOW + TTL));
        assert!(!record.release("a", NOW + TTL));
        fence(record.acquire("b", TTL, NOW + TTL));
    }

    #[test]
    fn only_the_holder_renews_and_releases() {
        let mut record = Record::default();
        record.acquire("a", TTL, NOW);
        assert!(!record.renew("b", TTL, NOW) && !record.release("b", NOW));
        assert!(record.renew("a", TTL, NOW + 900));
        let left = Duration::from_micros(1_000);
        assert_eq!(record.acquire("b", TTL, NOW + 900), Attempt::Held { left });
        assert!(record.release("a", NOW + 900));
        assert!(!record.release("a", NOW + 900));
    }

    #[test]
    fn an_acquisition_whose_reply_was_lost_is_told_again() {
        let mut record = Record::default();
        let first = record.acquire("a", TTL, NOW);
        assert_eq!(record.acquire("a", TTL, NOW + 10), first);
        assert!(matches!(record.acquire("b", TTL, NOW + TTL + 9), Attempt::Held { .. }));
    }

    #[test]
    fn the_fence_rises_in_one_moment_and_when_the_clock_goes_back_or_the_counter_is_lost() {
        let mut record = Record::default();
        let first = fence(record.acquire("a", TTL, NOW));
        assert_eq!(first, NOW);
        record.release("a", NOW);
        let second = fence(record.acquire("b", TTL, NOW));
        record.release("b", NOW);
        let third = fence(record.acquire("c", TTL, NOW - 500));
        assert!(first < second && second < third);
        assert!(fence(Record::default().acquire("d", TTL, NOW + 1_000)) > third);
    }

    #[test]
    fn a_record_is_kept_for_as_long_as_it_says_anything() {
        let mut record = Record::default();
        record.acquire("a", TTL, NOW);
        assert_eq!(record.forgettable_us(), NOW + TTL);
        record.release("a", NOW);
        let later = record.forgettable_us();
        let (kept, forgotten) =
            (record.acquire("b", TTL, later), { Record::default().acquire("b", TTL, later) });
        assert_eq!(kept, forgotten);
    }

    #[test]
    fn an_operator_sees_the_owner_and_not_the_token() {
        let token = token_of(Some("web-3@eu"));
        let holder = Holder::new(&token, 7, 1_000);
        assert_eq!(holder.owner.as_deref(), Some("web-3@eu"));
        assert!(!format!("{holder:?}").contains(&token[..22]));
        assert_eq!(Holder::new(&token_of(None), 7, 1_000).owner, None);
        assert_eq!(owner(&"ü".repeat(65)).len(), 128);
        assert_eq!(owner(&format!("x{}", "ü".repeat(65))).len(), 127);
    }
}

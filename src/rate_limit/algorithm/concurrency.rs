//! Concurrency: how many at a time, by leases that end by themselves if their holder dies.
//!
//! A lease is held by an id of the caller's, from the charge to its refund, and is renewed meanwhile.
//! A request takes one, whatever it costs.
//!
//! `concurrency.lua` says the same.

use crate::rate_limit::{
    algorithm::{Algorithm, View},
    quota::QuotaError,
};
use smallvec::SmallVec;
use std::time::Duration;

/// The most leases of a key.
const MAX_LIMIT: u32 = 100_000;

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// At most [`limit`](Concurrency::limit) at a time, each with a [`lease`](Concurrency::lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Concurrency {
    limit: u64,
    lease_us: u64,
}

/// The leases of a key.
pub(crate) type Leases = Vec<Lease>;

/// A lease by its id, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    id: u64,
    ends: u64,
}

impl Concurrency {
    pub(crate) fn new(limit: u32) -> Result<Self, QuotaError> {
        if limit == 0 || limit > MAX_LIMIT {
            return Err(QuotaError(format!(
                "{limit} at a time is not 1 to {MAX_LIMIT}, of which each has an entry"
            )));
        }
        Ok(Self { limit: u64::from(limit), lease_us: 30_000_000 })
    }

    pub(crate) fn with_lease(mut self, lease: Duration) -> Result<Self, QuotaError> {
        if lease < SHORTEST || lease > LONGEST {
            return Err(QuotaError(format!(
                "a lease of {lease:?} is outside {SHORTEST:?} to {LONGEST:?}"
            )));
        }
        self.lease_us = lease.as_micros() as u64;
        Ok(self)
    }

    /// How many may be at it at a time.
    #[must_use]
    pub fn limit(self) -> u64 {
        self.limit
    }

    /// How long a lease lasts that is not renewed.
    #[must_use]
    pub fn lease(self) -> Duration {
        Duration::from_micros(self.lease_us)
    }

    pub(crate) fn numbers(self) -> [u64; 3] {
        [self.limit, self.lease_us, 0]
    }

    pub(crate) fn share(self, shares: u64) -> Self {
        Self { limit: (self.limit / shares).max(1), ..self }
    }

    /// Counts a lease anew; `false` if it has ended.
    pub(crate) fn renew(self, leases: &mut Leases, now: u64, id: u64) -> bool {
        let held = Self::holds(leases, now, id);
        if held {
            self.put(leases, now, id);
        }
        held
    }

    /// Begins a lease; those that have ended go.
    fn put(self, leases: &mut Leases, now: u64, id: u64) {
        leases.retain(|lease| lease.ends > now && lease.id != id);
        leases.push(Lease { id, ends: now + self.lease_us });
    }

    fn live(leases: &Leases, now: u64) -> u64 {
        leases.iter().filter(|lease| lease.ends > now).count() as u64
    }

    fn holds(leases: &Leases, now: u64, id: u64) -> bool {
        leases.iter().any(|lease| lease.id == id && lease.ends > now)
    }
}

impl Algorithm for Concurrency {
    type State = Leases;

    fn heal(self, leases: &mut Leases, now: u64) -> bool {
        let most = now + self.lease_us;
        let mut far = false;
        for lease in leases.iter_mut().filter(|lease| lease.ends > most) {
            lease.ends = most;
            far = true;
        }
        far
    }

    /// The holder's own lease is no hindrance: the first reply may have been lost.
    fn retry(self, leases: &Leases, now: u64, _: u64, id: u64) -> Option<u64> {
        let live = Self::live(leases, now);
        if live < self.limit || Self::holds(leases, now, id) {
            return Some(0);
        }
        let ends = leases.iter().map(|lease| lease.ends).filter(|&ends| ends > now);
        let mut ends: SmallVec<[u64; 32]> = ends.collect();
        let (_, first, _) = ends.select_nth_unstable((live - self.limit) as usize);
        Some((*first - now).min(self.lease_us))
    }

    /// The receipt is the lease's id.
    fn take(self, leases: &mut Leases, now: u64, _: u64, id: u64) -> u64 {
        if Self::holds(leases, now, id) || Self::live(leases, now) < self.limit {
            self.put(leases, now, id);
        }
        id
    }

    fn give(self, leases: &mut Leases, _: u64, _: u64, id: u64) {
        leases.retain(|lease| lease.id != id);
    }

    fn view(self, leases: &Leases, now: u64) -> View {
        let last = leases.iter().map(|lease| lease.ends).max().unwrap_or(0);
        View {
            remaining: self.limit.saturating_sub(Self::live(leases, now)),
            reset_us: last.saturating_sub(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000_000;
    const LEASE: u64 = 30_000_000;

    #[test]
    fn a_lease_ends_by_itself_and_is_renewed_only_while_it_is_held() {
        let (rule, mut leases) = (Concurrency::new(2).unwrap(), Leases::new());
        rule.take(&mut leases, NOW, 1, 7);
        rule.take(&mut leases, NOW + 1, 1, 8);
        assert_eq!(rule.retry(&leases, NOW + 2, 1, 9), Some(LEASE - 2));
        assert!(rule.renew(&mut leases, NOW + LEASE - 1, 7));
        assert!(!rule.renew(&mut leases, NOW + LEASE + 1, 8), "it has ended");
        assert_eq!(rule.view(&leases, NOW + LEASE + 1).remaining, 1);
    }

    #[test]
    fn a_lease_asked_for_twice_is_one() {
        let (rule, mut leases) = (Concurrency::new(1).unwrap(), Leases::new());
        rule.take(&mut leases, NOW, 1, 7);
        assert_eq!(rule.retry(&leases, NOW, 1, 7), Some(0));
        rule.take(&mut leases, NOW, 1, 7);
        rule.give(&mut leases, NOW, 1, 7);
        assert_eq!(rule.view(&leases, NOW), View { remaining: 1, reset_us: 0 });
    }

    #[test]
    fn an_unconditional_charge_takes_no_more_than_there_is() {
        let (rule, mut leases) = (Concurrency::new(1).unwrap(), Leases::new());
        for id in 0..100 {
            rule.take(&mut leases, NOW, 1, id);
        }
        assert_eq!(leases.len(), 1);
    }
}

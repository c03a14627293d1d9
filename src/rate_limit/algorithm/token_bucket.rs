//! The exact token bucket: like GCRA, for rates that are no whole number of microseconds apart.
//!
//! The state is a debt that leaks, in units of which the rate leaks a whole number each microsecond:
//! one token is `period` units, and `rate` of them leak. Nothing is ever rounded.
//!
//! `token_bucket.lua` says the same.

use crate::rate_limit::{
    algorithm::{Algorithm, MAX_EXACT, View},
    quota::{Quota, QuotaError},
};
use std::time::Duration;

/// A quota in the algorithm's terms: a bucket of [`burst`](TokenBucket::burst) tokens, which fills up
/// at exactly the quota's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenBucket {
    burst: u64,
    /// Units of one token. It and `rate` are the quota's period in µs and its limit, in lowest terms.
    period: u64,
    /// Units that leak in a microsecond.
    rate: u64,
}

/// What a key owes: `units` at the time `at`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Debt {
    pub(crate) units: u64,
    pub(crate) at: u64,
}

impl TokenBucket {
    pub(crate) fn new(quota: Quota) -> Result<Self, QuotaError> {
        let (limit, period_us) = (u64::from(quota.limit()), quota.period().as_micros() as u64);
        let common = gcd(limit, period_us);
        let (rate, period) = (limit / common, period_us / common);
        let burst = u64::from(quota.burst_size());
        if (burst + 1).checked_mul(period).is_none_or(|most| most > MAX_EXACT - rate) {
            return Err(QuotaError(format!(
                "a bucket of {burst} that fills by {limit} in {:?} cannot be counted exactly (its \
                 burst times its period, {period} µs in lowest terms, is 2^52 or more); lower the \
                 burst, or use Policy::gcra",
                quota.period()
            )));
        }
        Ok(Self { burst, period, rate })
    }

    /// How many may come at once.
    #[must_use]
    pub fn burst(self) -> u64 {
        self.burst
    }

    /// The time in which one comes back, rounded up to a microsecond.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_micros(self.period.div_ceil(self.rate))
    }

    pub(crate) fn numbers(self) -> [u64; 3] {
        [self.burst, self.period, self.rate]
    }

    pub(crate) fn fill_us(self) -> u64 {
        self.capacity().div_ceil(self.rate)
    }

    pub(crate) fn share(self, shares: u64) -> Self {
        Self { burst: (self.burst / shares).max(1), period: self.period * shares, ..self }
    }

    fn capacity(self) -> u64 {
        self.burst * self.period
    }

    /// What is owed at `now`, though it were more than a full bucket. A debt from the future has not
    /// begun to leak: what it will leak until `now` is back counts on top.
    fn owed(self, debt: Debt, now: u64) -> u64 {
        if debt.at > now {
            let early = (debt.at - now).min(self.fill_us());
            return debt.units + early * self.rate;
        }
        let leaked = (now - debt.at).min(debt.units.div_ceil(self.rate));
        debt.units.saturating_sub(leaked * self.rate)
    }

    fn level(self, debt: Debt, now: u64) -> u64 {
        self.owed(debt, now).min(self.capacity())
    }
}

impl Algorithm for TokenBucket {
    type State = Debt;

    fn heal(self, debt: &mut Debt, now: u64) -> bool {
        let far = self.owed(*debt, now) > self.capacity();
        if far {
            *debt = Debt { units: self.capacity(), at: now };
        }
        far
    }

    fn retry(self, debt: &Debt, now: u64, cost: u64, _: u64) -> Option<u64> {
        if cost > self.burst {
            return None;
        }
        let after = self.level(*debt, now) + cost * self.period;
        Some(after.saturating_sub(self.capacity()).div_ceil(self.rate))
    }

    fn take(self, debt: &mut Debt, now: u64, cost: u64, _: u64) -> u64 {
        let after = self.level(*debt, now) + cost.min(self.burst) * self.period;
        *debt = Debt { units: after.min(self.capacity()), at: now };
        now
    }

    /// The receipt is the time of the charge; see GCRA's.
    fn give(self, debt: &mut Debt, now: u64, cost: u64, receipt: u64) {
        let taken = cost.min(self.burst) * self.period;
        let leaked = now.saturating_sub(receipt).min(taken.div_ceil(self.rate)) * self.rate;
        let back = taken.saturating_sub(leaked);
        *debt = Debt { units: self.level(*debt, now).saturating_sub(back), at: now };
    }

    fn view(self, debt: &Debt, now: u64) -> View {
        let level = self.level(*debt, now);
        View {
            remaining: (self.capacity() - level) / self.period,
            reset_us: level.div_ceil(self.rate),
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000_000;

    #[test]
    fn thirty_thousand_a_second_are_thirty_thousand() {
        let rule = TokenBucket::new(Quota::per_second(30_000).burst(1)).unwrap();
        let (mut debt, mut now) = (Debt::default(), NOW);
        let mut admitted = 0;
        while now < NOW + 1_000_000 {
            let wait = rule.retry(&debt, now, 1, 0).unwrap();
            if wait == 0 {
                rule.take(&mut debt, now, 1, 0);
                admitted += 1;
            }
            now += wait.max(1);
        }
        // One every 33.3 µs, at times in whole microseconds, with no room to save the rest up in.
        assert!((29_400..=30_000).contains(&admitted), "{admitted}");
        let saved = TokenBucket::new(Quota::per_second(30_000)).unwrap();
        let mut debt = Debt::default();
        saved.take(&mut debt, NOW, 30_000, 0);
        assert_eq!(saved.view(&debt, NOW + 999_999).remaining, 29_999);
        assert_eq!(saved.view(&debt, NOW + 1_000_000), View { remaining: 30_000, reset_us: 0 });
    }

    #[test]
    fn a_clock_that_goes_back_fills_no_bucket_and_locks_none_for_longer_than_a_full_one() {
        let rule = TokenBucket::new(Quota::per_second(10)).unwrap();
        let mut debt = Debt::default();
        rule.take(&mut debt, NOW, 5, 0);
        let back = NOW - 200_000;
        assert_eq!(rule.view(&debt, back).remaining, 3);
        assert!(!rule.heal(&mut debt, back) && rule.heal(&mut debt, NOW - 3_600_000_000));
        assert_eq!(rule.retry(&debt, NOW - 3_600_000_000, 10, 0), Some(1_000_000));
    }

    #[test]
    fn what_cannot_be_counted_exactly_is_refused() {
        let quota = Quota::new(999_983, Duration::from_secs(86_399)).unwrap();
        assert!(TokenBucket::new(quota).unwrap_err().to_string().contains("lower the burst"));
        assert!(
            TokenBucket::new(Quota::per_day(1_000_000)).is_ok(),
            "86,400 units in lowest terms"
        );
    }
}

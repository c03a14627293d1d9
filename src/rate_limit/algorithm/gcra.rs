//! The generic cell rate algorithm: one integer of state, exact to the microsecond.
//!
//! The state is the *theoretical arrival time* (TAT): when the bucket will be empty again. A request
//! of cost `c` moves it on by `c` emission intervals and is allowed if it then lies no further ahead
//! than the burst tolerance. After ITU-T I.371, Annex A (the virtual scheduling algorithm).
//!
//! `gcra.lua` says the same. Every product stays below 2^53, where Lua's numbers end to be exact.

use crate::rate_limit::{
    algorithm::{Algorithm, MAX_EXACT, View},
    quota::{Quota, QuotaError},
};
use std::time::Duration;

/// The shortest emission interval. It is rounded up to whole microseconds, so a shorter one would be
/// off by more than 1%.
const MIN_INTERVAL_US: u64 = 100;

/// A quota in the algorithm's terms.
///
/// A store keeps one point in time for each key, the theoretical arrival time (TAT). It moves it on
/// by `cost` times the [`interval`](Gcra::interval), from the present if it is past, and allows that
/// if it then lies no further ahead than [`burst`](Gcra::burst) intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gcra {
    interval_us: u64,
    burst: u64,
}

impl Gcra {
    pub(crate) fn new(quota: Quota) -> Result<Self, QuotaError> {
        let period_us = quota.period().as_micros() as u64;
        let interval_us = period_us.div_ceil(u64::from(quota.limit()));
        let burst = u64::from(quota.burst_size());
        if interval_us < MIN_INTERVAL_US {
            return Err(QuotaError(format!(
                "{} in {:?} is one every {interval_us} µs; GCRA counts in whole microseconds and \
                 needs {MIN_INTERVAL_US} µs or more to be exact to 1%; use Policy::token_bucket, \
                 which is exact",
                quota.limit(),
                quota.period()
            )));
        }
        if interval_us.checked_mul(burst + 1).is_none_or(|tolerance| tolerance > MAX_EXACT) {
            return Err(QuotaError(format!(
                "a burst of {burst} at one every {interval_us} µs takes longer to refill than can be \
                 counted exactly (2^52 µs, 142 years); lower the burst"
            )));
        }
        Ok(Self { interval_us, burst })
    }

    pub(crate) fn interval_us(self) -> u64 {
        self.interval_us
    }

    /// The time in which one comes back: the emission interval, in whole microseconds.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_micros(self.interval_us)
    }

    /// How many may come at once.
    #[must_use]
    pub fn burst(self) -> u64 {
        self.burst
    }

    /// How long a full burst takes to come back: the burst tolerance.
    pub(crate) fn tolerance_us(self) -> u64 {
        self.burst * self.interval_us
    }

    pub(crate) fn share(self, shares: u64) -> Self {
        Self { burst: (self.burst / shares).max(1), interval_us: self.interval_us * shares }
    }

    /// The TAT that counts: never in the past, and never further ahead than a full burst.
    fn tat(self, tat: u64, now: u64) -> u64 {
        tat.clamp(now, now + self.tolerance_us())
    }
}

impl Algorithm for Gcra {
    type State = u64;

    fn heal(self, tat: &mut u64, now: u64) -> bool {
        let most = now + self.tolerance_us();
        let far = *tat > most;
        if far {
            *tat = most;
        }
        far
    }

    fn retry(self, tat: &u64, now: u64, cost: u64, _: u64) -> Option<u64> {
        if cost > self.burst {
            return None;
        }
        let after = self.tat(*tat, now) + cost * self.interval_us;
        Some(after.saturating_sub(now + self.tolerance_us()))
    }

    fn take(self, tat: &mut u64, now: u64, cost: u64, _: u64) -> u64 {
        let after = self.tat(*tat, now) + cost.min(self.burst) * self.interval_us;
        *tat = after.min(now + self.tolerance_us());
        now
    }

    /// The receipt is the time of the charge. What has come back since is taken to be the request's
    /// own: then the state is exactly as if it had cost that much, so no series of refunds admits
    /// more than the limit does.
    fn give(self, tat: &mut u64, now: u64, cost: u64, receipt: u64) {
        let back = cost.min(self.burst) * self.interval_us;
        let back = back.saturating_sub(now.saturating_sub(receipt));
        *tat = self.tat(*tat, now).saturating_sub(back).max(now);
    }

    fn view(self, tat: &u64, now: u64) -> View {
        let reset_us = self.tat(*tat, now) - now;
        View { remaining: (self.tolerance_us() - reset_us) / self.interval_us, reset_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000_000;

    fn gcra(limit: u32, period: Duration, burst: u32) -> Gcra {
        Gcra::new(Quota::new(limit, period).unwrap().burst(burst)).unwrap()
    }

    #[test]
    fn a_burst_then_one_per_interval() {
        let rule = gcra(10, Duration::from_secs(1), 3);
        let mut tat = 0;
        for left in [2, 1, 0] {
            assert_eq!(rule.retry(&tat, NOW, 1, 0), Some(0));
            rule.take(&mut tat, NOW, 1, 0);
            assert_eq!(rule.view(&tat, NOW).remaining, left);
        }
        assert_eq!(rule.retry(&tat, NOW, 1, 0), Some(100_000));
        assert_eq!(rule.retry(&tat, NOW + 99_999, 1, 0), Some(1));
        assert_eq!(rule.retry(&tat, NOW + 100_000, 1, 0), Some(0));
    }

    #[test]
    fn a_cost_above_the_burst_is_never_allowed_and_never_overflows() {
        let rule = gcra(10, Duration::from_secs(1), 3);
        for cost in [4, u64::MAX] {
            assert_eq!(rule.retry(&0, NOW, cost, 0), None);
            let mut tat = 0;
            rule.take(&mut tat, NOW, cost, 0);
            assert_eq!(tat, NOW + 300_000, "an unconditional charge fills the bucket");
        }
    }

    #[test]
    fn a_state_far_ahead_is_healed_so_that_nobody_waits_longer_than_a_full_bucket() {
        let rule = gcra(10, Duration::from_secs(1), 3);
        let mut tat = NOW + 3_600_000_000;
        assert!(rule.heal(&mut tat, NOW) && !rule.heal(&mut tat, NOW));
        assert_eq!(rule.retry(&tat, NOW, 1, 0), Some(100_000));
    }

    #[test]
    fn a_late_refund_gives_back_only_what_has_not_come_back_by_itself() {
        let rule = gcra(10, Duration::from_secs(1), 3);
        let mut tat = 0;
        let receipt = rule.take(&mut tat, NOW, 1, 0);
        let later = NOW + 1_000_000;
        rule.take(&mut tat, later, 3, 0);
        rule.give(&mut tat, later, 1, receipt);
        assert_eq!(rule.view(&tat, later).remaining, 0, "a fourth would pass at once");
        rule.give(&mut tat, later, 3, later);
        assert_eq!(rule.view(&tat, later), View { remaining: 3, reset_us: 0 });
    }

    #[test]
    fn what_cannot_be_counted_exactly_is_refused() {
        let fast = Quota::per_second(20_000);
        assert!(Gcra::new(fast).unwrap_err().to_string().contains("100 µs"));
        let slow = Quota::new(1, Duration::from_secs(34_560_000)).unwrap().burst(u32::MAX);
        assert!(Gcra::new(slow).unwrap_err().to_string().contains("burst"));
    }
}

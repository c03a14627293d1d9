//! The generic cell rate algorithm: one integer of state, exact to the microsecond.
//!
//! The state is the *theoretical arrival time* (TAT): when the bucket will be empty again. A request
//! of cost `c` moves it on by `c` emission intervals and is allowed if it then lies no further ahead
//! than the burst tolerance. After ITU-T I.371, Annex A (the virtual scheduling algorithm).
//!
//! `gcra.lua` says the same. Every product stays below 2^53, where Lua's numbers end to be exact.

use crate::rate_limit::quota::{Quota, QuotaError};
use std::time::Duration;

/// The shortest emission interval. It is rounded up to whole microseconds, so a shorter one would be
/// off by more than 1%.
const MIN_INTERVAL_US: u64 = 100;

/// The largest integer that a Lua number holds exactly, halved for sums of two.
const MAX_EXACT: u64 = (1 << 52) - 1;

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

/// What a request would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The TAT if nothing is consumed, never in the past.
    pub(crate) before: u64,
    /// The TAT if the request is let through.
    pub(crate) after: u64,
    pub(crate) allowed: bool,
    /// How long until the same request would be allowed; `None` if never.
    pub(crate) retry_us: Option<u64>,
    /// The stored TAT lies too far ahead (the limit was lowered or a clock went back): `before` is
    /// to be stored even if the request is denied.
    pub(crate) clamped: bool,
}

impl Gcra {
    pub(crate) fn new(quota: Quota) -> Result<Self, QuotaError> {
        let period_us = quota.period().as_micros() as u64;
        let interval_us = period_us.div_ceil(u64::from(quota.limit()));
        let burst = u64::from(quota.burst_size());
        if interval_us < MIN_INTERVAL_US {
            return Err(QuotaError(format!(
                "{} in {:?} is one every {interval_us} µs; GCRA counts in whole microseconds and \
                 needs {MIN_INTERVAL_US} µs or more to be exact to 1%",
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

    /// How long a full burst takes to come back: the window that the headers name.
    pub(crate) fn window_us(self) -> u64 {
        self.tolerance_us()
    }

    fn tolerance_us(self) -> u64 {
        self.burst * self.interval_us
    }

    /// What a request of `cost` at `now` does to the state `tat`.
    pub(crate) fn decide(self, tat: Option<u64>, now: u64, cost: u64) -> Step {
        let most = now + self.tolerance_us();
        let tat = tat.unwrap_or(now).max(now);
        let before = tat.min(most);
        // A cost above the burst is never allowed, and must not overflow.
        let after = before + cost.min(self.burst + 1) * self.interval_us;
        let allowed = after <= most;
        let retry_us = match () {
            () if allowed => Some(0),
            () if cost > self.burst => None,
            () => Some(after - most),
        };
        Step { before, after, allowed, retry_us, clamped: tat > most }
    }

    /// How many of cost 1 would be allowed at once.
    pub(crate) fn remaining(self, tat: u64, now: u64) -> u64 {
        (self.tolerance_us().saturating_sub(tat.saturating_sub(now))) / self.interval_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_760_000_000_000_000;

    fn gcra(limit: u32, period: Duration, burst: u32) -> Gcra {
        Gcra::new(Quota::new(limit, period).unwrap().burst(burst)).unwrap()
    }

    #[test]
    fn a_burst_then_one_per_interval() {
        let rule = gcra(10, Duration::from_secs(1), 3);
        let mut tat = None;
        for left in [2, 1, 0] {
            let step = rule.decide(tat, NOW, 1);
            assert!(step.allowed);
            assert_eq!(rule.remaining(step.after, NOW), left);
            tat = Some(step.after);
        }
        let denied = rule.decide(tat, NOW, 1);
        assert_eq!((denied.allowed, denied.retry_us), (false, Some(100_000)));
        assert!(!rule.decide(tat, NOW + 99_999, 1).allowed);
        assert!(rule.decide(tat, NOW + 100_000, 1).allowed);
    }

    #[test]
    fn a_cost_above_the_burst_is_never_allowed_and_never_overflows() {
        let rule = gcra(10, Duration::from_secs(1), 3);
        for cost in [4, u64::MAX] {
            let step = rule.decide(None, NOW, cost);
            assert_eq!((step.allowed, step.retry_us), (false, None));
        }
    }

    #[test]
    fn a_state_far_ahead_is_clamped_so_that_nobody_waits_longer_than_a_full_bucket() {
        let rule = gcra(10, Duration::from_secs(1), 3);
        let step = rule.decide(Some(NOW + 3_600_000_000), NOW, 1);
        assert!(step.clamped && !step.allowed);
        assert_eq!(step.retry_us, Some(100_000));
    }

    #[test]
    fn what_cannot_be_counted_exactly_is_refused() {
        let fast = Quota::per_second(20_000);
        assert!(Gcra::new(fast).unwrap_err().to_string().contains("100 µs"));
        let slow = Quota::new(1, Duration::from_secs(34_560_000)).unwrap().burst(u32::MAX);
        assert!(Gcra::new(slow).unwrap_err().to_string().contains("burst"));
    }

    proptest! {
        #[test]
        fn a_denied_request_is_allowed_after_its_retry_and_not_a_microsecond_earlier(
            limit in 1u32..500, burst in 1u32..50, ahead in 0u64..2_000_000, cost in 1u64..50,
        ) {
            let rule = gcra(limit, Duration::from_secs(1), burst);
            let tat = Some(NOW + ahead);
            let step = rule.decide(tat, NOW, cost);
            if let (false, Some(retry)) = (step.allowed, step.retry_us) {
                prop_assert!(rule.decide(Some(step.before), NOW + retry, cost).allowed);
                prop_assert!(!rule.decide(Some(step.before), NOW + retry - 1, cost).allowed);
            }
        }
    }
}

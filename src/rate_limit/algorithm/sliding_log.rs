//! The sliding log: exact, for a number of each request that counts.
//!
//! In no period, wherever it begins, more than the limit is allowed. An entry is the time of a charge;
//! one counts while it is younger than the period.
//!
//! `sliding_log.lua` says the same.

use crate::rate_limit::{
    algorithm::{Algorithm, View},
    quota::{Quota, QuotaError},
};
use std::{collections::VecDeque, time::Duration};

/// The most entries of a log, for a key takes about 10 bytes of each.
const MAX_LIMIT: u64 = 10_000;

/// A quota in the algorithm's terms: at most [`limit`](SlidingLog::limit) in any
/// [`period`](SlidingLog::period).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlidingLog {
    limit: u64,
    period_us: u64,
}

/// The times of the charges, the newest last.
pub(crate) type Log = VecDeque<u64>;

impl SlidingLog {
    pub(crate) fn new(quota: Quota) -> Result<Self, QuotaError> {
        quota.without_burst("a sliding log")?;
        let limit = u64::from(quota.limit());
        if limit > MAX_LIMIT {
            return Err(QuotaError(format!(
                "a sliding log keeps an entry of each of its {limit} requests, and at most \
                 {MAX_LIMIT}; use Policy::sliding_window, or Policy::gcra"
            )));
        }
        Ok(Self { limit, period_us: quota.period().as_micros() as u64 })
    }

    /// How many may come in any period.
    #[must_use]
    pub fn limit(self) -> u64 {
        self.limit
    }

    /// How long a request counts.
    #[must_use]
    pub fn period(self) -> Duration {
        Duration::from_micros(self.period_us)
    }

    pub(crate) fn numbers(self) -> [u64; 3] {
        [self.limit, self.period_us, 0]
    }

    pub(crate) fn share(self, shares: u64) -> Self {
        Self { limit: (self.limit / shares).max(1), ..self }
    }

    /// The time that counts: never before the newest entry, so that the log stays in order.
    fn at(log: &Log, now: u64) -> u64 {
        log.back().map_or(now, |&newest| newest.max(now))
    }

    /// How many entries count. They are the newest.
    fn live(self, log: &Log, now: u64) -> u64 {
        let at = Self::at(log, now);
        let dead = log.partition_point(|&entry| entry + self.period_us <= at);
        (log.len() - dead) as u64
    }

    fn keep_newest(log: &mut Log, count: u64) {
        let surplus = log.len().saturating_sub(count as usize);
        log.drain(..surplus);
    }
}

impl Algorithm for SlidingLog {
    type State = Log;

    fn heal(self, log: &mut Log, now: u64) -> bool {
        let far = log.back().is_some_and(|&newest| newest > now + self.period_us);
        if far {
            let live = self.live(log, now);
            Self::keep_newest(log, live);
            log.iter_mut().for_each(|entry| *entry = now);
        }
        far
    }

    fn retry(self, log: &Log, now: u64, cost: u64, _: u64) -> Option<u64> {
        if cost > self.limit {
            return None;
        }
        if self.live(log, now) + cost <= self.limit {
            return Some(0);
        }
        // This one and all before it have to leave.
        let leaves = log.len() - 1 - (self.limit - cost) as usize;
        Some(log[leaves] + self.period_us - now)
    }

    fn take(self, log: &mut Log, now: u64, cost: u64, _: u64) -> u64 {
        let (at, cost) = (Self::at(log, now), cost.min(self.limit));
        let keep = self.live(log, now).min(self.limit - cost);
        Self::keep_newest(log, keep);
        log.extend((0..cost).map(|_| at));
        at
    }

    /// The receipt is the time of the entries. Which of equal ones go makes no difference.
    fn give(self, log: &mut Log, _: u64, cost: u64, receipt: u64) {
        let first = log.partition_point(|&entry| entry < receipt);
        let after = log.partition_point(|&entry| entry <= receipt);
        log.drain(first..after.min(first.saturating_add(cost as usize)));
    }

    fn view(self, log: &Log, now: u64) -> View {
        let live = self.live(log, now);
        let newest = log.back().filter(|_| live > 0);
        View {
            remaining: self.limit.saturating_sub(live),
            reset_us: newest.map_or(0, |newest| newest + self.period_us - now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000_000;
    const SECOND: u64 = 1_000_000;

    fn five_a_minute() -> SlidingLog {
        SlidingLog::new(Quota::per_minute(5)).unwrap()
    }

    #[test]
    fn no_period_wherever_it_begins_holds_more_than_the_limit() {
        let (rule, mut log, mut now) = (five_a_minute(), Log::new(), NOW);
        let mut admitted = Vec::new();
        for step in 0..2_000u64 {
            now += (step * 7_919) % (9 * SECOND);
            if rule.retry(&log, now, 1, 0) == Some(0) {
                rule.take(&mut log, now, 1, 0);
                admitted.push(now);
            }
        }
        assert!(admitted.len() > 500);
        for six in admitted.windows(6) {
            assert!(six[5] - six[0] >= 60 * SECOND, "{six:?}");
        }
        assert!(log.len() <= 5);
    }

    #[test]
    fn a_refund_removes_the_requests_own_entry() {
        let (rule, mut log) = (five_a_minute(), Log::new());
        let first = rule.take(&mut log, NOW, 1, 0);
        let second = rule.take(&mut log, NOW + SECOND, 1, 0);
        rule.take(&mut log, NOW + 2 * SECOND, 1, 0);
        rule.give(&mut log, NOW + 3 * SECOND, 1, second);
        assert_eq!(log, [first, NOW + 2 * SECOND]);
        rule.give(&mut log, NOW + 3 * SECOND, 1, second);
        assert_eq!(log.len(), 2, "what is refunded once is not refunded again");
    }

    #[test]
    fn an_unconditional_charge_keeps_no_more_entries_than_the_limit() {
        let (rule, mut log) = (five_a_minute(), Log::new());
        rule.take(&mut log, NOW, 3, 0);
        rule.take(&mut log, NOW + SECOND, u64::MAX, 0);
        assert_eq!(log, [NOW + SECOND; 5]);
    }

    #[test]
    fn a_clock_that_goes_back_keeps_the_entries_and_bounds_the_wait() {
        let (rule, mut log) = (five_a_minute(), Log::new());
        rule.take(&mut log, NOW, 5, 0);
        let back = NOW - 3_600 * SECOND;
        assert!(rule.heal(&mut log, back));
        assert_eq!(rule.retry(&log, back, 1, 0), Some(60 * SECOND));
    }

    #[test]
    fn a_log_too_long_to_keep_is_refused() {
        let error = SlidingLog::new(Quota::per_day(10_001)).unwrap_err();
        assert!(error.to_string().contains("Policy::sliding_window"), "{error}");
    }
}

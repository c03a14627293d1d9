//! The sliding window counter: two fixed windows, of which the earlier counts in proportion.
//!
//! It smooths the edges of a fixed window for one number more. In the worst case, when all of a window
//! came at its end, a little under twice the limit passes in one period.
//!
//! Windows are counted in milliseconds, so that their products stay exact. `sliding_window.lua` says
//! the same.

use crate::rate_limit::{
    algorithm::{Algorithm, MAX_EXACT, View},
    quota::{Quota, QuotaError},
};
use std::time::Duration;

/// A quota in the algorithm's terms: about [`limit`](SlidingWindow::limit) in any
/// [`period`](SlidingWindow::period).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlidingWindow {
    limit: u64,
    period_ms: u64,
}

/// The current window by its start, in ms, and what was taken in it and in the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) start_ms: u64,
    pub(crate) current: u64,
    pub(crate) previous: u64,
}

impl SlidingWindow {
    pub(crate) fn new(quota: Quota) -> Result<Self, QuotaError> {
        quota.without_burst("a sliding window")?;
        let limit = u64::from(quota.limit());
        let period_ms = quota.period().as_millis() as u64;
        if quota.period() != Duration::from_millis(period_ms) {
            return Err(QuotaError(format!(
                "a sliding window counts in whole milliseconds, and {:?} is none; round the period",
                quota.period()
            )));
        }
        // Two windows and a cost are summed.
        if (limit + 1).checked_mul(period_ms).is_none_or(|most| most > MAX_EXACT / 2) {
            return Err(QuotaError(format!(
                "{limit} in {:?} cannot be counted exactly by a sliding window (limit times \
                 milliseconds is 2^51 or more); shorten the period, or use Policy::gcra",
                quota.period()
            )));
        }
        Ok(Self { limit, period_ms })
    }

    /// About how many may come in any period.
    #[must_use]
    pub fn limit(self) -> u64 {
        self.limit
    }

    /// How long a window is.
    #[must_use]
    pub fn period(self) -> Duration {
        Duration::from_millis(self.period_ms)
    }

    pub(crate) fn numbers(self) -> [u64; 3] {
        [self.limit, self.period_ms, 0]
    }

    pub(crate) fn share(self, shares: u64) -> Self {
        Self { limit: (self.limit / shares).max(1), ..self }
    }

    /// The windows as of `now`. Ones from the future, by up to a period, have just begun; any further
    /// ahead are moved to the present.
    fn windows(self, windows: Windows, now: u64) -> Windows {
        let (ms, period) = (now / 1_000, self.period_ms);
        let current = windows.current.min(self.limit);
        let previous = windows.previous.min(self.limit);
        let start = if windows.start_ms > ms + period { ms } else { windows.start_ms };
        let vacant = Windows { start_ms: ms, current: 0, previous: 0 };
        match ms.saturating_sub(start) / period {
            0 if current + previous > 0 => Windows { start_ms: start, current, previous },
            1 if current > 0 => Windows { start_ms: start + period, current: 0, previous: current },
            _ => vacant,
        }
    }

    /// How much of the window has passed at `now`, in ms.
    fn passed(windows: Windows, now: u64) -> u64 {
        (now / 1_000).saturating_sub(windows.start_ms)
    }
}

impl Algorithm for SlidingWindow {
    type State = Windows;

    fn heal(self, windows: &mut Windows, now: u64) -> bool {
        let counts = windows.current + windows.previous > 0;
        let far = counts && windows.start_ms > now / 1_000 + self.period_ms;
        if far {
            *windows = self.windows(*windows, now);
        }
        far
    }

    fn retry(self, windows: &Windows, now: u64, cost: u64, _: u64) -> Option<u64> {
        if cost > self.limit {
            return None;
        }
        let Windows { start_ms, current, previous } = self.windows(*windows, now);
        let (limit, period) = (self.limit, self.period_ms);
        let passed = Self::passed(Windows { start_ms, current, previous }, now);
        if previous * (period - passed) + (current + cost) * period <= limit * period {
            return Some(0);
        }
        // In this window if what is left beside the current one suffices, else in the next, where the
        // current one is the previous.
        let into = if current + cost <= limit {
            period - (limit - current - cost) * period / previous
        } else {
            2 * period - ((limit - cost) * period / current).min(period)
        };
        Some(until(start_ms, into, now))
    }

    fn take(self, windows: &mut Windows, now: u64, cost: u64, _: u64) -> u64 {
        *windows = self.windows(*windows, now);
        windows.current = windows.current.saturating_add(cost).min(self.limit);
        windows.start_ms
    }

    /// The receipt is the start of the window that was charged.
    fn give(self, windows: &mut Windows, now: u64, cost: u64, receipt: u64) {
        *windows = self.windows(*windows, now);
        if windows.start_ms == receipt {
            windows.current = windows.current.saturating_sub(cost);
        } else if windows.start_ms == receipt.saturating_add(self.period_ms) {
            windows.previous = windows.previous.saturating_sub(cost);
        }
    }

    fn view(self, windows: &Windows, now: u64) -> View {
        let windows = self.windows(*windows, now);
        let period = self.period_ms;
        let weighted = windows.previous * (period - Self::passed(windows, now));
        let taken = windows.current + weighted.div_ceil(period);
        let lives = match windows {
            Windows { current: 1.., .. } => 2 * period,
            Windows { previous: 1.., .. } => period,
            _ => return View { remaining: self.limit, reset_us: 0 },
        };
        View {
            remaining: self.limit.saturating_sub(taken),
            reset_us: until(windows.start_ms, lives, now),
        }
    }
}

/// How long it is from `now` until `into_ms` after the start of a window, in µs.
fn until(start_ms: u64, into_ms: u64, now: u64) -> u64 {
    (start_ms + into_ms) * 1_000 - now
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000_000;
    const SECOND: u64 = 1_000_000;

    #[test]
    fn the_previous_window_counts_in_proportion() {
        let rule = SlidingWindow::new(Quota::per_minute(60)).unwrap();
        let mut windows = Windows::default();
        rule.take(&mut windows, NOW, 60, 0);
        assert_eq!(rule.view(&windows, NOW + 60 * SECOND).remaining, 0);
        assert_eq!(rule.view(&windows, NOW + 75 * SECOND).remaining, 15);
        assert_eq!(rule.retry(&windows, NOW + 75 * SECOND, 16, 0), Some(SECOND));
        assert_eq!(rule.view(&windows, NOW + 120 * SECOND), View { remaining: 60, reset_us: 0 });
    }

    #[test]
    fn a_changed_period_locks_nobody_out() {
        let short = SlidingWindow::new(Quota::per_second(5)).unwrap();
        let long = SlidingWindow::new(Quota::per_minute(5)).unwrap();
        let mut windows = Windows::default();
        short.take(&mut windows, NOW, 5, 0);
        assert!(long.retry(&windows, NOW, 1, 0).unwrap() <= 120 * SECOND);
        let mut windows = Windows::default();
        long.take(&mut windows, NOW, 5, 0);
        assert!(short.retry(&windows, NOW, 1, 0).unwrap() <= 2 * SECOND);
    }

    #[test]
    fn a_clock_that_goes_back_far_makes_nobody_wait_longer_than_two_periods() {
        let rule = SlidingWindow::new(Quota::per_second(5)).unwrap();
        let mut windows = Windows::default();
        rule.take(&mut windows, NOW, 5, 0);
        let back = NOW - 3_600 * SECOND;
        assert!(rule.heal(&mut windows, back));
        assert!(rule.retry(&windows, back, 1, 0).unwrap() <= 2 * SECOND);
    }

    #[test]
    fn a_refund_finds_its_window_though_it_is_the_previous_one_by_now() {
        let rule = SlidingWindow::new(Quota::per_second(10)).unwrap();
        let mut windows = Windows::default();
        let receipt = rule.take(&mut windows, NOW, 4, 0);
        rule.give(&mut windows, NOW + SECOND, 1, receipt);
        assert_eq!(rule.view(&windows, NOW + SECOND).remaining, 7);
        rule.give(&mut windows, NOW + SECOND, 1, receipt - 7);
        assert_eq!(rule.view(&windows, NOW + SECOND).remaining, 7, "another's receipt");
    }
}

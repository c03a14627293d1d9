//! The fixed window: a count that starts anew when its window has passed.
//!
//! A window begins with its first request, or at a whole multiple of its length since the Unix epoch.
//! Around the end of a window, twice the limit may pass in a short time.
//!
//! `fixed_window.lua` says the same.

use crate::rate_limit::{
    algorithm::{Algorithm, View},
    quota::{Quota, QuotaError},
};
use std::time::Duration;

/// A quota in the algorithm's terms: [`limit`](FixedWindow::limit) in each window of
/// [`period`](FixedWindow::period).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FixedWindow {
    limit: u64,
    period_us: u64,
    aligned: bool,
}

/// A window by its start, in µs, and what was taken in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) start: u64,
    pub(crate) count: u64,
}

impl FixedWindow {
    pub(crate) fn new(quota: Quota) -> Result<Self, QuotaError> {
        quota.without_burst("a fixed window")?;
        let period_us = quota.period().as_micros() as u64;
        Ok(Self { limit: u64::from(quota.limit()), period_us, aligned: false })
    }

    pub(crate) fn aligned(mut self) -> Self {
        self.aligned = true;
        self
    }

    /// How many may come in a window.
    #[must_use]
    pub fn limit(self) -> u64 {
        self.limit
    }

    /// How long a window is.
    #[must_use]
    pub fn period(self) -> Duration {
        Duration::from_micros(self.period_us)
    }

    pub(crate) fn numbers(self) -> [u64; 3] {
        [self.limit, self.period_us, u64::from(self.aligned)]
    }

    pub(crate) fn share(self, shares: u64) -> Self {
        Self { limit: (self.limit / shares).max(1), ..self }
    }

    pub(crate) fn is_aligned(self) -> bool {
        self.aligned
    }

    fn start(self, now: u64) -> u64 {
        if self.aligned { now - now % self.period_us } else { now }
    }

    /// The window that `now` is in. One from the future begins now.
    fn window(self, window: Window, now: u64) -> Window {
        let Window { start, count } = window;
        if count == 0 || now >= start + self.period_us {
            return Window { start: self.start(now), count: 0 };
        }
        let start = if start > now { self.start(now) } else { start };
        Window { start, count: count.min(self.limit) }
    }

    fn left(self, window: Window, now: u64) -> u64 {
        window.start + self.period_us - now
    }
}

impl Algorithm for FixedWindow {
    type State = Window;

    fn heal(self, window: &mut Window, now: u64) -> bool {
        let far = window.count > 0 && window.start > now;
        if far {
            *window = self.window(*window, now);
        }
        far
    }

    fn retry(self, window: &Window, now: u64, cost: u64, _: u64) -> Option<u64> {
        let window = self.window(*window, now);
        match () {
            () if cost > self.limit => None,
            () if window.count + cost > self.limit => Some(self.left(window, now)),
            () => Some(0),
        }
    }

    fn take(self, window: &mut Window, now: u64, cost: u64, _: u64) -> u64 {
        *window = self.window(*window, now);
        window.count = window.count.saturating_add(cost).min(self.limit);
        window.start
    }

    /// The receipt is the window's start: nothing is given back to a later one.
    fn give(self, window: &mut Window, now: u64, cost: u64, receipt: u64) {
        *window = self.window(*window, now);
        if window.start == receipt {
            window.count = window.count.saturating_sub(cost);
        }
    }

    fn view(self, window: &Window, now: u64) -> View {
        let window = self.window(*window, now);
        let reset_us = if window.count > 0 { self.left(window, now) } else { 0 };
        View { remaining: self.limit - window.count, reset_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000_000;
    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_window_begins_with_its_first_request_and_none_stretches_it() {
        let rule = FixedWindow::new(Quota::per_minute(2)).unwrap();
        let mut window = Window::default();
        rule.take(&mut window, NOW, 1, 0);
        rule.take(&mut window, NOW + 59 * SECOND, 1, 0);
        assert_eq!(rule.retry(&window, NOW + 59 * SECOND, 1, 0), Some(SECOND));
        assert_eq!(rule.view(&window, NOW + 60 * SECOND), View { remaining: 2, reset_us: 0 });
    }

    #[test]
    fn an_aligned_window_begins_on_the_minute() {
        let rule = FixedWindow::new(Quota::per_minute(2)).unwrap().aligned();
        let now = NOW - NOW % (60 * SECOND) + 50 * SECOND;
        let mut window = Window::default();
        rule.take(&mut window, now, 2, 0);
        assert_eq!(rule.retry(&window, now, 1, 0), Some(10 * SECOND));
    }

    #[test]
    fn a_refund_of_an_earlier_window_gives_nothing_to_this_one() {
        let rule = FixedWindow::new(Quota::per_minute(5)).unwrap();
        let mut window = Window::default();
        let receipt = rule.take(&mut window, NOW, 1, 0);
        let later = NOW + 61 * SECOND;
        let own = rule.take(&mut window, later, 3, 0);
        rule.give(&mut window, later, 1, receipt);
        assert_eq!(rule.view(&window, later).remaining, 2);
        rule.give(&mut window, later, 1, own);
        assert_eq!(rule.view(&window, later).remaining, 3);
    }

    #[test]
    fn a_burst_has_no_meaning_for_a_window() {
        let error = FixedWindow::new(Quota::per_minute(5).burst(9)).unwrap_err();
        assert!(error.to_string().contains("burst of 9"), "{error}");
    }
}

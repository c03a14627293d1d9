//! How much is allowed in how long.

use std::{fmt, time::Duration};

/// An amount per period, with a burst.
///
/// `Quota::per_second(20)` is twenty a second, and by default all twenty may come at once.
///
/// ```
/// use std::time::Duration;
/// use towerkeep::rate_limit::Quota;
///
/// let quota = Quota::per_second(20).burst(40);
/// assert_eq!(quota, Quota::new(20, Duration::from_secs(1)).unwrap().burst(40));
/// assert!(Quota::new(0, Duration::from_secs(1)).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    limit: u32,
    period: Duration,
    burst: u32,
}

impl Quota {
    /// `limit` in every `period`; the burst is `limit`.
    ///
    /// # Errors
    ///
    /// If `limit` is zero, or `period` is shorter than 1 ms or longer than 400 days.
    pub fn new(limit: u32, period: Duration) -> Result<Self, QuotaError> {
        if limit == 0 {
            return Err(QuotaError("a quota of 0 lets nothing through; use at least 1".into()));
        }
        if period < SHORTEST || period > LONGEST {
            return Err(QuotaError(format!(
                "a quota's period of {period:?} is outside {SHORTEST:?} to {LONGEST:?}"
            )));
        }
        Ok(Self { limit, period, burst: limit })
    }

    /// `limit` a second.
    ///
    /// # Panics
    ///
    /// If `limit` is zero; [`Quota::new`] returns the error instead.
    #[must_use]
    pub fn per_second(limit: u32) -> Self {
        Self::per(limit, 1)
    }

    /// `limit` a minute.
    ///
    /// # Panics
    ///
    /// If `limit` is zero; [`Quota::new`] returns the error instead.
    #[must_use]
    pub fn per_minute(limit: u32) -> Self {
        Self::per(limit, 60)
    }

    /// `limit` an hour.
    ///
    /// # Panics
    ///
    /// If `limit` is zero; [`Quota::new`] returns the error instead.
    #[must_use]
    pub fn per_hour(limit: u32) -> Self {
        Self::per(limit, 60 * 60)
    }

    /// `limit` a day.
    ///
    /// # Panics
    ///
    /// If `limit` is zero; [`Quota::new`] returns the error instead.
    #[must_use]
    pub fn per_day(limit: u32) -> Self {
        Self::per(limit, 24 * 60 * 60)
    }

    /// How much may come at once after a pause. Default: the limit.
    ///
    /// # Panics
    ///
    /// If `burst` is zero.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        assert!(burst > 0, "a burst of 0 lets nothing through; use at least 1");
        self.burst = burst;
        self
    }

    pub(crate) fn limit(self) -> u32 {
        self.limit
    }

    pub(crate) fn period(self) -> Duration {
        self.period
    }

    pub(crate) fn burst_size(self) -> u32 {
        self.burst
    }

    /// For what has no bucket to fill.
    pub(crate) fn without_burst(self, algorithm: &str) -> Result<(), QuotaError> {
        if self.burst == self.limit {
            return Ok(());
        }
        Err(QuotaError(format!(
            "{algorithm} has no bucket, so a burst of {} beside a limit of {} means nothing; leave it \
             out, or use Policy::gcra or Policy::token_bucket",
            self.burst, self.limit
        )))
    }

    fn per(limit: u32, seconds: u64) -> Self {
        match Self::new(limit, Duration::from_secs(seconds)) {
            Ok(quota) => quota,
            Err(error) => panic!("{error}"),
        }
    }
}

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Why a quota or a policy cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaError(pub(crate) String);

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for QuotaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_second_n_is_n_a_second() {
        let quota = Quota::per_second(20);
        assert_eq!((quota.limit(), quota.period()), (20, Duration::from_secs(1)));
        assert_eq!(quota.burst_size(), 20);
    }

    #[test]
    fn an_impossible_quota_is_refused_with_its_value() {
        let too_long = Quota::new(1, Duration::from_secs(u64::MAX)).unwrap_err();
        assert!(too_long.to_string().contains("outside"), "{too_long}");
        assert!(Quota::new(1, Duration::from_micros(10)).is_err());
    }
}

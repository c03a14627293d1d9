//! When denials become a ban.

use crate::rate_limit::{outcome::LONGEST_BAN, quota::QuotaError};
use std::time::Duration;

/// A key that is denied so often in so long is banned.
///
/// What a store does with it, within the step of a [`check`](crate::rate_limit::RateLimitStore::check):
///
/// - A denial by the policy, unless it is by a ban, is counted from the first one on, for
///   [`within`](BanAfter::within); then the count begins anew.
/// - That which makes the count [`denials`](BanAfter::denials) is answered as a ban of
///   [`length`](BanAfter::length) already, and the ban is in place of the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BanAfter {
    denials: u32,
    within_us: u64,
    length_us: u64,
}

impl BanAfter {
    /// A ban of `length` after so many `denials` within so long.
    ///
    /// # Errors
    ///
    /// If `denials` is zero, or a duration is shorter than 1 ms or longer than 400 days.
    pub fn new(denials: u32, within: Duration, length: Duration) -> Result<Self, QuotaError> {
        if denials == 0 {
            return Err(QuotaError("a ban after 0 denials bans everybody; use at least 1".into()));
        }
        let [within_us, length_us] = [("within", within), ("for", length)].map(|(what, time)| {
            let legal = time >= SHORTEST && time <= LONGEST_BAN;
            legal.then_some(time.as_micros() as u64).ok_or_else(|| {
                let bounds = format!("{SHORTEST:?} to {LONGEST_BAN:?}");
                QuotaError(format!("a ban {what} {time:?} is outside {bounds}"))
            })
        });
        Ok(Self { denials, within_us: within_us?, length_us: length_us? })
    }

    /// How many denials make the ban.
    #[must_use]
    pub fn denials(self) -> u32 {
        self.denials
    }

    /// How long denials are counted, from the first one on.
    #[must_use]
    pub fn within(self) -> Duration {
        Duration::from_micros(self.within_us)
    }

    /// How long the ban lasts.
    #[must_use]
    pub fn length(self) -> Duration {
        Duration::from_micros(self.length_us)
    }

    /// One denial more, in µs. `check.lua` says the same.
    pub(crate) fn deny(self, mark: Mark, now: u64) -> Mark {
        let ends = now + self.within_us;
        // A clock that went back makes no count last longer.
        let (until, denials) = match mark {
            Mark::Denied { until, denials } if until > now => (until.min(ends), denials),
            _ => (ends, 0),
        };
        match denials + 1 {
            denials if denials < self.denials => Mark::Denied { until, denials },
            _ => Mark::Banned { until: now + self.length_us },
        }
    }

    /// As `check.lua` reads it.
    #[cfg(feature = "redis")]
    pub(crate) fn script_arg(self) -> String {
        format!("{}:{}:{}", self.denials, self.within_us, self.length_us)
    }
}

const SHORTEST: Duration = Duration::from_millis(1);

/// What is known against a key, beside its count. Times are in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    #[default]
    None,
    Banned {
        until: u64,
    },
    Denied {
        until: u64,
        denials: u32,
    },
}

impl Mark {
    /// When it ends; 0 if there is none.
    pub(crate) fn until(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Banned { until } | Self::Denied { until, .. } => until,
        }
    }

    /// How long a ban lasts yet.
    pub(crate) fn ban_us(self, now: u64) -> Option<u64> {
        match self {
            Self::Banned { until } => until.checked_sub(now).filter(|left| *left > 0),
            _ => None,
        }
    }

    /// Without what has ended, so that it stays so though the clock went back.
    pub(crate) fn at(self, now: u64) -> Self {
        if self.until() > now { self } else { Self::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_bans_everybody_or_nobody_is_refused() {
        assert!(BanAfter::new(0, SECOND, SECOND).unwrap_err().to_string().contains("at least 1"));
        let never = BanAfter::new(1, Duration::ZERO, SECOND).unwrap_err();
        assert!(never.to_string().contains("within 0ns"), "{never}");
        let no_time = BanAfter::new(1, SECOND, Duration::MAX).unwrap_err();
        assert!(no_time.to_string().contains("for 18446744073709551615"), "{no_time}");
    }

    #[test]
    fn a_count_begins_with_its_first_denial_and_ends_when_its_time_has_passed() {
        let after = BanAfter::new(3, SECOND, 60 * SECOND).unwrap();
        let now = 1_760_000_000_000_000;
        let first = after.deny(Mark::None, now);
        assert_eq!(first, Mark::Denied { until: now + 1_000_000, denials: 1 });
        let second = after.deny(first, now + 999_999);
        assert_eq!(second, Mark::Denied { until: now + 1_000_000, denials: 2 });
        let ban = Mark::Banned { until: now + 60_999_999 };
        assert_eq!(after.deny(second, now + 999_999), ban);
        let back = Mark::Denied { until: now - 4_000_000, denials: 2 };
        assert_eq!(after.deny(first, now - 5_000_000), back, "a clock that went back");
        let anew = Mark::Denied { until: now + 2_000_000, denials: 1 };
        assert_eq!(after.deny(second, now + 1_000_000), anew);
    }
}

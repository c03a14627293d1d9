//! A rule: one of the algorithms, with its numbers.

use crate::rate_limit::{
    algorithm::{
        Algorithm, Concurrency, Debt, FixedWindow, Gcra, Leases, Log, SlidingLog, SlidingWindow,
        TokenBucket, View, Window, Windows,
    },
    quota::{Quota, QuotaError},
};
use std::time::Duration;

/// More shares than these are these: their products stay below 2^64.
const MOST_SHARES: u32 = 1_000;

/// The algorithm of a policy, with its numbers.
///
/// | | admits at most | state of a key |
/// | --- | --- | --- |
/// | [`gcra`](Rule::gcra) | the burst, and then one an interval | one number |
/// | [`token_bucket`](Rule::token_bucket) | the same, exact at any rate | two numbers |
/// | [`fixed_window`](Rule::fixed_window) | the limit in each window, twice around its end | two numbers |
/// | [`sliding_window`](Rule::sliding_window) | about the limit in any period, at worst twice | three numbers |
/// | [`sliding_log`](Rule::sliding_log) | the limit in any period | one number for each request |
/// | [`concurrency`](Rule::concurrency) | so many at a time | an entry for each |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The generic cell rate algorithm.
    Gcra(Gcra),
    /// The exact token bucket.
    TokenBucket(TokenBucket),
    /// The fixed window.
    FixedWindow(FixedWindow),
    /// The sliding window counter.
    SlidingWindow(SlidingWindow),
    /// The sliding log.
    SlidingLog(SlidingLog),
    /// Leases.
    Concurrency(Concurrency),
}

impl Rule {
    /// A steady rate with a burst, in whole microseconds: GCRA.
    ///
    /// # Errors
    ///
    /// If the quota is more than 10,000 a second, or the burst takes over 142 years to refill.
    pub fn gcra(quota: Quota) -> Result<Self, QuotaError> {
        Gcra::new(quota).map(Self::Gcra)
    }

    /// A steady rate with a burst, exact at any rate.
    ///
    /// # Errors
    ///
    /// If the burst times the period, in lowest terms of the limit and the period's microseconds, is
    /// 2^52 or more.
    pub fn token_bucket(quota: Quota) -> Result<Self, QuotaError> {
        TokenBucket::new(quota).map(Self::TokenBucket)
    }

    /// A count that starts anew when its window has passed; the window begins with its first request.
    ///
    /// # Errors
    ///
    /// If the quota has a burst of its own.
    pub fn fixed_window(quota: Quota) -> Result<Self, QuotaError> {
        FixedWindow::new(quota).map(Self::FixedWindow)
    }

    /// A fixed window that begins at a whole multiple of its length since the Unix epoch: on the
    /// minute, the hour, or at midnight UTC. All clients' windows end at once.
    ///
    /// # Errors
    ///
    /// If the quota has a burst of its own.
    pub fn aligned_window(quota: Quota) -> Result<Self, QuotaError> {
        FixedWindow::new(quota).map(|window| Self::FixedWindow(window.aligned()))
    }

    /// Two windows, of which the earlier counts in proportion.
    ///
    /// # Errors
    ///
    /// If the quota has a burst of its own, the period is not in whole milliseconds, or the limit times
    /// the milliseconds is 2^51 or more.
    pub fn sliding_window(quota: Quota) -> Result<Self, QuotaError> {
        SlidingWindow::new(quota).map(Self::SlidingWindow)
    }

    /// The time of each request.
    ///
    /// # Errors
    ///
    /// If the quota has a burst of its own, or the limit is more than 10,000.
    pub fn sliding_log(quota: Quota) -> Result<Self, QuotaError> {
        SlidingLog::new(quota).map(Self::SlidingLog)
    }

    /// So many at a time. A lease that is not renewed ends after 30 seconds.
    ///
    /// # Errors
    ///
    /// If the limit is 0 or more than 100,000.
    pub fn concurrency(limit: u32) -> Result<Self, QuotaError> {
        Concurrency::new(limit).map(Self::Concurrency)
    }

    /// The same with another length of the lease; nothing but a concurrency rule has one.
    ///
    /// # Errors
    ///
    /// If the lease is shorter than 10 ms or longer than a day, or the rule has none.
    pub fn lease(self, lease: Duration) -> Result<Self, QuotaError> {
        match self {
            Self::Concurrency(rule) => rule.with_lease(lease).map(Self::Concurrency),
            other => Err(QuotaError(format!(
                "{} has no lease; only Policy::concurrency has",
                other.algorithm()
            ))),
        }
    }

    /// The same algorithm for another quota.
    ///
    /// # Errors
    ///
    /// Where the algorithm's own constructor returns one; a concurrency rule has no quota.
    pub fn with_quota(self, quota: Quota) -> Result<Self, QuotaError> {
        match self {
            Self::Gcra(_) => Self::gcra(quota),
            Self::TokenBucket(_) => Self::token_bucket(quota),
            Self::FixedWindow(rule) if rule.is_aligned() => Self::aligned_window(quota),
            Self::FixedWindow(_) => Self::fixed_window(quota),
            Self::SlidingWindow(_) => Self::sliding_window(quota),
            Self::SlidingLog(_) => Self::sliding_log(quota),
            Self::Concurrency(_) => Err(QuotaError(
                "a concurrency limit has no quota a period; leave quota_with out".into(),
            )),
        }
    }

    /// One of `shares` equal shares, at least 1: for a store in memory, where numbers may be larger
    /// than in Lua.
    pub(crate) fn share(self, shares: u32) -> Self {
        let shares = u64::from(shares.clamp(1, MOST_SHARES));
        match self {
            Self::Gcra(rule) => Self::Gcra(rule.share(shares)),
            Self::TokenBucket(rule) => Self::TokenBucket(rule.share(shares)),
            Self::FixedWindow(rule) => Self::FixedWindow(rule.share(shares)),
            Self::SlidingWindow(rule) => Self::SlidingWindow(rule.share(shares)),
            Self::SlidingLog(rule) => Self::SlidingLog(rule.share(shares)),
            Self::Concurrency(rule) => Self::Concurrency(rule.share(shares)),
        }
    }

    /// The most that may come at once.
    #[must_use]
    pub fn limit(self) -> u64 {
        self.numbers()[0]
    }

    /// How long a full allowance takes to come back; `None` if that is up to those who hold it.
    #[must_use]
    pub fn window(self) -> Option<Duration> {
        match self {
            Self::Gcra(rule) => Some(Duration::from_micros(rule.tolerance_us())),
            Self::TokenBucket(rule) => Some(Duration::from_micros(rule.fill_us())),
            Self::FixedWindow(rule) => Some(rule.period()),
            Self::SlidingWindow(rule) => Some(rule.period()),
            Self::SlidingLog(rule) => Some(rule.period()),
            Self::Concurrency(_) => None,
        }
    }

    /// The algorithm's name in keys and scripts.
    #[must_use]
    pub fn algorithm(self) -> &'static str {
        match self {
            Self::Gcra(_) => "gcra",
            Self::TokenBucket(_) => "token_bucket",
            Self::FixedWindow(_) => "fixed_window",
            Self::SlidingWindow(_) => "sliding_window",
            Self::SlidingLog(_) => "sliding_log",
            Self::Concurrency(_) => "concurrency",
        }
    }

    /// How long a lease lasts, where there is one.
    pub(crate) fn lease_length(self) -> Option<Duration> {
        match self {
            Self::Concurrency(rule) => Some(rule.lease()),
            _ => None,
        }
    }

    pub(crate) fn is_concurrency(self) -> bool {
        matches!(self, Self::Concurrency(_))
    }

    /// The numbers that a script is told: limit, period, and one that is the algorithm's own.
    pub(crate) fn numbers(self) -> [u64; 3] {
        match self {
            Self::Gcra(rule) => [rule.burst(), rule.interval_us(), 0],
            Self::TokenBucket(rule) => rule.numbers(),
            Self::FixedWindow(rule) => rule.numbers(),
            Self::SlidingWindow(rule) => rule.numbers(),
            Self::SlidingLog(rule) => rule.numbers(),
            Self::Concurrency(rule) => rule.numbers(),
        }
    }
}

/// What is known of one key, in memory.
#[derive(Clone, Debug, Default)]
pub(crate) enum State {
    #[default]
    Vacant,
    Gcra(u64),
    TokenBucket(Debt),
    FixedWindow(Window),
    SlidingWindow(Windows),
    SlidingLog(Log),
    Concurrency(Leases),
}

impl State {
    /// The bytes that it holds besides itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::SlidingLog(log) => log.capacity() * size_of::<u64>(),
            Self::Concurrency(leases) => leases.capacity() * 2 * size_of::<u64>(),
            _ => 0,
        }
    }
}

/// Calls an algorithm with its own state. One that is another algorithm's is as good as vacant.
macro_rules! dispatch {
    ($rule:expr, $state:expr, $algorithm:ident, $own:ident => $call:expr) => {
        dispatch!(@ $rule, $state, $algorithm, $own => $call;
            Gcra, TokenBucket, FixedWindow, SlidingWindow, SlidingLog, Concurrency)
    };
    (@ $rule:expr, $state:expr, $algorithm:ident, $own:ident => $call:expr; $($name:ident),+) => {
        match $rule {
            $(Rule::$name($algorithm) => {
                if !matches!($state, State::$name(_)) {
                    *$state = State::$name(Default::default());
                }
                let State::$name($own) = $state else { unreachable!("it was just made so") };
                $call
            })+
        }
    };
}

/// The verbs of an [`Algorithm`]; a cost of 0 takes and gives nothing and is always allowed.
impl Rule {
    pub(crate) fn heal(self, state: &mut State, now: u64) -> bool {
        dispatch!(self, state, algorithm, own => algorithm.heal(own, now))
    }

    pub(crate) fn retry(self, state: &mut State, now: u64, cost: u64, receipt: u64) -> Option<u64> {
        if cost == 0 {
            return Some(0);
        }
        dispatch!(self, state, algorithm, own => algorithm.retry(own, now, cost, receipt))
    }

    pub(crate) fn take(self, state: &mut State, now: u64, cost: u64, receipt: u64) -> u64 {
        dispatch!(self, state, algorithm, own => algorithm.take(own, now, cost, receipt))
    }

    pub(crate) fn give(self, state: &mut State, now: u64, cost: u64, receipt: u64) {
        dispatch!(self, state, algorithm, own => algorithm.give(own, now, cost, receipt));
    }

    /// Counts a lease anew; what has no lease has none that could have ended.
    pub(crate) fn renew(self, state: &mut State, now: u64, receipt: u64) -> bool {
        match (self, state) {
            (Self::Concurrency(rule), State::Concurrency(own)) => rule.renew(own, now, receipt),
            (Self::Concurrency(_), _) => false,
            _ => true,
        }
    }

    pub(crate) fn view(self, state: &mut State, now: u64) -> View {
        dispatch!(self, state, algorithm, own => algorithm.view(own, now))
    }
}

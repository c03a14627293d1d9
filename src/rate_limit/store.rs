//! What a rate limit asks of its store.

use crate::{
    rate_limit::policy::{Policy, Rule},
    store::StoreFuture,
};
use smallvec::SmallVec;
use std::{fmt, sync::Arc, time::Duration};

/// Where the counts are kept.
///
/// What holds for every store:
///
/// - A charge whose cost is above its policy's burst is never allowed.
/// - What a denied request would have taken is not taken, of any policy.
/// - A call ends within a deadline of the store's own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep rate limits",
    note = "use a `towerkeep::Backend`, a `rate_limit::MemoryStore`, or an `Arc` of a store"
)]
pub trait RateLimitStore: Send + Sync + 'static {
    /// Decides every charge in one atomic step and one round trip, all or nothing: if one is denied,
    /// none is charged. The keys are all different.
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict>;
}

impl<T: RateLimitStore + ?Sized> RateLimitStore for Arc<T> {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        (**self).check(charges)
    }
}

/// What a request would take of one policy.
#[derive(Clone)]
#[non_exhaustive]
pub struct Charge {
    /// The policy's name.
    pub policy: Arc<str>,
    /// Its algorithm.
    pub rule: Rule,
    /// Whose count it is: at most 64 plain characters.
    pub key: String,
    /// How much is taken.
    pub cost: u64,
}

impl Charge {
    /// A charge of `cost` on `key` under a policy.
    pub fn new(policy: &Policy, key: impl Into<String>, cost: u64) -> Self {
        Self { policy: policy.shared_name(), rule: policy.rule(), key: key.into(), cost }
    }
}

impl fmt::Debug for Charge {
    /// Shows no key: it may be an API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("policy", &self.policy)
            .field("rule", &self.rule)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

/// What a store decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    outcomes: SmallVec<[Outcome; 4]>,
}

impl Verdict {
    /// A verdict of these outcomes, in the order of the charges.
    pub fn new(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self { outcomes: outcomes.into_iter().collect() }
    }

    /// Whether every policy allowed the request.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.allowed)
    }

    /// The outcome of each charge, in their order.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// How long until all would allow the request; `None` if one never will.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let denied = self.outcomes.iter().filter(|outcome| !outcome.allowed);
        denied
            .map(|outcome| outcome.retry_after)
            .max_by_key(|retry| retry.unwrap_or(Duration::MAX))?
    }
}

/// What one policy says, after the verdict on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// Whether this policy allows the request.
    pub allowed: bool,
    /// How much is left.
    pub remaining: u64,
    /// How long until all of it is back.
    pub reset: Duration,
    /// How long until the same request would be allowed; `None` if it never will.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// What a store found out about one policy.
    #[must_use]
    pub fn new(
        allowed: bool,
        remaining: u64,
        reset: Duration,
        retry_after: Option<Duration>,
    ) -> Self {
        Self { allowed, remaining, reset, retry_after }
    }

    /// The same in microseconds, as the scripts count.
    pub(crate) fn from_micros(
        allowed: bool,
        remaining: u64,
        reset_us: u64,
        retry_us: Option<u64>,
    ) -> Self {
        let retry_after = retry_us.map(Duration::from_micros);
        Self::new(allowed, remaining, Duration::from_micros(reset_us), retry_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retry_of_a_verdict_is_the_longest_of_the_policies_that_denied() {
        let outcome = |allowed, retry| Outcome::from_micros(allowed, 0, 0, retry);
        let verdict = Verdict::new([
            outcome(false, Some(2)),
            outcome(true, Some(0)),
            outcome(false, Some(7)),
        ]);
        assert_eq!(verdict.retry_after(), Some(Duration::from_micros(7)));
        let never = Verdict::new([outcome(false, Some(2)), outcome(false, None)]);
        assert_eq!(never.retry_after(), None);
        assert!(!never.is_allowed());
    }
}

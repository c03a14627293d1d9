//! What a store decided.

use smallvec::SmallVec;
use std::time::Duration;

/// A longer ban ends after this.
pub(crate) const LONGEST_BAN: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Few enough that a verdict is no allocation, as a rule.
pub(crate) type Outcomes = SmallVec<[Outcome; 4]>;

/// What a store decided on all charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    outcomes: Outcomes,
}

impl Verdict {
    /// A verdict of these outcomes, in the order of the charges.
    pub fn new(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self::of(outcomes.into_iter().collect())
    }

    pub(crate) fn of(outcomes: Outcomes) -> Self {
        Self { outcomes }
    }

    /// Whether every policy allowed the request; what a shadow policy says does not count.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        !self.outcomes.iter().any(Outcome::denies)
    }

    /// Whether the request was denied by a ban.
    #[must_use]
    pub fn is_banned(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.banned && outcome.denies())
    }

    /// The outcome of each charge, in their order.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// How long until all would allow the request; `None` if one never will.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let denied = self.outcomes.iter().filter(|outcome| outcome.denies());
        denied
            .map(|outcome| outcome.retry_after)
            .max_by_key(|retry| retry.unwrap_or(Duration::MAX))?
    }

    /// The verdict on charges of which each has its outcome at one of these places.
    pub(crate) fn spread(&self, places: &[usize]) -> Self {
        Self::new(places.iter().map(|&at| self.outcomes[at]))
    }
}

/// What one policy says, after the verdict on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// Whether this policy allows the request.
    pub allowed: bool,
    /// Whether it does not because the key is banned.
    pub banned: bool,
    /// Whether it only looks on: a shadow policy denies nothing.
    pub shadow: bool,
    /// Whether the store was asked. It is not when another policy is known to deny the request: this
    /// one, a shadow policy too, is then neither charged nor reported and counts no denial, and the
    /// numbers mean nothing.
    pub asked: bool,
    /// How much is left.
    pub remaining: u64,
    /// How long until all of it is back.
    pub reset: Duration,
    /// How long until the same request would be allowed; `None` if it never will.
    pub retry_after: Option<Duration>,
    /// What a refund is told, if something was charged.
    pub receipt: u64,
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
        let (banned, shadow, asked, receipt) = (false, false, true, 0);
        Self { allowed, banned, shadow, asked, remaining, reset, retry_after, receipt }
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

    /// Whether it denies the request.
    #[must_use]
    pub fn denies(&self) -> bool {
        !self.allowed && !self.shadow
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

    #[test]
    fn a_shadow_policy_denies_nothing() {
        let mut outcome = Outcome::from_micros(false, 0, 0, None);
        outcome.shadow = true;
        let verdict = Verdict::new([outcome]);
        assert!(verdict.is_allowed());
        assert_eq!(verdict.retry_after(), None);
    }
}

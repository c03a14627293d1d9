//! Denials that are known to hold still: a client that is denied costs Redis nothing until it may try
//! again.
//!
//! That a key is denied is exact knowledge until the time of its retry, since without a request nothing
//! but time changes a count, and only for the better; but for a refund, a reset or an unban, so it is
//! believed for a few seconds at most, and those of this process end it. Where refunds are usual, since
//! only some responses count, it is believed for a moment: a ban still as long as any other.

use crate::{
    clock::Clock,
    expiring::{Expiring, WhenFull},
    rate_limit::{
        forgotten::Forgotten,
        outcome::{Outcome, Verdict},
        rule::Rule,
        store::Charge,
    },
};
use std::{sync::Arc, time::Duration};

/// How long a denial is believed by default.
pub(crate) const BELIEVED_FOR: Duration = Duration::from_secs(5);

/// How long at most where another process may give back at any moment what does not count.
const BELIEVED_OF_COUNTED_LATER: Duration = Duration::from_millis(250);

/// How many denials are remembered: about 3 MB.
const CAPACITY: usize = 10_000;

/// The denials of one store. A cheap clone.
#[derive(Clone, Debug)]
pub(super) struct Denials(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    denials: Expiring<Denial>,
    believed_us: u64,
    forgotten: Forgotten,
}

#[derive(Debug)]
struct Denial {
    rule: Rule,
    cost: u64,
    outcome: Outcome,
    at_us: u64,
}

impl Denials {
    /// Believes a denial for so long at most; zero is never.
    pub(super) fn new(clock: &Clock, believed_for: Duration) -> Self {
        if believed_for.is_zero() {
            return Self(None);
        }
        let denials = Expiring::new(clock.clone(), CAPACITY, WhenFull::EvictLeastRecentlyUsed);
        let believed_us = u64::try_from(believed_for.as_micros()).unwrap_or(u64::MAX);
        Self(Some(Arc::new(Known { denials, believed_us, forgotten: Forgotten::default() })))
    }

    /// The verdict, if it is known that one of these charges is denied still.
    pub(super) fn verdict(&self, charges: &[Charge], keys: &[String]) -> Option<Verdict> {
        let known = self.0.as_ref()?;
        let told = charges.iter().zip(keys).map(|(charge, key)| known.outcome(charge, key));
        let told: Vec<Option<Outcome>> = told.collect();
        let is_banned = told.iter().flatten().any(|outcome| outcome.banned);
        // A denial that would count towards a ban is for the store to count.
        let counts = |(charge, told): (&Charge, &Option<Outcome>)| {
            told.is_some() && charge.bans_after().is_some()
        };
        if !is_banned && charges.iter().zip(&told).any(counts) {
            return None;
        }
        told.iter().any(Option::is_some).then(|| {
            let unknown = |charge: &Charge| {
                let mut outcome = Outcome::from_micros(true, 0, 0, Some(0));
                (outcome.asked, outcome.shadow) = (false, charge.shadow);
                outcome
            };
            let each = charges.iter().zip(told);
            Verdict::new(each.map(|(charge, told)| told.unwrap_or_else(|| unknown(charge))))
        })
    }

    /// Remembers what was denied, but of no key that was forgotten since the store was asked, when it
    /// had been [forgotten](Denials::forgotten) so often.
    pub(super) fn learn(
        &self,
        charges: &[Charge],
        keys: &[String],
        verdict: &Verdict,
        forgotten: &[u64],
    ) {
        let Some(known) = &self.0 else { return };
        if verdict.is_allowed() {
            return;
        }
        let told = charges.iter().zip(verdict.outcomes());
        for ((charge, outcome), (key, &forgotten)) in told.zip(keys.iter().zip(forgotten)) {
            // When a lease is given back is up to its holder.
            if outcome.denies() && (outcome.banned || !charge.rule.is_concurrency()) {
                known.learn(charge, key, *outcome, forgotten);
            }
        }
    }

    /// Knows nothing of these keys any more.
    pub(super) fn forget(&self, keys: &[String]) {
        let Some(known) = &self.0 else { return };
        for key in keys {
            known.forgotten.add(key);
            known.denials.with(key, |entry| entry.remove());
        }
    }

    /// How often each of these keys was forgotten.
    pub(super) fn forgotten(&self, keys: &[String]) -> Vec<u64> {
        let Some(known) = &self.0 else { return Vec::new() };
        keys.iter().map(|key| known.forgotten.times(key)).collect()
    }
}

impl Known {
    fn outcome(&self, charge: &Charge, key: &str) -> Option<Outcome> {
        if charge.shadow {
            return None;
        }
        self.denials.with(key, |entry| {
            let now = entry.now_us();
            let denial = entry.get()?;
            // What costs more is denied as well, but how long is for the store to say.
            let same = denial.rule == charge.rule && charge.capped_cost() == denial.cost;
            let holds = denial.outcome.banned || same;
            // A clock that went back has no say in how long it was.
            let since = Duration::from_micros(now.checked_sub(denial.at_us)?);
            let mut outcome = denial.outcome;
            outcome.reset = outcome.reset.saturating_sub(since);
            outcome.retry_after = outcome.retry_after.map(|retry| retry.saturating_sub(since));
            holds.then_some(outcome)
        })
    }

    fn learn(&self, charge: &Charge, key: &str, outcome: Outcome, forgotten: u64) {
        let retry_us = match outcome.retry_after {
            Some(retry) => u64::try_from(retry.as_micros()).unwrap_or(u64::MAX),
            None => u64::MAX,
        };
        self.denials.with(key, |entry| {
            if self.forgotten.times(key) != forgotten {
                return;
            }
            let at_us = entry.now_us();
            let is_brief = charge.counted_later && !outcome.banned;
            let brief_us = BELIEVED_OF_COUNTED_LATER.as_micros() as u64;
            let believed_us =
                if is_brief { self.believed_us.min(brief_us) } else { self.believed_us };
            let until = at_us.saturating_add(retry_us.min(believed_us));
            let denial = Denial { rule: charge.rule, cost: charge.capped_cost(), outcome, at_us };
            // A cache that is full of others' denials goes without this one.
            let _ = entry.insert(denial, until, 1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::{Policy, Quota};

    fn key() -> [String; 1] {
        ["k".into()]
    }

    fn denied(retry_us: u64) -> Verdict {
        Verdict::new([Outcome::from_micros(false, 0, 9_000_000, Some(retry_us))])
    }

    #[test]
    fn a_denial_is_known_until_its_retry_and_no_microsecond_longer() {
        let clock = Clock::manual();
        let denials = Denials::new(&clock, BELIEVED_FOR);
        let charges = [Charge::new(&Policy::gcra("p", Quota::per_second(1)), "k", 1)];
        denials.learn(&charges, &key(), &denied(1_000_000), &[0]);
        clock.advance(Duration::from_micros(999_999));
        let verdict = denials.verdict(&charges, &key()).unwrap();
        assert_eq!(verdict.retry_after(), Some(Duration::from_micros(1)));
        clock.advance(Duration::from_micros(1));
        assert_eq!(denials.verdict(&charges, &key()), None);
    }

    #[test]
    fn a_denial_is_believed_for_a_few_seconds_at_most_and_not_for_other_rules_or_costs() {
        let clock = Clock::manual();
        let denials = Denials::new(&clock, BELIEVED_FOR);
        let policy = Policy::gcra("p", Quota::per_hour(9));
        let charge = |cost| [Charge::new(&policy, "k", cost)];
        denials.learn(&charge(5), &key(), &denied(60_000_000), &[0]);
        assert!(denials.verdict(&charge(5), &key()).is_some());
        assert_eq!(denials.verdict(&charge(4), &key()), None, "a cheaper one may pass");
        let raised = Policy::gcra("p", Quota::per_hour(90));
        assert_eq!(denials.verdict(&[Charge::new(&raised, "k", 5)], &key()), None);
        clock.advance(BELIEVED_FOR);
        assert_eq!(denials.verdict(&charge(5), &key()), None);
    }

    #[test]
    fn a_denial_by_what_is_counted_later_is_believed_for_a_moment_and_a_ban_as_long_as_any() {
        let clock = Clock::manual();
        let denials = Denials::new(&clock, BELIEVED_FOR);
        let policy = Policy::sliding_log("p", Quota::per_hour(9)).count_if(|_| false);
        let charges = [Charge::new(&policy, "k", 1)];
        denials.learn(&charges, &key(), &denied(60_000_000), &[0]);
        clock.advance(BELIEVED_OF_COUNTED_LATER - Duration::from_micros(1));
        assert!(denials.verdict(&charges, &key()).is_some());
        clock.advance(Duration::from_micros(1));
        assert_eq!(denials.verdict(&charges, &key()), None);
        let mut ban = denied(60_000_000).outcomes()[0];
        ban.banned = true;
        denials.learn(&charges, &key(), &Verdict::new([ban]), &[0]);
        clock.advance(BELIEVED_FOR - Duration::from_micros(1));
        assert!(denials.verdict(&charges, &key()).is_some());
    }

    #[test]
    fn what_was_said_of_a_key_before_it_was_forgotten_is_not_learnt_after() {
        let denials = Denials::new(&Clock::manual(), BELIEVED_FOR);
        let charges = [Charge::new(&Policy::gcra("p", Quota::per_hour(9)), "k", 1)];
        let asked = denials.forgotten(&key());
        denials.forget(&key());
        denials.learn(&charges, &key(), &denied(60_000_000), &asked);
        assert_eq!(denials.verdict(&charges, &key()), None);
        denials.learn(&charges, &key(), &denied(60_000_000), &denials.forgotten(&key()));
        assert!(denials.verdict(&charges, &key()).is_some());
    }

    #[test]
    fn leases_and_shadow_policies_are_always_asked_about() {
        let denials = Denials::new(&Clock::manual(), BELIEVED_FOR);
        let leases = [Charge::new(&Policy::concurrency("p", 1), "k", 1)];
        denials.learn(&leases, &key(), &denied(1_000_000), &[0]);
        assert_eq!(denials.verdict(&leases, &key()), None);
        let policy = Policy::gcra("p", Quota::per_hour(9));
        denials.learn(&[Charge::new(&policy, "k", 1)], &key(), &denied(1_000_000), &[0]);
        assert_eq!(denials.verdict(&[Charge::new(&policy.shadow(), "k", 1)], &key()), None);
    }
}

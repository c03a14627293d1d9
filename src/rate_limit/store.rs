//! What a rate limit asks of its store.

use crate::{
    clock::Clock,
    rate_limit::{
        ban_after::BanAfter, local::LocalLease, outcome::Verdict, policy::Policy, rule::Rule,
    },
    store::StoreFuture,
    tasks::Tasks,
    token,
};
use std::{fmt, sync::Arc, time::Duration};

/// Where the counts are kept.
///
/// Each verb is one atomic step and one round trip over any number of charges; in a cluster, over
/// those with one key (see `Slots`). What holds for every store:
///
/// - A charge whose cost is above its rule's limit is never allowed, and one whose cost is 0 always is,
///   unless its key is banned.
/// - What a denied request would have taken is not taken, of any policy.
/// - Charges of one policy on one key are one charge: their costs are added, under the first one's
///   rule, and each is told its outcome.
/// - Every count ends by itself when it is as good as none.
/// - A call ends within a deadline of the store's own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep rate limits",
    note = "use a `towerkeep::Backend`, a `rate_limit::MemoryStore`, or an `Arc` of a store"
)]
pub trait RateLimitStore: Send + Sync + 'static {
    /// Decides every charge, all or nothing: if one is denied, none is charged. A denied shadow charge
    /// is not charged, and does not hinder the others. It is the only verb whose denials become a
    /// [ban](Charge::ban_after).
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict>;

    /// What [`check`](RateLimitStore::check) would say. Nothing is charged.
    fn peek(&self, charges: &[Charge]) -> StoreFuture<Verdict>;

    /// Charges unconditionally. What is above the limit is not remembered: a count is full at most.
    fn charge(&self, charges: &[Charge]) -> StoreFuture<Verdict>;

    /// Gives back what was charged with these [receipts](Charge::receipt), and leases before they end.
    /// What has come back by itself meanwhile is not given back again.
    fn refund(&self, charges: &[Charge]) -> StoreFuture<Verdict>;

    /// Counts leases anew. An outcome that is not allowed is one whose lease has ended.
    fn renew(&self, charges: &[Charge]) -> StoreFuture<Verdict>;

    /// Forgets the counts, and no ban.
    fn reset(&self, charges: &[Charge]) -> StoreFuture<()>;

    /// Denies what these charges would be charged to, for so long. It is in place of an earlier ban,
    /// be that longer or shorter.
    fn ban(&self, charges: &[Charge], length: Duration) -> StoreFuture<()>;

    /// Ends bans, and forgets the denials that were counted towards one.
    fn unban(&self, charges: &[Charge]) -> StoreFuture<()>;

    /// The clock by which the layer decides what it remembers itself: quotas that were looked up.
    /// Default: the system's.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// The tasks to renew and to give back leases in. Default: tasks that nobody waits for at a
    /// shutdown.
    fn tasks(&self) -> Tasks {
        Tasks::default()
    }
}

impl<T: RateLimitStore + ?Sized> RateLimitStore for Arc<T> {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        (**self).check(charges)
    }

    fn peek(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        (**self).peek(charges)
    }

    fn charge(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        (**self).charge(charges)
    }

    fn refund(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        (**self).refund(charges)
    }

    fn renew(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        (**self).renew(charges)
    }

    fn reset(&self, charges: &[Charge]) -> StoreFuture<()> {
        (**self).reset(charges)
    }

    fn ban(&self, charges: &[Charge], length: Duration) -> StoreFuture<()> {
        (**self).ban(charges, length)
    }

    fn unban(&self, charges: &[Charge]) -> StoreFuture<()> {
        (**self).unban(charges)
    }

    fn clock(&self) -> Clock {
        (**self).clock()
    }

    fn tasks(&self) -> Tasks {
        (**self).tasks()
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
    pub key: Arc<str>,
    /// How much is taken. Of a concurrency rule it is one, unless this is 0.
    pub cost: u64,
    /// Which earlier charge this is, for [`refund`](RateLimitStore::refund) and
    /// [`renew`](RateLimitStore::renew). For a concurrency rule it is the lease's id from the beginning.
    pub receipt: u64,
    /// Whether it is charged and reported, but denies nothing.
    pub shadow: bool,
    /// When its denials become a ban. Those of a shadow charge never do.
    pub ban_after: Option<BanAfter>,
    /// Whether it may be given back as soon as there is a response: a denial of it is soon wrong.
    #[cfg(feature = "redis")]
    pub(crate) counted_later: bool,
    /// Whether units of it are held in the process; nothing to a store.
    pub(crate) local_lease: Option<LocalLease>,
}

impl Charge {
    /// A charge of `cost` on `key` under a policy; with a new lease, if the policy is one of
    /// concurrency.
    pub fn new(policy: &Policy, key: impl Into<Arc<str>>, cost: u64) -> Self {
        let rule = policy.rule();
        let receipt = if rule.is_concurrency() { u64::from_ne_bytes(token::random()) } else { 0 };
        let (name, shadow) = (policy.shared_name(), policy.is_shadow());
        let (ban_after, local_lease) = (policy.bans_after(), policy.leases_locally());
        let key = key.into();
        Self {
            policy: name,
            rule,
            key,
            cost,
            receipt,
            shadow,
            ban_after,
            #[cfg(feature = "redis")]
            counted_later: policy.is_counted_later(),
            local_lease,
        }
    }

    /// The same charge, as the outcome's receipt tells it: to be refunded.
    #[must_use]
    pub fn with_receipt(mut self, receipt: u64) -> Self {
        self.receipt = receipt;
        self
    }

    /// Whether both are charged to the same count.
    pub(crate) fn shares(&self, other: &Self) -> bool {
        self.policy == other.policy
            && self.key == other.key
            && self.rule.algorithm() == other.rule.algorithm()
    }

    /// When its denials become a ban, if they do.
    pub(crate) fn bans_after(&self) -> Option<BanAfter> {
        self.ban_after.filter(|_| !self.shadow)
    }

    /// The cost that is decided by: above the limit all are alike.
    pub(crate) fn capped_cost(&self) -> u64 {
        self.cost.min(self.rule.limit() + 1)
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

/// The charges with those of one count merged, and for each of the original ones its place among them;
/// `None` if there is nothing to merge.
pub(crate) fn merged(charges: &[Charge]) -> Option<(Vec<Charge>, Vec<usize>)> {
    let is_first = |at: usize| !charges[..at].iter().any(|earlier| earlier.shares(&charges[at]));
    if (0..charges.len()).all(is_first) {
        return None;
    }
    let mut distinct: Vec<Charge> = Vec::with_capacity(charges.len());
    let mut places = Vec::with_capacity(charges.len());
    for charge in charges {
        match distinct.iter().position(|first| first.shares(charge)) {
            Some(at) => {
                distinct[at].cost = distinct[at].cost.saturating_add(charge.cost);
                places.push(at);
            }
            None => {
                places.push(distinct.len());
                distinct.push(charge.clone());
            }
        }
    }
    Some((distinct, places))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::Quota;

    #[test]
    fn charges_of_one_count_are_one() {
        let (a, b) =
            (Policy::gcra("a", Quota::per_second(5)), Policy::gcra("b", Quota::per_second(5)));
        let charge = |policy, key: &str, cost| Charge::new(policy, key, cost);
        assert!(merged(&[charge(&a, "x", 1), charge(&b, "x", 1), charge(&a, "y", 1)]).is_none());
        let charges = [charge(&a, "x", 1), charge(&b, "x", 2), charge(&a, "x", u64::MAX)];
        let (distinct, places) = merged(&charges).unwrap();
        assert_eq!(places, [0, 1, 0]);
        let costs: Vec<u64> = distinct.iter().map(|charge| charge.cost).collect();
        assert_eq!(costs, [u64::MAX, 2]);
    }
}

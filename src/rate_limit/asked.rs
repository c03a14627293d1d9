//! What a request is charged for, and what became of it.

use crate::rate_limit::{
    by::{KeyBuilder, Missing},
    layer::Config,
    outcome::{Outcome, Verdict},
    policy::Policy,
    quota::Quota,
    quotas::{Answer, Pending},
    store::{Charge, RateLimitStore},
};
use http::{request, response};
use smallvec::SmallVec;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use tokio::time::Instant;

/// The quotas that are found, each with the place of its charge.
pub(crate) type Found = Vec<(usize, Option<Quota>)>;

/// Lookups that are under way.
pub(crate) type Lookups = Pin<Box<dyn Future<Output = Found> + Send>>;

/// The policies that apply to a request, and what it would take of each.
#[derive(Clone)]
pub(crate) struct Asked {
    /// Their places in the layer's list.
    places: SmallVec<[usize; 4]>,
    /// As many charges.
    pub(crate) charges: SmallVec<[Charge; 2]>,
    /// Whom they are asked of: the layer's store, or the one in its place.
    pub(crate) store: Arc<dyn RateLimitStore>,
}

impl Asked {
    /// What `request` would be charged; the policy and the advice if one has no key because of how the
    /// server is set up.
    pub(crate) fn of<'a>(
        config: &'a Config,
        request: &request::Parts,
        cost: u64,
    ) -> Result<Self, (&'a Policy, &'static str)> {
        let most = config.policies.len();
        let mut places = SmallVec::with_capacity(most);
        let mut charges = SmallVec::<[Charge; 2]>::with_capacity(most);
        for (at, policy) in config.policies.iter().enumerate() {
            let mut key = KeyBuilder::default();
            match policy.key_by().write(request, &mut key) {
                Ok(()) => {
                    let key = key.finish();
                    // Most layers count by one key, which their charges share.
                    let same = charges.iter().find(|charge| *charge.key == *key);
                    let key = same.map_or_else(|| key.into(), |charge| charge.key.clone());
                    let mut charge = Charge::new(policy, key, cost);
                    charge.rule = policy.rule_for(request);
                    charges.push(charge);
                    places.push(at);
                }
                Err(Missing::NotApplicable) => {}
                Err(Missing::Misconfigured(advice)) => return Err((policy, advice)),
            }
        }
        Ok(Self { places, charges, store: config.store.clone() })
    }

    /// Looks up the quotas of this request that are not known. Without any there is nothing to wait for.
    pub(crate) fn look_up(&mut self, config: &Config, request: &request::Parts) -> Option<Lookups> {
        let mut pending: Vec<(usize, Pending)> = Vec::new();
        for (at, &place) in self.places.iter().enumerate() {
            let policy = &config.policies[place];
            let Some(quotas) = policy.quotas() else { continue };
            match quotas.of(request) {
                Answer::Known(Some(quota)) => self.charges[at].rule = policy.rule_of(quota),
                Answer::Known(None) => {}
                Answer::Pending(one) => pending.push((at, one)),
            }
        }
        if pending.is_empty() {
            return None;
        }
        let (started, deadline) = (Instant::now(), config.deadline);
        Some(Box::pin(async move {
            let mut found = Vec::with_capacity(pending.len());
            for (at, one) in pending {
                found.push((at, one.within(deadline.saturating_sub(started.elapsed())).await));
            }
            found
        }))
    }

    /// Decides by the quotas that were found.
    pub(crate) fn with_quotas(mut self, config: &Config, found: Found) -> Self {
        for (at, quota) in found {
            if let Some(quota) = quota {
                self.charges[at].rule = config.policies[self.places[at]].rule_of(quota);
            }
        }
        self
    }

    /// The same of another store, of which each of several processes has its own.
    pub(crate) fn shared_among(mut self, shares: u32, store: Arc<dyn RateLimitStore>) -> Self {
        for charge in &mut self.charges {
            charge.rule = charge.rule.share(shares);
        }
        self.store = store;
        self
    }

    pub(crate) fn policies<'a>(
        &'a self,
        config: &'a Config,
    ) -> impl Iterator<Item = &'a Policy> + Clone {
        self.places.iter().map(|&at| &config.policies[at])
    }
}

/// What one layer decided on a request.
pub(crate) struct Decided {
    pub(crate) config: Arc<Config>,
    pub(crate) asked: Asked,
    pub(crate) verdict: Verdict,
    /// What was charged for this request of each and has not been given back, so that nothing is given
    /// back twice, or of what others were charged.
    charged: SmallVec<[AtomicU64; 2]>,
}

impl Decided {
    pub(crate) fn new(config: Arc<Config>, asked: Asked, verdict: Verdict) -> Self {
        let both = asked.charges.iter().zip(verdict.outcomes());
        let charged = |(charge, outcome): (&Charge, &Outcome)| match outcome.receipt {
            0 => AtomicU64::new(0),
            _ => AtomicU64::new(charge.cost),
        };
        let charged = both.map(charged).collect();
        Self { config, asked, verdict, charged }
    }

    /// The place of the policy of that name, if it applied to the request and the store was asked.
    pub(crate) fn place_of(&self, policy: &str) -> Option<usize> {
        let at = self.asked.policies(&self.config).position(|other| other.name() == policy)?;
        self.verdict.outcomes().get(at).filter(|outcome| outcome.asked).map(|_| at)
    }

    /// The charge at that place, for `cost` more or less of it.
    pub(crate) fn charge_of(&self, at: usize, cost: u64) -> Charge {
        let receipt = self.verdict.outcomes()[at].receipt;
        let mut charge = self.asked.charges[at].clone().with_receipt(receipt);
        charge.cost = cost;
        charge
    }

    /// So much more is charged for the request.
    pub(crate) fn charge_more(&self, at: usize, cost: u64) {
        let cost = cost.min(self.asked.charges[at].rule.limit());
        let more = |charged: u64| Some(charged.saturating_add(cost));
        let _ = self.charged[at].fetch_update(SeqCst, SeqCst, more);
    }

    /// What may be given back of `cost`; it counts as given back then.
    pub(crate) fn give_back(&self, at: usize, cost: u64) -> u64 {
        let less = |charged: u64| Some(charged.saturating_sub(cost));
        let charged = self.charged[at].fetch_update(SeqCst, SeqCst, less);
        charged.map_or(0, |charged| charged.min(cost))
    }

    /// The policies that the store was asked about, with what each is charged for and what it said.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Policy, &Charge, &Outcome)> + Clone {
        let said = self.asked.charges.iter().zip(self.verdict.outcomes());
        let all = self.asked.policies(&self.config).zip(said);
        all.map(|(policy, (charge, outcome))| (policy, charge, outcome))
            .filter(|(.., outcome)| outcome.asked)
    }

    /// What was charged and does not count, now that there is this response.
    pub(crate) fn to_refund(&self, response: &response::Parts) -> Vec<Charge> {
        let policies = self.asked.policies(&self.config).enumerate();
        policies
            .filter(|(at, policy)| {
                let taken = self.verdict.outcomes().get(*at).is_some_and(|said| said.receipt != 0);
                taken && policy.is_counted_later() && !policy.counts(response)
            })
            .map(|(at, _)| self.charge_of(at, self.give_back(at, self.asked.charges[at].cost)))
            .filter(|charge| charge.cost > 0)
            .collect()
    }

    /// Whether some policy looks at the response.
    pub(crate) fn counts_later(&self) -> bool {
        self.all().any(|(policy, _, outcome)| policy.is_counted_later() && outcome.receipt != 0)
    }

    /// The same after a refund.
    pub(crate) fn refunded(&self, charges: &[Charge], said: &Verdict) -> Self {
        let outcome = |(charge, was): (&Charge, &Outcome)| {
            let refund = charges.iter().position(|refunded| refunded.shares(charge));
            let now = refund.and_then(|at| said.outcomes().get(at));
            now.map_or(*was, |now| Outcome {
                remaining: now.remaining,
                reset: now.reset,
                receipt: 0,
                ..*was
            })
        };
        let outcomes = self.asked.charges.iter().zip(self.verdict.outcomes()).map(outcome);
        let verdict = Verdict::new(outcomes);
        Self::new(self.config.clone(), self.asked.clone(), verdict)
    }
}

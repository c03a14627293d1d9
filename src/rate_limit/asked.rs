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
use std::{future::Future, pin::Pin, sync::Arc};
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
        let deadline = Instant::now() + config.deadline;
        Some(Box::pin(async move {
            let mut found = Vec::with_capacity(pending.len());
            for (at, one) in pending {
                found.push((at, one.until(deadline).await));
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
#[derive(Clone)]
pub(crate) struct Decided {
    pub(crate) config: Arc<Config>,
    pub(crate) asked: Asked,
    pub(crate) verdict: Verdict,
}

impl Decided {
    /// The policies that the store was asked about, with what each is charged for and what it said.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Policy, &Charge, &Outcome)> + Clone {
        let said = self.asked.charges.iter().zip(self.verdict.outcomes());
        let all = self.asked.policies(&self.config).zip(said);
        all.map(|(policy, (charge, outcome))| (policy, charge, outcome))
            .filter(|(.., outcome)| outcome.asked)
    }

    /// What was charged and does not count, now that there is this response.
    pub(crate) fn to_refund(&self, response: &response::Parts) -> Vec<Charge> {
        self.all()
            .filter(|(policy, _, outcome)| {
                policy.is_counted_later() && outcome.receipt != 0 && !policy.counts(response)
            })
            .map(|(_, charge, outcome)| charge.clone().with_receipt(outcome.receipt))
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
        Self { verdict: Verdict::new(outcomes), ..self.clone() }
    }
}

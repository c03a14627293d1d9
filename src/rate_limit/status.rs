//! What the rate limits said, for handlers.

use crate::{
    rate_limit::{
        asked::Decided,
        outcome::Outcome,
        policy::Policy,
        store::{Charge, RateLimitStore},
    },
    store::StoreError,
};
use http::Extensions;
use smallvec::SmallVec;
use std::{fmt, sync::Arc, time::Duration};

/// What every rate limit on a request's way said, in the request's extensions and, with the feature
/// `axum`, an extractor. Without a rate limit around the handler it is empty.
#[derive(Clone, Default)]
pub struct RateLimitStatus(SmallVec<[Arc<Decided>; 1]>);

impl RateLimitStatus {
    pub(crate) fn new(decided: Decided) -> Self {
        Self(SmallVec::from_buf([Arc::new(decided)]))
    }

    /// Each policy that was asked, by name, with its outcome; those of the outermost layer first.
    pub fn outcomes(&self) -> impl Iterator<Item = (&str, &Outcome)> {
        self.all().map(|(policy, _, outcome)| (policy.name(), outcome))
    }

    /// The outcome of one policy.
    #[must_use]
    pub fn outcome(&self, policy: &str) -> Option<&Outcome> {
        self.outcomes().find(|(name, _)| *name == policy).map(|(_, outcome)| outcome)
    }

    /// How much the tightest policy has left; one that denies nothing is none.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        let real = self.outcomes().filter(|(_, outcome)| !outcome.shadow);
        real.map(|(_, outcome)| outcome.remaining).min()
    }

    /// Charges the request's key under a policy `cost` more, whatever the policy says: for what is only
    /// known once the work is done. A count that is full is as full as before.
    ///
    /// # Errors
    ///
    /// The store's, and [`StoreError::is_config`] if no policy of that name applied to the request.
    pub async fn charge(&self, policy: &str, cost: u64) -> Result<Outcome, StoreError> {
        let (decided, at) = self.find(policy)?;
        let charge = decided.charge_of(at, cost);
        let told = first(decided.asked.store.charge(&[charge]).await?.outcomes())?;
        decided.charge_more(at, cost);
        Ok(told)
    }

    /// Gives back up to `cost` of what this request was charged under a policy, when it came in and by
    /// [`charge`](RateLimitStatus::charge), and has not been given back yet: of a sliding log, only of
    /// what it was charged when it came in. What has come back by itself since is not given back again,
    /// nor what a policy that [counts later](Policy::count_if) gives back after the handler. A refund
    /// that fails may have been done, so it is not there to be tried again.
    ///
    /// # Errors
    ///
    /// The store's, and [`StoreError::is_config`] if no policy of that name applied to the request.
    pub async fn refund(&self, policy: &str, cost: u64) -> Result<Outcome, StoreError> {
        let (decided, at) = self.find(policy)?;
        let charge = decided.charge_of(at, decided.give_back(at, cost));
        first(decided.asked.store.refund(&[charge]).await?.outcomes())
    }

    /// Denies the request's key under a policy for so long, from the next request on; see
    /// [`RateLimitLayer::ban`](crate::rate_limit::RateLimitLayer::ban).
    ///
    /// # Errors
    ///
    /// The store's, and [`StoreError::is_config`] if no policy of that name applied to the request.
    pub async fn ban(&self, policy: &str, length: Duration) -> Result<(), StoreError> {
        let (decided, at) = self.find(policy)?;
        decided.asked.store.ban(&[decided.charge_of(at, 1)], length).await
    }

    pub(crate) fn violated(&self) -> impl Iterator<Item = Arc<str>> {
        let denying = self.all().filter(|(.., outcome)| outcome.denies());
        denying.map(|(policy, ..)| policy.shared_name())
    }

    pub(crate) fn last(&self) -> Option<&Decided> {
        self.0.last().map(|decided| &**decided)
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.last().and_then(|decided| decided.verdict.retry_after())
    }

    /// What the headers tell of: each policy that may deny, as it was charged, with what it said.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&Charge, &Outcome)> + Clone {
        let real = self.all().filter(|(policy, ..)| !policy.is_shadow());
        real.map(|(_, charge, outcome)| (charge, outcome))
    }

    fn all(&self) -> impl Iterator<Item = (&Policy, &Charge, &Outcome)> + Clone {
        self.0.iter().flat_map(|decided| decided.all())
    }

    /// Puts what this layer said behind what the layers further out said.
    pub(crate) fn add(extensions: &mut Extensions, said: &Self) {
        let mut all = extensions.remove::<Self>().unwrap_or_default();
        all.0.extend(said.0.iter().cloned());
        extensions.insert(all);
    }

    /// The layer with a policy of that name, and the policy's place in it.
    fn find(&self, policy: &str) -> Result<(&Decided, usize), StoreError> {
        let found = self.0.iter().find_map(|decided| Some((&**decided, decided.place_of(policy)?)));
        found.ok_or_else(|| {
            StoreError::config(format!("no rate limit policy {policy:?} applied to this request"))
        })
    }
}

fn first(outcomes: &[Outcome]) -> Result<Outcome, StoreError> {
    let first = outcomes.first().copied();
    first
        .ok_or_else(|| StoreError::corrupt("a store said nothing of the charge it was asked about"))
}

impl fmt::Debug for RateLimitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.outcomes()).finish()
    }
}

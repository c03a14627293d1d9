//! What the rate limits said, for handlers.

use crate::rate_limit::{
    layer::Config,
    outcome::{Outcome, Verdict},
    policy::Policy,
};
use http::Extensions;
use smallvec::SmallVec;
use std::{fmt, sync::Arc, time::Duration};

/// The places of the policies that were asked, in the layer's list.
pub(crate) type Asked = SmallVec<[usize; 4]>;

/// What every rate limit on a request's way said, in the request's extensions and, with the feature
/// `axum`, an extractor. Without a rate limit around the handler it is empty.
#[derive(Clone, Default)]
pub struct RateLimitStatus(SmallVec<[Arc<Decided>; 1]>);

/// What one layer decided.
struct Decided {
    config: Arc<Config>,
    asked: Asked,
    verdict: Verdict,
}

impl Decided {
    fn pairs(&self) -> impl Iterator<Item = (&Policy, &Outcome)> + Clone {
        let policies = self.asked.iter().map(|&at| &self.config.policies[at]);
        policies.zip(self.verdict.outcomes())
    }
}

impl RateLimitStatus {
    pub(crate) fn new(config: Arc<Config>, asked: Asked, verdict: Verdict) -> Self {
        Self(SmallVec::from_buf([Arc::new(Decided { config, asked, verdict })]))
    }

    /// Each policy that was asked, by name, with its outcome; those of the outermost layer first.
    pub fn outcomes(&self) -> impl Iterator<Item = (&str, &Outcome)> {
        self.pairs().map(|(policy, outcome)| (policy.name(), outcome))
    }

    /// The outcome of one policy.
    #[must_use]
    pub fn outcome(&self, policy: &str) -> Option<&Outcome> {
        self.outcomes().find(|(name, _)| *name == policy).map(|(_, outcome)| outcome)
    }

    /// How much the tightest policy has left.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        self.outcomes().map(|(_, outcome)| outcome.remaining).min()
    }

    pub(crate) fn violated(&self) -> impl Iterator<Item = &str> {
        self.outcomes().filter(|(_, outcome)| !outcome.allowed).map(|(name, _)| name)
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.0.last().and_then(|decided| decided.verdict.retry_after())
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&Policy, &Outcome)> + Clone {
        self.0.iter().flat_map(|decided| decided.pairs())
    }

    /// Puts what this layer said behind what the layers further out said.
    pub(crate) fn add(extensions: &mut Extensions, said: &Self) {
        let mut all = extensions.remove::<Self>().unwrap_or_default();
        all.0.extend(said.0.iter().cloned());
        extensions.insert(all);
    }
}

impl fmt::Debug for RateLimitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.outcomes()).finish()
    }
}

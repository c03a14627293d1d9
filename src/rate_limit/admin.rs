//! What an operator does with single keys: look, reset, ban.

use crate::{
    rate_limit::{
        by::KeyBuilder,
        layer::RateLimitLayer,
        outcome::Outcome,
        quota::Quota,
        store::{Charge, RateLimitStore},
    },
    store::StoreError,
};
use std::time::Duration;

/// Administration. A key is told by its parts, as the policy's [`key`](crate::rate_limit::Policy::key)
/// makes them: `["10.0.0.7"]` for `by::ip()`, `["POST", "/login", "10.0.0.7"]` for
/// `(by::route(), by::ip())`.
///
/// ```
/// # use std::time::Duration;
/// # use towerkeep::{Backend, rate_limit::{Policy, Quota, RateLimitLayer}};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), towerkeep::StoreError> {
/// let limit = RateLimitLayer::new(Backend::memory(), Policy::gcra("burst", Quota::per_second(20)));
/// limit.ban("burst", ["10.0.0.7"], Duration::from_secs(3_600)).await?;
/// assert!(limit.peek("burst", ["10.0.0.7"]).await?.banned);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Each returns the store's errors, and [`StoreError::is_config`] if the layer has no policy of that
/// name.
impl RateLimitLayer {
    /// Where a key stands under a policy: what a request of cost 1 would be told. One with a
    /// [quota of its own](crate::rate_limit::Policy::quota_with) is looked at by
    /// [`peek_with`](RateLimitLayer::peek_with).
    pub async fn peek(
        &self,
        policy: &str,
        key: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Outcome, StoreError> {
        self.look_at(self.charge_of(policy, key)?).await
    }

    /// The same under another quota than the policy's. Errors with [`StoreError::is_config`], too, if the
    /// policy's algorithm cannot count the quota.
    pub async fn peek_with(
        &self,
        policy: &str,
        key: impl IntoIterator<Item: AsRef<str>>,
        quota: Quota,
    ) -> Result<Outcome, StoreError> {
        let mut charge = self.charge_of(policy, key)?;
        let rule = charge.rule.with_quota(quota);
        charge.rule = rule.map_err(|error| StoreError::config(error.to_string()))?;
        self.look_at(charge).await
    }

    /// Forgets what a key was charged under a policy; a ban stays.
    pub async fn reset(
        &self,
        policy: &str,
        key: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<(), StoreError> {
        let charge = self.charge_of(policy, key)?;
        self.config.store.reset(&[charge]).await
    }

    /// Denies a key under a policy for so long, in place of an earlier ban.
    pub async fn ban(
        &self,
        policy: &str,
        key: impl IntoIterator<Item: AsRef<str>>,
        length: Duration,
    ) -> Result<(), StoreError> {
        let charge = self.charge_of(policy, key)?;
        self.config.store.ban(&[charge], length).await
    }

    /// Ends a ban.
    pub async fn unban(
        &self,
        policy: &str,
        key: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<(), StoreError> {
        let charge = self.charge_of(policy, key)?;
        self.config.store.unban(&[charge]).await
    }

    async fn look_at(&self, charge: Charge) -> Result<Outcome, StoreError> {
        let verdict = self.config.store.peek(&[charge]).await?;
        let outcome = verdict.outcomes().first().copied();
        outcome.ok_or_else(|| {
            StoreError::corrupt("a store said nothing of the charge it was asked about")
        })
    }

    fn charge_of(
        &self,
        name: &str,
        key: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Charge, StoreError> {
        let policies = &self.config.policies;
        let policy = policies.iter().find(|policy| policy.name() == name).ok_or_else(|| {
            let names: Vec<&str> = policies.iter().map(|policy| policy.name()).collect();
            StoreError::config(format!("there is no policy {name:?} here; there is {names:?}"))
        })?;
        let mut parts = KeyBuilder::default();
        let is_secret = policy.key_by().is_secret();
        for part in key {
            let part = part.as_ref();
            if is_secret { parts.push_secret(part) } else { parts.push(part) }
        }
        Ok(Charge::new(policy, parts.finish(), 1))
    }
}

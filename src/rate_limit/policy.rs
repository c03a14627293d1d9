//! A named limit: how much, by which algorithm, and per what.

use crate::rate_limit::{
    by::{self, KeyBy},
    gcra::Gcra,
    quota::{Quota, QuotaError},
};
use std::{fmt, sync::Arc};

/// Longest name of a policy: it is part of every key and every response.
const MAX_NAME: usize = 32;

/// One named limit.
///
/// ```
/// use towerkeep::rate_limit::{Policy, Quota, by};
///
/// let policy = Policy::gcra("burst", Quota::per_second(20).burst(40)).key(by::header("x-api-key"));
/// assert_eq!(policy.name(), "burst");
/// ```
#[derive(Clone)]
pub struct Policy {
    name: Arc<str>,
    rule: Rule,
    key: Arc<dyn KeyBy>,
}

/// The algorithm of a policy, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The generic cell rate algorithm.
    Gcra(Gcra),
}

impl Policy {
    /// A limit by the generic cell rate algorithm: a steady rate with a burst, for one number a key.
    ///
    /// # Panics
    ///
    /// If the name is not 1 to 32 characters of `A-Z a-z 0-9 - _ .`, or the quota cannot be counted
    /// exactly: more than 10,000 a second, or a burst that takes over 142 years to refill.
    /// [`Policy::try_gcra`] returns the error instead.
    #[must_use]
    pub fn gcra(name: &str, quota: Quota) -> Self {
        match Self::try_gcra(name, quota) {
            Ok(policy) => policy,
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`Policy::gcra`], for names and quotas that are not known before run time.
    ///
    /// # Errors
    ///
    /// Where [`Policy::gcra`] panics.
    pub fn try_gcra(name: &str, quota: Quota) -> Result<Self, QuotaError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(legal) {
            return Err(QuotaError(format!(
                "the policy name {name:?} is not 1 to {MAX_NAME} characters of A-Z a-z 0-9 - _ ."
            )));
        }
        let rule = Rule::Gcra(Gcra::new(quota)?);
        Ok(Self { name: name.into(), rule, key: Arc::new(by::ip()) })
    }

    /// Per what the limit counts: one of [`by`], a tuple of several, or a type of your own.
    /// Default: [`by::ip`].
    #[must_use]
    pub fn key(mut self, key: impl KeyBy) -> Self {
        self.key = Arc::new(key);
        self
    }

    /// The name, as in the headers and the keys.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rule(&self) -> Rule {
        self.rule
    }

    pub(crate) fn key_by(&self) -> &dyn KeyBy {
        &*self.key
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }
}

impl Rule {
    /// The most that may come at once.
    pub(crate) fn burst(self) -> u64 {
        match self {
            Self::Gcra(gcra) => gcra.burst(),
        }
    }

    /// How long a full allowance takes to come back.
    pub(crate) fn window_us(self) -> u64 {
        match self {
            Self::Gcra(gcra) => gcra.window_us(),
        }
    }

    /// The algorithm's name in keys and scripts.
    pub(crate) fn algorithm(self) -> &'static str {
        match self {
            Self::Gcra(_) => "gcra",
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_break_a_key_or_a_header_is_refused() {
        for bad in ["", "a b", "a\"b", "a:b", &"x".repeat(33)] {
            let error = Policy::try_gcra(bad, Quota::per_second(1)).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}

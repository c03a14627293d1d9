//! A named limit: how much, by which algorithm, and per what.

use crate::{
    rate_limit::{
        ban_after::BanAfter,
        by::{self, KeyBy},
        local::LocalLease,
        quota::{Quota, QuotaError},
        quotas::Quotas,
        rule::Rule,
    },
    telemetry,
};
use http::{request, response};
use std::{fmt, future::Future, sync::Arc, time::Duration};

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
#[must_use]
pub struct Policy {
    name: Arc<str>,
    rule: Rule,
    key: Arc<dyn KeyBy>,
    shadow: bool,
    ban_after: Option<BanAfter>,
    local_lease: Option<LocalLease>,
    quota: Option<Arc<QuotaOf>>,
    quotas: Option<Arc<Quotas>>,
    counts: Option<Arc<Counts>>,
}

type QuotaOf = dyn Fn(&request::Parts) -> Option<Quota> + Send + Sync;
type Counts = dyn Fn(&response::Parts) -> bool + Send + Sync;

impl Policy {
    /// A limit by this rule, for names and quotas that are not known before run time.
    ///
    /// # Errors
    ///
    /// If the name is not 1 to 32 characters of `A-Z a-z 0-9 - _ .`.
    pub fn new(name: &str, rule: Rule) -> Result<Self, QuotaError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(legal) {
            return Err(QuotaError(format!(
                "the policy name {name:?} is not 1 to {MAX_NAME} characters of A-Z a-z 0-9 - _ ."
            )));
        }
        let key = Arc::new(by::ip());
        Ok(Self {
            name: name.into(),
            rule,
            key,
            shadow: false,
            ban_after: None,
            local_lease: None,
            quota: None,
            quotas: None,
            counts: None,
        })
    }

    /// A limit by the generic cell rate algorithm: a steady rate with a burst, for one number a key.
    ///
    /// # Panics
    ///
    /// Where [`Policy::new`] or [`Rule::gcra`] return an error.
    pub fn gcra(name: &str, quota: Quota) -> Self {
        Self::known(name, Rule::gcra(quota))
    }

    /// A limit by the exact token bucket, for rates above 10,000 a second or that must not be rounded.
    ///
    /// # Panics
    ///
    /// Where [`Policy::new`] or [`Rule::token_bucket`] return an error.
    pub fn token_bucket(name: &str, quota: Quota) -> Self {
        Self::known(name, Rule::token_bucket(quota))
    }

    /// A limit by fixed windows, each of which begins with its first request: for quotas such as "1,000
    /// a day", which people understand. See [`Rule::aligned_window`] for windows by the clock.
    ///
    /// # Panics
    ///
    /// Where [`Policy::new`] or [`Rule::fixed_window`] return an error.
    pub fn fixed_window(name: &str, quota: Quota) -> Self {
        Self::known(name, Rule::fixed_window(quota))
    }

    /// A limit by a sliding window counter, which smooths the edges of fixed windows.
    ///
    /// # Panics
    ///
    /// Where [`Policy::new`] or [`Rule::sliding_window`] return an error.
    pub fn sliding_window(name: &str, quota: Quota) -> Self {
        Self::known(name, Rule::sliding_window(quota))
    }

    /// A limit by a log of every request: exact in any period, for small limits that guard against
    /// guessing.
    ///
    /// # Panics
    ///
    /// Where [`Policy::new`] or [`Rule::sliding_log`] return an error.
    pub fn sliding_log(name: &str, quota: Quota) -> Self {
        Self::known(name, Rule::sliding_log(quota))
    }

    /// A limit of how many requests are at it at a time.
    ///
    /// # Panics
    ///
    /// Where [`Policy::new`] or [`Rule::concurrency`] return an error.
    pub fn concurrency(name: &str, limit: u32) -> Self {
        Self::known(name, Rule::concurrency(limit))
    }

    /// How long a concurrency lease lasts if its holder dies; while it lives, the lease is renewed.
    /// Default: 30 seconds.
    ///
    /// # Panics
    ///
    /// Where [`Rule::lease`] returns an error.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.rule = or_panic(self.rule.lease(lease));
        self
    }

    /// Per what the limit counts: one of [`by`], a tuple of several, or a type of your own.
    /// Default: [`by::ip`].
    pub fn key(mut self, key: impl KeyBy) -> Self {
        self.key = Arc::new(key);
        self
    }

    /// Gives each request a quota of its own, such as that of its tenant's plan; `None` is the policy's
    /// own. A quota that the algorithm cannot count is logged, and the policy's own is in its place.
    /// Default: the policy's own for all.
    ///
    /// # Panics
    ///
    /// On a concurrency policy, which has no quota.
    pub fn quota_with(
        mut self,
        quota: impl Fn(&request::Parts) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        self.assert_quota("quota_with");
        self.quota = Some(Arc::new(quota));
        self
    }

    /// The same for quotas that only a database knows. `id` says whose quota it is: a tenant's or a
    /// user's, and `None` is one without a quota of its own. `lookup` is asked once for each id, and
    /// again when `valid_for` has passed; several requests at a time wait for one lookup. A quota that
    /// is found goes before [`quota_with`](Policy::quota_with), which holds where none is.
    ///
    /// A request waits for the lookup no longer than the layer's
    /// [deadline](crate::rate_limit::RateLimitLayer::deadline), and then for the store; a lookup that is
    /// slower goes on without it, for 30 seconds at most. What is slow or fails is logged, the last
    /// known quota holds, or else the policy's own, and nobody waits for it again for a second. The
    /// quotas of 10,000 ids are remembered, by each process, and 64 lookups may be under way at a time:
    /// what is beyond is as if it had failed, so ids that clients make up flood neither the memory nor
    /// the database. Default: none.
    ///
    /// ```
    /// use std::time::Duration;
    /// use towerkeep::{UserId, rate_limit::{Policy, Quota, by}};
    ///
    /// async fn plan_of(user: String) -> Result<Option<Quota>, std::io::Error> {
    ///     // SELECT per_minute FROM plans …
    ///     Ok((user == "ann").then_some(Quota::per_minute(1_000)))
    /// }
    /// let daily = Policy::gcra("plan", Quota::per_minute(60)).key(by::user()).quota_lookup(
    ///     |request| request.extensions.get::<UserId>().map(|user| user.as_str().to_owned()),
    ///     plan_of,
    ///     Duration::from_secs(300),
    /// );
    /// ```
    ///
    /// # Panics
    ///
    /// On a concurrency policy, which has no quota.
    pub fn quota_lookup<F, E>(
        mut self,
        id: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
        lookup: impl Fn(String) -> F + Send + Sync + 'static,
        valid_for: Duration,
    ) -> Self
    where
        F: Future<Output = Result<Option<Quota>, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.assert_quota("quota_lookup");
        let quotas = Quotas::new(id, lookup, valid_for);
        self.quotas = Some(Arc::new(quotas));
        self
    }

    /// Counts only requests with such a response: failed logins, say. Each is charged *before* the
    /// handler runs, and those that do not count are refunded before their response goes out, in a
    /// round trip more; so a thousand guesses at a time are no way around the limit. One whose client
    /// leaves before the response counts. Default: every request counts.
    ///
    /// ```
    /// use http::StatusCode;
    /// use towerkeep::rate_limit::{Policy, Quota};
    ///
    /// let login = Policy::sliding_log("login", Quota::per_minute(5))
    ///     .count_if(|response| response.status == StatusCode::UNAUTHORIZED);
    /// ```
    ///
    /// # Panics
    ///
    /// With a [`local_lease`](Policy::local_lease).
    pub fn count_if(
        mut self,
        counts: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.counts = Some(Arc::new(counts));
        self.assert_lease();
        self
    }

    /// Takes `units` at once from the store and spends them in this process, for at most `at_most`: a
    /// request costs no round trip while there are some, and about one in `units` does at a steady
    /// rate. For high limits; a low one is better asked for each time.
    ///
    /// - *Nothing is spent that was not charged before.* All processes together never admit more than
    ///   the store has charged. A unit may be spent later than it was taken, by `at_most` at the most,
    ///   so in any time that one looks at, up to `units` for each process can come on top of what the
    ///   limit admits in it; a fixed window's units end with it, so that each window is exact.
    /// - *Up to `units` for each process are stranded*, for each key: charged, and not there for others.
    ///   What is left after `at_most` is given back as far as it has not come back by itself, and at
    ///   once when the backend [shuts down](crate::Backend::shutdown). What a process has that dies
    ///   counts like any other request. When there are too few left to take so many, each request asks.
    /// - *What another process changes takes effect within `at_most`*: a
    ///   [`ban`](crate::rate_limit::RateLimitLayer::ban) or a
    ///   [`reset`](crate::rate_limit::RateLimitLayer::reset); this one's, and another quota, at once.
    /// - *`remaining` is what the store had left when the units were taken, and the units that are left
    ///   of them*: what others have taken and what has come back since is not in it, as the store is
    ///   not asked. [`peek`](crate::rate_limit::RateLimitLayer::peek) asks it, and there all units that
    ///   a process holds are taken.
    ///
    /// A layer decides from its own memory only if all policies that apply to a request can; one that
    /// has to ask makes it one atomic step for all, as without leases. A request that costs more than
    /// is left asks, too, and a [shadow](Policy::shadow) policy always does. A process holds units of up
    /// to 10,000 keys a layer. Default: none.
    ///
    /// # Panics
    ///
    /// Unless `units` is 2 to the limit and `at_most` 10 ms to 60 s; and on a concurrency policy, on a
    /// sliding log, which is exact in any period, and with [`count_if`](Policy::count_if), which asks
    /// the store again for each request that does not count.
    pub fn local_lease(mut self, units: u32, at_most: Duration) -> Self {
        self.local_lease = Some(or_panic(LocalLease::new(self.rule, units, at_most)));
        self.assert_lease();
        self
    }

    /// Bans a key for `length` that this policy denies so often `within` so long: a client that slows
    /// down when it is told to is never banned, one that hammers on is. The last of these denials is
    /// answered as the ban already.
    ///
    /// Denials are counted from the first one on, and anew when `within` has passed. What a banned
    /// client sends neither counts nor prolongs the ban, and afterwards it begins at none. A request
    /// that costs more than the limit is a denial, too. [Shadow](Policy::shadow) policies count no
    /// denials and ban nobody, and neither does [`peek`](crate::rate_limit::RateLimitLayer::peek). A
    /// [`reset`](crate::rate_limit::RateLimitLayer::reset) leaves a ban and the denials counted so far,
    /// [`unban`](crate::rate_limit::RateLimitLayer::unban) forgets both. In a cluster, a policy that is
    /// decided after another key was denied (see [`Slots`](crate::rate_limit::Slots)) counts nothing.
    ///
    /// Each denial that counts is one round trip, so a client that is denied costs Redis at most
    /// `denials` in every `within`, over all processes, and then the ban is believed from memory like
    /// any other denial. Default: never.
    ///
    /// ```
    /// use std::time::Duration;
    /// use towerkeep::rate_limit::{Policy, Quota};
    ///
    /// let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    /// let burst = Policy::gcra("burst", Quota::per_second(20)).ban_after(100, minute, hour);
    /// ```
    ///
    /// # Panics
    ///
    /// Where [`BanAfter::new`] returns an error.
    pub fn ban_after(mut self, denials: u32, within: Duration, length: Duration) -> Self {
        self.ban_after = Some(or_panic(BanAfter::new(denials, within, length)));
        self
    }

    /// Counts and reports, and denies nothing: to try a limit before it is in force. Of a request that
    /// another policy is known to deny it learns nothing
    /// ([`Outcome::asked`](crate::rate_limit::Outcome::asked)). Default: no.
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// The name, as in the headers and the keys.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The algorithm, with its numbers.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Whether it denies nothing.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// When its denials become a ban.
    #[must_use]
    pub fn bans_after(&self) -> Option<BanAfter> {
        self.ban_after
    }

    /// The rule for this request.
    pub(crate) fn rule_for(&self, request: &request::Parts) -> Rule {
        let quota = self.quota.as_ref().and_then(|quota| quota(request));
        quota.map_or(self.rule, |quota| self.rule_of(quota))
    }

    /// The rule for a quota; the policy's own if its algorithm cannot count that.
    pub(crate) fn rule_of(&self, quota: Quota) -> Rule {
        self.rule.with_quota(quota).unwrap_or_else(|error| {
            telemetry::warn(format_args!("rate limit policy {:?}: {error}", self.name));
            self.rule
        })
    }

    /// How units of it are held in the process.
    pub(crate) fn leases_locally(&self) -> Option<LocalLease> {
        self.local_lease
    }

    /// Where quotas are looked up.
    pub(crate) fn quotas(&self) -> Option<&Arc<Quotas>> {
        self.quotas.as_ref()
    }

    /// Whether what was charged is looked at again once there is a response.
    pub(crate) fn is_counted_later(&self) -> bool {
        self.counts.is_some()
    }

    pub(crate) fn counts(&self, response: &response::Parts) -> bool {
        self.counts.as_ref().is_none_or(|counts| counts(response))
    }

    pub(crate) fn key_by(&self) -> &dyn KeyBy {
        &*self.key
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    fn assert_lease(&self) {
        assert!(
            self.local_lease.is_none() || self.counts.is_none(),
            "count_if asks the store again for each request that does not count, so a local lease \
             spares nothing; leave one of them out"
        );
    }

    fn assert_quota(&self, method: &str) {
        let has_quota = !self.rule.is_concurrency();
        assert!(has_quota, "a concurrency limit has no quota; leave {method} out");
    }

    fn known(name: &str, rule: Result<Rule, QuotaError>) -> Self {
        or_panic(rule.and_then(|rule| Self::new(name, rule)))
    }
}

fn or_panic<T>(result: Result<T, QuotaError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
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
            let rule = Rule::gcra(Quota::per_second(1)).unwrap();
            let error = Policy::new(bad, rule).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}

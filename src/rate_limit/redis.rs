//! Rate limits in Redis: one script decides any number of policies.

use crate::{
    connection::{Call, Connection, RedisContext, Script, parse},
    rate_limit::{
        policy::Rule,
        store::{Charge, Outcome, RateLimitStore, Verdict},
    },
    store::{StoreError, StoreFuture},
};
use redis::Value;
use std::time::Instant;

static CHECK: Script = Script::new(concat!(
    include_str!("../connection/prelude.lua"),
    "local algorithms = {}\n",
    include_str!("gcra.lua"),
    include_str!("check.lua"),
))
.named("rate_limit/check.lua");

static REFUND: Script = Script::new(concat!(
    include_str!("../connection/prelude.lua"),
    "local algorithms = {}\n",
    include_str!("gcra.lua"),
    include_str!("refund.lua"),
))
.named("rate_limit/refund.lua");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&CHECK, &REFUND];

/// What the script answers for each policy.
const NUMBERS_PER_POLICY: usize = 4;

/// Counts in Redis, shared by every process with the same prefix.
///
/// One call decides all policies, except in a cluster, where only those with the same key are decided
/// in one atomic step: each key has a call of its own, that with the smallest burst first, and what was
/// taken is given back if a later key denies the request. Until then others see less than there is,
/// and never more.
#[derive(Clone, Debug)]
pub struct RedisStore {
    redis: RedisContext,
}

impl RedisStore {
    /// Over a connection of the application's own, under a prefix that begins every key. A
    /// [`Backend`](crate::Backend) makes all stores at once, and waits for their tasks when it is shut
    /// down.
    ///
    /// # Errors
    ///
    /// If the prefix is not 1 to 64 characters of `A-Z a-z 0-9 - _ . : /`.
    pub fn new(connection: Connection, prefix: &str) -> Result<Self, StoreError> {
        RedisContext::alone(connection, prefix).map(Self::over)
    }

    pub(crate) fn over(redis: RedisContext) -> Self {
        Self { redis }
    }

    /// `<prefix>:limit:{<key>}:<policy>:<algorithm>`: a policy whose algorithm was changed starts
    /// anew instead of misreading the old state.
    fn key(&self, charge: &Charge) -> String {
        let suffix = format!(":{}:{}", charge.policy, charge.rule.algorithm());
        self.redis.keys.tagged("limit", &charge.key, &suffix)
    }
}

impl RateLimitStore for RedisStore {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        let one_key = charges.windows(2).all(|pair| pair[0].key == pair[1].key);
        if one_key || !self.redis.is_cluster() {
            let reply = self.redis.script(self.call(&CHECK, true, charges));
            return StoreFuture::boxed(async move { Ok(Verdict::new(outcomes(reply.await?)?)) });
        }
        let (this, charges) = (self.clone(), charges.to_vec());
        StoreFuture::boxed(async move { this.key_by_key(&charges).await })
    }
}

impl RedisStore {
    fn call<'a>(
        &self,
        script: &'static Script,
        charge: bool,
        charges: impl IntoIterator<Item = &'a Charge, IntoIter: Clone>,
    ) -> Call {
        let charges = charges.into_iter();
        let keys: Vec<String> = charges.clone().map(|charge| self.key(charge)).collect();
        let mut call = script.keys(&keys).arg(self.redis.now_us()).arg(u8::from(charge));
        for charge in charges {
            let Rule::Gcra(gcra) = charge.rule;
            // Past the burst all costs are alike: never. The cap keeps them exact in Lua.
            let cost = charge.cost.min(gcra.burst() + 1);
            call = call.arg(charge.rule.algorithm()).arg(gcra.burst());
            call = call.arg(gcra.interval_us()).arg(cost);
        }
        call
    }

    /// Decides each key in a step of its own: no step of a cluster reaches keys of several servers.
    async fn key_by_key(&self, charges: &[Charge]) -> Result<Verdict, StoreError> {
        let end = Instant::now() + self.redis.deadline;
        let left = || end.saturating_duration_since(Instant::now());
        let mut groups = by_key(charges);
        groups.sort_by_key(|group| group.iter().map(|&at| burst(&charges[at])).min());

        let mut found = vec![None; charges.len()];
        let mut note = |group: &[usize], outcomes: Vec<Outcome>| {
            for (&at, outcome) in group.iter().zip(outcomes) {
                found[at] = Some(outcome);
            }
        };
        let mut taken = Vec::new();
        let mut allowed = true;
        for group in &groups {
            let call = self.call(&CHECK, allowed, group.iter().map(|&at| &charges[at]));
            let outcomes = outcomes(self.redis.script_within(call, left()).await?)?;
            if allowed && outcomes.iter().all(|outcome| outcome.allowed) {
                taken.push(group);
            } else {
                allowed = false;
            }
            note(group, outcomes);
        }
        for group in taken.into_iter().filter(|_| !allowed) {
            let call = self.call(&REFUND, true, group.iter().map(|&at| &charges[at]));
            note(group, outcomes(self.redis.script_within(call, left()).await?)?);
        }
        Ok(Verdict::new(found.into_iter().flatten()))
    }
}

/// The positions of the charges on each key.
fn by_key(charges: &[Charge]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, charge) in charges.iter().enumerate() {
        match groups.iter_mut().find(|group| charges[group[0]].key == charge.key) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

fn burst(charge: &Charge) -> u64 {
    let Rule::Gcra(gcra) = charge.rule;
    gcra.burst()
}

fn outcomes(reply: Value) -> Result<Vec<Outcome>, StoreError> {
    let numbers: Vec<i64> = parse(reply, "rate_limit/check.lua")?;
    let (outcomes, []) = numbers.as_chunks::<NUMBERS_PER_POLICY>() else {
        return Err(StoreError::corrupt(format!(
            "rate_limit/check.lua: {} numbers are not {NUMBERS_PER_POLICY} for each policy",
            numbers.len()
        )));
    };
    let outcomes = outcomes.iter().map(|&[allowed, remaining, reset, retry]| {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        let retry = u64::try_from(retry).ok();
        Outcome::from_micros(allowed == 1, positive(remaining), positive(reset), retry)
    });
    Ok(outcomes.collect())
}

//! Rate limits in Redis: one script decides any number of policies.

use crate::{
    connection::{Connection, RedisContext, Script, parse},
    rate_limit::{
        policy::Rule,
        store::{Charge, Outcome, RateLimitStore, Verdict},
    },
    store::{StoreError, StoreFuture},
};
use redis::Value;

static CHECK: Script = Script::new(concat!(
    include_str!("../connection/prelude.lua"),
    "local algorithms = {}\n",
    include_str!("gcra.lua"),
    include_str!("check.lua"),
))
.named("rate_limit/check.lua");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&CHECK];

/// What the script answers for each policy.
const NUMBERS_PER_POLICY: usize = 4;

/// Counts in Redis, shared by every process with the same prefix.
#[derive(Debug)]
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
        let keys: Vec<String> = charges.iter().map(|charge| self.key(charge)).collect();
        let mut call = CHECK.keys(&keys).arg(self.redis.now_us());
        for charge in charges {
            let Rule::Gcra(gcra) = charge.rule;
            // Past the burst all costs are alike: never. The cap keeps them exact in Lua.
            let cost = charge.cost.min(gcra.burst() + 1);
            call = call.arg(charge.rule.algorithm()).arg(gcra.burst());
            call = call.arg(gcra.interval_us()).arg(cost);
        }
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { verdict(reply.await?) })
    }
}

fn verdict(reply: Value) -> Result<Verdict, StoreError> {
    let numbers: Vec<i64> = parse(reply, "rate_limit/check.lua")?;
    let (outcomes, []) = numbers.as_chunks::<NUMBERS_PER_POLICY>() else {
        return Err(StoreError::corrupt(format!(
            "rate_limit/check.lua: {} numbers are not {NUMBERS_PER_POLICY} for each policy",
            numbers.len()
        )));
    };
    Ok(Verdict::new(outcomes.iter().map(|&[allowed, remaining, reset, retry]| {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        let retry = u64::try_from(retry).ok();
        Outcome::from_micros(allowed == 1, positive(remaining), positive(reset), retry)
    })))
}

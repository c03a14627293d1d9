//! Rate limits in Redis: one script decides any number of policies.

use crate::{
    clock::Clock,
    connection::{Call, Connection, RedisContext, Script},
    rate_limit::{
        by_key::Left,
        denials::{BELIEVED_FOR, Denials},
        outcome::{LONGEST_BAN, Verdict},
        slots::{Slots, groups},
        store::{Charge, RateLimitStore, merged},
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use std::time::Duration;

macro_rules! with_algorithms {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("../connection/prelude.lua"),
            include_str!("policies.lua"),
            include_str!("algorithm/gcra.lua"),
            include_str!("algorithm/token_bucket.lua"),
            include_str!("algorithm/fixed_window.lua"),
            include_str!("algorithm/sliding_window.lua"),
            include_str!("algorithm/sliding_log.lua"),
            include_str!("algorithm/concurrency.lua"),
            include_str!($file),
        ))
        .named(concat!("rate_limit/", $file))
    };
}

pub(super) static CHECK: Script = with_algorithms!("check.lua");
pub(super) static REFUND: Script = with_algorithms!("refund.lua");
static BAN: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("ban.lua")))
        .named("rate_limit/ban.lua");
static FORGET: Script = Script::new(include_str!("forget.lua")).named("rate_limit/forget.lua");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&CHECK, &REFUND, &BAN, &FORGET];

/// Counts in Redis, shared by every process with the same prefix.
///
/// One call decides all policies, except in a cluster, where only those with the same key are decided
/// in one atomic step: see [`Slots`].
#[derive(Clone, Debug)]
pub struct RedisStore {
    pub(super) redis: RedisContext,
    slots: Slots,
    pub(super) denials: Denials,
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

    /// Where the keys of a cluster lie. Default: [`Slots::PerKey`].
    #[must_use]
    pub fn slots(mut self, slots: Slots) -> Self {
        self.slots = slots;
        self
    }

    /// How long a denial is believed at most, without asking Redis again: until its `retry_after`, and
    /// not longer than this, for another process may refund, reset or unban. Those of this process are
    /// known at once. Of a policy with [`count_if`](crate::rate_limit::Policy::count_if), which refunds
    /// as a rule, a denial is believed for 250 ms at most, unless it is a ban. Zero asks always.
    /// Default: 5 s.
    #[must_use]
    pub fn deny_cache(mut self, at_most: Duration) -> Self {
        self.denials = Denials::new(&self.redis.context.clock, at_most);
        self
    }

    pub(crate) fn over(redis: RedisContext) -> Self {
        let denials = Denials::new(&redis.context.clock, BELIEVED_FOR);
        Self { redis, slots: Slots::default(), denials }
    }

    /// `<prefix>:limit:{<key>}:<policy>:<suffix>`, where the suffix of a state is its algorithm: a
    /// policy whose algorithm was changed starts anew instead of misreading the old state.
    fn key(&self, charge: &Charge, suffix: &str) -> String {
        let (keys, policy, key) = (&self.redis.keys, &charge.policy, &charge.key);
        match self.slots {
            Slots::PerKey => keys.tagged("limit", key, &format!(":{policy}:{suffix}")),
            Slots::Single => keys.tagged("limit", "all", &format!(":{key}:{policy}:{suffix}")),
        }
    }

    pub(super) fn state_key(&self, charge: &Charge) -> String {
        self.key(charge, charge.rule.algorithm())
    }

    fn ban_key(&self, charge: &Charge) -> String {
        self.key(charge, "ban")
    }

    pub(super) fn call(&self, script: &'static Script, verb: &str, charges: &[Charge]) -> Call {
        let states = charges.iter().map(|charge| self.state_key(charge));
        let keys: Vec<String> =
            states.chain(charges.iter().map(|charge| self.ban_key(charge))).collect();
        let mut call = script.keys(&keys).arg(self.redis.now_us()).arg(verb);
        for charge in charges {
            let [limit, period, extra] = charge.rule.numbers();
            call = call.arg(charge.rule.algorithm()).arg(limit).arg(period).arg(extra);
            // The cap keeps it exact in Lua.
            call = call.arg(charge.capped_cost()).arg(charge.receipt);
            call = match charge.bans_after() {
                Some(after) => call.arg(after.script_arg()),
                None => call.arg(if charge.shadow { "s" } else { "" }),
            };
        }
        call
    }

    /// Whether one call reaches all keys.
    pub(super) fn is_one_step(&self, charges: &[Charge]) -> bool {
        self.slots == Slots::Single
            || !self.redis.is_cluster()
            || charges.windows(2).all(|pair| pair[0].key == pair[1].key)
    }

    /// Decides, unless it is known already that one of the charges is denied.
    fn decide(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        if let Some((distinct, places)) = merged(charges) {
            let verdict = self.decide(&distinct);
            return StoreFuture::boxed(async move { Ok(verdict.await?.spread(&places)) });
        }
        let keys: Vec<String> = charges.iter().map(|charge| self.state_key(charge)).collect();
        if let Some(denied) = self.denials.verdict(charges, &keys) {
            return StoreFuture::ready(Ok(denied));
        }
        let (this, charges) = (self.clone(), charges.to_vec());
        let forgotten = this.denials.forgotten(&keys);
        StoreFuture::boxed(async move {
            let verdict = this.check_by_key(&charges).await?;
            // What was said before a refund or a reset may not be so after it.
            this.denials.learn(&charges, &keys, &verdict, &forgotten);
            Ok(verdict)
        })
    }

    /// What is asked whatever is known.
    fn tell(&self, verb: &'static str, charges: &[Charge]) -> StoreFuture<Verdict> {
        if let Some((distinct, places)) = merged(charges) {
            let verdict = self.tell(verb, &distinct);
            return StoreFuture::boxed(async move { Ok(verdict.await?.spread(&places)) });
        }
        let (this, charges) = (self.clone(), charges.to_vec());
        StoreFuture::boxed(async move { this.each_key(&CHECK, verb, &charges).await })
    }

    fn settle(&self, verb: &'static str, charges: &[Charge]) -> StoreFuture<Verdict> {
        let (this, charges) = (self.clone(), charges.to_vec());
        StoreFuture::boxed(async move {
            let settled = this.each_key(&REFUND, verb, &charges).await;
            if verb == "refund" {
                let keys = charges.iter().map(|charge| this.state_key(charge));
                this.denials.forget(&keys.collect::<Vec<_>>());
            }
            settled
        })
    }

    /// Calls a script of no reply for the keys of each slot.
    fn each_slot(
        &self,
        charges: &[Charge],
        call: impl Fn(&Self, &[&Charge]) -> Call,
    ) -> StoreFuture<()> {
        let whole = !charges.is_empty() && self.is_one_step(charges);
        let slots = if whole { vec![(0..charges.len()).collect()] } else { groups(charges) };
        let calls = slots.iter().map(|slot| slot.iter().map(|&at| &charges[at]).collect());
        let calls: Vec<Call> = calls.map(|of: Vec<&Charge>| call(self, &of)).collect();
        let known: Vec<String> = charges.iter().map(|charge| self.state_key(charge)).collect();
        let this = self.clone();
        StoreFuture::boxed(async move {
            let clock = Left::of(this.redis.deadline);
            let mut done = Ok(());
            for call in calls {
                done = done.and(this.redis.script_within(call, clock.left()).await.map(drop));
            }
            // After the calls, so that no denial of before is learnt meanwhile; it may have been done
            // though it failed.
            this.denials.forget(&known);
            done
        })
    }
}

impl RateLimitStore for RedisStore {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.decide(charges)
    }

    fn peek(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.tell("peek", charges)
    }

    fn charge(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.tell("charge", charges)
    }

    fn refund(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.settle("refund", charges)
    }

    fn renew(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.settle("renew", charges)
    }

    fn reset(&self, charges: &[Charge]) -> StoreFuture<()> {
        self.each_slot(charges, |this, of| {
            let keys: Vec<String> = of.iter().map(|charge| this.state_key(charge)).collect();
            FORGET.keys(&keys)
        })
    }

    fn ban(&self, charges: &[Charge], length: Duration) -> StoreFuture<()> {
        let length_us = length.min(LONGEST_BAN).as_micros() as u64;
        if length_us == 0 {
            return self.unban(charges);
        }
        self.each_slot(charges, |this, of| {
            let keys: Vec<String> = of.iter().map(|charge| this.ban_key(charge)).collect();
            BAN.keys(&keys).arg(this.redis.now_us()).arg(length_us)
        })
    }

    fn unban(&self, charges: &[Charge]) -> StoreFuture<()> {
        self.each_slot(charges, |this, of| {
            let keys: Vec<String> = of.iter().map(|charge| this.ban_key(charge)).collect();
            FORGET.keys(&keys)
        })
    }

    fn clock(&self) -> Clock {
        self.redis.context.clock.clone()
    }

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
    }
}

//! Rate limits in Redis: one script decides any number of policies.

use crate::{
    connection::{Call, Connection, RedisContext, Script, parse},
    rate_limit::{
        outcome::{LONGEST_BAN, Outcome, Verdict},
        slots::{Slots, groups},
        store::{Charge, RateLimitStore, merged},
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use redis::Value;
use std::time::{Duration, Instant};

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

static CHECK: Script = with_algorithms!("check.lua");
static REFUND: Script = with_algorithms!("refund.lua");
static BAN: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("ban.lua")))
        .named("rate_limit/ban.lua");
static FORGET: Script = Script::new(include_str!("forget.lua")).named("rate_limit/forget.lua");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&CHECK, &REFUND, &BAN, &FORGET];

/// What a script answers for each policy.
const NUMBERS_PER_POLICY: usize = 5;

/// Counts in Redis, shared by every process with the same prefix.
///
/// One call decides all policies, except in a cluster, where only those with the same key are decided
/// in one atomic step: see [`Slots`].
#[derive(Clone, Debug)]
pub struct RedisStore {
    redis: RedisContext,
    slots: Slots,
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

    pub(crate) fn over(redis: RedisContext) -> Self {
        Self { redis, slots: Slots::default() }
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

    fn state_key(&self, charge: &Charge) -> String {
        self.key(charge, charge.rule.algorithm())
    }

    fn ban_key(&self, charge: &Charge) -> String {
        self.key(charge, "ban")
    }

    fn call(&self, script: &'static Script, verb: &str, charges: &[Charge]) -> Call {
        let states = charges.iter().map(|charge| self.state_key(charge));
        let keys: Vec<String> =
            states.chain(charges.iter().map(|charge| self.ban_key(charge))).collect();
        let mut call = script.keys(&keys).arg(self.redis.now_us()).arg(verb);
        for charge in charges {
            let [limit, period, extra] = charge.rule.numbers();
            call = call.arg(charge.rule.algorithm()).arg(limit).arg(period).arg(extra);
            // The cap keeps it exact in Lua.
            call = call.arg(charge.capped_cost()).arg(charge.receipt);
            call = call.arg(if charge.shadow { "s" } else { "" });
        }
        call
    }

    /// Whether one call reaches all keys.
    fn is_one_step(&self, charges: &[Charge]) -> bool {
        self.slots == Slots::Single
            || !self.redis.is_cluster()
            || charges.windows(2).all(|pair| pair[0].key == pair[1].key)
    }

    fn decide(&self, verb: &'static str, charges: &[Charge]) -> StoreFuture<Verdict> {
        if charges.is_empty() {
            return StoreFuture::ready(Ok(Verdict::new([])));
        }
        if let Some((distinct, places)) = merged(charges) {
            let verdict = self.decide(verb, &distinct);
            return StoreFuture::boxed(async move { Ok(verdict.await?.spread(&places)) });
        }
        if self.is_one_step(charges) {
            let reply = self.redis.script(self.call(&CHECK, verb, charges));
            let told = Told::of(charges);
            return StoreFuture::boxed(
                async move { Ok(Verdict::new(told.outcomes(reply.await?)?)) },
            );
        }
        let (this, charges) = (self.clone(), charges.to_vec());
        match verb {
            "check" => StoreFuture::boxed(async move { this.check_by_key(&charges).await }),
            _ => StoreFuture::boxed(async move { this.each_key(&CHECK, verb, &charges).await }),
        }
    }

    fn settle(&self, verb: &'static str, charges: &[Charge]) -> StoreFuture<Verdict> {
        let (this, charges) = (self.clone(), charges.to_vec());
        StoreFuture::boxed(async move { this.each_key(&REFUND, verb, &charges).await })
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
        let this = self.clone();
        StoreFuture::boxed(async move {
            let clock = Left::of(this.redis.deadline);
            for call in calls {
                this.redis.script_within(call, clock.left()).await?;
            }
            Ok(())
        })
    }
}

/// A cluster reaches only keys of one slot in a step.
impl RedisStore {
    /// Decides each key in a step of its own, and gives back what was taken if a later key denies. Until
    /// then others see less than there is, and never more.
    async fn check_by_key(&self, charges: &[Charge]) -> Result<Verdict, StoreError> {
        let clock = Left::of(self.redis.deadline);
        let mut groups = groups(charges);
        groups.sort_by_key(|group| group.iter().map(|&at| charges[at].rule.limit()).min());
        let mut found = vec![None; charges.len()];
        let mut taken: Vec<Vec<Charge>> = Vec::new();
        let mut allowed = true;
        for group in &groups {
            let of: Vec<Charge> = group.iter().map(|&at| charges[at].clone()).collect();
            // Once one has denied, the others are only asked where they stand.
            let verb = if allowed { "check" } else { "peek" };
            let outcomes = match self.ask(&CHECK, verb, &of, &clock).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    self.give_back_later(taken);
                    return Err(error);
                }
            };
            if allowed {
                let charged = of.into_iter().zip(&outcomes).filter(|(_, told)| told.receipt != 0);
                let charged = charged.map(|(charge, told)| charge.with_receipt(told.receipt));
                taken.push(charged.collect());
            }
            allowed &= !outcomes.iter().any(Outcome::denies);
            for (&at, outcome) in group.iter().zip(outcomes) {
                found[at] = Some(outcome);
            }
        }
        if !allowed {
            for charged in taken.iter().filter(|charged| !charged.is_empty()) {
                let now = self.ask(&REFUND, "refund", charged, &clock).await?;
                for (charge, now) in charged.iter().zip(now) {
                    let at = charges.iter().position(|other| other.shares(charge));
                    if let Some(told) = at.and_then(|at| found[at].as_mut()) {
                        (told.remaining, told.reset, told.receipt) = (now.remaining, now.reset, 0);
                    }
                }
            }
        }
        Ok(Verdict::new(found.into_iter().flatten()))
    }

    /// Tells each key in a step of its own; what one says is nothing to the others.
    async fn each_key(
        &self,
        script: &'static Script,
        verb: &'static str,
        charges: &[Charge],
    ) -> Result<Verdict, StoreError> {
        let clock = Left::of(self.redis.deadline);
        if !charges.is_empty() && self.is_one_step(charges) {
            return Ok(Verdict::new(self.ask(script, verb, charges, &clock).await?));
        }
        let mut found = vec![None; charges.len()];
        for group in groups(charges) {
            let of: Vec<Charge> = group.iter().map(|&at| charges[at].clone()).collect();
            let outcomes = self.ask(script, verb, &of, &clock).await?;
            for (at, outcome) in group.into_iter().zip(outcomes) {
                found[at] = Some(outcome);
            }
        }
        Ok(Verdict::new(found.into_iter().flatten()))
    }

    async fn ask(
        &self,
        script: &'static Script,
        verb: &str,
        charges: &[Charge],
        clock: &Left,
    ) -> Result<Vec<Outcome>, StoreError> {
        let call = self.call(script, verb, charges);
        Told::of(charges).outcomes(self.redis.script_within(call, clock.left()).await?)
    }

    /// What was taken before a later key failed goes back as soon as it can.
    fn give_back_later(&self, taken: Vec<Vec<Charge>>) {
        let this = self.clone();
        self.redis.context.tasks.spawn_if_possible(async move {
            for charged in taken.iter().filter(|charged| !charged.is_empty()) {
                let clock = Left::of(this.redis.deadline);
                // One that fails ends by itself, as every count does.
                let _ = this.ask(&REFUND, "refund", charged, &clock).await;
            }
        });
    }
}

impl RateLimitStore for RedisStore {
    fn check(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.decide("check", charges)
    }

    fn peek(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.decide("peek", charges)
    }

    fn charge(&self, charges: &[Charge]) -> StoreFuture<Verdict> {
        self.decide("charge", charges)
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

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
    }
}

/// What the reply to a call does not repeat.
struct Told(Vec<(bool, Option<u64>)>);

impl Told {
    fn of(charges: &[Charge]) -> Self {
        let told = |charge: &Charge| {
            let lease = charge.rule.is_concurrency().then_some(charge.receipt);
            (charge.shadow, lease)
        };
        Self(charges.iter().map(told).collect())
    }

    fn outcomes(self, reply: Value) -> Result<Vec<Outcome>, StoreError> {
        let numbers: Vec<i64> = parse(reply, "rate_limit/check.lua")?;
        if numbers.len() != NUMBERS_PER_POLICY * self.0.len() {
            return Err(StoreError::corrupt(format!(
                "rate_limit/check.lua: {} numbers are not {NUMBERS_PER_POLICY} for each of {} policies",
                numbers.len(),
                self.0.len()
            )));
        }
        let outcomes = numbers.chunks_exact(NUMBERS_PER_POLICY).zip(self.0).map(outcome);
        Ok(outcomes.collect())
    }
}

fn outcome((numbers, (shadow, lease)): (&[i64], (bool, Option<u64>))) -> Outcome {
    let positive = |at: usize| u64::try_from(numbers[at]).unwrap_or(0);
    let retry = u64::try_from(numbers[3]).ok();
    let mut outcome = Outcome::from_micros(numbers[0] == 1, positive(1), positive(2), retry);
    outcome.banned = numbers[0] == -1;
    outcome.shadow = shadow;
    outcome.receipt = match (positive(4), lease) {
        (0, _) => 0,
        (_, Some(id)) => id,
        (receipt, None) => receipt,
    };
    outcome
}

/// What is left of a deadline.
struct Left(Instant);

impl Left {
    fn of(deadline: Duration) -> Self {
        Self(Instant::now() + deadline)
    }

    fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

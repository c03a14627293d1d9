//! Random histories, replayed on a store and on the naive model: every reply has to agree.

use crate::{
    harness::{Harness, PREFIX},
    rate_limit_tests::naive::{Known, Naive, Record, Said},
};
use std::time::Duration;
use towerkeep::rate_limit::{Charge, Outcome, Policy, RateLimitStore};

/// Numbers that look random and are the same in every run of one seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A policy on one key, and what the model knows of it.
struct Subject {
    naive: Naive,
    policy: Policy,
    key: String,
    known: Known,
    record: Record,
    /// What was charged and not refunded yet.
    receipts: Vec<(u64, u64)>,
    /// How long the last denial was said to last, in µs.
    wait: u64,
}

impl Subject {
    fn charge(&self, cost: u64) -> Charge {
        Charge::new(&self.policy, self.key.as_str(), cost)
    }
}

/// Replays `steps` steps on the store, with so many keys at a time. A failure names the seed, which repeats it.
pub(crate) async fn replay(harness: &Harness, steps: u64, seed: u64, keys: u64) {
    let mut dice = Dice(seed);
    let mut done = 0;
    for round in 0.. {
        if done >= steps {
            return;
        }
        let mut subjects = subjects(&mut dice, round, keys);
        for _ in 0..steps.min(250) {
            done += 1;
            pass_time(harness, &mut dice, &mut subjects).await;
            step(harness, &mut dice, &mut subjects, &format!("seed {seed}, step {done}")).await;
        }
        every_key_has_a_ttl(harness);
    }
}

fn subjects(dice: &mut Dice, round: u64, keys: u64) -> Vec<Subject> {
    let count = 1 + dice.below(4);
    let subjects = (0..count).map(|n| {
        let algorithm = dice.below(7) as usize;
        let limit = dice.one(&[1, 2, 3, 7, 10, 20, 100]);
        let ms = dice.one(&[100, 1_000, 1_500, 60_000, 3_600_000, 86_400_000]);
        let burst = dice.one(&[limit, 1, 5, 30]);
        let (naive, policy) = Naive::make(algorithm, &format!("p{n}"), limit, ms, burst);
        let mut policy = if dice.below(5) == 0 { policy.shadow() } else { policy };
        let mut record = Record::default();
        if dice.below(2) == 0 {
            let denials = dice.one(&[1, 2, 3, 5]);
            let [within, length] = [(); 2].map(|()| 1_000 + dice.below(ms * 3_000));
            let [t, long] = [within, length].map(Duration::from_micros);
            policy = policy.ban_after(denials, t, long);
            let really = !policy.is_shadow();
            record.ban_after = really.then_some((denials, within.into(), length.into()));
        }
        let key = format!("{round}-{}", dice.below(keys));
        let (known, receipts) = (Known::default(), Vec::new());
        Subject { naive, policy, key, known, record, receipts, wait: 0 }
    });
    subjects.collect()
}

async fn pass_time(harness: &Harness, dice: &mut Dice, subjects: &mut [Subject]) {
    let longest = subjects.iter().map(|subject| subject.naive.longest()).max().unwrap_or(1) as u64;
    let by = match dice.below(12) {
        0..4 => 0,
        4 | 5 => dice.below(2_000),
        6 | 7 => dice.below(300_000),
        8 => dice.below(3_000_000),
        9 => dice.below(longest / 3 + 1),
        10 if dice.below(4) == 0 => dice.below(longest * 2),
        // To the very end of a denial, or to the microsecond before it.
        _ => {
            let wait = subjects.iter().map(|subject| subject.wait).find(|wait| *wait > 0);
            wait.map_or(1, |wait| wait - dice.below(2))
        }
    };
    subjects.iter_mut().for_each(|subject| subject.wait = subject.wait.saturating_sub(by));
    harness.clock.advance(Duration::from_micros(by));
    match dice.below(200) {
        0..6 => harness.clock.set_back(Duration::from_micros(dice.below(50_000))),
        6 => harness.clock.set_back(Duration::from_micros(dice.below(longest * 3))),
        _ => {}
    }
    // What has ended stays gone, though the clock went back later: in the model, in memory, where a
    // look drops it, and in Redis, whose own time does not pass here.
    let now = now(harness);
    for subject in subjects {
        let state = subject.naive.sweep(&mut subject.known, now);
        let ended = [
            state.then_some(subject.policy.rule().algorithm()),
            subject.record.sweep(now).then_some("ban"),
        ];
        for suffix in ended.into_iter().flatten() {
            harness.peek(&[subject.charge(0)]).await.unwrap();
            if harness.is_shared() {
                let (key, policy) = (&subject.key, subject.policy.name());
                harness.command(&["DEL", &format!("{PREFIX}:limit:{{{key}}}:{policy}:{suffix}")]);
            }
        }
    }
}

async fn step(harness: &Harness, dice: &mut Dice, subjects: &mut [Subject], context: &str) {
    match dice.below(20) {
        0..2 => settle(harness, dice, subjects, context).await,
        2 => settle_leases(harness, dice, subjects, context).await,
        3 => forget_or_ban(harness, dice, subjects, context).await,
        verb => decide(harness, dice, subjects, verb, context).await,
    }
}

async fn decide(
    harness: &Harness,
    dice: &mut Dice,
    subjects: &mut [Subject],
    verb: u64,
    context: &str,
) {
    let now = now(harness);
    let mut asked: Vec<(usize, Charge)> = Vec::new();
    for (at, subject) in subjects.iter().enumerate() {
        // Now and then a policy is charged twice in one call, or not at all.
        for _ in 0..dice.one(&[1, 1, 1, 1, 0, 2]) {
            let most = subject.naive.most();
            let cost = dice.one(&[1, 1, 1, 1, 2, 3, 0, 5, most, most + 1, u64::MAX]);
            asked.push((at, subject.charge(cost)));
        }
    }
    let charges: Vec<Charge> = asked.iter().map(|(_, charge)| charge.clone()).collect();
    let verdict = match verb {
        4 | 5 => harness.peek(&charges).await,
        6 | 7 => harness.charge(&charges).await,
        _ => harness.check(&charges).await,
    };
    let outcomes = verdict.unwrap().outcomes().to_vec();

    // What is charged twice is charged once, with the sum; a lease is the first one's.
    let mut merged: Vec<(usize, u64, u64)> = Vec::new();
    for (at, charge) in &asked {
        match merged.iter_mut().find(|(other, ..)| other == at) {
            Some((_, cost, _)) => *cost = cost.saturating_add(charge.cost),
            None => merged.push((*at, charge.cost, charge.receipt)),
        }
    }
    let (peek, charge) = (matches!(verb, 4 | 5), matches!(verb, 6 | 7));
    let mut said = Vec::new();
    for &(at, cost, id) in &merged {
        let subject = &mut subjects[at];
        let mut known = subject.known.clone();
        subject.naive.heal(&mut known, now);
        let mut told = subject.naive.say(&known, now, cost, id);
        if let Some(left) = subject.record.banned(now) {
            (told.allowed, told.banned, told.retry) = (false, true, Some(left));
        }
        subject.wait = told.retry.map_or(0, |retry| retry.as_micros() as u64);
        said.push(told);
        if !peek {
            subject.known = known;
        }
    }
    let denies = |(&(at, ..), said): (&(usize, u64, u64), &Said)| {
        !said.allowed && !subjects[at].policy.is_shadow()
    };
    let all = !merged.iter().zip(&said).any(denies);
    for (&(at, cost, id), said) in merged.iter().zip(&mut said) {
        let subject = &mut subjects[at];
        let told = asked.iter().position(|(other, _)| *other == at).unwrap();
        if cost > 0 && !peek && (charge || (all && said.allowed)) {
            let receipt = subject.naive.take(&mut subject.known, now, cost, id);
            let after = subject.naive.say(&subject.known, now, cost, id);
            (said.remaining, said.reset) = (after.remaining, after.reset);
            assert_eq!(outcomes[told].receipt, receipt, "{context}: receipt of {asked:?}");
            subject.receipts.push((cost, receipt));
        } else {
            assert_eq!(outcomes[told].receipt, 0, "{context}: nothing was taken of {asked:?}");
        }
        if !peek && !charge && !said.allowed && !said.banned {
            subject.record.deny(now);
            if let Some(left) = subject.record.banned(now) {
                (said.banned, said.retry) = (true, Some(left));
                subject.wait = left.as_micros() as u64;
            }
        }
    }
    for ((at, charge), outcome) in asked.iter().zip(&outcomes) {
        let place = merged.iter().position(|(other, ..)| other == at).unwrap();
        assert_eq!(heard(outcome), said[place], "{context}: {charge:?} of verb {verb} {asked:?}");
    }
}

async fn settle(harness: &Harness, dice: &mut Dice, subjects: &mut [Subject], context: &str) {
    let at = dice.below(subjects.len() as u64) as usize;
    let subject = &mut subjects[at];
    let Some(last) = subject.receipts.len().checked_sub(1) else { return };
    let (cost, receipt) = subject.receipts.swap_remove(dice.below(last as u64 + 1) as usize);
    let charge = subject.charge(cost).with_receipt(receipt);
    let verdict = harness.refund(std::slice::from_ref(&charge)).await.unwrap();
    let now = now(harness);
    subject.naive.heal(&mut subject.known, now);
    subject.naive.give(&mut subject.known, now, cost, receipt);
    subject.naive.sweep(&mut subject.known, now);
    agree(subject, now, true, &verdict.outcomes()[0], &format!("{context}: refund of {charge:?}"));
}

async fn settle_leases(
    harness: &Harness,
    dice: &mut Dice,
    subjects: &mut [Subject],
    context: &str,
) {
    let now = now(harness);
    for subject in subjects.iter_mut().filter(|subject| subject.naive.is_leases()) {
        let Some(last) = subject.receipts.len().checked_sub(1) else { continue };
        let (_, id) = subject.receipts[dice.below(last as u64 + 1) as usize];
        let charge = subject.charge(1).with_receipt(id);
        let verdict = harness.renew(&[charge]).await.unwrap();
        subject.naive.heal(&mut subject.known, now);
        let held = subject.naive.renew(&mut subject.known, now, id);
        agree(subject, now, held, &verdict.outcomes()[0], &format!("{context}: renewal"));
    }
}

/// A reset, which leaves the denials, or a ban in place of an earlier one, which may be lifted at once.
async fn forget_or_ban(
    harness: &Harness,
    dice: &mut Dice,
    subjects: &mut [Subject],
    context: &str,
) {
    let at = dice.below(subjects.len() as u64) as usize;
    let subject = &mut subjects[at];
    let charge = [subject.charge(1)];
    if dice.below(3) == 0 {
        harness.reset(&charge).await.unwrap();
        subject.known = Known::default();
        return;
    }
    let length = Duration::from_micros(1 + dice.below(10_000_000));
    harness.ban(&charge, length).await.unwrap();
    let verdict = harness.check(&charge).await.unwrap();
    let outcome = verdict.outcomes()[0];
    assert!(outcome.banned && !outcome.allowed, "{context}: {outcome:?}");
    assert_eq!(outcome.retry_after, Some(length), "{context}");
    assert_eq!(verdict.is_allowed(), subject.policy.is_shadow(), "{context}");
    subject.naive.heal(&mut subject.known, now(harness));
    subject.record.clear();
    if dice.below(4) == 0 {
        subject.record.ban_for(length.as_micros() as i128, now(harness));
    } else {
        harness.unban(&charge).await.unwrap();
    }
}

fn agree(subject: &Subject, now: i128, allowed: bool, outcome: &Outcome, context: &str) {
    let said = subject.naive.say(&subject.known, now, 0, 0);
    assert_eq!(heard(outcome), Said { allowed, ..said }, "{context}");
}

fn heard(outcome: &Outcome) -> Said {
    let Outcome { allowed, banned, remaining, reset, retry_after, .. } = *outcome;
    Said { allowed, banned, remaining, reset, retry: retry_after }
}

fn now(harness: &Harness) -> i128 {
    harness.clock.now().as_micros() as i128
}

fn every_key_has_a_ttl(harness: &Harness) {
    if harness.is_shared() {
        for key in harness.keys("*") {
            assert!(harness.command(&["PTTL", &key]).int() > 0, "{key} has no TTL");
        }
    }
}

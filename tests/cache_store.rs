//! The verbs of the cache's store, over memory and Redis, reply for reply.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{proxy::FaultProxy, server::RedisServer},
};
use bytes::Bytes;
use http::Response;
use proptest::{prelude::*, strategy::ValueTree};
use std::{collections::HashMap, sync::Arc, time::Duration};
use towerkeep::{
    Backend,
    cache::{
        Address, CacheStore, Fill, FillReply, Found, Lane, LeaseReply, Lookup, StoredResponse,
        Verdict,
    },
};

on_every_backend! {
    a_fill_is_found_with_its_age_until_it_is_past_keeping,
    a_lease_is_held_by_one_until_it_ends_or_is_given_back,
    a_lease_taken_over_after_a_crash_refuses_the_stale_fill,
    a_lease_from_the_future_has_ended,
    a_purge_forgets_the_response_and_voids_the_lease,
    whoever_asks_for_a_lease_is_told_of_a_fill_in_between,
    the_mark_of_an_uncacheable_response_ends_by_itself,
    the_two_lanes_never_wait_for_each_other,
    a_waiter_hears_of_the_end_of_a_lease,
    variants_are_found_by_what_all_of_them_vary_by,
    an_entry_with_too_many_variants_forgets_them,
    a_variant_that_ends_soon_takes_no_other_with_it,
    histories_agree_with_a_naive_model,
}

on_every_server! {
    redis_decides_by_its_own_time_and_forgets_by_itself,
    what_cannot_be_read_is_absent_and_can_be_filled_again,
    leases_that_have_ended_do_not_pile_up,
}

const LENGTH: Duration = Duration::from_secs(10);

fn address(entry: &str) -> Address {
    Address::new(entry, Lane::Open)
}

fn response(body: &str) -> Arc<StoredResponse> {
    Arc::new(StoredResponse::new("key", Response::new(Bytes::from(body.to_owned()))))
}

fn fill(body: &str, seconds: u64) -> Fill {
    Fill::new(response(body), Duration::from_secs(seconds))
}

async fn granted(store: &impl CacheStore, address: &Address, token: &str) {
    let reply = store.lease(address, token, LENGTH, None).await.unwrap();
    assert_eq!(reply, LeaseReply::Granted);
}

fn found(lookup: Lookup) -> Found {
    match lookup {
        Lookup::Found(found) => found,
        other => panic!("nothing was found: {other:?}"),
    }
}

async fn a_fill_is_found_with_its_age_until_it_is_past_keeping(harness: Harness) {
    let at = address("e");
    granted(&*harness, &at, "token").await;
    let mut fill = fill("body", 3_600);
    fill.age = Duration::from_secs(600);
    fill.stale = Duration::from_secs(1_800);
    assert_eq!(harness.fill(&at, "token", fill).await.unwrap(), FillReply::Stored);

    let expect = async |age, fresh_for| {
        let found = found(harness.lookup(&at).await.unwrap());
        assert_eq!(found.response, response("body"));
        assert_eq!(&*found.stamp, "token");
        assert_eq!((found.age.as_secs(), found.fresh_for.as_secs()), (age, fresh_for));
    };
    expect(600, 3_000).await;
    harness.advance(Duration::from_secs(2_940));
    expect(3_540, 60).await;
    harness.advance(Duration::from_secs(60));
    expect(3_600, 0).await;
    harness.advance(Duration::from_secs(1_740));
    expect(5_340, 0).await;
    harness.advance(Duration::from_secs(60));
    assert_eq!(harness.lookup(&at).await.unwrap(), Lookup::Absent { stamp: None });
}

async fn a_lease_is_held_by_one_until_it_ends_or_is_given_back(harness: Harness) {
    let at = address("e");
    let ask = async |token| harness.lease(&at, token, LENGTH, None).await.unwrap();
    assert_eq!(ask("a").await, LeaseReply::Granted);
    harness.advance(Duration::from_secs(4));
    assert_eq!(ask("b").await, LeaseReply::Held { left: Duration::from_secs(6) });
    assert_eq!(ask("a").await, LeaseReply::Granted, "a call that was sent twice");
    harness.advance(Duration::from_secs(4));
    assert!(harness.renew(&at, "a", LENGTH).await.unwrap());
    assert!(!harness.renew(&at, "b", LENGTH).await.unwrap());
    harness.advance(Duration::from_secs(9));
    assert_eq!(ask("b").await, LeaseReply::Held { left: Duration::from_secs(1) });
    harness.advance(Duration::from_secs(1));
    assert!(!harness.renew(&at, "a", LENGTH).await.unwrap(), "it had ended");
    assert_eq!(ask("b").await, LeaseReply::Granted);
    assert!(!harness.release(&at, "a", Verdict::Failed).await.unwrap());
    assert!(harness.release(&at, "b", Verdict::Failed).await.unwrap());
    assert_eq!(ask("a").await, LeaseReply::Granted);
}

async fn a_lease_taken_over_after_a_crash_refuses_the_stale_fill(harness: Harness) {
    let at = address("e");
    granted(&*harness, &at, "crashed").await;
    harness.advance(LENGTH);
    granted(&*harness, &at, "heir").await;
    let stale = harness.fill(&at, "crashed", fill("stale", 60)).await.unwrap();
    assert_eq!(stale, FillReply::Refused);
    let new = harness.fill(&at, "heir", fill("new", 60)).await.unwrap();
    assert_eq!(new, FillReply::Stored);
    let late = harness.fill(&at, "crashed", fill("stale", 60)).await.unwrap();
    assert_eq!(late, FillReply::Refused);
    assert_eq!(found(harness.lookup(&at).await.unwrap()).response, response("new"));
}

/// As after a failover to a server whose clock is behind.
async fn a_lease_from_the_future_has_ended(harness: Harness) {
    let at = address("e");
    granted(&*harness, &at, "a").await;
    harness.clock.set_back(Duration::from_secs(5));
    assert!(!harness.renew(&at, "a", LENGTH).await.unwrap());
    granted(&*harness, &at, "b").await;
    assert_eq!(harness.fill(&at, "a", fill("old", 60)).await.unwrap(), FillReply::Refused);
    assert_eq!(harness.fill(&at, "b", fill("new", 60)).await.unwrap(), FillReply::Stored);
}

async fn a_purge_forgets_the_response_and_voids_the_lease(harness: Harness) {
    let (at, other) = (address("e"), address("f"));
    for at in [&at, &other] {
        granted(&*harness, at, "first").await;
        harness.fill(at, "first", fill("old", 60)).await.unwrap();
    }
    let reply = harness.lease(&at, "second", LENGTH, Some("first")).await.unwrap();
    assert_eq!(reply, LeaseReply::Granted);
    assert_eq!(harness.purge(&["e".into(), "nothing".into()]).await.unwrap(), 1);
    assert_eq!(harness.lookup(&at).await.unwrap(), Lookup::Absent { stamp: None });
    let read_before = harness.fill(&at, "second", fill("read before", 60)).await.unwrap();
    assert_eq!(read_before, FillReply::Refused);
    granted(&*harness, &at, "third").await;
    found(harness.lookup(&other).await.unwrap());
}

async fn whoever_asks_for_a_lease_is_told_of_a_fill_in_between(harness: Harness) {
    let at = address("e");
    granted(&*harness, &at, "first").await;
    harness.fill(&at, "first", fill("body", 60)).await.unwrap();
    let ask = async |seen| harness.lease(&at, "second", LENGTH, seen).await.unwrap();
    assert_eq!(ask(None).await, LeaseReply::Filled);
    assert_eq!(ask(Some("older")).await, LeaseReply::Filled);
    assert_eq!(ask(Some("first")).await, LeaseReply::Granted, "it saw it and could not use it");
    assert!(harness.release(&at, "second", Verdict::Failed).await.unwrap());
    harness.advance(Duration::from_secs(60));
    assert_eq!(ask(None).await, LeaseReply::Granted, "it is stale");
}

async fn the_mark_of_an_uncacheable_response_ends_by_itself(harness: Harness) {
    let at = address("e");
    granted(&*harness, &at, "a").await;
    let mark = Verdict::Uncacheable(Duration::from_secs(2));
    assert!(!harness.release(&at, "not the holder", mark).await.unwrap());
    assert!(harness.release(&at, "a", mark).await.unwrap());
    let ask = async |token| harness.lease(&at, token, LENGTH, None).await.unwrap();
    assert_eq!(ask("a").await, LeaseReply::Uncacheable { left: Duration::from_secs(2) });
    harness.advance(Duration::from_secs(1));
    assert_eq!(ask("b").await, LeaseReply::Uncacheable { left: Duration::from_secs(1) });
    harness.advance(Duration::from_secs(1));
    assert_eq!(ask("b").await, LeaseReply::Granted);
}

async fn the_two_lanes_never_wait_for_each_other(harness: Harness) {
    let open = address("e");
    let authorized = Address::new("e", Lane::Authorized);
    granted(&*harness, &authorized, "a").await;
    granted(&*harness, &open, "b").await;
    let mark = Verdict::Uncacheable(LENGTH);
    assert!(harness.release(&authorized, "a", mark).await.unwrap());
    assert_eq!(harness.fill(&open, "b", fill("body", 60)).await.unwrap(), FillReply::Stored);
    // What one lane stored, the other finds.
    found(harness.lookup(&authorized).await.unwrap());
    let reply = harness.lease(&authorized, "c", LENGTH, None).await.unwrap();
    assert_eq!(reply, LeaseReply::Filled);
}

async fn a_waiter_hears_of_the_end_of_a_lease(harness: Harness) {
    let (at, waiter) = (address("e"), harness.another().await);
    for ends_by in ["fill", "failure"] {
        granted(&*harness, &at, ends_by).await;
        let mut hints = waiter.watch("e").unwrap();
        assert!(hints.ready(Duration::from_secs(10)).await);
        match ends_by {
            "fill" => drop(harness.fill(&at, ends_by, fill("body", 10)).await.unwrap()),
            _ => drop(harness.release(&at, ends_by, Verdict::Failed).await.unwrap()),
        }
        let hint = tokio::time::timeout(Duration::from_secs(10), hints.recv()).await;
        hint.expect("the end of the lease was published");
        harness.advance(Duration::from_secs(10));
    }
}

fn variant(of: &str, names: &str) -> Address {
    Address::variant_of("e", of, Lane::Open).varying_by(names)
}

async fn variants_are_found_by_what_all_of_them_vary_by(harness: Harness) {
    let put = async |at: &Address, body: &str| {
        granted(&*harness, at, body).await;
        harness.fill(at, body, fill(body, 60)).await.unwrap()
    };
    let names = |names: &str| Lookup::Varies { names: names.into() };
    assert_eq!(put(&variant("1", "a"), "one").await, FillReply::Stored);
    assert_eq!(put(&variant("2", "a"), "two").await, FillReply::Stored);
    for (at, body) in [(variant("1", "a"), "one"), (variant("2", "a"), "two")] {
        assert_eq!(found(harness.lookup(&at).await.unwrap()).response, response(body));
    }
    assert_eq!(harness.lookup(&variant("3", "a")).await.unwrap(), Lookup::NoVariant);
    assert_eq!(harness.lookup(&address("e")).await.unwrap(), names("a"));
    // Found by less, it would be found for other values: refused, and the lease is kept.
    let less = FillReply::Varies { names: "a".into() };
    assert_eq!(put(&variant("x", "b"), "three").await, less);
    assert_eq!(put(&variant("z", "ab"), "four").await, less, "a name is not a part of another");
    let reply = harness.lookup(&variant("1", "a")).await.unwrap();
    assert_eq!(found(reply).response, response("one"), "nothing was changed");
    // Found by more, it is stored, and nobody would find the others.
    assert_eq!(put(&variant("y", "a,b"), "five").await, FillReply::Stored);
    assert_eq!(harness.lookup(&variant("1", "a")).await.unwrap(), names("a,b"));
    assert_eq!(harness.lookup(&variant("1", "a,b")).await.unwrap(), Lookup::NoVariant);
    assert_eq!(harness.purge(&["e".into()]).await.unwrap(), 1);
    assert_eq!(harness.lookup(&variant("y", "a,b")).await.unwrap(), Lookup::Absent { stamp: None });
}

async fn a_variant_that_ends_soon_takes_no_other_with_it(harness: Harness) {
    for (of, seconds) in [("1", 60), ("2", 10)] {
        granted(&*harness, &variant(of, "a"), of).await;
        harness.fill(&variant(of, "a"), of, fill("body", seconds)).await.unwrap();
    }
    harness.advance(Duration::from_secs(59));
    found(harness.lookup(&variant("1", "a")).await.unwrap());
    let ended = harness.lookup(&variant("2", "a")).await.unwrap();
    assert!(matches!(ended, Lookup::Absent { stamp: Some(_) }), "{ended:?}");
}

async fn an_entry_with_too_many_variants_forgets_them(harness: Harness) {
    let put = async |number: usize| {
        let (at, token) = (variant(&number.to_string(), "a"), number.to_string());
        harness.lease(&at, &token, LENGTH, None).await.unwrap();
        harness.fill(&at, &token, fill("body", 60)).await.unwrap()
    };
    let there = async |number: usize| {
        let at = variant(&number.to_string(), "a");
        matches!(harness.lookup(&at).await.unwrap(), Lookup::Found(_))
    };
    for number in 0..64 {
        assert_eq!(put(number).await, FillReply::Stored);
    }
    assert!(there(0).await && there(63).await);
    assert_eq!(put(64).await, FillReply::Stored);
    assert!(there(64).await && !there(0).await && !there(63).await);
}

/// One verb, on one of a few addresses, in the name of one of a few tokens.
#[derive(Clone, Debug)]
enum Op {
    Lookup,
    Lease { length: u64, seen: Seen },
    Renew { length: u64 },
    Fill { age: u64, lifetime: u64, stale: u64 },
    Fail,
    Mark { length: u64 },
    Purge,
    Advance { seconds: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Nothing,
    WhatIsThere,
    SomethingElse,
}

fn histories() -> impl Strategy<Value = Vec<(u8, bool, u8, Op)>> {
    // Everything is a multiple of the same ten seconds, so that ends are met exactly.
    let tens = || (1u64..5).prop_map(|tens| tens * 10);
    let some = || (0u64..4).prop_map(|tens| tens * 10);
    let seen = prop_oneof![Just(Seen::Nothing), Just(Seen::WhatIsThere), Just(Seen::SomethingElse)];
    let op = prop_oneof![
        3 => Just(Op::Lookup),
        5 => (tens(), seen).prop_map(|(length, seen)| Op::Lease { length, seen }),
        2 => tens().prop_map(|length| Op::Renew { length }),
        5 => (some(), some(), some())
            .prop_map(|(age, lifetime, stale)| Op::Fill { age, lifetime, stale }),
        1 => Just(Op::Fail),
        1 => tens().prop_map(|length| Op::Mark { length }),
        1 => Just(Op::Purge),
        3 => tens().prop_map(|seconds| Op::Advance { seconds }),
    ];
    proptest::collection::vec((0u8..2, any::<bool>(), 0u8..3, op), 1..60)
}

/// The rules once more, said as plainly as possible: whole seconds, no expiry by itself.
#[derive(Default)]
struct Model {
    now: u64,
    entries: HashMap<u8, Entry>,
    leases: HashMap<(u8, bool), Lease>,
}

struct Entry {
    stamp: String,
    body: String,
    born: i64,
    fresh: u64,
    keep: u64,
    /// The latest `keep` that it ever had.
    ends: u64,
}

struct Lease {
    owner: Option<String>,
    until: u64,
}

impl Model {
    fn sweep(&mut self) {
        let now = self.now;
        self.entries.retain(|_, entry| entry.ends > now);
        self.leases.retain(|_, lease| lease.until > now);
    }

    fn stamp(&self, entry: u8) -> Option<&str> {
        self.entries.get(&entry).map(|entry| entry.stamp.as_str())
    }

    fn holds(&self, at: (u8, bool), token: &str) -> bool {
        self.leases.get(&at).is_some_and(|lease| lease.owner.as_deref() == Some(token))
    }

    fn lookup(&self, entry: u8) -> Lookup {
        let Some(entry) = self.entries.get(&entry) else { return Lookup::Absent { stamp: None } };
        if entry.keep <= self.now {
            return Lookup::Absent { stamp: Some(entry.stamp.as_str().into()) };
        }
        let found = Found::new(
            response(&entry.body),
            entry.stamp.as_str().into(),
            Duration::from_secs((self.now as i64 - entry.born) as u64),
            Duration::from_secs(entry.fresh.saturating_sub(self.now)),
        );
        let stale_for = self.now.saturating_sub(entry.fresh);
        Lookup::Found(found.stale_for(Duration::from_secs(stale_for)))
    }

    fn lease(
        &mut self,
        at: (u8, bool),
        token: &str,
        length: u64,
        seen: Option<&str>,
    ) -> LeaseReply {
        if let Some(entry) = self.entries.get(&at.0)
            && entry.fresh > self.now
            && Some(entry.stamp.as_str()) != seen
        {
            return LeaseReply::Filled;
        }
        if let Some(Lease { owner, until }) = self.leases.get(&at) {
            let left = Duration::from_secs(until - self.now);
            match owner {
                None => return LeaseReply::Uncacheable { left },
                Some(owner) if owner != token => return LeaseReply::Held { left },
                Some(_) => {}
            }
        }
        let lease = Lease { owner: Some(token.to_owned()), until: self.now + length };
        self.leases.insert(at, lease);
        LeaseReply::Granted
    }

    fn fill(&mut self, at: (u8, bool), token: &str, body: &str, op: (u64, u64, u64)) -> FillReply {
        let (age, lifetime, stale) = op;
        let keep = self.now + lifetime + stale;
        if !self.holds(at, token) || keep.saturating_sub(age) <= self.now {
            return FillReply::Refused;
        }
        let keep = keep - age;
        let ends = self.entries.get(&at.0).map_or(keep, |entry| entry.ends.max(keep));
        let entry = Entry {
            stamp: token.to_owned(),
            body: body.to_owned(),
            born: self.now as i64 - age as i64,
            fresh: self.now + lifetime - age,
            keep,
            ends,
        };
        self.entries.insert(at.0, entry);
        self.leases.remove(&at);
        FillReply::Stored
    }
}

async fn histories_agree_with_a_naive_model(harness: Harness) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let second = Duration::from_secs;
    for round in 0..80 {
        let history = histories().new_tree(&mut runner).unwrap().current();
        let mut model = Model { now: 1_000, ..Model::default() };
        for (step, (entry, authorized, token, op)) in history.iter().enumerate() {
            let lane = if *authorized { Lane::Authorized } else { Lane::Open };
            let at = Address::new(format!("{round}-{entry}"), lane);
            let (key, token) = ((*entry, *authorized), format!("token-{token}"));
            let context = format!("step {step} of {history:?}");
            match *op {
                Op::Lookup => {
                    let reply = harness.lookup(&at).await.unwrap();
                    assert_eq!(reply, model.lookup(*entry), "{context}");
                }
                Op::Lease { length, seen } => {
                    let there = model.stamp(*entry).map(str::to_owned);
                    let seen = match seen {
                        Seen::Nothing => None,
                        Seen::WhatIsThere => there.as_deref(),
                        Seen::SomethingElse => Some("something else"),
                    };
                    let reply = harness.lease(&at, &token, second(length), seen).await.unwrap();
                    assert_eq!(reply, model.lease(key, &token, length, seen), "{context}");
                }
                Op::Renew { length } => {
                    let reply = harness.renew(&at, &token, second(length)).await.unwrap();
                    assert_eq!(reply, model.holds(key, &token), "{context}");
                    if reply {
                        let until = model.now + length;
                        model.leases.insert(key, Lease { owner: Some(token), until });
                    }
                }
                Op::Fill { age, lifetime, stale } => {
                    let body = step.to_string();
                    let mut fill = fill(&body, lifetime);
                    (fill.age, fill.stale) = (second(age), second(stale));
                    // A response that is stale from the start is not the model's business.
                    if age > lifetime {
                        continue;
                    }
                    let reply = harness.fill(&at, &token, fill).await.unwrap();
                    let expected = model.fill(key, &token, &body, (age, lifetime, stale));
                    assert_eq!(reply, expected, "{context}");
                }
                Op::Fail => {
                    let reply = harness.release(&at, &token, Verdict::Failed).await.unwrap();
                    assert_eq!(reply, model.holds(key, &token), "{context}");
                    if reply {
                        model.leases.remove(&key);
                    }
                }
                Op::Mark { length } => {
                    let mark = Verdict::Uncacheable(second(length));
                    let reply = harness.release(&at, &token, mark).await.unwrap();
                    assert_eq!(reply, model.holds(key, &token), "{context}");
                    if reply {
                        let until = model.now + length;
                        model.leases.insert(key, Lease { owner: None, until });
                    }
                }
                Op::Purge => {
                    let reply = harness.purge(&[at.entry().to_owned()]).await.unwrap();
                    let expected = u64::from(model.entries.remove(entry).is_some());
                    assert_eq!(reply, expected, "{context}");
                    model.leases.retain(|(other, _), _| other != entry);
                }
                Op::Advance { seconds } => {
                    harness.advance(second(seconds));
                    model.now += seconds;
                    model.sweep();
                }
            }
        }
    }
}

#[tokio::test]
async fn every_verb_is_one_round_trip() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let verbs = async || {
        let at = address("e");
        [
            proxy.turns_of(backend.lease(&at, "a", LENGTH, None)).await.1,
            proxy.turns_of(backend.renew(&at, "a", LENGTH)).await.1,
            proxy.turns_of(backend.fill(&at, "a", fill("body", 60))).await.1,
            proxy.turns_of(backend.lookup(&at)).await.1,
            proxy.turns_of(backend.lease(&at, "b", LENGTH, Some("a"))).await.1,
            proxy.turns_of(backend.release(&at, "b", Verdict::Failed)).await.1,
            proxy.turns_of(backend.purge(&["e".into(), "f".into()])).await.1,
        ]
    };
    verbs().await; // the server learns the scripts
    assert_eq!(verbs().await, [1; 7]);
}

async fn redis_decides_by_its_own_time_and_forgets_by_itself(harness: Harness) {
    let backend = harness.live().await;
    let at = address("e");
    granted(&backend, &at, "a").await;
    backend.fill(&at, "a", fill("body", 60)).await.unwrap();
    granted(&backend, &address("f"), "b").await;
    let found = found(backend.lookup(&at).await.unwrap());
    assert!(found.age < Duration::from_secs(50) && found.fresh_for > Duration::from_secs(10));
    let lifetime = found.age + found.fresh_for;
    assert_eq!(lifetime, Duration::from_secs(60), "age and freshness are of the same moment");

    let keys = harness.keys("*");
    assert_eq!(keys.len(), 2, "an entry and a lease: {keys:?}");
    for key in keys {
        let left = harness.command(&["PTTL", &key]).int();
        assert!(left > 0 && left <= 60_000, "{key} stays for {left} ms");
    }
}

/// A key lives as long as the longest of its leases, so with a new one each second for ever.
async fn leases_that_have_ended_do_not_pile_up(harness: Harness) {
    let held = address("e");
    granted(&*harness, &held, "held").await;
    for variant in 0..400 {
        if variant == 200 {
            harness.advance(Duration::from_secs(2));
        }
        let (at, token) = (Address::variant_of("e", variant.to_string(), Lane::Open), "token");
        granted(&*harness, &at, token).await;
        let mark = Verdict::Uncacheable(Duration::from_secs(1));
        assert!(harness.release(&at, token, mark).await.unwrap());
    }
    let left = harness.command(&["HLEN", &format!("{PREFIX}:cache-lease:{{e}}")]).int();
    assert!((201..300).contains(&left), "{left} are left, 201 of which have not ended");
    let (at, token) = (Address::variant_of("e", "399", Lane::Open), "token");
    let reply = harness.lease(&at, token, LENGTH, None).await.unwrap();
    assert!(matches!(reply, LeaseReply::Uncacheable { .. }), "{reply:?}");
    assert!(harness.renew(&held, "held", LENGTH).await.unwrap());
}

async fn what_cannot_be_read_is_absent_and_can_be_filled_again(harness: Harness) {
    // On the system's clock, which `x` is needed for.
    let backend = harness.live().await;
    let at = address("e");
    let key = format!("{PREFIX}:cache:{{e}}");
    let spoil = |field: &str, value: &[u8]| {
        harness.command(&[b"HSET".as_slice(), key.as_bytes(), field.as_bytes(), value]);
    };
    let mut stamp = 0;
    let mut spoiled = async |field: &str, value: &[u8]| {
        stamp += 1;
        let (old, new) = (format!("old-{stamp}"), format!("new-{stamp}"));
        backend.purge(&["e".into()]).await.unwrap();
        granted(&backend, &at, &old).await;
        backend.fill(&at, &old, fill("body", 60)).await.unwrap();
        spoil(field, value);
        let Lookup::Absent { stamp } = backend.lookup(&at).await.unwrap() else {
            panic!("{field} was taken for good: {value:?}");
        };
        // Whoever found it so may replace it, and is not sent to look it up again.
        let reply = backend.lease(&at, &new, LENGTH, stamp.as_deref()).await.unwrap();
        assert_eq!(reply, LeaseReply::Granted, "{field}: {value:?}");
        let reply = backend.fill(&at, &new, fill("body", 60)).await.unwrap();
        assert_eq!(reply, FillReply::Stored);
        found(backend.lookup(&at).await.unwrap());
    };
    let whole = response("body").encode().unwrap();
    let newer = [&[whole[0] + 1], &whole[1..]].concat();
    spoiled("b:", &newer).await;
    spoiled("b:", &whole[..whole.len() - 1]).await;
    spoiled("b:", b"").await;
    spoiled("m:", b"2|of another version").await;
    spoiled("m:", b"\xff").await;
    spoiled("m:", b"1|stamp|0|9000000000000|9000000000000|0|0|no tags").await;
    spoiled("x", b"soon").await;
}

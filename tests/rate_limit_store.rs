//! The stores of the rate limits: what a verb costs, what a key costs, and what a full memory keeps.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{cluster::RedisCluster, proxy::FaultProxy, server::RedisServer},
};
use std::time::Duration;
use tokio::task::JoinHandle;
use towerkeep::{
    Backend, Clock, StoreError,
    rate_limit::{Charge, Policy, Quota, RateLimitStore, Rule, Slots, Verdict},
};

on_every_backend! {
    what_a_shadow_policy_denies_is_reported_and_let_through,
    a_ban_outlasts_a_reset_and_ends_by_itself,
    so_many_denials_within_so_long_are_a_ban_that_none_of_them_prolongs,
    only_denials_of_requests_that_were_to_be_charged_become_a_ban,
    a_log_forgives_a_clock_that_went_back_by_more_than_its_period_and_no_less,
    every_verb_accepts_no_charges_at_all,
}

async fn what_a_shadow_policy_denies_is_reported_and_let_through(harness: Harness) {
    let harness = harness.without_deny_cache().await;
    let tried = Policy::fixed_window("tried", Quota::per_hour(2)).shadow();
    let real = Policy::fixed_window("real", Quota::per_hour(4));
    let charges = || [Charge::new(&tried, "k", 1), Charge::new(&real, "k", 1)];
    let mut said = Vec::new();
    for _ in 0..6 {
        let verdict = harness.check(&charges()).await.unwrap();
        let [tried, real] = verdict.outcomes() else { panic!("two outcomes") };
        said.push((verdict.is_allowed(), tried.allowed, tried.remaining, real.remaining));
    }
    assert_eq!(said[..2], [(true, true, 1, 3), (true, true, 0, 2)]);
    assert_eq!(said[2..4], [(true, false, 0, 1), (true, false, 0, 0)]);
    assert_eq!(said[4..], [(false, false, 0, 0); 2]);
}

async fn a_ban_outlasts_a_reset_and_ends_by_itself(harness: Harness) {
    let policy = Policy::gcra("p", Quota::per_second(5));
    let charges = [Charge::new(&policy, "k", 1)];
    harness.ban(&charges, Duration::from_secs(60)).await.unwrap();
    harness.reset(&charges).await.unwrap();
    let verdict = harness.check(&charges).await.unwrap();
    assert!(verdict.is_banned() && !verdict.is_allowed());
    assert_eq!(verdict.retry_after(), Some(Duration::from_secs(60)));
    assert_eq!(verdict.outcomes()[0].remaining, 5, "a banned request is charged nothing");
    let free = [Charge::new(&policy, "k", 0)];
    assert!(!harness.peek(&free).await.unwrap().is_allowed(), "not even what costs nothing");

    harness.advance(Duration::from_micros(59_999_999));
    assert!(!harness.check(&charges).await.unwrap().is_allowed());
    harness.advance(Duration::from_micros(1));
    assert!(harness.check(&charges).await.unwrap().is_allowed());

    harness.ban(&charges, Duration::MAX).await.unwrap();
    harness.unban(&charges).await.unwrap();
    assert!(harness.check(&charges).await.unwrap().is_allowed());
}

async fn so_many_denials_within_so_long_are_a_ban_that_none_of_them_prolongs(harness: Harness) {
    let (ten, hour) = (Duration::from_secs(10), Duration::from_secs(3_600));
    let policy = Policy::fixed_window("p", Quota::per_day(1)).ban_after(3, ten, hour);
    let charges = [Charge::new(&policy, "k", 1)];
    let check = async || harness.check(&charges).await.unwrap();
    assert!(check().await.is_allowed());
    for _ in 0..5 {
        let verdicts = [check().await, check().await];
        assert!(verdicts.iter().all(|verdict| !verdict.is_allowed() && !verdict.is_banned()));
        harness.advance(ten);
    }
    check().await;
    harness.advance(ten - Duration::from_micros(1));
    harness.reset(&charges).await.unwrap();
    assert!(check().await.is_allowed(), "a reset forgets the count, and not the denials");
    check().await;
    let third = check().await;
    assert!(third.is_banned(), "the denial that makes the ban says so");
    assert_eq!(third.retry_after(), Some(hour));

    harness.advance(hour - Duration::from_micros(1));
    let last = check().await;
    assert_eq!((last.is_banned(), last.retry_after()), (true, Some(Duration::from_micros(1))));
    harness.advance(Duration::from_micros(1));
    let verdicts = [check().await, check().await];
    assert!(verdicts.iter().all(|verdict| !verdict.is_allowed() && !verdict.is_banned()));
    harness.unban(&charges).await.unwrap();
    let verdicts = [check().await, check().await];
    assert!(verdicts.iter().all(|verdict| !verdict.is_banned()), "an unban forgets denials, too");
    assert!(check().await.is_banned());
}

async fn only_denials_of_requests_that_were_to_be_charged_become_a_ban(harness: Harness) {
    let minute = Duration::from_secs(60);
    let policy = Policy::gcra("p", Quota::per_day(5)).ban_after(2, minute, minute);
    let other = Policy::gcra("other", Quota::per_day(1)).ban_after(2, minute, minute);
    let tried = Policy::gcra("tried", Quota::per_day(1)).ban_after(1, minute, minute).shadow();
    let charge = |policy, cost| Charge::new(policy, "k", cost);
    harness.check(&[charge(&policy, 1), charge(&other, 1), charge(&tried, 1)]).await.unwrap();
    for _ in 0..4 {
        let charges = [charge(&policy, 6), charge(&other, 1), charge(&tried, 1)];
        assert!(!harness.peek(&charges).await.unwrap().is_banned());
        assert!(!harness.charge(&charges[2..]).await.unwrap().is_banned());
        assert!(harness.check(&charges[2..]).await.unwrap().is_allowed());
    }
    let charges = [charge(&policy, 1), charge(&other, 1)];
    let banned = async |charges: &[Charge]| {
        let verdict = harness.check(charges).await.unwrap();
        verdict.outcomes().iter().map(|outcome| outcome.banned).collect::<Vec<_>>()
    };
    assert_eq!(banned(&charges).await, [false, false]);
    assert_eq!(banned(&charges).await, [false, true], "each policy counts its own denials");
    assert_eq!(banned(&[charge(&policy, 6)]).await, [false]);
    assert_eq!(banned(&[charge(&policy, 6)]).await, [true], "what costs too much is denied, too");
}

async fn a_log_forgives_a_clock_that_went_back_by_more_than_its_period_and_no_less(
    harness: Harness,
) {
    let harness = harness.without_deny_cache().await;
    let minute = Duration::from_secs(60);
    let charges = [Charge::new(&Policy::sliding_log("p", Quota::per_minute(1)), "k", 1)];
    assert!(harness.check(&charges).await.unwrap().is_allowed());
    let wait = async || harness.check(&charges).await.unwrap().retry_after();
    harness.clock.set_back(minute);
    assert_eq!(wait().await, Some(2 * minute));
    harness.clock.set_back(Duration::from_micros(1));
    assert_eq!(wait().await, Some(minute));
}

async fn every_verb_accepts_no_charges_at_all(harness: Harness) {
    assert!(harness.check(&[]).await.unwrap().is_allowed());
    assert!(harness.peek(&[]).await.unwrap().outcomes().is_empty());
    harness.charge(&[]).await.unwrap();
    harness.refund(&[]).await.unwrap();
    harness.renew(&[]).await.unwrap();
    harness.reset(&[]).await.unwrap();
    harness.ban(&[], Duration::from_secs(1)).await.unwrap();
    harness.unban(&[]).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_other_keys_evicts_neither_a_ban_nor_an_exhausted_count() {
    let store = Backend::builder().max_rate_limits(500).memory();
    let policy = Policy::fixed_window("p", Quota::per_hour(2));
    let charge = |key: &str, cost| [Charge::new(&policy, key, cost)];
    store.ban(&charge("banned", 1), Duration::from_secs(60)).await.unwrap();
    store.check(&charge("exhausted", 2)).await.unwrap();
    for n in 0..20_000 {
        store.check(&charge(&format!("flood {n}"), 1)).await.unwrap();
    }
    assert!(!store.peek(&charge("banned", 1)).await.unwrap().is_allowed());
    assert!(!store.peek(&charge("exhausted", 1)).await.unwrap().is_allowed());

    // Nor the denials that may become a ban, though its own count is nowhere near its end.
    let hour = Duration::from_secs(3_600);
    let strict = Policy::fixed_window("s", Quota::per_hour(9)).ban_after(2, hour, hour);
    let denied = [Charge::new(&strict, "denied", 10)];
    store.check(&denied).await.unwrap();
    for n in 0..20_000 {
        store.check(&charge(&format!("flood {n}"), 1)).await.unwrap();
    }
    assert!(store.check(&denied).await.unwrap().is_banned());

    // A flood that exhausts what it counts fills the memory, and then new keys are refused: what that
    // means is the layer's to say.
    let mut refused = 0;
    for n in 0..20_000 {
        refused += u64::from(store.check(&charge(&format!("more {n}"), 2)).await.is_err());
    }
    assert!(refused > 19_000);
    assert!(!store.peek(&charge("banned", 1)).await.unwrap().is_allowed());
    assert!(!store.peek(&charge("exhausted", 1)).await.unwrap().is_allowed());
}

#[tokio::test]
async fn what_a_full_memory_refuses_is_charged_to_none() {
    let store = Backend::builder().max_rate_limits(4).memory();
    let (wide, narrow) = (
        Policy::fixed_window("w", Quota::per_hour(9)),
        Policy::fixed_window("n", Quota::per_hour(1)),
    );
    store.check(&[Charge::new(&wide, "held", 1)]).await.unwrap();
    for n in 0..3 {
        store.check(&[Charge::new(&narrow, format!("{n}"), 1)]).await.unwrap();
    }
    store.ban(&[Charge::new(&wide, "held", 1)], Duration::from_secs(60)).await.unwrap();
    store.unban(&[Charge::new(&wide, "held", 1)]).await.unwrap();
    store.check(&[Charge::new(&wide, "held", 7)]).await.unwrap();
    // "held" must not make room for "new": it is charged in the same call.
    store
        .check(&[Charge::new(&wide, "held", 1), Charge::new(&narrow, "new", 1)])
        .await
        .unwrap_err();
    let held = store.peek(&[Charge::new(&wide, "held", 1)]).await.unwrap();
    assert_eq!(held.outcomes()[0].remaining, 1);
}

#[tokio::test]
async fn each_verb_is_one_round_trip_for_any_number_of_policies() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let charges: Vec<Charge> = rules()
        .into_iter()
        .enumerate()
        .map(|(n, rule)| {
            Charge::new(&Policy::new(&format!("p{n}"), rule).unwrap(), format!("k{n}"), 1)
        })
        .collect();
    let minute = Duration::from_secs(60);
    for turn in 0..2 {
        // The first time a server is sent each script by its text.
        let most = if turn == 0 { 2 } else { 1 };
        let turns = [
            proxy.turns_of(async { backend.check(&charges).await.unwrap() }).await.1,
            proxy.turns_of(async { backend.peek(&charges).await.unwrap() }).await.1,
            proxy.turns_of(async { backend.charge(&charges).await.unwrap() }).await.1,
            proxy.turns_of(async { backend.refund(&charges).await.unwrap() }).await.1,
            proxy.turns_of(async { backend.renew(&charges).await.unwrap() }).await.1,
            proxy.turns_of(async { backend.reset(&charges).await.unwrap() }).await.1,
            proxy.turns_of(async { backend.ban(&charges, minute).await.unwrap() }).await.1,
            proxy.turns_of(async { backend.unban(&charges).await.unwrap() }).await.1,
        ];
        assert!(turns.iter().all(|turns| (1..=most).contains(turns)), "{turns:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_denied_costs_redis_nothing_until_it_may_try_again() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let clock = Clock::manual();
    let builder = Backend::builder().clock(clock.clone()).deadline(Duration::from_secs(10));
    let backend = builder.redis(proxy.url()).await.unwrap();
    let [minute, hour] = [Quota::per_minute(60), Quota::per_hour(100)];
    let narrow = Policy::gcra("narrow", minute.burst(1));
    let wide = Policy::fixed_window("wide", hour);
    let charges = [Charge::new(&wide, "k", 1), Charge::new(&narrow, "k", 1)];
    assert!(backend.check(&charges).await.unwrap().is_allowed());
    assert!(!backend.check(&charges).await.unwrap().is_allowed());

    let flood = async {
        for _ in 0..500 {
            let verdict = backend.check(&charges).await.unwrap();
            let [wide, narrow] = verdict.outcomes() else { panic!("two outcomes") };
            assert!(!verdict.is_allowed() && !wide.asked && narrow.asked);
            assert_eq!(verdict.retry_after(), Some(Duration::from_secs(1)));
        }
    };
    assert_eq!(proxy.turns_of(flood).await.1, 0);
    clock.advance(Duration::from_secs(1));
    assert!(backend.check(&charges).await.unwrap().is_allowed());

    // What this process gives back, resets or lifts it knows.
    assert!(!backend.check(&charges).await.unwrap().is_allowed());
    backend.reset(&charges).await.unwrap();
    let again = backend.check(&charges).await.unwrap();
    assert!(again.is_allowed());
    assert!(!backend.check(&charges).await.unwrap().is_allowed());
    let receipt = again.outcomes()[1].receipt;
    backend.refund(&[charges[1].clone().with_receipt(receipt)]).await.unwrap();
    assert!(backend.check(&charges).await.unwrap().is_allowed());
    backend.ban(&charges, Duration::from_secs(60)).await.unwrap();
    assert!(backend.check(&charges).await.unwrap().is_banned());
    backend.unban(&charges).await.unwrap();
    assert!(!backend.check(&charges).await.unwrap().is_banned());
}

#[tokio::test]
async fn a_flood_costs_redis_as_many_round_trips_as_make_the_ban_and_then_none() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let builder = Backend::builder().clock(Clock::manual()).deadline(Duration::from_secs(10));
    let backend = builder.redis(proxy.url()).await.unwrap();
    let hour = Duration::from_secs(3_600);
    let strict = Policy::gcra("strict", Quota::per_hour(2)).ban_after(20, hour, hour);
    let daily = Policy::gcra("daily", Quota::per_day(1));
    let charges = [Charge::new(&strict, "k", 1), Charge::new(&daily, "k", 1)];
    assert!(backend.check(&charges).await.unwrap().is_allowed());
    assert!(!backend.check(&charges).await.unwrap().is_allowed());
    let flood = async |charges: &[Charge]| {
        for _ in 0..500 {
            assert!(!backend.check(charges).await.unwrap().is_allowed());
        }
        backend.check(charges).await.unwrap().is_banned()
    };
    // The strict policy denies nothing here, so that nothing is to be counted.
    assert_eq!(proxy.turns_of(flood(&charges)).await, (false, 0));
    assert!(backend.check(&charges[..1]).await.unwrap().is_allowed());
    assert_eq!(proxy.turns_of(flood(&charges[..1])).await, (true, 20));
    assert_eq!(proxy.turns_of(flood(&charges)).await, (true, 0));
}

fn rules() -> [Rule; 6] {
    let quota = Quota::per_minute(100);
    [
        Rule::gcra(quota).unwrap(),
        Rule::token_bucket(quota).unwrap(),
        Rule::fixed_window(quota).unwrap(),
        Rule::sliding_window(quota).unwrap(),
        Rule::sliding_log(quota).unwrap(),
        Rule::concurrency(100).unwrap(),
    ]
}

#[tokio::test]
async fn a_key_takes_no_more_memory_than_stated() {
    let redis = RedisServer::start();
    let backend = Backend::builder().prefix(PREFIX).redis(redis.url()).await.unwrap();
    let mut sizes = Vec::new();
    for rule in rules() {
        let policy = Policy::new("api", rule).unwrap();
        let times = if matches!(rule, Rule::Concurrency(_)) { 20 } else { 100 };
        for _ in 0..times {
            backend.check(&[Charge::new(&policy, "u:0123456789abcdef", 1)]).await.unwrap();
        }
        let name = rule.algorithm();
        let key = format!("{PREFIX}:limit:{{u:0123456789abcdef}}:api:{name}");
        let used = redis.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).int();
        sizes.push((name, used - key.len() as i64));
        assert!(redis.command(&["PTTL", &key]).int() > 0, "{key}");
    }
    // Beside the name of the key. A short text may lie in what the server took for the key of a ban, which
    // it was told before: 16 bytes more than it needs.
    let stated = [72, 112, 112, 112, 1_250, 700];
    for ((name, used), stated) in sizes.iter().zip(stated) {
        assert!(*used <= stated, "{name}: {used} of {stated} bytes; all: {sizes:?}");
    }
}

/// Two keys on different servers of a cluster.
fn two_policies() -> [Policy; 2] {
    let wide = Policy::fixed_window("wide", Quota::per_hour(100));
    [wide, Policy::fixed_window("narrow", Quota::per_hour(2))]
}

#[tokio::test]
async fn in_a_cluster_what_a_later_key_denies_is_given_back() {
    let cluster = RedisCluster::start();
    let backend = Backend::builder()
        .prefix(PREFIX)
        .deadline(Duration::from_secs(10))
        .rate_limit_deny_cache(Duration::ZERO)
        .redis(cluster.url())
        .await
        .unwrap();
    let [wide, narrow] = two_policies();
    let charges = |n: u32| [Charge::new(&wide, "all", 1), Charge::new(&narrow, format!("{n}"), 60)];
    // The narrow one is asked first, and denies: nothing is taken of the wide one.
    let verdict = backend.check(&charges(0)).await.unwrap();
    assert!(!verdict.is_allowed());
    assert_eq!(verdict.outcomes()[0].remaining, 100);
    // Here the wide one denies, after the narrow one was charged.
    for n in 0..8 {
        let both = [Charge::new(&wide, "all", 101), Charge::new(&narrow, format!("{n}"), 1)];
        let verdict = backend.check(&both).await.unwrap();
        assert!(!verdict.is_allowed() && verdict.outcomes()[1].allowed);
        assert_eq!(verdict.outcomes()[1].remaining, 2, "it was given back");
        assert_eq!(verdict.outcomes()[1].receipt, 0);
        let peeked = backend.peek(&both).await.unwrap();
        assert_eq!(peeked.outcomes()[1].remaining, 2);
    }
}

#[tokio::test]
async fn in_a_cluster_a_single_slot_decides_different_keys_in_one_step() {
    let cluster = RedisCluster::start();
    let builder = Backend::builder().prefix(PREFIX).deadline(Duration::from_secs(10));
    let backend = builder.rate_limit_slots(Slots::Single).redis(cluster.url()).await.unwrap();
    let [wide, narrow] = two_policies();
    for n in 0..8 {
        let both =
            [Charge::new(&wide, format!("{n}"), 1), Charge::new(&narrow, format!("x{n}"), 1)];
        assert!(backend.check(&both).await.unwrap().is_allowed());
    }
    let mut keys = Vec::new();
    cluster.each_master(|master| keys.push(master.command(&["KEYS", "*"]).texts().len()));
    keys.sort_unstable();
    assert_eq!(keys, [0, 0, 16]);
}

/// Two keys on different servers of a cluster, of which that with the lower limit is asked first, and
/// a store whose calls end after that deadline.
struct TwoServers {
    cluster: RedisCluster,
    backend: Backend,
    charges: [Charge; 2],
}

impl TwoServers {
    async fn start(deadline: Duration, far_cost: u64) -> Self {
        Self::believing(deadline, far_cost, Duration::ZERO).await
    }

    /// The store believes denials for so long.
    async fn believing(deadline: Duration, far_cost: u64, denials: Duration) -> Self {
        let cluster = RedisCluster::builder().start();
        let builder = Backend::builder().prefix(PREFIX).deadline(deadline);
        let builder = builder.rate_limit_deny_cache(denials);
        let backend = builder.redis(cluster.url()).await.unwrap();
        let [wide, narrow] = two_policies();
        let port = |key: &str| cluster.owner_of(&format!("{PREFIX}:limit:{{{key}}}:")).port();
        let mut keys = (0..).map(|n| format!("far-{n}"));
        let far = keys.find(|key| port(key) != port("near")).expect("there are several servers");
        let charges = [Charge::new(&narrow, "near", 1), Charge::new(&wide, far, far_cost)];
        // Every script is known everywhere.
        for charge in &charges {
            let told = backend.charge(std::slice::from_ref(charge)).await.unwrap();
            let receipt = told.outcomes()[0].receipt;
            backend.refund(&[charge.clone().with_receipt(receipt)]).await.unwrap();
        }
        Self { cluster, backend, charges }
    }

    fn server(&self, at: usize) -> &RedisServer {
        self.cluster.owner_of(&format!("{PREFIX}:limit:{{{}}}:", self.charges[at].key))
    }

    /// A check that has charged the near key and hangs at the far one's server.
    async fn hanging(&self, far: &RedisServer) -> JoinHandle<Result<Verdict, StoreError>> {
        far.pause();
        let (backend, charges) = (self.backend.clone(), self.charges.clone());
        let waiting = tokio::spawn(async move { backend.check(&charges).await });
        self.until_left(1).await;
        waiting
    }

    async fn until_left(&self, left: u64) {
        let near = async || self.backend.peek(&self.charges[..1]).await.unwrap();
        let seen = async {
            while near().await.outcomes()[0].remaining != left {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("so many are left");
    }
}

#[tokio::test]
async fn in_a_cluster_what_was_taken_goes_back_when_nobody_waits_for_the_other_keys() {
    let servers = TwoServers::start(Duration::from_secs(30), 1).await;
    let far = servers.server(1);
    let waiting = servers.hanging(far).await;
    // As a layer whose deadline is shorter does, or a client that leaves.
    waiting.abort();
    servers.until_left(2).await;
    far.resume();
}

#[tokio::test]
async fn in_a_cluster_nobody_stays_denied_by_what_was_given_back() {
    let (patience, hour) = (Duration::from_secs(30), Duration::from_secs(3_600));
    let servers = TwoServers::believing(patience, 1, hour).await;
    let far = servers.server(1);
    let waiting = servers.hanging(far).await;
    let mut both = servers.charges[0].clone();
    both.cost = 2;
    let passes =
        async || servers.backend.check(std::slice::from_ref(&both)).await.unwrap().is_allowed();
    assert!(!passes().await, "one of two is taken");
    waiting.abort();
    let passed = async {
        while !passes().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(patience, passed).await.expect("it was given back");
    far.resume();
}

#[tokio::test]
async fn in_a_cluster_a_denial_holds_though_what_was_taken_cannot_be_given_back() {
    let servers = TwoServers::start(Duration::from_secs(3), 101).await;
    let (near, far) = (servers.server(0), servers.server(1));
    let waiting = servers.hanging(far).await;
    near.pause();
    far.resume();
    let verdict = waiting.await.unwrap().expect("the far key was denied, whatever else fails");
    near.resume();
    assert!(!verdict.is_allowed() && !verdict.outcomes()[1].allowed);
}

#[tokio::test]
async fn in_a_cluster_what_all_keys_allow_stays_taken() {
    let cluster = RedisCluster::start();
    let builder = Backend::builder().prefix(PREFIX).deadline(Duration::from_secs(30));
    let builder = builder.rate_limit_deny_cache(Duration::ZERO);
    let backend = builder.redis(cluster.url()).await.unwrap();
    let [wide, narrow] = two_policies();
    let charges = [Charge::new(&wide, "a", 1), Charge::new(&narrow, "b", 1)];
    let mut allowed = 0;
    for _ in 0..20 {
        allowed += u64::from(backend.check(&charges).await.unwrap().is_allowed());
    }
    assert_eq!(allowed, 2);
    let left = backend.peek(&charges).await.unwrap();
    assert_eq!((left.outcomes()[0].remaining, left.outcomes()[1].remaining), (98, 0));
}

//! Never two holders at a time, by the locks' own clock and by the holders' belief.

use super::spy::{HOUR, PATIENCE, Spy, locks, redis_at, two_live};
use crate::{
    harness::Harness,
    support::{proxy::FaultProxy, server::RedisServer},
};
use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::task::JoinSet;
use towerkeep::lock::Locks;

const TASKS: usize = 32;
const ROUNDS: usize = 12;

on_every_backend! {
    one_of_32_tasks_holds_the_lock_and_the_fences_rise,
    the_holder_knows_of_its_loss_before_another_holds_the_lock,
    the_holder_counts_from_before_the_question,
}

async fn one_of_32_tasks_holds_the_lock_and_the_fences_rise(harness: Harness) {
    let fences = contend(&locks(&two_live(&harness).await)).await;
    assert_eq!(fences.len(), TASKS * ROUNDS);
    assert!(fences.is_sorted_by(|a, b| a < b), "in the order of holding: {fences:?}");
}

/// Lets the tasks contend for one lock, half of them through each of the handles, and returns the
/// fences in the order in which they were held.
async fn contend(handles: &[Locks; 2]) -> Vec<u64> {
    let holders = Arc::new(AtomicUsize::new(0));
    let fences = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (locks, holders, fences) = (handles[task % 2].clone(), holders.clone(), fences.clone());
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                let guard = locks.lock("job").ttl(PATIENCE).wait(PATIENCE).acquire().await.unwrap();
                assert_eq!(holders.fetch_add(1, SeqCst), 0, "another holds it already");
                fences.lock().unwrap().push(guard.fence());
                tokio::task::yield_now().await;
                assert_eq!(holders.fetch_sub(1, SeqCst), 1, "another came in between");
                guard.release().await.unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    mem::take(&mut *fences.lock().unwrap())
}

/// Without the line in each process, every release would send every waiter to the store: about
/// `TASKS` questions for each acquisition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_do_not_storm_the_store() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let url = proxy.url();
    let handles =
        [Locks::new(redis_at(&url).await).poll(HOUR), Locks::new(redis_at(&url).await).poll(HOUR)];
    let acquisitions = contend(&handles).await.len();
    // An acquisition costs its own question and release, and while it lasts, the first in line of
    // each process asks in vain when it gets there, when it has subscribed, and when it is woken.
    let commands = proxy.commands().len();
    assert!(commands <= 8 * acquisitions, "{commands} commands for {acquisitions} acquisitions");
    // Whoever is next in line takes the subscription over.
    let subscriptions = proxy.count("SUBSCRIBE");
    assert!(subscriptions <= acquisitions / 4, "{subscriptions} subscriptions");
}

/// 32 of one process, and 32 that each have a process of their own: how often they ask in two seconds in
/// which nobody releases the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_long_ask_seldom() {
    const WAIT: Duration = Duration::from_secs(2);
    let server = RedisServer::start();
    let holder = Locks::new(redis_at(&server.url()).await);
    let held = holder.lock("job").ttl(HOUR).acquire().await.unwrap();
    let proxy = FaultProxy::start(server.port());
    let here = Locks::new(redis_at(&proxy.url()).await);
    let mut others = Vec::new();
    for _ in 0..TASKS {
        others.push(Locks::new(redis_at(&proxy.url()).await));
    }
    // The first question, one more when it has subscribed, and one for each pause, which is half of the
    // poll's second at the least.
    let asked = 2 + 4;
    for (processes, handles) in [(1, vec![here; TASKS]), (TASKS, others)] {
        proxy.reset();
        let mut waiters = JoinSet::new();
        for locks in handles {
            waiters.spawn(locks.lock("job").wait(WAIT).acquire());
        }
        while let Some(waited) = waiters.join_next().await {
            assert!(waited.unwrap().unwrap_err().is_timed_out());
        }
        let asks = proxy.count("EVALSHA") + proxy.count("EVAL");
        println!("{TASKS} in {processes} processes asked {asks} times in {WAIT:?}");
        assert!(asks <= processes * asked, "{asks} questions of {processes} processes");
        assert!(asks > 0 && proxy.commands().len() <= asks + 2 * processes, "{:?}", proxy.counts());
    }
    held.release().await.unwrap();
}

async fn the_holder_knows_of_its_loss_before_another_holds_the_lock(harness: Harness) {
    let [here, there] = locks(&two_live(&harness).await);
    let ttl = Duration::from_millis(40);
    let mut rounds = 0;
    while rounds < 20 {
        let first = match here.lock("a").ttl(ttl).wait(PATIENCE).acquire().await {
            Ok(first) => first,
            // A busy machine: the answer took longer than the TTL.
            Err(error) if error.is_lost() => continue,
            Err(error) => panic!("{error}"),
        };
        let second = there.lock("a").ttl(PATIENCE).wait(PATIENCE).acquire().await.unwrap();
        assert!(first.is_lost(), "two believed to hold the lock");
        assert!(second.fence() > first.fence());
        second.release().await.unwrap();
        first.release().await.unwrap_err();
        rounds += 1;
    }
}

async fn the_holder_counts_from_before_the_question(harness: Harness) {
    let spy = Spy::new(&harness.live().await).keep_replies();
    let (locks, delay) = (Locks::new(spy.clone()), Duration::from_millis(100));
    let late = async {
        tokio::time::sleep(delay).await;
        spy.reply();
    };
    let (guard, ()) = tokio::join!(locks.lock("a").ttl(HOUR).acquire(), late);
    assert!(guard.unwrap().valid_for() <= HOUR * 99 / 100 - delay);
}

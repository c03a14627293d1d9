//! How a lock of a majority is waited for: woken by a release, and asked for seldom meanwhile.

use super::{
    redlock::{Node, all_hold, backends, nodes, over},
    spy::{HOUR, PATIENCE},
};
use crate::support::{proxy::FaultProxy, server::RedisServer};
use std::time::Duration;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use towerkeep::lock::{LockStore, Redlock};

fn asked(node: &Node) -> usize {
    node.calls().iter().filter(|call| **call == "acquire").count()
}

/// By now the pauses between two questions are minutes: only the hints can wake it in time.
#[tokio::test(start_paused = true)]
async fn a_release_wakes_who_waits_and_once() {
    let (nodes, _, locks) = nodes::<5>();
    let holder = locks.lock("a").ttl(HOUR).acquire().await.unwrap();
    all_hold(&nodes).await;
    let other = Redlock::new(nodes.clone()).unwrap().poll(HOUR);
    let waiter = tokio::spawn(other.lock("a").ttl(HOUR).wait(HOUR * 24).acquire());
    sleep(HOUR).await;
    let before = asked(&nodes[0]);
    holder.release().await.unwrap();
    let released = Instant::now();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    assert!(released.elapsed() < Duration::from_secs(1), "after {:?}", released.elapsed());
    assert_eq!(asked(&nodes[0]), before + 1);
}

/// Those who hint at nothing are asked from time to time.
#[tokio::test(start_paused = true)]
async fn a_minority_that_tells_nothing_wakes_nobody_too_late() {
    let (nodes, _, locks) = nodes::<5>();
    let holder = locks.lock("a").ttl(HOUR).acquire().await.unwrap();
    all_hold(&nodes).await;
    let waiter = tokio::spawn(locks.lock("a").ttl(HOUR).wait(HOUR * 24).acquire());
    sleep(HOUR).await;
    nodes[..2].iter().for_each(|node| node.down(true));
    holder.release().await.unwrap();
    let released = Instant::now();
    drop(waiter.await.unwrap().unwrap());
    assert!(released.elapsed() < Duration::from_secs(1), "after {:?}", released.elapsed());
}

/// Two nodes are free, and four take turns at getting them and giving them back.
#[tokio::test(start_paused = true)]
async fn what_is_given_back_by_who_got_too_little_wakes_nobody() {
    let (nodes, _, locks) = nodes::<5>();
    let _holder = locks.lock("a").ttl(HOUR).acquire().await.unwrap();
    all_hold(&nodes).await;
    for free in &nodes[..2] {
        assert!(free.force_release("a").await.unwrap());
    }
    let before = asked(&nodes[4]);
    let minute = Duration::from_secs(60);
    let mut waiters = JoinSet::new();
    for _ in 0..4 {
        let other = Redlock::new(nodes.clone()).unwrap().poll(HOUR);
        waiters.spawn(other.lock("a").ttl(HOUR).wait(minute).acquire());
    }
    while let Some(waited) = waiters.join_next().await {
        assert!(waited.unwrap().unwrap_err().is_timed_out());
    }
    // Each pause is half of 10 ms, 20 ms, 40 ms … at the least, up to the minute, and there is one
    // question more when the hints have come into force.
    let questions = asked(&nodes[4]) - before;
    assert!((4..=4 * 16).contains(&questions), "{questions} questions");
}

/// Three that each wait for themselves, with four tasks each, on real servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_do_not_storm_the_servers() {
    const ROUNDS: usize = 8;
    let servers: Vec<_> = (0..5).map(|_| RedisServer::start()).collect();
    let proxies: Vec<_> = servers.iter().map(|of| FaultProxy::start(of.port())).collect();
    let urls: Vec<_> = proxies.iter().map(FaultProxy::url).collect();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let locks = over(&backends(&urls).await).poll(HOUR);
        for _ in 0..4 {
            let locks = locks.clone();
            tasks.spawn(async move {
                for _ in 0..ROUNDS {
                    let acquire = locks.lock("a").ttl(PATIENCE).wait(PATIENCE).acquire();
                    acquire.await.unwrap().release().await.unwrap();
                }
            });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let commands: usize = proxies.iter().map(|proxy| proxy.commands().len()).sum();
    let each = commands as f64 / (12 * ROUNDS * 5) as f64;
    println!("{each:.1} commands to each server for an acquisition with its release");
    // Its own two; and of each of the two others the question when it is first in line, and one or two
    // when it is woken, with what they give back.
    assert!(each <= 8.0, "{each:.1} commands");
}

/// One of one process, and one of each of eight: how often they ask in two seconds in which nobody
/// releases the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_long_ask_seldom() {
    const WAIT: Duration = Duration::from_secs(2);
    let servers: Vec<_> = (0..5).map(|_| RedisServer::start()).collect();
    let proxies: Vec<_> = servers.iter().map(|of| FaultProxy::start(of.port())).collect();
    let urls: Vec<_> = proxies.iter().map(FaultProxy::url).collect();
    let holder = over(&backends(&urls).await);
    let held = holder.lock("a").ttl(HOUR).acquire().await.unwrap();
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(over(&backends(&urls).await));
    }
    for waiting in [1, others.len()] {
        proxies.iter().for_each(FaultProxy::reset);
        let mut waiters = JoinSet::new();
        for locks in &others[..waiting] {
            waiters.spawn(locks.lock("a").ttl(HOUR).wait(WAIT).acquire());
        }
        while let Some(waited) = waiters.join_next().await {
            assert!(waited.unwrap().unwrap_err().is_timed_out());
        }
        let asks = |of: &FaultProxy| of.count("EVALSHA") + of.count("EVAL");
        let most = proxies.iter().map(asks).max().unwrap();
        println!("{waiting} that wait asked a server {most} times at the most in {WAIT:?}");
        // Half of 10 ms, 20 ms … 640 ms and then of the poll's second, one more when it has
        // subscribed, and the script itself once to a server that does not know it.
        assert!(most <= waiting * 13, "{most} questions of {waiting}");
    }
    held.release().await.unwrap();
}

//! A replica takes over that lacks what its primary had confirmed.

use super::spy::{HOUR, PATIENCE, redis_at};
use crate::{
    harness::PREFIX,
    support::{cluster::RedisCluster, sentinel::Sentinels, server::RedisServer},
};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;
use towerkeep::lock::{Error, Guard, Locks};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_rise_over_a_replica_that_is_promoted_without_the_latest_writes() {
    let group = Sentinels::start();
    let locks = Locks::new(redis_at(&group.url()).await);
    fences_rise(&locks, group.replica(), || {
        group.master().kill();
        group.wait_until_promoted();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_rise_over_a_replica_in_a_cluster_that_is_promoted_without_the_latest_writes() {
    let timeout = Duration::from_millis(700);
    let cluster = RedisCluster::builder().replicas().node_timeout(timeout).start();
    let locks = Locks::new(redis_at(&cluster.url()).await);
    let owner = cluster.owner_of(&keys()[0]);
    let replica = cluster.replica_of(owner);
    fences_rise(&locks, replica, || {
        owner.kill();
        let ports = || cluster.masters().into_iter().map(RedisServer::port);
        until("the replica has taken over", || ports().any(|port| port == replica.port()));
    })
    .await;
}

/// The lock and its fence.
fn keys() -> [String; 2] {
    [format!("{PREFIX}:lock:{{a}}"), format!("{PREFIX}:lock:{{a}}:f")]
}

/// The lock itself is gone with the primary, which no asynchronous replication prevents; but who holds
/// it next has a higher fence, so the resource can tell who is stale.
async fn fences_rise(locks: &Locks, replica: &RedisServer, promote: impl FnOnce()) {
    let early = locks.lock("a").acquire().await.unwrap();
    let behind = early.fence();
    early.release().await.unwrap();
    for _ in 0..5 {
        locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    }
    let stale = locks.lock("a").ttl(HOUR).acquire().await.unwrap();
    assert!(stale.fence() > behind);

    let [lock, fence] = keys();
    block_in_place(|| {
        promote();
        // As if the link to it had been slow since the first lock was released.
        replica.command(&["DEL", &lock]);
        replica.command(&["SET", &fence, &behind.to_string()]);
    });

    let next = acquire(locks).await;
    assert!(next.fence() > stale.fence(), "{} after {}", next.fence(), stale.fence());
    assert!(stale.renew().await.unwrap_err().is_lost());
    next.release().await.unwrap();
}

fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// As soon as the link leads to the new primary.
async fn acquire(locks: &Locks) -> Guard {
    let started = Instant::now();
    loop {
        let refused: Error = match locks.lock("a").ttl(HOUR).acquire().await {
            Ok(guard) => return guard,
            Err(error) => error,
        };
        assert!(refused.is_store() && started.elapsed() < PATIENCE, "{refused:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! A replica takes over that lacks what its primary had confirmed.

use super::spy::{HOUR, PATIENCE, redis_at};
use crate::{
    harness::PREFIX,
    support::{sentinel::Sentinels, server::RedisServer},
};
use std::time::Instant;
use tokio::task::block_in_place;
use towerkeep::lock::{Error, Guard, Locks};

/// The lock itself is gone with the primary, which no asynchronous replication prevents; but who holds
/// it next has a higher fence, so the resource can tell who is stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_rise_over_a_replica_that_is_promoted_without_the_latest_writes() {
    let group = Sentinels::start();
    let locks = Locks::new(redis_at(&group.url()).await);
    let early = locks.lock("a").acquire().await.unwrap();
    let behind = early.fence();
    early.release().await.unwrap();
    for _ in 0..5 {
        locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    }
    let stale = locks.lock("a").ttl(HOUR).acquire().await.unwrap();
    assert!(stale.fence() > behind);

    let replica = group.replica();
    let (lock, fence) = (format!("{PREFIX}:lock:{{a}}"), format!("{PREFIX}:lock:{{a}}:f"));
    block_in_place(|| {
        until("the replica has the last lock", || has(replica, &lock));
        // As if the link to it had been slow since the first lock was released.
        replica.command(&["CONFIG", "SET", "replica-read-only", "no"]);
        replica.command(&["DEL", &lock]);
        replica.command(&["SET", &fence, &behind.to_string()]);
        group.master().kill();
        group.wait_until_promoted();
    });

    let next = acquire(&locks).await;
    assert!(next.fence() > stale.fence(), "{} after {}", next.fence(), stale.fence());
    assert!(stale.renew().await.unwrap_err().is_lost());
    next.release().await.unwrap();
}

fn has(server: &RedisServer, key: &str) -> bool {
    server.command(&["EXISTS", key]).int() == 1
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
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

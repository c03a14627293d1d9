//! A replica that becomes the primary without the last writes of the old one.

use crate::{harness::PREFIX, support::sentinel::Sentinels};
use std::time::Duration;
use tokio::{task::block_in_place, time::sleep};
use towerkeep::{
    Backend,
    idempotency::{Begun, Claim, Fingerprint, IdempotencyStore, Terms},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Begins, once the new primary is found.
async fn fence(store: &Backend, token: &str) -> u64 {
    let claim = Claim::new("id", token);
    let terms = Terms::new(HOUR, HOUR);
    for _ in 0..1_000 {
        match store.begin(&claim, &Fingerprint::new([1; 32]), terms).await {
            Ok(Begun::Acquired { fence, attempts }) => {
                assert_eq!(attempts, 1);
                return fence;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("the new primary is never found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_rises_on_a_replica_that_was_promoted_without_the_last_one() {
    let group = Sentinels::start();
    let backend = Backend::builder().prefix(PREFIX).redis(group.url()).await.unwrap();
    let before = fence(&backend, "on the old primary").await;
    let replica = group.replica();
    let keys = [format!("{PREFIX}:idempotency:{{id}}"), format!("{PREFIX}:idempotency:{{id}}:f")];
    block_in_place(|| {
        replica.command(&["CONFIG", "SET", "replica-read-only", "no"]);
        for key in &keys {
            // It has arrived there, and is lost.
            while replica.command(&["DEL", key]) != crate::support::resp::Value::Int(1) {}
        }
        group.master().kill();
        group.wait_until_promoted();
    });
    let after = fence(&backend, "on the new primary").await;
    assert!(after > before, "{after} after {before}");
}

//! The rate limits in memory, in Redis and in a Cluster against a naive model.
//!
//! `TOWERKEEP_FUZZ_STEPS=200000` makes the histories long, `TOWERKEEP_FUZZ_SEED` makes others.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;
mod rate_limit_tests;

use crate::{harness::Harness, rate_limit_tests::history};

#[tokio::test]
async fn histories_in_memory_agree_with_a_naive_model() {
    agree(Harness::memory(), 2).await;
}

#[tokio::test]
async fn histories_in_redis_agree_with_a_naive_model() {
    agree(Harness::redis().await, 2).await;
}

/// Different keys are not decided in one step there.
#[tokio::test]
async fn histories_of_one_key_in_a_cluster_agree_with_a_naive_model() {
    agree(Harness::cluster().await, 1).await;
}

async fn agree(harness: Harness, keys: u64) {
    // What a store knows without asking is true only where time goes forward, as it does for servers.
    let harness = harness.without_deny_cache().await;
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let steps = number("TOWERKEEP_FUZZ_STEPS", 2_000);
    history::replay(&harness, steps, number("TOWERKEEP_FUZZ_SEED", 1), keys).await;
}

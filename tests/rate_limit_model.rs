//! The rate limits in memory and in Redis against a naive model.
//!
//! `TOWERKEEP_FUZZ_STEPS=200000` makes the histories long, `TOWERKEEP_FUZZ_SEED` makes others.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;
mod rate_limit_tests;

use crate::{harness::Harness, rate_limit_tests::history};

on_every_backend! {
    histories_agree_with_a_naive_model,
}

async fn histories_agree_with_a_naive_model(harness: Harness) {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let steps = number("TOWERKEEP_FUZZ_STEPS", 2_000);
    history::replay(&harness, steps, number("TOWERKEEP_FUZZ_SEED", 1)).await;
}

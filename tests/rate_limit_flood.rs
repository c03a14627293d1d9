//! A flood of clients that nobody saw before: what the limits take of this process's memory, and what
//! they keep in mind. Alone in its process, whose memory it looks at.
//!
//! `TOWERKEEP_FLOOD_KEYS=10000000` makes it long.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed
#![cfg(target_os = "linux")] // it reads /proc

use std::{env, fs, time::Duration};
use towerkeep::{
    Backend,
    rate_limit::{Charge, Policy, Quota, RateLimitStore},
};

/// Fewer than a tenth of the shortest flood.
const CAPACITY: usize = 5_000;

#[tokio::test]
async fn a_flood_of_keys_takes_no_more_memory_and_forgets_neither_a_ban_nor_an_exhausted_count() {
    let keys = env::var("TOWERKEEP_FLOOD_KEYS").map_or(100_000, |text| text.parse().unwrap());
    let store = Backend::builder().max_rate_limits(CAPACITY).memory();
    let policy = Policy::fixed_window("p", Quota::per_day(9));
    let charge = |key: &str, cost| [Charge::new(&policy, key, cost)];
    store.ban(&charge("banned", 1), Duration::from_secs(86_400)).await.unwrap();
    store.check(&charge("exhausted", 9)).await.unwrap();

    let mut early = 0;
    for n in 0..keys {
        if n == keys / 10 {
            early = resident_bytes();
        }
        assert!(store.check(&charge(&n.to_string(), 1)).await.unwrap().is_allowed());
    }
    let late = resident_bytes();
    eprintln!("{keys} keys: {early} bytes resident after a tenth of them, {late} after all");
    // A key that stayed would take more than 100 bytes.
    assert!(late < early + early / 4, "{early} bytes grew to {late}");

    assert!(store.check(&charge("banned", 1)).await.unwrap().is_banned());
    assert!(!store.check(&charge("exhausted", 1)).await.unwrap().is_allowed());
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1_024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

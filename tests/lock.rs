//! Locks in memory and in a real Redis: what a holder, a waiter and a fault must see.

#![cfg(all(feature = "lock", feature = "redis"))]

// By path, as `mod support;` here would mean another file.
#[path = "support/mod.rs"]
mod support;

/// One file for each side of a lock. `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "lock_tests"]
mod tests {
    mod conformance;
    mod exclusion;
    mod faults;
    mod harness;
    mod model;
    mod waiting;
}

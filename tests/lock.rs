//! Locks in memory and in a real Redis: what a holder, a waiter and a fault must see.

#![cfg(all(feature = "lock", feature = "redis"))]

mod support;
#[macro_use]
mod harness;

/// One file for each side of a lock. `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "lock_tests"]
mod tests {
    mod conformance;
    mod exclusion;
    mod failover;
    mod faults;
    mod fleet;
    mod model;
    mod processes;
    mod redlock;
    mod redlock_faults;
    mod redlock_waiting;
    mod spy;
    mod waiting;
}

//! Idempotency keys in a fleet of real processes that are killed, paused and cut off at every step of a
//! request: what runs, what is replayed, and what never happens.

mod support;
#[macro_use]
mod harness;

/// One file for each promise. `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "idempotency_crash_tests"]
mod tests {
    mod app;
    mod cuts;
    mod ends;
    mod kills;
    mod pauses;
    mod promotion;
    mod runs;
    mod site;
    mod waits;
}

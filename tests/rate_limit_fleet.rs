//! Rate limits in a fleet of real processes over real sockets: what is never exceeded, what a stream
//! holds, and what becomes of the limits while their Redis is hung, dead or cut off.

mod support;
#[macro_use]
mod harness;

/// One file for each promise. `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "rate_limit_fleet_tests"]
mod tests {
    mod admissions;
    mod app;
    mod bounds;
    mod guessing;
    mod leases;
    mod outages;
    mod streaming;
    mod turns;
}

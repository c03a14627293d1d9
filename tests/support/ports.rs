//! Loopback ports for servers that have to come back on the port they had.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    ops::Range,
    sync::Mutex,
};

/// Below the ephemeral ranges of Linux and macOS: while a server is down, no outgoing connection
/// takes its port.
const RANGE: Range<u16> = 12_000..32_000;

/// A node of a Cluster listens for the other nodes here, too: Redis 6.2 knows no other place.
pub(super) const BUS: u16 = 10_000;

static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on and that this process has not handed out before.
///
/// Another process may still take it first; who binds it has to be ready to ask for another.
pub(super) fn free_port() -> u16 {
    free_in(RANGE, |port| vec![port])
}

/// The same for a node of a Cluster: the port `BUS` above it is free, too.
pub(super) fn free_cluster_port() -> u16 {
    free_in(RANGE.start..RANGE.end - BUS, |port| vec![port, port + BUS])
}

/// The same for an application that listens on the next port, too.
pub(crate) fn free_pair() -> u16 {
    free_in(RANGE, |port| vec![port, port + 1])
}

fn free_in(range: Range<u16>, needed: impl Fn(u16) -> Vec<u16>) -> u16 {
    let mut taken = TAKEN.lock().expect("the list of ports is intact");
    let taken = taken.get_or_insert_default();
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for attempt in 0..10_000 {
        let random = RandomState::new().hash_one(attempt);
        let port = range.start + (random % range.len() as u64) as u16;
        let ports = needed(port);
        if ports.iter().all(|port| !taken.contains(port) && is_free(*port)) {
            taken.extend(ports);
            return port;
        }
    }
    panic!("no free port in {range:?}");
}

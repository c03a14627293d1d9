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

static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on and that this process has not handed out before.
///
/// Another process may still take it first; who binds it has to be ready to ask for another.
pub(super) fn free_port() -> u16 {
    let mut taken = TAKEN.lock().expect("the list of ports is intact");
    let taken = taken.get_or_insert_default();
    for attempt in 0..10_000 {
        let random = RandomState::new().hash_one(attempt);
        let port = RANGE.start + (random % RANGE.len() as u64) as u16;
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}

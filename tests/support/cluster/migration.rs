//! A slot on its way from one master to another, step by step.

use super::{
    super::{resp::Value, server::RedisServer},
    group::Group,
};

/// How long `MIGRATE` may take, in milliseconds.
const PATIENCE: &str = "5000";

/// A slot between two masters: for the keys that have moved, the old one answers with ASK. Dropped
/// without [`finish`](Self::finish), it stays there.
#[derive(Debug)]
pub(crate) struct Migration<'a> {
    group: &'a Group,
    slot: String,
    from: &'a RedisServer,
    to: &'a RedisServer,
}

impl<'a> Migration<'a> {
    pub(super) fn begin(
        group: &'a Group,
        slot: u16,
        from: &'a RedisServer,
        to: &'a RedisServer,
    ) -> Self {
        assert_ne!(from.port(), to.port(), "slot {slot} is there already");
        let slot = slot.to_string();
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", group.id_of(from)]);
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", group.id_of(to)]);
        Self { group, slot, from, to }
    }

    /// The master that had the slot.
    pub(crate) fn from(&self) -> &'a RedisServer {
        self.from
    }

    /// The master that gets it.
    pub(crate) fn to(&self) -> &'a RedisServer {
        self.to
    }

    /// Moves up to so many keys, and says how many it found.
    pub(crate) fn move_keys(&self, count: usize) -> usize {
        let mut client = self.from.client();
        let count = count.to_string();
        let keys = client.command(&["CLUSTER", "GETKEYSINSLOT", &self.slot, &count]).texts();
        if !keys.is_empty() {
            self.move_these(&keys.iter().map(String::as_str).collect::<Vec<_>>());
        }
        keys.len()
    }

    /// Moves these keys of the slot; those that are not there are passed over.
    pub(crate) fn move_these(&self, keys: &[&str]) {
        let port = self.to.port().to_string();
        let head = ["MIGRATE", "127.0.0.1", &port, "", "0", PATIENCE, "KEYS"];
        let reply = self.from.command(&[&head, keys].concat());
        assert!(matches!(reply, Value::Status(_)), "MIGRATE answers {reply:?}");
    }

    /// Moves what is left in batches of 10, gives the slot to its new owner, and returns when all
    /// nodes know it.
    pub(crate) fn finish(self) {
        while self.move_keys(10) > 0 {}
        let id = self.group.id_of(self.to);
        let set = ["CLUSTER", "SETSLOT", &self.slot, "NODE", id];
        // The new owner first, so that there is one at any time.
        self.to.command(&set);
        self.from.command(&set);
        let done = [self.to.port(), self.from.port()];
        for node in self.group.running() {
            if !done.contains(&node.port()) && self.group.says(node).is_master() {
                node.command(&set);
            }
        }
        self.group.wait_until_agreed();
    }
}

//! Clusters that go from test to test.
//!
//! A test binary starts as many as run at once. Nobody drops a static, but every server has a
//! watchdog that notices the end of the test process; see `guarded`.

use std::sync::Mutex;

use super::{birth::Options, group::Group};

static IDLE: Mutex<Vec<Group>> = Mutex::new(Vec::new());

/// An empty Cluster with these options, which are the same in every test but for the replicas.
pub(super) fn lend(options: &Options) -> Group {
    let mut idle = IDLE.lock().expect("no panic while the pool changes");
    match idle.iter().rposition(|group| group.servers.len() == options.size()) {
        Some(index) => idle.swap_remove(index),
        None => {
            drop(idle);
            Group::start(options)
        }
    }
}

/// Keeps the Cluster for the next test, if nothing of the last can be seen in it; ends it if a node
/// was killed or has another role, a slot moved, a setting changed.
pub(super) fn give_back(group: Group) {
    if group.is_as_born_when_cleaned() {
        IDLE.lock().expect("no panic while the pool changes").push(group);
    }
}

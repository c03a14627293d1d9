//! What a backend gives every one of its stores.

use crate::{clock::Clock, pubsub::Hints, tasks::Tasks};

/// The clock to decide by, the tasks to run in and the hints to wake by. A cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) hints: Hints,
}

impl Default for Context {
    /// What a store in memory needs.
    fn default() -> Self {
        Self { clock: Clock::system(), tasks: Tasks::default(), hints: Hints::memory() }
    }
}

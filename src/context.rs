//! What a backend gives every one of its stores.

use crate::{clock::Clock, tasks::Tasks};

/// The clock to decide by and the tasks to run in. A cheap clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
}

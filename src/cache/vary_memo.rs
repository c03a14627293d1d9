//! What this process knows of what entries vary by, so that most lookups ask for the right variant.

use crate::{
    clock::Clock,
    expiring::{Expiring, WhenFull},
};
use std::sync::Arc;

/// So many entries are remembered; those used least recently are forgotten, which costs the next
/// request for them a second lookup.
const CAPACITY: usize = 65_536;

/// A guess: the store has the last word.
#[derive(Debug)]
pub(crate) struct VaryMemo(Expiring<Arc<str>>);

impl Default for VaryMemo {
    fn default() -> Self {
        Self(Expiring::new(Clock::system(), CAPACITY, WhenFull::EvictLeastRecentlyUsed))
    }
}

impl VaryMemo {
    /// The names by which the entry varies, as far as is known.
    pub(crate) fn get(&self, entry: &str) -> Arc<str> {
        self.0.with(entry, |held| held.get().cloned()).unwrap_or_default()
    }

    pub(crate) fn set(&self, entry: &str, names: &Arc<str>) {
        // One that finds no room is not remembered, which is no harm.
        self.0.with(entry, |held| drop(held.insert(names.clone(), u64::MAX, 1)));
    }
}

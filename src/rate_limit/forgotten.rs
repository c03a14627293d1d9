//! How often keys were forgotten, so that what was asked before is not kept after.

use std::{
    array,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// How many counters the keys share.
const PLACES: usize = 256;

/// A counter for each key, which it shares with some others: at worst, something is asked again.
#[derive(Debug)]
pub(super) struct Forgotten {
    hasher: RandomState,
    times: [AtomicU64; PLACES],
}

impl Forgotten {
    /// How often the key was forgotten.
    pub(super) fn times(&self, key: &str) -> u64 {
        self.at(key).load(SeqCst)
    }

    /// Once more. Said before the entry of the key is emptied: who looks at it while it fills the entry
    /// either finds it said, or has what it fills in emptied.
    pub(super) fn add(&self, key: &str) {
        self.at(key).fetch_add(1, SeqCst);
    }

    fn at(&self, key: &str) -> &AtomicU64 {
        &self.times[self.hasher.hash_one(key) as usize % PLACES]
    }
}

impl Default for Forgotten {
    fn default() -> Self {
        Self { hasher: RandomState::new(), times: array::from_fn(|_| AtomicU64::new(0)) }
    }
}

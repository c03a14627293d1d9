//! Names that nobody else has.

use std::hash::{BuildHasher, RandomState};

/// As many random hexadecimal digits.
pub(super) fn random_hex(digits: usize) -> String {
    let state = RandomState::new();
    let mut text: String =
        (0..digits.div_ceil(16)).map(|n| format!("{:016x}", state.hash_one(n))).collect();
    text.truncate(digits);
    text
}

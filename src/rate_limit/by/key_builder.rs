//! How a key is put together, and how it is stored.

use crate::key;
use std::fmt;

/// Longer keys, and those with unusual characters, are stored as a digest.
const MAX_READABLE: usize = 64;

/// A key in the making.
///
/// A key of up to 64 plain characters without a secret is stored as it reads; any other as 128 bits of
/// SHA-256. The boundaries of its parts always count.
#[derive(Default)]
pub struct KeyBuilder {
    readable: String,
    parts: Vec<usize>,
    secret: bool,
}

impl KeyBuilder {
    /// Adds a part.
    pub fn push(&mut self, part: &str) {
        self.readable.push_str(part);
        self.parts.push(self.readable.len());
    }

    /// Adds a part that nobody who reads the store may learn, such as an API key: the whole key is then
    /// stored as a digest.
    pub fn push_secret(&mut self, part: &str) {
        self.push(part);
        self.secret = true;
    }

    pub(crate) fn finish(self) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte);
        // In a cluster an empty hash tag is none, and the keys of two policies would part.
        let is_plain =
            !self.secret && !self.readable.is_empty() && self.readable.bytes().all(plain);
        if self.parts.len() == 1 && is_plain && self.readable.len() <= MAX_READABLE {
            return self.readable;
        }
        let mut starts = 0;
        let parts = self.parts.iter().map(|&end| {
            let part = &self.readable.as_bytes()[starts..end];
            starts = end;
            part
        });
        let parts: Vec<&[u8]> = parts.collect();
        let length = self.readable.len() + parts.len();
        if is_plain && length <= MAX_READABLE {
            let text = |part: &&[u8]| String::from_utf8_lossy(part).into_owned();
            return parts.iter().map(text).collect::<Vec<_>>().join("|");
        }
        // `#` is not a plain character: no readable key looks like a digest.
        format!("#{}", key::digest(parts))
    }
}

impl fmt::Debug for KeyBuilder {
    /// Shows no part: one may be an API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBuilder").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundaries_of_the_parts_count_readable_or_not() {
        let two = |a: &str, b: &str| {
            let mut key = KeyBuilder::default();
            key.push(a);
            key.push(b);
            key.finish()
        };
        let one = |a: &str| {
            let mut key = KeyBuilder::default();
            key.push(a);
            key.finish()
        };
        assert_eq!(two("ab", "c"), "ab|c");
        assert_ne!(two("ab", "c"), two("a", "bc"));
        let long = "x".repeat(50);
        assert_ne!(two(&long, "c d"), two(&format!("{long}c"), " d"));
        assert_ne!(one("ab|c"), two("ab", "c"));
    }
}

//! How a key is put together, and how it is stored.

use crate::key;
use smallvec::SmallVec;
use std::{borrow::Cow, fmt, io::Write, str};

/// Longer keys, and those with unusual characters, are stored as a digest.
const MAX_READABLE: usize = 64;

/// A key in the making.
///
/// A key of up to 64 plain characters without a secret is stored as it reads; any other as 128 bits of
/// SHA-256. The boundaries of its parts always count.
#[derive(Default)]
pub struct KeyBuilder {
    /// The parts, with a `|` between them.
    joined: SmallVec<[u8; MAX_READABLE]>,
    /// Where each ends.
    ends: SmallVec<[usize; 4]>,
    secret: bool,
}

impl KeyBuilder {
    /// Adds a part.
    pub fn push(&mut self, part: &str) {
        self.push_display(part);
    }

    /// Adds a part as it is displayed.
    pub fn push_display(&mut self, part: impl fmt::Display) {
        if !self.ends.is_empty() {
            self.joined.push(b'|');
        }
        // Writing to memory cannot fail; what fails to display itself is as long as it came.
        let _ = write!(self.joined, "{part}");
        self.ends.push(self.joined.len());
    }

    /// Adds a part that nobody who reads the store may learn, such as an API key: the whole key is then
    /// stored as a digest.
    pub fn push_secret(&mut self, part: &str) {
        self.push(part);
        self.secret = true;
    }

    /// The key as it is stored.
    pub(crate) fn finish(&self) -> Cow<'_, str> {
        match str::from_utf8(&self.joined) {
            Ok(joined) if self.is_readable() => joined.into(),
            // `#` is not a plain character: no readable key looks like a digest.
            _ => format!("#{}", key::digest(self.parts())).into(),
        }
    }

    fn is_readable(&self) -> bool {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(byte);
        !self.secret
            && self.joined.len() <= MAX_READABLE
            && self.parts().all(|part| part.iter().all(is_plain))
            // In a cluster an empty hash tag is none, and the keys of two policies would part.
            && self.parts().any(|part| !part.is_empty())
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let part = &self.joined[start..end];
            start = end + 1;
            part
        })
    }
}

impl fmt::Debug for KeyBuilder {
    /// Shows no part: one may be an API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBuilder").field("parts", &self.ends.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundaries_of_the_parts_count_readable_or_not() {
        let key = |parts: &[&str]| {
            let mut key = KeyBuilder::default();
            parts.iter().for_each(|part| key.push(part));
            key.finish().into_owned()
        };
        let (one, two) = (|a: &str| key(&[a]), |a: &str, b: &str| key(&[a, b]));
        assert_eq!(two("ab", "c"), "ab|c");
        assert_ne!(two("ab", "c"), two("a", "bc"));
        let long = "x".repeat(50);
        assert_ne!(two(&long, "c d"), two(&format!("{long}c"), " d"));
        assert_ne!(one("ab|c"), two("ab", "c"));
        assert_ne!(two("a", "b|c"), two("a|b", "c"));
    }
}

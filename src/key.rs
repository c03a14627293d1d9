//! Key names: `<prefix>:<kind>:<id>`, with a hash tag where several keys must share a cluster slot.

use crate::store::StoreError;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Longest prefix: it is part of every key, and keys are paid for in memory.
const MAX_PREFIX: usize = 64;

/// The key names of one application.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    /// Refuses a prefix that is empty, longer than 64 bytes, or has a character with a meaning of
    /// its own in keys, patterns and hash tags.
    pub(crate) fn new(prefix: &str) -> Result<Self, StoreError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(legal) {
            return Err(StoreError::config(format!(
                "the key prefix {prefix:?} is not 1 to {MAX_PREFIX} characters of \
                 A-Z a-z 0-9 - _ . : /; choose one such as \"shop\""
            )));
        }
        Ok(Self { prefix: prefix.into() })
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A key that is used alone.
    pub(crate) fn key(&self, kind: &str, id: &str) -> String {
        format!("{}:{kind}:{id}", self.prefix)
    }

    /// A key that shares its slot with every other key of the same `id`.
    pub(crate) fn tagged(&self, kind: &str, id: &str, suffix: &str) -> String {
        format!("{}:{kind}:{{{id}}}{suffix}", self.prefix)
    }
}

/// 128 bits of SHA-256 over the parts, as 22 characters: what stands in a key for anything that a
/// client sent. The parts are length-prefixed, so `["ab", "c"]` and `["a", "bc"]` differ.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    URL_SAFE_NO_PAD.encode(&sha256(parts)[..16])
}

/// SHA-256 over the length-prefixed parts.
pub(crate) fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_prefix_kind_id() {
        let keys = Keys::new("shop").unwrap();
        assert_eq!(keys.key("session", "abc"), "shop:session:abc");
        assert_eq!(keys.tagged("lock", "abc", ":f"), "shop:lock:{abc}:f");
    }

    #[test]
    fn a_prefix_that_would_break_slots_or_patterns_is_refused_by_name() {
        for bad in ["", "a{b", "a*", "a b", "ü", &"x".repeat(65)] {
            let error = Keys::new(bad).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(bad), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_digest_keeps_the_boundaries_of_its_parts() {
        assert_ne!(digest([b"ab".as_slice(), b"c"]), digest([b"a".as_slice(), b"bc"]));
        assert_eq!(digest([b"ab".as_slice()]).len(), 22);
    }
}

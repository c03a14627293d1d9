//! Which count a request fell into, told to nobody who does not know it already.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// What is shorter can be guessed.
const SHORTEST_SECRET: usize = 32;

/// Makes partition keys: the first 128 bits of HMAC-SHA-256 over the key of a count.
#[derive(Clone)]
pub(crate) struct PartitionKeys(Hmac<Sha256>);

impl PartitionKeys {
    /// # Panics
    ///
    /// If the secret has less than 32 bytes.
    pub(crate) fn new(secret: &[u8]) -> Self {
        assert!(
            secret.len() >= SHORTEST_SECRET,
            "a secret for partition keys has at least {SHORTEST_SECRET} random bytes, not {}; make one \
             by `openssl rand -hex 32`",
            secret.len()
        );
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a secret of any length"))
    }

    /// A Byte Sequence of RFC 9651, section 3.3.5.
    pub(crate) fn of(&self, key: &str) -> String {
        let hash = self.0.clone().chain_update(key).finalize().into_bytes();
        format!(":{}:", STANDARD.encode(&hash[..16]))
    }
}

impl fmt::Debug for PartitionKeys {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartitionKeys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_with_one_secret_agrees_and_nobody_else_can_tell() {
        let secret = [7; 32];
        let key = PartitionKeys::new(&secret).of("10.0.0.7");
        // printf %s 10.0.0.7 | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07 (32 bytes)
        assert_eq!(key, ":MvAH3LSo/c0NYequSoTiew==:");
        assert_ne!(key, PartitionKeys::new(&[8; 32]).of("10.0.0.7"));
        assert_ne!(key, PartitionKeys::new(&secret).of("10.0.0.8"));
    }

    #[test]
    #[should_panic(expected = "at least 32 random bytes, not 6")]
    fn a_secret_that_can_be_guessed_is_refused() {
        PartitionKeys::new(b"secret");
    }
}

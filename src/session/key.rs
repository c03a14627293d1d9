//! The keys of signed and encrypted cookies.

use crate::session::{cookie::Candidate, token::Token};
use ::cookie::Key;
use std::{fmt, sync::Arc};

/// Bytes of a secret, at least: as many as the keys that are derived from it.
const SHORTEST_SECRET: usize = 32;

/// A secret that signs or encrypts session cookies.
///
/// ```
/// use towerkeep::session::CookieKey;
///
/// // From the environment or a file, the same in every process; made once by `openssl rand -hex 32`.
/// # let secret = "8bb1d8a6b1c1d6c1e6f0b7c5f9a3e2d4c6b8a09182736455f6e7d8c9bab1a2c3";
/// let key = CookieKey::new(secret);
/// assert_eq!(format!("{key:?}"), "CookieKey(..)");
/// ```
#[derive(Clone)]
pub struct CookieKey(Key);

impl CookieKey {
    /// Derives the keys for signing and for encryption (HKDF-SHA-256) from a secret: random bytes, in
    /// whatever text they are written.
    ///
    /// # Panics
    ///
    /// If the secret has less than 32 bytes. It should hold at least 32 random ones: a password is
    /// not.
    #[must_use]
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        let secret = secret.as_ref();
        assert!(
            secret.len() >= SHORTEST_SECRET,
            "a cookie key is made of at least {SHORTEST_SECRET} random bytes, not of {}; make one by \
             `openssl rand -hex 32`",
            secret.len()
        );
        Self(Key::derive_from(secret))
    }

    /// A key from the operating system's random source, for tests and single processes: what it has
    /// signed is worth nothing to another process, or to this one after a restart.
    #[must_use]
    pub fn random() -> Self {
        let halves: [[u8; 16]; 2] = [crate::token::random(), crate::token::random()];
        Self::new(halves.concat())
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

/// At least one key. The first is in use, the others are on their way out.
#[derive(Clone)]
pub(crate) struct CookieKeys(Arc<[Key]>);

impl CookieKeys {
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn new(keys: impl IntoIterator<Item = CookieKey>) -> Self {
        let keys: Arc<[Key]> = keys.into_iter().map(|key| key.0).collect();
        assert!(
            !keys.is_empty(),
            "there is no key to seal the session cookie with; give at least one"
        );
        Self(keys)
    }

    pub(crate) fn first(&self) -> &Key {
        &self.0[0]
    }

    /// The token that one of the keys gives.
    pub(crate) fn open(&self, open: impl Fn(&Key) -> Option<Token>) -> Option<Candidate> {
        let mut tried = self.0.iter().map(open).enumerate();
        tried.find_map(|(at, token)| Some(Candidate { token: token?, outdated: at > 0 }))
    }
}

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CookieKeys").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "openssl rand -hex 32")]
    fn a_password_is_no_key() {
        let _ = CookieKey::new("correct horse battery staple");
    }

    #[test]
    #[should_panic(expected = "at least one")]
    fn a_list_without_a_key_is_refused() {
        let _ = CookieKeys::new([]);
    }

    #[test]
    fn keys_are_not_printed_and_differ() {
        let (one, other) = (CookieKey::random(), CookieKey::random());
        assert!(one.0 != other.0);
        let shown = format!("{one:?} {:?}", CookieKeys::new([one.clone(), other]));
        assert_eq!(shown, "CookieKey(..) CookieKeys(2)");
    }
}

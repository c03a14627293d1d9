//! The cookie's value: a selector that finds the session, and a verifier that proves it.

use crate::token;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use subtle::ConstantTimeEq;

const HALF: usize = 16;

/// Characters of a token: 32 bytes in base64url without padding.
const LENGTH: usize = 43;

/// A session cookie's value: 16 random bytes to find the session by and 16 to prove that it is the
/// client's own, together 43 characters of base64url.
///
/// The store never sees the second half, only its [hash](Token::hash): whoever reads the store
/// cannot make a cookie of what they find there.
#[derive(Clone, Copy)]
pub struct Token {
    selector: Selector,
    verifier: [u8; HALF],
}

impl Token {
    /// A new token from the operating system's random source.
    #[must_use]
    pub fn random() -> Self {
        Self { selector: Selector(token::random()), verifier: token::random() }
    }

    /// The same session under a new proof.
    #[must_use]
    pub fn rotated(&self) -> Self {
        Self { selector: self.selector, verifier: token::random() }
    }

    /// Reads a cookie's value. Anything but the 43 characters of a token is `None`, also a second
    /// spelling of the same bytes.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        // One more than the bytes of a token, because the decoder estimates.
        let mut bytes = [0; 2 * HALF + 1];
        if value.len() != LENGTH
            || URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()? != 2 * HALF
        {
            return None;
        }
        let (mut selector, mut verifier) = ([0; HALF], [0; HALF]);
        selector.copy_from_slice(&bytes[..HALF]);
        verifier.copy_from_slice(&bytes[HALF..2 * HALF]);
        Some(Self { selector: Selector(selector), verifier })
    }

    /// The cookie's value.
    #[must_use]
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode([self.selector.0, self.verifier].concat())
    }

    /// Whether it is the same one: not by how long the comparison takes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.selector == other.selector && bool::from(self.verifier.ct_eq(&other.verifier))
    }

    /// What finds the session.
    #[must_use]
    pub fn selector(&self) -> Selector {
        self.selector
    }

    /// What a store keeps and compares instead of the verifier.
    #[must_use]
    pub fn hash(&self) -> VerifierHash {
        VerifierHash(Sha256::digest(self.verifier).into())
    }
}

impl fmt::Debug for Token {
    /// Shows the half that is no credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("selector", &self.selector).finish_non_exhaustive()
    }
}

/// The half of a [`Token`] that finds a session. It proves nothing, and may be logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector([u8; HALF]);

impl fmt::Display for Selector {
    /// 22 characters of base64url, as in the name of a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 22];
        let length = URL_SAFE_NO_PAD
            .encode_slice(self.0, &mut text)
            .expect("16 bytes are 22 characters of base64url");
        f.write_str(str::from_utf8(&text[..length]).expect("base64url is ASCII"))
    }
}

impl FromStr for Selector {
    type Err = BadSelector;

    /// Reads the 22 characters back, for a list of devices in a form.
    fn from_str(text: &str) -> Result<Self, BadSelector> {
        // One more than the bytes of a selector, because the decoder estimates.
        let mut bytes = [0; HALF + 2];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(HALF) => Ok(Self(std::array::from_fn(|at| bytes[at]))),
            _ => Err(BadSelector(())),
        }
    }
}

/// What was to be read as a [`Selector`] is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSelector(());

impl fmt::Display for BadSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session's selector is 22 characters of base64url")
    }
}

impl std::error::Error for BadSelector {}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

/// The SHA-256 of a [`Token`]'s verifier. Compared in constant time.
#[derive(Clone, Copy, Eq)]
pub struct VerifierHash([u8; 32]);

impl VerifierHash {
    /// The stored form: 43 characters of base64url.
    #[must_use]
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads the stored form.
    #[must_use]
    pub fn decode(stored: &[u8]) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(stored).ok()?.try_into().ok().map(Self)
    }
}

impl PartialEq for VerifierHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for VerifierHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifierHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_43_characters_that_read_back() {
        let token = Token::random();
        let text = token.encode();
        assert_eq!(text.len(), LENGTH);
        let read = Token::parse(text.as_bytes()).unwrap();
        assert_eq!((read.selector, read.verifier), (token.selector, token.verifier));
        assert_eq!(text[..21], token.selector.to_string()[..21]);
    }

    #[test]
    fn a_selector_reads_back_and_nothing_else_is_one() {
        let selector = Token::random().selector();
        assert_eq!(selector.to_string().parse(), Ok(selector));
        let text = selector.to_string();
        for bad in
            ["", &text[1..], &format!("{text}A"), &format!("{}!", &text[1..]), &"A".repeat(500)]
        {
            assert_eq!(bad.parse::<Selector>(), Err(BadSelector(())), "{bad:?}");
        }
    }

    #[test]
    fn a_rotated_token_finds_the_same_session_under_another_proof() {
        let token = Token::random();
        let rotated = token.rotated();
        assert_eq!(token.selector(), rotated.selector());
        assert_ne!(token.hash(), rotated.hash());
    }

    #[test]
    fn only_the_one_spelling_of_a_token_is_read() {
        let text = Token::random().encode();
        let padded = format!("{text}=");
        let quoted = format!("\"{text}\"");
        // 32 bytes leave 2 bits of the last character: set, they spell the same bytes again.
        let respelled = format!("{}B", &"A".repeat(42));
        let standard = format!("+{}", &text[1..]);
        for bad in ["", &text[1..], &padded, &quoted, &respelled, &standard] {
            assert!(Token::parse(bad.as_bytes()).is_none(), "{bad:?} was read");
        }
    }

    #[test]
    fn nothing_printable_shows_the_verifier() {
        let token = Token::random();
        let shown = format!("{token:?} {:?}", token.hash());
        assert!(!shown.contains(&token.encode()[22..]), "{shown}");
        assert!(!shown.contains(&token.hash().encode()), "{shown}");
    }

    #[test]
    fn a_stored_hash_reads_back_and_a_damaged_one_does_not() {
        let hash = Token::random().hash();
        assert_eq!(VerifierHash::decode(hash.encode().as_bytes()), Some(hash));
        assert_eq!(VerifierHash::decode(b"short"), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_would_be_written(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(token) = Token::parse(&value) {
                prop_assert_eq!(token.encode().into_bytes(), value);
            }
        }

        #[test]
        fn any_43_characters_are_read_or_refused(value in "[A-Za-z0-9_-]{43}") {
            if let Some(token) = Token::parse(value.as_bytes()) {
                prop_assert_eq!(token.encode(), value);
            }
        }
    }
}

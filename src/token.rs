//! Unguessable values from the operating system's random source.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Random bytes.
///
/// # Panics
///
/// If the operating system has no randomness to give, which it answers for at boot; going on with a
/// guessable token would be worse.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random source works");
    bytes
}

/// 128 random bits as 22 characters of base64url: a lease token.
pub(crate) fn token() -> String {
    URL_SAFE_NO_PAD.encode(random::<16>())
}

/// A number in `0..=max`, for jitter. The bias of the remainder does not matter there.
pub(crate) fn jitter(max: u64) -> u64 {
    u64::from_ne_bytes(random()) % max.saturating_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_url_safe_and_differ() {
        let (a, b) = (token(), token());
        assert_ne!(a, b);
        assert!(
            a.len() == 22 && a.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
    }

    #[test]
    fn jitter_stays_within_its_bound() {
        assert!((0..1_000).all(|_| jitter(3) <= 3));
        assert_eq!(jitter(0), 0);
    }
}

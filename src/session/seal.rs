//! How a token looks in the cookie: as it is, signed, or encrypted.

#[cfg(any(feature = "session-signed", feature = "session-private"))]
use crate::session::key::CookieKeys;
use crate::session::{cookie::Candidate, token::Token};
#[cfg(any(feature = "session-signed", feature = "session-private"))]
use ::cookie::{Cookie, CookieJar};

/// Characters of a signed cookie: the HMAC in base64, then the token.
#[cfg(feature = "session-signed")]
const SIGNED: usize = HMAC + 43;
#[cfg(feature = "session-signed")]
const HMAC: usize = 44;

/// Characters of an encrypted one: nonce, token and tag in base64.
#[cfg(feature = "session-private")]
const ENCRYPTED: usize = (12 + 43 + 16usize).div_ceil(3) * 4;

/// What makes a cookie's value of a token, and takes nothing else for one.
#[derive(Clone, Debug, Default)]
pub(crate) enum Seal {
    #[default]
    None,
    #[cfg(feature = "session-signed")]
    Signed(CookieKeys),
    #[cfg(feature = "session-private")]
    Private(CookieKeys),
}

impl Seal {
    /// The cookie's value: base64 in any case.
    pub(crate) fn close(&self, name: &str, token: &Token) -> String {
        match self {
            Self::None => {
                let _ = name;
                token.encode()
            }
            #[cfg(feature = "session-signed")]
            Self::Signed(keys) => {
                // A jar signs the value alone. With the name in front, the cookie of another session
                // layer under the same key is not one of this layer's.
                let named = format!("{name}={}", token.encode());
                let mut value =
                    through(name, named, |jar, cookie| jar.signed_mut(keys.first()).add(cookie));
                value.replace_range(HMAC..HMAC + name.len() + 1, "");
                value
            }
            #[cfg(feature = "session-private")]
            Self::Private(keys) => {
                let token = token.encode();
                through(name, token, |jar, cookie| jar.private_mut(keys.first()).add(cookie))
            }
        }
    }

    /// The token in a cookie's value, if it was made by [`close`](Seal::close) with one of the keys.
    pub(crate) fn open(&self, name: &str, value: &[u8]) -> Option<Candidate> {
        match self {
            Self::None => {
                let _ = name;
                Some(Candidate { token: Token::parse(value)?, outdated: false })
            }
            #[cfg(feature = "session-signed")]
            Self::Signed(keys) => {
                let (hmac, token) = text(value, SIGNED)?.split_at_checked(HMAC)?;
                let cookie = Cookie::new("", format!("{hmac}{name}={token}"));
                let token = Token::parse(token.as_bytes())?;
                keys.open(|key| CookieJar::new().signed(key).verify(cookie.clone()).map(|_| token))
            }
            #[cfg(feature = "session-private")]
            Self::Private(keys) => {
                let cookie = Cookie::new(name.to_owned(), text(value, ENCRYPTED)?.to_owned());
                keys.open(|key| {
                    let cookie = CookieJar::new().private(key).decrypt(cookie.clone())?;
                    Token::parse(cookie.value().as_bytes())
                })
            }
        }
    }
}

/// What a jar makes of a value.
#[cfg(any(feature = "session-signed", feature = "session-private"))]
fn through(name: &str, value: String, add: impl FnOnce(&mut CookieJar, Cookie<'static>)) -> String {
    let mut jar = CookieJar::new();
    add(&mut jar, Cookie::new(name.to_owned(), value));
    jar.get(name).map(|cookie| cookie.value().to_owned()).unwrap_or_default()
}

/// A value of the one length that it can have, so that a long one costs no cryptography.
#[cfg(any(feature = "session-signed", feature = "session-private"))]
fn text(value: &[u8], length: usize) -> Option<&str> {
    str::from_utf8(value).ok().filter(|value| value.len() == length)
}

#[cfg(all(test, feature = "session-signed", feature = "session-private"))]
mod tests {
    use super::*;
    use crate::session::key::CookieKey;
    use proptest::prelude::*;

    fn keys(secrets: &[u8]) -> CookieKeys {
        CookieKeys::new(secrets.iter().map(|secret| CookieKey::new([*secret; 32])))
    }

    fn seals(secrets: &[u8]) -> [Seal; 2] {
        [Seal::Signed(keys(secrets)), Seal::Private(keys(secrets))]
    }

    fn opened(seal: &Seal, value: &str) -> Option<(String, bool)> {
        let found = seal.open("sid", value.as_bytes())?;
        Some((found.token.encode(), found.outdated))
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let token = Token::random();
        for (old, (both, new)) in
            seals(&[1]).iter().zip(seals(&[2, 1]).iter().zip(seals(&[2]).iter()))
        {
            let before = old.close("sid", &token);
            assert_eq!(opened(both, &before), Some((token.encode(), true)));
            assert_eq!(opened(new, &before), None, "a key that was taken away still opens");
            let after = both.close("sid", &token);
            assert_eq!(opened(new, &after), Some((token.encode(), false)));
            assert_eq!(opened(old, &after), None);
        }
    }

    #[test]
    fn one_kind_of_cookie_is_not_another() {
        let token = Token::random();
        let [signed, private] = seals(&[1]);
        let all = [Seal::None, signed, private];
        for (n, writer) in all.iter().enumerate() {
            let value = writer.close("sid", &token);
            assert!(value.len() <= 96 && value.is_ascii());
            for (m, reader) in all.iter().enumerate() {
                assert_eq!(opened(reader, &value).is_some(), n == m, "{writer:?} {reader:?}");
            }
        }
    }

    #[test]
    fn no_character_of_a_sealed_cookie_can_be_changed() {
        let token = Token::random();
        for seal in seals(&[1]) {
            let value = seal.close("sid", &token);
            for at in 0..value.len() {
                for other in [b'A', b'B', b'_', b'=', b' ', 0xff] {
                    let mut forged = value.clone().into_bytes();
                    if forged[at] == other {
                        continue;
                    }
                    forged[at] = other;
                    assert!(seal.open("sid", &forged).is_none(), "{at} {other}: {value}");
                }
            }
            assert!(opened(&seal, &value[..value.len() - 1]).is_none());
            assert!(opened(&seal, &format!("{value}A")).is_none());
        }
    }

    #[test]
    fn a_sealed_cookie_is_bound_to_its_name() {
        let token = Token::random();
        for seal in seals(&[1]) {
            let value = seal.close("sid", &token);
            for name in ["admin", "si", "sid="] {
                assert!(seal.open(name, value.as_bytes()).is_none(), "{name} {seal:?}");
            }
        }
    }

    #[test]
    fn an_encrypted_cookie_shows_nothing_and_differs_each_time() {
        let token = Token::random();
        let [_, private] = seals(&[1]);
        let (one, two) = (private.close("sid", &token), private.close("sid", &token));
        assert_ne!(one, two);
        assert!(!one.contains(&token.encode()[..20]));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_refused_without_a_panic(
            value in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..120),
                "[A-Za-z0-9+/]{87}".prop_map(String::into_bytes),
                "[A-Za-z0-9+/]{95}=".prop_map(String::into_bytes),
                "\\PC{20,40}".prop_map(String::into_bytes),
            ],
        ) {
            for seal in seals(&[1, 2]) {
                prop_assert!(seal.open("sid", &value).is_none());
            }
        }
    }
}

//! The request header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07).

use crate::idempotency::sfv::{Malformed, Reader};
use http::{HeaderMap, HeaderName};
use std::fmt;

/// The request header that carries the key.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest key, in characters.
const MAX_KEY: usize = 255;

/// What is wrong with the `Idempotency-Key` of a request. It reads as the sentence that the client
/// is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// More than one value, in one header or in several.
    Several,
    /// Not a String in double quotes. Most clients that were not made for the draft send a bare
    /// value: see [`lenient`](crate::idempotency::IdempotencyLayer::lenient).
    NotString,
    /// A quote that is never closed.
    Unterminated,
    /// A byte that may not stand in a String: all but printable ASCII.
    Character(u8),
    /// A backslash before something other than `"` or `\`.
    Escape,
    /// Parameters after the value that are not well-formed.
    Parameter,
    /// Text after the value.
    Trailing,
    /// No characters at all.
    Empty,
    /// More than 255 characters.
    TooLong,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the header Idempotency-Key ")?;
        match self {
            Self::Several => f.write_str("has more than one value; send exactly one"),
            Self::NotString => f.write_str(
                "is not a String in double quotes, such as \
                 Idempotency-Key: \"8e03978e-40d5-43dd-bc93-6b82f0d5b0e5\"",
            ),
            Self::Unterminated => f.write_str("has an opening double quote and no closing one"),
            Self::Character(byte) => {
                write!(f, "has the byte 0x{byte:02x}; only printable ASCII characters are allowed")
            }
            Self::Escape => f.write_str("has a backslash before something other than \" or \\"),
            Self::Parameter => f.write_str("has a malformed parameter after its value"),
            Self::Trailing => f.write_str("has more text after its value"),
            Self::Empty => f.write_str("is empty"),
            Self::TooLong => write!(f, "is longer than {MAX_KEY} characters"),
        }
    }
}

impl std::error::Error for KeyError {}

impl From<Malformed> for KeyError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Unterminated => Self::Unterminated,
            Malformed::Character(byte) => Self::Character(byte),
            Malformed::Escape => Self::Escape,
            Malformed::Parameter => Self::Parameter,
            Malformed::Trailing => Self::Trailing,
        }
    }
}

/// The key of a request, if it has one. `lenient` takes a value without quotes too.
pub(crate) fn key(headers: &HeaderMap, lenient: bool) -> Result<Option<String>, KeyError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(KeyError::Several);
    }
    parse(value.as_bytes(), lenient).map(Some)
}

fn parse(text: &[u8], lenient: bool) -> Result<String, KeyError> {
    let mut reader = Reader::new(text);
    let key = match reader.peek() {
        None => return Err(KeyError::Empty),
        Some(b'"') => reader.string()?,
        Some(_) if lenient => bare(&mut reader)?,
        Some(_) => return Err(KeyError::NotString),
    };
    let list = followed_by_another(reader);
    match reader.end() {
        Err(Malformed::Trailing) if list => Err(KeyError::Several),
        Err(malformed) => Err(malformed.into()),
        Ok(()) if key.is_empty() => Err(KeyError::Empty),
        Ok(()) if key.len() > MAX_KEY => Err(KeyError::TooLong),
        Ok(()) => Ok(key),
    }
}

/// What clients send that know nothing of structured fields: a UUID, a ULID, base64. Anything
/// visible but the characters that structure a field.
fn bare(reader: &mut Reader<'_>) -> Result<String, KeyError> {
    let text = reader.take_while(|byte| byte.is_ascii_graphic() && !b"\"\\,;".contains(&byte));
    match (text, reader.peek()) {
        (_, Some(byte)) if byte != b' ' && !byte.is_ascii_graphic() => {
            Err(KeyError::Character(byte))
        }
        (_, Some(b'"' | b'\\')) | ([], Some(_)) => Err(KeyError::NotString),
        (text, _) => Ok(String::from_utf8_lossy(text).into_owned()),
    }
}

/// Whether a comma follows, as where several headers were joined into one.
fn followed_by_another(mut reader: Reader<'_>) -> bool {
    reader.take_while(|byte| byte == b' ');
    reader.peek() == Some(b',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strict(text: &str) -> Result<String, KeyError> {
        parse(text.as_bytes(), false)
    }

    fn lenient(text: &str) -> Result<String, KeyError> {
        parse(text.as_bytes(), true)
    }

    #[test]
    fn a_quoted_string_is_a_key_and_its_parameters_are_ignored() {
        for text in ["\"k-1\"", " \"k-1\" ", "\"k-1\";v=2", "\"k-1\"; a; b=\"c\""] {
            assert_eq!(strict(text).as_deref(), Ok("k-1"), "{text}");
            assert_eq!(lenient(text).as_deref(), Ok("k-1"), "{text}");
        }
        assert_eq!(strict(r#""a \"b\" \\c""#).as_deref(), Ok(r#"a "b" \c"#));
        assert!(strict(&format!("\"{}\"", "x".repeat(255))).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_key_is_named() {
        let long = format!("\"{}\"", "x".repeat(256));
        for (text, error) in [
            ("", KeyError::Empty),
            ("   ", KeyError::Empty),
            ("\"\"", KeyError::Empty),
            ("8e03978e-40d5", KeyError::NotString),
            ("token", KeyError::NotString),
            ("'single'", KeyError::NotString),
            (":Ynl0ZXM=:", KeyError::NotString),
            ("\"open", KeyError::Unterminated),
            ("\"open\\", KeyError::Unterminated),
            ("\"a\\n\"", KeyError::Escape),
            ("\"a\tb\"", KeyError::Character(b'\t')),
            ("\"ü\"", KeyError::Character(0xc3)),
            ("\"a\";", KeyError::Parameter),
            ("\"a\";A=1", KeyError::Parameter),
            ("\"a\"b", KeyError::Trailing),
            ("\"a\", \"b\"", KeyError::Several),
            ("\"a\",\"a\"", KeyError::Several),
            (&long, KeyError::TooLong),
        ] {
            assert_eq!(strict(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_lenient_reader_takes_what_clients_send_unquoted_and_nothing_that_is_two_keys() {
        for text in ["8e03978e-40d5-43dd", "a+b/c==", "t:1.2~x", "{guid}"] {
            assert_eq!(lenient(text).as_deref(), Ok(text));
            assert_eq!(lenient(&format!(" {text};v=1 ")).as_deref(), Ok(text));
        }
        for (text, error) in [
            ("a, b", KeyError::Several),
            ("a,b", KeyError::Several),
            ("a b", KeyError::Trailing),
            ("a\"b", KeyError::NotString),
            (";a", KeyError::NotString),
            (",", KeyError::NotString),
            ("a\tb", KeyError::Character(b'\t')),
            ("clé", KeyError::Character(0xc3)),
            ("", KeyError::Empty),
            ("\"open", KeyError::Unterminated),
            (&"x".repeat(256), KeyError::TooLong),
        ] {
            assert_eq!(lenient(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn quoted_and_bare_spellings_of_a_key_are_one_key() {
        assert_eq!(lenient("abc"), strict("\"abc\""));
    }

    #[test]
    fn two_headers_are_several_values_even_when_they_agree() {
        let mut headers = HeaderMap::new();
        assert_eq!(key(&headers, false), Ok(None));
        headers.append(IDEMPOTENCY_KEY, "\"a\"".parse().unwrap());
        assert_eq!(key(&headers, false), Ok(Some("a".into())));
        headers.append(IDEMPOTENCY_KEY, "\"a\"".parse().unwrap());
        assert_eq!(key(&headers, false), Err(KeyError::Several));
    }

    proptest! {
        #[test]
        fn a_key_that_is_accepted_is_printable_and_of_a_legal_length(
            text in proptest::collection::vec(any::<u8>(), 0..300),
            quoted in any::<bool>(),
            lenient in any::<bool>(),
        ) {
            let text = if quoted { [b"\"", &text[..], b"\""].concat() } else { text };
            if let Ok(key) = parse(&text, lenient) {
                prop_assert!((1..=MAX_KEY).contains(&key.len()));
                prop_assert!(key.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
            }
        }

        #[test]
        fn lenience_never_changes_what_a_strict_reader_accepts(text in "[ -~]{0,40}") {
            if let Ok(key) = strict(&text) {
                prop_assert_eq!(lenient(&text), Ok(key));
            }
        }
    }
}

//! JSON with a time beside it, in one object: `{"<time>":1760000000000,"<value>":…}`.
//!
//! It is written and read as this text, byte for byte. An object that has the same names in another
//! order, or with other spaces, is not one.

use bytes::Bytes;
use std::time::Duration;

/// The names of the two.
pub(crate) struct Envelope {
    pub(crate) time: &'static str,
    pub(crate) value: &'static str,
}

impl Envelope {
    /// The JSON in an envelope.
    pub(crate) fn seal(&self, time: Duration, json: &[u8]) -> Bytes {
        let head = format!("{{\"{}\":{},\"{}\":", self.time, time.as_millis(), self.value);
        [head.as_bytes(), json, b"}"].concat().into()
    }

    /// The time and the JSON in it; `None` if it is no envelope of this kind.
    pub(crate) fn open(&self, sealed: &Bytes) -> Option<(Duration, Bytes)> {
        let rest = sealed.strip_prefix(b"{\"")?.strip_prefix(self.time.as_bytes())?;
        let rest = rest.strip_prefix(b"\":")?;
        let (digits, rest) = rest.split_at(rest.iter().position(|byte| !byte.is_ascii_digit())?);
        let rest = rest.strip_prefix(b",\"")?.strip_prefix(self.value.as_bytes())?;
        let json = rest.strip_prefix(b"\":")?.strip_suffix(b"}")?;
        let ms = str::from_utf8(digits).ok()?.parse().ok()?;
        Some((Duration::from_millis(ms), sealed.slice_ref(json)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENVELOPE: Envelope = Envelope { time: ".expires", value: ".value" };

    #[test]
    fn an_envelope_is_json_that_other_languages_read() {
        let sealed = ENVELOPE.seal(Duration::from_millis(1_500), b"[1]");
        assert_eq!(sealed, r#"{".expires":1500,".value":[1]}"#);
        assert_eq!(
            ENVELOPE.open(&sealed),
            Some((Duration::from_millis(1_500), Bytes::from_static(b"[1]")))
        );
    }

    #[test]
    fn what_only_looks_like_an_envelope_is_none() {
        for text in [
            "",
            "{}",
            r#"{".expires":,".value":1}"#,
            r#"{".expires":-1,".value":1}"#,
            r#"{".expires":99999999999999999999,".value":1}"#,
            r#"{".expires":1,".value":1"#,
            r#"{".value":1,".expires":1}"#,
            r#"{".expires": 1,".value":1}"#,
        ] {
            assert_eq!(ENVELOPE.open(&text.into()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_opening_panic(text in "[{}\",:.a-z0-9]{0,40}") {
            let _ = ENVELOPE.open(&text.into());
        }

        #[test]
        fn what_was_sealed_is_what_is_opened(ms: u64, json in "\\PC{0,20}") {
            let time = Duration::from_millis(ms);
            let sealed = ENVELOPE.seal(time, json.as_bytes());
            prop_assert_eq!(ENVELOPE.open(&sealed), Some((time, Bytes::from(json))));
        }
    }
}

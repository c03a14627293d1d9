//! Fields with a time to live of their own.

use crate::session::{envelope::Envelope, policy::MAX_INTEGER};
use bytes::Bytes;
use std::time::Duration;

/// How such a field is stored. Plain JSON is never taken for it: [`plain`] sees to that.
const ENVELOPE: Envelope = Envelope { time: ".expires", value: ".value" };

/// What every envelope begins with.
const START: &[u8] = b"{\".expires\":";

/// The stored form of a value that is absent from `expires` on, a time since the Unix epoch.
pub(crate) fn until(expires: Duration, json: &[u8]) -> Bytes {
    let last = Duration::from_millis(MAX_INTEGER as u64);
    ENVELOPE.seal(expires.min(last), json)
}

/// The stored form of a value that lives as long as the session: itself, but if it begins as an
/// envelope does it gets one that lasts.
pub(crate) fn plain(json: Vec<u8>) -> Bytes {
    if json.starts_with(START) { until(Duration::MAX, &json) } else { json.into() }
}

/// The value of a stored field, and until when it is there, if that is stated.
pub(crate) fn open(stored: &Bytes) -> (Bytes, Option<Duration>) {
    match ENVELOPE.open(stored) {
        Some((expires, json)) => (json, Some(expires)),
        None => (stored.clone(), None),
    }
}

/// The value of a stored field; `None` if its time is over.
pub(crate) fn value(stored: &Bytes, now: Duration) -> Option<Bytes> {
    let (json, expires) = open(stored);
    expires.is_none_or(|expires| now < expires).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_there_until_its_time_is_over() {
        let ms = Duration::from_millis;
        let stored = until(ms(1_000), b"7");
        assert_eq!(stored, r#"{".expires":1000,".value":7}"#);
        assert_eq!(value(&stored, ms(999)).unwrap(), "7");
        assert_eq!(value(&stored, ms(1_000)), None);
        assert_eq!(value(&Bytes::from_static(b"7"), ms(1_000)).unwrap(), "7");
    }

    #[test]
    fn a_value_that_looks_like_an_envelope_reads_back_as_it_was() {
        for json in [r#"{".expires":1,".value":2}"#, r#"{".expires":"never"}"#] {
            let stored = plain(json.into());
            assert_eq!(value(&stored, Duration::from_secs(4_000_000_000)).unwrap(), json);
        }
        assert_eq!(plain(b"{}".to_vec()), "{}");
    }
}

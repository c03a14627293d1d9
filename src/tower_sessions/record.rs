//! How a record is stored: under a hash of its id, as JSON.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const VERSION: u64 = 1;

type Data = HashMap<String, Value>;

/// What stands in the key for an id. Ids are 128 random bits, so nobody finds one by its hash.
pub(super) fn hash(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(id))
}

/// Until when it is kept, in whole milliseconds since the Unix epoch.
pub(super) fn expires_ms(expires: OffsetDateTime) -> u64 {
    let ns = expires.unix_timestamp_nanos().max(0);
    u64::try_from(ns).map_or(u64::MAX / 1_000, |ns| ns / 1_000_000)
}

pub(super) fn encode(data: &Data, expires: OffsetDateTime) -> Result<Bytes, String> {
    let expires = expires.format(&Rfc3339).map_err(|error| error.to_string())?;
    let record = json!({ "version": VERSION, "expires": expires, "data": data });
    Ok(record.to_string().into())
}

pub(super) fn decode(record: &[u8]) -> Result<(Data, OffsetDateTime), String> {
    let mut members: Map<String, Value> =
        serde_json::from_slice(record).map_err(|error| error.to_string())?;
    match members.get("version").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(other) => {
            return Err(format!("it is of version {other}, and this crate reads {VERSION}"));
        }
        None => return Err("it has no version; something else has written it".to_owned()),
    }
    let expires = members.get("expires").and_then(Value::as_str).unwrap_or_default();
    let expires = OffsetDateTime::parse(expires, &Rfc3339)
        .map_err(|error| format!("\"expires\" is no time of RFC 3339: {error}"))?;
    match members.remove("data") {
        Some(Value::Object(data)) => Ok((data.into_iter().collect(), expires)),
        _ => Err("\"data\" is not an object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    #[test]
    fn a_record_reads_back_to_the_nanosecond() {
        let data =
            Data::from([("n".to_owned(), json!(1)), ("list".to_owned(), json!([null, "ü"]))]);
        for expires in [
            OffsetDateTime::UNIX_EPOCH + Duration::nanoseconds(1_760_000_000_123_456_789),
            OffsetDateTime::UNIX_EPOCH,
            OffsetDateTime::now_utc().saturating_add(Duration::MAX),
        ] {
            let record = encode(&data, expires).unwrap();
            assert_eq!(decode(&record).unwrap(), (data.clone(), expires));
        }
    }

    #[test]
    fn what_something_else_has_written_is_named_and_not_guessed_at() {
        for (record, fault) in [
            ("", "EOF"),
            ("[]", "map"),
            ("{}", "version"),
            (r#"{"version":2}"#, "version 2"),
            (r#"{"version":1,"expires":"soon","data":{}}"#, "expires"),
            (r#"{"version":1,"expires":"2026-01-31T12:00:00Z","data":[]}"#, "data"),
        ] {
            let error = decode(record.as_bytes()).unwrap_err();
            assert!(error.contains(fault), "{record}: {error}");
        }
    }

    #[test]
    fn a_record_from_before_the_epoch_is_over_and_one_without_end_does_not_overflow() {
        let at = |ns| OffsetDateTime::UNIX_EPOCH + Duration::nanoseconds(ns);
        assert_eq!(expires_ms(at(1_999_999)), 1);
        assert_eq!(expires_ms(at(-1)), 0);
        let never = OffsetDateTime::now_utc().saturating_add(Duration::MAX);
        assert!(expires_ms(never).checked_mul(1_000).is_some());
    }

    #[test]
    fn the_hash_is_what_a_shell_makes_of_the_id() {
        // printf %s AAAAAAAAAAAAAAAAAAAAAA | openssl dgst -sha256 -binary | basenc --base64url
        assert_eq!(hash(&"A".repeat(22)), "ilvbTMFRZBJsbvJmjendJA0pnOY5ekLJWpQRuT0IDtg");
    }
}

//! What a session's hash in Redis says.

use crate::{
    marks::UserId,
    session::{
        policy,
        store::{Fields, Record},
        token::VerifierHash,
    },
    store::StoreError,
};
use bytes::Bytes;
use std::{collections::HashMap, time::Duration};

pub(crate) fn user_id(stored: &str) -> Option<UserId> {
    (!stored.is_empty()).then(|| UserId::new(stored))
}

/// What a hash and its time to live say. A key that expires between the two commands is gone.
///
/// `now_ms` is this process's clock. It decides nothing but whether a slide is worth its write; if it
/// is wrong, slides near the absolute deadline come too often or not at all.
pub(crate) fn record(
    mut hash: HashMap<Vec<u8>, Vec<u8>>,
    pttl: i64,
    now_ms: u64,
) -> Result<Option<Record>, StoreError> {
    let verifier = hash.remove(b".v".as_slice()).and_then(|hash| VerifierHash::decode(&hash));
    let (Some(verifier), true) = (verifier, pttl != -2) else { return Ok(None) };
    let mut text = |name: &str| {
        let value = hash.remove(name.as_bytes()).map(String::from_utf8);
        value.and_then(Result::ok).unwrap_or_default()
    };
    let user = user_id(&text(".u"));
    let persistent = text(".m") == "1";
    let previous = VerifierHash::decode(text(".p").as_bytes());
    let noted_ms = text(".s").parse().unwrap_or_default();
    let mut number = |name| {
        let digits = text(name);
        digits.parse::<u64>().map_err(|_| {
            StoreError::corrupt(format!(
                "the field {name} of a session is {digits:?} instead of milliseconds; something \
                 else has written to it"
            ))
        })
    };
    let (created_ms, idle_ms, deadline_ms) = (number(".c")?, number(".i")?, number(".x")?);
    let device = hash.remove(b".d".as_slice()).map(Bytes::from);
    let fields = hash.into_iter().filter_map(|(name, value)| {
        // A name that is no text cannot be asked for.
        let name = String::from_utf8(name).ok().filter(|name| !name.starts_with('.'))?;
        Some((name.into(), Bytes::from(value)))
    });
    let idle = Duration::from_millis(idle_ms);
    let mut record = Record::new(verifier, idle, fields.collect::<Fields>());
    record.user = user;
    record.created = Duration::from_millis(created_ms);
    record.persistent = persistent;
    record.device = device;
    record.noted = Duration::from_millis(noted_ms);
    record.previous = previous;
    record.ttl = u64::try_from(pttl).ok().map(Duration::from_millis);
    record.longest_ttl = Duration::from_millis(policy::ttl_ms(idle_ms, deadline_ms, now_ms));
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::token::Token;

    fn hash(verifier: &str) -> HashMap<Vec<u8>, Vec<u8>> {
        [
            (".v", verifier),
            (".c", "1000"),
            (".i", "100"),
            (".x", "1150"),
            (".u", ""),
            (".b", "5"),
            (".later", "?"),
            ("cart", "[]"),
        ]
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
    }

    #[test]
    fn a_hash_reads_as_a_session_and_its_own_fields_stay_out_of_the_data() {
        let verifier = Token::random().hash();
        let mut hash = hash(&verifier.encode());
        hash.insert(vec![0xff], b"not text".into());
        let record = record(hash, 80, 1_100).unwrap().unwrap();
        assert_eq!(record.verifier, verifier);
        assert_eq!(record.user, None);
        assert_eq!(record.ttl, Some(Duration::from_millis(80)));
        assert_eq!(record.longest_ttl, Duration::from_millis(50));
        assert_eq!(record.fields.keys().map(|name| &**name).collect::<Vec<_>>(), ["cart"]);
    }

    #[test]
    fn what_has_no_proof_or_has_just_expired_is_no_session() {
        let verifier = Token::random().hash().encode();
        assert!(record(hash(&verifier), -2, 0).unwrap().is_none());
        assert!(record(hash("damaged"), 80, 0).unwrap().is_none());
        assert!(record(HashMap::new(), -2, 0).unwrap().is_none());
        assert_eq!(record(hash(&verifier), -1, 0).unwrap().unwrap().ttl, None);
    }

    #[test]
    fn a_session_that_something_else_has_damaged_is_named_and_not_guessed_at() {
        let mut hash = hash(&Token::random().hash().encode());
        hash.insert(b".i".into(), b"soon".into());
        let error = record(hash, 80, 0).unwrap_err();
        assert!(error.is_corrupt() && error.to_string().contains(".i"), "{error}");
    }
}

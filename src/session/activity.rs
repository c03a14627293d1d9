//! What a user did lately, as an application tells it.

use crate::session::{envelope::Envelope, error::Error};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The longest event.
const MAX_BYTES: usize = 4 * 1024;

/// Something that a user did: an event that a handler has [recorded](super::Session::record).
#[derive(Clone)]
#[non_exhaustive]
pub struct Activity {
    /// When it was recorded, by the clock of the process that did; the Unix epoch for what something
    /// else has put there.
    pub at: SystemTime,
    event: Bytes,
}

/// How it is stored.
const ENVELOPE: Envelope = Envelope { time: "at", value: "event" };

impl Activity {
    /// The event.
    ///
    /// # Errors
    ///
    /// [`Error::is_decode`] if it is not a `T`.
    pub fn event<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.event)
            .map_err(|source| Error::decode::<T>("an event", &source))
    }

    pub(crate) fn decode(json: Bytes) -> Self {
        let opened = ENVELOPE.open(&json);
        let stamped = opened.and_then(|(at, event)| Some((UNIX_EPOCH.checked_add(at)?, event)));
        let (at, event) = stamped.unwrap_or((UNIX_EPOCH, json));
        Self { at, event }
    }
}

/// The stored form of an event that is recorded now.
pub(crate) fn encode<T: Serialize + ?Sized>(event: &T, now: Duration) -> Result<Bytes, Error> {
    let json = serde_json::to_vec(event).map_err(|source| Error::encode("an event", source))?;
    if json.len() > MAX_BYTES {
        return Err(Error::too_long("an event", MAX_BYTES));
    }
    Ok(ENVELOPE.seal(now, &json))
}

impl fmt::Debug for Activity {
    /// What users do is theirs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity").field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_back_with_its_time_and_what_is_none_is_no_error_until_it_is_read() {
        let json = encode(&("paid", 7), Duration::from_millis(1_500)).unwrap();
        assert_eq!(json, r#"{"at":1500,"event":["paid",7]}"#);
        let activity = Activity::decode(json);
        assert_eq!(activity.at, UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(activity.event::<(String, u8)>().unwrap(), ("paid".into(), 7));
        assert!(activity.event::<u8>().unwrap_err().is_decode());
        for foreign in ["", "nonsense", r#"{"at":-1,"event":1}"#] {
            let activity = Activity::decode(foreign.into());
            assert_eq!(activity.at, UNIX_EPOCH, "{foreign}");
        }
        assert!(encode(&"x".repeat(5_000), Duration::ZERO).unwrap_err().is_too_large());
    }
}

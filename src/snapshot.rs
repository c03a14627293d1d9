//! A captured response, and the versioned binary form in which it is stored.
//!
//! ```text
//! u8 version = 1 · u16 status · u16 headers · headers × (u16 length, name, u32 length, value)
//!   · u32 length, body                                                    all big-endian
//! ```

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::fmt;

/// Changes with the format. A blob of another version is never guessed at.
const VERSION: u8 = 1;

/// A response that has been read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why a blob is not a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotError {
    /// Written by another version of the crate.
    Version(u8),
    /// Cut short, too long, or not a response.
    Malformed,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => {
                write!(f, "a stored response of format version {found}; this one reads {VERSION}")
            }
            Self::Malformed => f.write_str("a stored response that is cut or damaged"),
        }
    }
}

impl Snapshot {
    /// The stored form. `None` if a part is larger than the format can say: 65,535 headers, a value
    /// or a body of 4 GiB.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        let headers: usize =
            self.headers.iter().map(|(name, value)| 6 + name.as_str().len() + value.len()).sum();
        let mut blob = Vec::with_capacity(1 + 2 + 2 + headers + 4 + self.body.len());
        blob.put_u8(VERSION);
        blob.put_u16(self.status.as_u16());
        put_headers(&mut blob, &self.headers)?;
        blob.put_u32(self.body.len().try_into().ok()?);
        blob.put_slice(&self.body);
        Some(blob.into())
    }

    /// Reads the stored form. The body is a slice of the blob; nothing is copied but the headers.
    pub(crate) fn decode(mut blob: Bytes) -> Result<Self, SnapshotError> {
        match blob.first() {
            Some(&VERSION) => blob.advance(1),
            Some(&other) => return Err(SnapshotError::Version(other)),
            None => return Err(SnapshotError::Malformed),
        }
        Self::decode_parts(&mut blob).filter(|_| blob.is_empty()).ok_or(SnapshotError::Malformed)
    }

    fn decode_parts(blob: &mut Bytes) -> Option<Self> {
        let status = StatusCode::from_u16(blob.try_get_u16().ok()?).ok()?;
        let headers = take_headers(blob)?;
        let length = blob.try_get_u32().ok()? as usize;
        let body = take(blob, length)?;
        Some(Self { status, headers, body })
    }

    /// About how much memory it takes.
    pub(crate) fn weight(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        size_of::<Self>() + headers + self.body.len()
    }
}

/// Writes headers, or trailers, in the form above. `None` if there are too many, or one is too long.
pub(crate) fn put_headers(blob: &mut Vec<u8>, headers: &HeaderMap) -> Option<()> {
    blob.put_u16(headers.len().try_into().ok()?);
    for (name, value) in headers {
        blob.put_u16(name.as_str().len().try_into().ok()?);
        blob.put_slice(name.as_str().as_bytes());
        blob.put_u32(value.len().try_into().ok()?);
        blob.put_slice(value.as_bytes());
    }
    Some(())
}

/// Reads what [`put_headers`] wrote, from the front of the blob.
pub(crate) fn take_headers(blob: &mut Bytes) -> Option<HeaderMap> {
    let count = blob.try_get_u16().ok()?;
    let mut headers = HeaderMap::new();
    for _ in 0..count {
        let length = blob.try_get_u16().ok()?.into();
        let name = HeaderName::from_bytes(&take(blob, length)?).ok()?;
        let length = blob.try_get_u32().ok()? as usize;
        let value = HeaderValue::from_maybe_shared(take(blob, length)?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

fn take(blob: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= blob.len()).then(|| blob.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Snapshot {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", "a=1".parse().unwrap());
        headers.append("set-cookie", "b=2".parse().unwrap());
        headers.append("x-bytes", HeaderValue::from_bytes(b"\xff\t ").unwrap());
        Snapshot { status: StatusCode::CREATED, headers, body: Bytes::from_static(b"hello") }
    }

    #[test]
    fn what_was_encoded_is_decoded_without_copying_the_body() {
        let blob = sample().encode().unwrap();
        let read = Snapshot::decode(blob.clone()).unwrap();
        assert_eq!(read, sample());
        let range = blob.as_ptr_range();
        assert!(range.contains(&read.body.as_ptr()));
    }

    #[test]
    fn another_version_is_named_and_not_guessed_at() {
        let mut blob = sample().encode().unwrap().to_vec();
        blob[0] = 9;
        let error = Snapshot::decode(blob.into()).unwrap_err();
        assert_eq!(error, SnapshotError::Version(9));
        assert!(error.to_string().contains('9'));
    }

    #[test]
    fn a_blob_cut_anywhere_or_with_more_behind_it_is_malformed() {
        let blob = sample().encode().unwrap();
        for length in 0..blob.len() {
            let cut = Snapshot::decode(blob.slice(..length));
            assert_eq!(cut.unwrap_err(), SnapshotError::Malformed, "cut at {length}");
        }
        let longer = [&blob[..], b"x"].concat();
        assert_eq!(Snapshot::decode(longer.into()).unwrap_err(), SnapshotError::Malformed);
    }

    proptest! {
        #[test]
        fn no_blob_makes_the_decoder_panic(mut blob in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Snapshot::decode(blob.clone().into());
            if let Some(version) = blob.first_mut() {
                *version = VERSION;
            }
            let _ = Snapshot::decode(blob.into());
        }

        #[test]
        fn a_damaged_byte_never_panics_the_decoder(at in 0usize..60, to in any::<u8>()) {
            let mut blob = sample().encode().unwrap().to_vec();
            let at = at % blob.len();
            blob[at] = to;
            let _ = Snapshot::decode(blob.into());
        }
    }
}

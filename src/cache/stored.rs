//! A response as a store keeps it.
//!
//! ```text
//! u8 version = 1, of a part 2 · u32 length, canonical key · snapshot, as in `snapshot.rs`          big-endian
//!
//! u8 version + 128 · u32 length, canonical key · u32 length of the body · snapshot with it compressed
//! ```

use crate::{cache::compression, snapshot::Snapshot};
use bytes::{Buf, BufMut, Bytes};
use http::{Response, StatusCode};
use std::fmt;

/// Changes with the format. A blob of another version is a miss.
const VERSION: u8 = 1;

/// That of a 206, which a reader that knows whole responses only must not give to anyone.
const PART_VERSION: u8 = 2;

/// Added to the version where the body is compressed.
const COMPRESSED: u8 = 128;

/// A response, and the key of the request that it answered.
///
/// Opaque to a store: one that keeps bytes [encodes](StoredResponse::encode) it, one in memory keeps
/// it as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// The whole key, not its hash: verified on every hit, so no two requests share an answer
    /// because their hashes collide.
    pub(crate) key: Bytes,
    pub(crate) snapshot: Snapshot,
}

impl StoredResponse {
    /// The response to the request with this key.
    pub fn new(key: impl Into<Bytes>, response: Response<Bytes>) -> Self {
        let (parts, body) = response.into_parts();
        let snapshot = Snapshot { status: parts.status, headers: parts.headers, body };
        Self { key: key.into(), snapshot }
    }

    /// The form in which it travels and lies on a disk. `None` if a part is larger than the format
    /// can say (4 GiB).
    #[must_use]
    pub fn encode(&self) -> Option<Bytes> {
        self.written(self.version(), None, &self.snapshot)
    }

    /// The same with a body of at least `above` bytes compressed by LZ4, if that makes it an eighth
    /// smaller and the response has no `Content-Encoding`. Needs the feature `cache-compression`, without
    /// which it stays as it is, and is a miss to whoever reads it.
    #[must_use]
    pub fn encode_compressed(&self, above: usize) -> Option<Bytes> {
        let Snapshot { status, headers, body } = &self.snapshot;
        let Some(packed) = compression::compressed(headers, body, above) else {
            return self.encode();
        };
        let packed = Snapshot { status: *status, headers: headers.clone(), body: packed };
        self.written(self.version() + COMPRESSED, Some(body.len().try_into().ok()?), &packed)
    }

    fn written(&self, version: u8, length: Option<u32>, snapshot: &Snapshot) -> Option<Bytes> {
        let snapshot = snapshot.encode()?;
        let mut blob = Vec::with_capacity(1 + 4 + self.key.len() + 4 + snapshot.len());
        blob.put_u8(version);
        blob.put_u32(self.key.len().try_into().ok()?);
        blob.put_slice(&self.key);
        length.into_iter().for_each(|length| blob.put_u32(length));
        blob.put_slice(&snapshot);
        Some(blob.into())
    }

    /// Reads that form. `None` if it is damaged or another version's: a miss. The body is a slice of
    /// the blob, not a copy, unless it is compressed.
    #[must_use]
    pub fn decode(mut blob: Bytes) -> Option<Self> {
        let version = blob.try_get_u8().ok()?;
        let length = blob.try_get_u32().ok()? as usize;
        let key = (length <= blob.len()).then(|| blob.split_to(length))?;
        let snapshot = match version.checked_sub(COMPRESSED) {
            None => Snapshot::decode(blob).ok()?,
            Some(_) => {
                let length = blob.try_get_u32().ok()? as usize;
                let packed = Snapshot::decode(blob).ok()?;
                Snapshot { body: compression::decompressed(&packed.body, length)?, ..packed }
            }
        };
        let response = Self { key, snapshot };
        (response.version() == version & !COMPRESSED).then_some(response)
    }

    /// Whether it is a part of a response: an answer only to who asks for no more.
    pub(crate) fn is_part(&self) -> bool {
        self.snapshot.status == StatusCode::PARTIAL_CONTENT
    }

    fn version(&self) -> u8 {
        if self.is_part() { PART_VERSION } else { VERSION }
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.key.len() + self.snapshot.weight()
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResponse")
            .field("status", &self.snapshot.status)
            .field("body", &self.snapshot.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use proptest::prelude::*;

    fn sample() -> StoredResponse {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "1".parse().unwrap());
        let body = Bytes::from_static(b"hello");
        let snapshot = Snapshot { status: StatusCode::OK, headers, body };
        StoredResponse { key: Bytes::from_static(b"//one.example/a"), snapshot }
    }

    #[test]
    fn what_was_encoded_is_decoded_without_copying_the_body() {
        let blob = sample().encode().unwrap();
        let read = StoredResponse::decode(blob.clone()).unwrap();
        assert_eq!(read, sample());
        assert!(blob.as_ptr_range().contains(&read.snapshot.body.as_ptr()));
    }

    #[test]
    fn another_version_and_every_cut_are_misses() {
        let blob = sample().encode().unwrap();
        for length in 0..blob.len() {
            assert_eq!(StoredResponse::decode(blob.slice(..length)), None, "cut at {length}");
        }
        for version in [0, 2, 3] {
            let mut newer = blob.to_vec();
            newer[0] = version;
            assert_eq!(StoredResponse::decode(newer.into()), None, "version {version}");
        }
    }

    #[test]
    fn a_part_is_of_a_version_of_its_own() {
        let mut part = sample();
        part.snapshot.status = StatusCode::PARTIAL_CONTENT;
        let blob = part.encode().unwrap();
        assert_eq!((blob[0], StoredResponse::decode(blob.clone())), (2, Some(part)));
        let mut whole = blob.to_vec();
        whole[0] = 1;
        assert_eq!(StoredResponse::decode(whole.into()), None);
    }

    #[cfg(feature = "cache-compression")]
    #[test]
    fn a_compressed_one_is_read_as_it_was_and_every_cut_is_a_miss() {
        for status in [StatusCode::OK, StatusCode::PARTIAL_CONTENT] {
            let mut response = sample();
            (response.snapshot.status, response.snapshot.body) = (status, vec![b'x'; 5_000].into());
            let blob = response.encode_compressed(1_024).unwrap();
            assert!(blob.len() < 200, "{} bytes", blob.len());
            assert_eq!(StoredResponse::decode(blob.clone()).unwrap(), response);
            for length in 0..blob.len() {
                assert_eq!(StoredResponse::decode(blob.slice(..length)), None, "cut at {length}");
            }
        }
        assert_eq!(sample().encode_compressed(1_024), sample().encode());
    }

    #[cfg(not(feature = "cache-compression"))]
    #[test]
    fn a_compressed_one_is_a_miss_without_the_feature() {
        let mut blob = sample().encode_compressed(0).unwrap().to_vec();
        assert_eq!(Some(Bytes::from(blob.clone())), sample().encode());
        blob[0] += COMPRESSED;
        assert_eq!(StoredResponse::decode(blob.into()), None);
    }

    proptest! {
        #[test]
        fn no_blob_makes_the_decoder_panic(mut blob in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(version) = blob.first_mut() {
                *version = VERSION;
            }
            let _ = StoredResponse::decode(blob.into());
        }
    }
}

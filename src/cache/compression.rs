//! Bodies as a store on another machine keeps them: compressed by LZ4, if it is worth it.
//!
//! Nothing of it is visible outside. A response that has been compressed for its client already stays as it
//! is.

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_ENCODING};

/// LZ4 makes at most 255 bytes of one, so a length beyond is a lie.
const MOST_OF_ONE: usize = 255;

/// The compressed form of a body of at least `above` bytes. `None` if it would not be an eighth smaller.
pub(super) fn compressed(headers: &HeaderMap, body: &[u8], above: usize) -> Option<Bytes> {
    if body.len() < above.max(1) || headers.contains_key(CONTENT_ENCODING) {
        return None;
    }
    compress(body).filter(|packed| packed.len() <= body.len() - body.len() / 8).map(Into::into)
}

/// The body of so many bytes that was compressed. `None` if that is not what it is.
pub(super) fn decompressed(packed: &[u8], length: usize) -> Option<Bytes> {
    let possible = length <= packed.len().saturating_mul(MOST_OF_ONE);
    let body = possible.then(|| decompress(packed, length))??;
    (body.len() == length).then(|| body.into())
}

#[cfg(feature = "cache-compression")]
fn compress(body: &[u8]) -> Option<Vec<u8>> {
    Some(lz4_flex::block::compress(body))
}

#[cfg(feature = "cache-compression")]
fn decompress(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    lz4_flex::block::decompress(packed, length).ok()
}

#[cfg(not(feature = "cache-compression"))]
fn compress(_body: &[u8]) -> Option<Vec<u8>> {
    None
}

/// What a process with the feature has written is a miss to one without.
#[cfg(not(feature = "cache-compression"))]
fn decompress(_packed: &[u8], _length: usize) -> Option<Vec<u8>> {
    None
}

#[cfg(all(test, feature = "cache-compression"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain() -> HeaderMap {
        HeaderMap::new()
    }

    #[test]
    fn what_is_long_and_repeats_itself_becomes_small() {
        let body = b"one line of many. ".repeat(200);
        let packed = compressed(&plain(), &body, 1_024).unwrap();
        assert!(packed.len() < body.len() / 10, "{} bytes of {}", packed.len(), body.len());
        assert_eq!(decompressed(&packed, body.len()).unwrap(), body);
    }

    #[test]
    fn what_is_short_or_encoded_or_random_stays_as_it_is() {
        let body = b"one line of many. ".repeat(200);
        assert_eq!(compressed(&plain(), &body, body.len() + 1), None);
        assert_eq!(compressed(&plain(), b"", 0), None);
        let mut headers = plain();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(compressed(&headers, &body, 0), None);
        let mut random = [0; 2_048];
        getrandom::fill(&mut random).unwrap();
        assert_eq!(compressed(&plain(), &random, 0), None);
    }

    #[test]
    fn another_length_than_it_had_is_no_body() {
        let body = b"one line of many. ".repeat(200);
        let packed = compressed(&plain(), &body, 0).unwrap();
        for length in [0, body.len() - 1, body.len() + 1, usize::MAX] {
            assert_eq!(decompressed(&packed, length), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_blob_makes_the_decoder_panic(
            packed in proptest::collection::vec(any::<u8>(), 0..200),
            length in 0usize..100_000,
        ) {
            let _ = decompressed(&packed, length);
        }
    }
}

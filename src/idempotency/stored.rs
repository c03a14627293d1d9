//! What a complete record holds, and its stored form.
//!
//! ```text
//! u8 version = 1 · u8 kind · kind 1, a response: the trailers, then the response (snapshot.rs)
//!                            kind 2, a tombstone: u16 status                  all big-endian
//! ```

use crate::{
    body::ResponseBody,
    fleeting::lasting,
    idempotency::store::SMALL_OUTCOME,
    snapshot::{Snapshot, put_headers, take_headers},
    store::StoreError,
};
use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, response::Parts};
use http_body::Body;

/// The response header of an answer that was given before.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Changes with the format. What another version wrote is never guessed at.
const VERSION: u8 = 1;
const RESPONSE: u8 = 1;
const TOMBSTONE: u8 = 2;

/// The recorded outcome of a request.
#[expect(clippy::large_enum_variant, reason = "one exists for a moment, most are the larger kind")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Response {
        snapshot: Snapshot,
        trailers: HeaderMap,
    },
    /// The request was handled; its answer is not kept.
    Tombstone {
        status: StatusCode,
    },
}

/// A stored form that this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl From<Unreadable> for StoreError {
    fn from(Unreadable: Unreadable) -> Self {
        Self::corrupt(
            "a recorded outcome is damaged, or was written by another version of the crate; its \
             request is not run again",
        )
    }
}

impl Stored {
    /// A response that has been read to its end, without the headers that were meant for the first
    /// asker or the first moment only.
    pub(crate) fn response(head: &Parts, body: Bytes, trailers: Option<HeaderMap>) -> Self {
        let snapshot = Snapshot { status: head.status, headers: lasting(&head.headers), body };
        Self::Response { snapshot, trailers: trailers.unwrap_or_default() }
    }

    /// The stored form, at most `limit` bytes: a tombstone if it were larger.
    pub(crate) fn encode(&self, limit: usize) -> Bytes {
        match self {
            Self::Tombstone { status } => tombstone(*status),
            Self::Response { snapshot, .. } => {
                self.encode_whole(limit).unwrap_or_else(|| tombstone(snapshot.status))
            }
        }
    }

    /// The same, or `None` if it were larger.
    pub(crate) fn encode_whole(&self, limit: usize) -> Option<Bytes> {
        match self {
            Self::Tombstone { status } => Some(tombstone(*status)),
            Self::Response { snapshot, trailers } => {
                response(snapshot, trailers).filter(|blob| blob.len() <= limit)
            }
        }
    }

    pub(crate) fn decode(mut blob: Bytes) -> Result<Self, Unreadable> {
        match (blob.try_get_u8(), blob.try_get_u8()) {
            (Ok(VERSION), Ok(RESPONSE)) => {
                let trailers = take_headers(&mut blob).ok_or(Unreadable)?;
                let snapshot = Snapshot::decode(blob).map_err(|_| Unreadable)?;
                Ok(Self::Response { snapshot, trailers })
            }
            (Ok(VERSION), Ok(TOMBSTONE)) => {
                let status = blob.try_get_u16().ok().filter(|_| blob.is_empty());
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                Ok(Self::Tombstone { status: status.ok_or(Unreadable)? })
            }
            _ => Err(Unreadable),
        }
    }
}

/// The response again, marked as a replay.
pub(crate) fn replay<B: Body>(
    snapshot: Snapshot,
    trailers: HeaderMap,
) -> Response<ResponseBody<B>> {
    let Snapshot { status, headers, body } = snapshot;
    let trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
    let mut response = Response::new(ResponseBody::buffered(body, trailers));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response
}

fn response(snapshot: &Snapshot, trailers: &HeaderMap) -> Option<Bytes> {
    let snapshot = snapshot.encode()?;
    let mut blob = Vec::with_capacity(4 + snapshot.len());
    blob.put_u8(VERSION);
    blob.put_u8(RESPONSE);
    put_headers(&mut blob, trailers)?;
    blob.put_slice(&snapshot);
    Some(blob.into())
}

fn tombstone(status: StatusCode) -> Bytes {
    let mut blob = Vec::with_capacity(SMALL_OUTCOME);
    blob.put_u8(VERSION);
    blob.put_u8(TOMBSTONE);
    blob.put_u16(status.as_u16());
    blob.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use proptest::prelude::*;

    fn head(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut response = Response::builder().status(201);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    fn sample() -> Stored {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let head = head(&[("location", "/orders/1"), ("link", "</a>"), ("link", "</b>")]);
        Stored::response(&head, "body".into(), Some(trailers))
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for stored in [sample(), Stored::Tombstone { status: StatusCode::CREATED }] {
            assert_eq!(Stored::decode(stored.encode(usize::MAX)), Ok(stored));
        }
    }

    #[test]
    fn what_is_too_large_becomes_a_tombstone_that_fits_any_store() {
        let whole = sample().encode(usize::MAX).len();
        assert!(matches!(Stored::decode(sample().encode(whole)), Ok(Stored::Response { .. })));
        let small = sample().encode(whole - 1);
        assert!(small.len() <= SMALL_OUTCOME);
        assert_eq!(Stored::decode(small), Ok(Stored::Tombstone { status: StatusCode::CREATED }));
    }

    #[test]
    fn another_version_kind_or_length_is_unreadable() {
        for stored in [sample(), Stored::Tombstone { status: StatusCode::OK }] {
            let blob = stored.encode(usize::MAX);
            for length in 0..blob.len() {
                assert_eq!(
                    Stored::decode(blob.slice(..length)),
                    Err(Unreadable),
                    "cut at {length}"
                );
            }
            let longer = [&blob[..], b"x"].concat();
            assert_eq!(Stored::decode(longer.into()), Err(Unreadable));
            for at in [0, 1] {
                let mut other = blob.to_vec();
                other[at] = 9;
                assert_eq!(Stored::decode(other.into()), Err(Unreadable), "byte {at}");
            }
        }
    }

    #[test]
    fn only_headers_that_hold_for_a_later_asker_are_stored() {
        let kept =
            [("location", "/1"), ("etag", "\"x\""), ("link", "</a>"), ("content-type", "a/b")];
        let dropped = [
            ("set-cookie", "id=1"),
            ("date", "now"),
            ("www-authenticate", "Basic"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("ratelimit", "\"a\";r=1"),
            ("ratelimit-policy", "\"a\";q=1"),
            ("x-ratelimit-remaining", "1"),
            ("traceparent", "00-1-1-01"),
            ("x-request-id", "1"),
        ];
        let all = [&kept[..], &dropped[..]].concat();
        let Stored::Response { snapshot, .. } = Stored::response(&head(&all), Bytes::new(), None)
        else {
            panic!("a response is a response");
        };
        let names: Vec<&str> = snapshot.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, kept.map(|(name, _)| name));
    }

    #[tokio::test]
    async fn a_replay_says_so_and_keeps_its_trailers() {
        let Stored::Response { snapshot, trailers } = sample() else { panic!() };
        let response = replay::<Full<Bytes>>(snapshot, trailers);
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["idempotent-replayed"], "true");
        assert_eq!(response.headers().get_all("link").iter().count(), 2);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "body");
    }

    proptest! {
        #[test]
        fn no_blob_makes_the_decoder_panic(
            blob in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0u8..4,
        ) {
            let _ = Stored::decode([&[VERSION, kind], &blob[..]].concat().into());
        }
    }
}

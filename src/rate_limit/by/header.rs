//! Per value of a header.

use crate::rate_limit::by::{KeyBuilder, KeyBy, Missing};
use http::{HeaderName, request::Parts};

/// A header: see [`header`].
#[derive(Clone, Debug)]
pub struct Header(HeaderName);

/// Per value of a request header. Requests without it share one key, so leaving it out is no way
/// around the limit; but a client may send any value it likes, so check it before, or count by
/// something else as well. The value is stored as a digest only: it may be an API key.
///
/// # Panics
///
/// If `name` is not a header name.
#[must_use]
pub fn header(name: &str) -> Header {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Header(name),
        Err(_) => panic!("{name:?} is not a header name"),
    }
}

impl KeyBy for Header {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        let value = request.headers.get(&self.0).map(|value| value.as_bytes());
        key.push_secret(&String::from_utf8_lossy(value.unwrap_or_default()));
        Ok(())
    }

    fn is_secret(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::by::tests::key;
    use http::Request;

    #[test]
    fn what_a_client_sends_is_bounded_and_cannot_look_like_another_key() {
        let request = |value: &str| Request::builder().header("x-key", value).body(()).unwrap();
        let long = key(header("x-key"), request(&"x".repeat(8_000))).unwrap();
        assert_eq!(long.len(), 23);
        assert_ne!(key(header("x-key"), request(&long)).unwrap(), long);
        assert!(key(header("x-key"), request("{tag}")).unwrap().starts_with('#'));
        assert!(key(header("x-key"), Request::new(())).unwrap().starts_with('#'), "{{}} is no tag");
    }
}

//! All requests together.

use crate::rate_limit::by::{KeyBuilder, KeyBy, Missing};
use http::request::Parts;

/// All requests together: see [`everyone`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Everyone;

/// One count for all requests.
#[must_use]
pub fn everyone() -> Everyone {
    Everyone
}

impl KeyBy for Everyone {
    fn write(&self, _: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        key.push("everyone");
        Ok(())
    }
}

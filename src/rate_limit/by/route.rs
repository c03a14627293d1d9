//! Per route.

use crate::rate_limit::by::{KeyBuilder, KeyBy, Missing};
use http::request::Parts;

/// The route: see [`route`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Route;

/// Per method and route: axum's matched path (`/items/{id}`), else the path itself, which a client
/// can vary at will.
#[must_use]
pub fn route() -> Route {
    Route
}

impl KeyBy for Route {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        key.push(request.method.as_str());
        #[cfg(feature = "axum")]
        if let Some(path) = request.extensions.get::<axum::extract::MatchedPath>() {
            key.push(path.as_str());
            return Ok(());
        }
        key.push(request.uri.path());
        Ok(())
    }
}

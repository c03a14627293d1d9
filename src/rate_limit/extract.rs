//! The axum extractor.

use super::status::RateLimitStatus;
use axum::extract::FromRequestParts;
use http::request::Parts;
use std::convert::Infallible;

impl<S: Sync> FromRequestParts<S> for RateLimitStatus {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

//! axum: the extractor, and the rejection as a response.

use crate::{
    problem,
    rate_limit::{rejection::Rejection, status::RateLimitStatus},
};
use axum::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::request::Parts;
use std::convert::Infallible;

impl<S: Sync> FromRequestParts<S> for RateLimitStatus {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        problem::Rejection::default().respond::<Body>(self).map(Body::new)
    }
}

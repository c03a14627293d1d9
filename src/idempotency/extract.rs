//! axum: the extractor, and the errors as responses.

use crate::{
    idempotency::{
        handle::{Idempotent, LeaseLost, Unkeyed},
        rejection::Rejection,
    },
    problem,
};
use axum::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::RETRY_AFTER, request::Parts};
use std::convert::Infallible;

impl<S: Sync> FromRequestParts<S> for Idempotent {
    type Rejection = Rejection;

    /// 400 if the request has no key, and 500 if no layer guards the route and method. Both are problem
    /// documents, whatever the layer's [`rejection`](crate::idempotency::IdempotencyLayer::rejection)
    /// says; where it is to answer, [require](crate::idempotency::IdempotencyLayer::require) the key.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        match parts.extensions.get::<Idempotent>() {
            Some(handle) => Ok(handle.clone()),
            None if parts.extensions.get::<Unkeyed>().is_some() => Err(Rejection::KeyMissing),
            None => Err(Rejection::NotGuarded),
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Idempotent {
    type Rejection = Infallible;

    /// `None` if the request has no key, or no layer guards the route and method.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Idempotent>().cloned())
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        problem::Rejection::default().respond::<Body>(self).map(Body::new)
    }
}

impl IntoResponse for LeaseLost {
    /// 503 with `Retry-After`: a retry gets the answer of the run that took over, or is the next attempt.
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], self.to_string()).into_response()
    }
}

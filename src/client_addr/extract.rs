//! axum: the client's address as an extractor.

use crate::{
    client_addr::client::{ClientAddr, UNKNOWN},
    problem::{self, Problem},
};
use axum::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use std::{error::Error, fmt};

impl<S: Sync> FromRequestParts<S> for ClientAddr {
    type Rejection = ClientAddrRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ClientAddrRejection> {
        Self::of(&parts.extensions).ok_or(ClientAddrRejection {})
    }
}

/// 500: the server does not tell the peer's address. The text names the fix.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ClientAddrRejection {}

impl fmt::Display for ClientAddrRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(UNKNOWN)
    }
}

impl Error for ClientAddrRejection {}

impl Problem for ClientAddrRejection {
    fn status(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

impl IntoResponse for ClientAddrRejection {
    fn into_response(self) -> Response {
        problem::Rejection::default().respond::<Body>(self).map(Body::new)
    }
}

//! The axum extractors, and how an error becomes a response.

use crate::{
    problem,
    session::{error::Error, handle::Session, lazy_session::LazySession},
};
use axum::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::request::Parts;
use std::{convert::Infallible, fmt};

impl<S: Sync> FromRequestParts<S> for LazySession {
    type Rejection = SessionRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionRejection> {
        parts.extensions.get::<Self>().cloned().ok_or_else(SessionRejection::missing_layer)
    }
}

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = SessionRejection;

    /// Loads the session, and puts its user into the request's extensions.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, SessionRejection> {
        let lazy = <LazySession as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let session = lazy.load().await.map_err(|error| SessionRejection::new(error, &lazy))?;
        if let Some(user) = session.user() {
            parts.extensions.insert(user);
        }
        Ok(session)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for LazySession {
    type Rejection = Infallible;

    /// `None` if there is no session layer around the handler.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = SessionRejection;

    /// `None` if there is no session layer around the handler. A visitor without a session has one
    /// that does not [exist](Session::exists) yet.
    async fn from_request_parts(
        parts: &mut Parts,
        state: &S,
    ) -> Result<Option<Self>, SessionRejection> {
        if parts.extensions.get::<LazySession>().is_none() {
            return Ok(None);
        }
        <Self as FromRequestParts<S>>::from_request_parts(parts, state).await.map(Some)
    }
}

/// Why an extractor has no session to give. It is answered as the layer's
/// [`rejection`](super::SessionLayer::rejection) says.
pub struct SessionRejection {
    error: Error,
    rejection: problem::Rejection<Error>,
}

impl SessionRejection {
    fn new(error: Error, session: &LazySession) -> Self {
        Self { error, rejection: session.config().rejection.clone() }
    }

    fn missing_layer() -> Self {
        Self { error: Error::missing_layer(), rejection: problem::Rejection::default() }
    }

    /// The reason.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl IntoResponse for SessionRejection {
    fn into_response(self) -> Response {
        self.rejection.respond::<Body>(self.error).map(Body::new)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        problem::Rejection::default().respond::<Body>(self).map(Body::new)
    }
}

impl fmt::Display for SessionRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for SessionRejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl fmt::Debug for SessionRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionRejection").field(&self.error).finish()
    }
}

//! axum: the error as a response.

use crate::{
    lock::error::Error,
    problem::{self, Problem},
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use std::{fmt, time::Duration};

/// The bounds of `Retry-After`: a holder seldom takes its whole TTL, and a client is not sent away for
/// long.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(60);

/// The error as a client may read it.
#[derive(Clone)]
struct ForClients(Error);

impl fmt::Display for ForClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.for_clients())
    }
}

impl Problem for ForClients {
    fn status(&self) -> StatusCode {
        self.0.status()
    }

    fn retry_after(&self) -> Option<Duration> {
        let later = self.status() != StatusCode::INTERNAL_SERVER_ERROR;
        later.then(|| self.0.held_for().unwrap_or(SOON).clamp(SOON, LATE))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = problem::document(&ForClients(self.clone())).map(Body::from);
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use http::header::{CONTENT_TYPE, RETRY_AFTER};
    use http_body_util::BodyExt;

    async fn answer(error: Error) -> (u16, Option<String>, String) {
        let response = error.into_response();
        assert!(response.extensions().get::<Error>().is_some());
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let retry = response.headers().get(RETRY_AFTER);
        let retry = retry.map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, retry, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_client_is_told_what_it_can_do_and_neither_the_name_nor_the_server() {
        let name = "cart-of-zoe";
        let down = StoreError::unavailable("redis at 10.0.0.7:6379 is down");
        let secs = Duration::from_secs;
        let cases = [
            (Error::contended(name, secs(7)), 409, Some("7")),
            (Error::contended(name, secs(86_400)), 409, Some("60")),
            (Error::timed_out(name, secs(9), None), 409, Some("1")),
            (Error::crowded(name, 9), 503, Some("1")),
            (Error::lost(name), 503, Some("1")),
            (Error::store(name, down), 503, Some("1")),
            (Error::store(name, StoreError::config("a TTL of 0")), 500, None),
        ];
        for (error, status, retry) in cases {
            let (said, after, body) = answer(error).await;
            assert_eq!((said, after.as_deref()), (status, retry), "{body}");
            assert!(!body.contains("zoe") && !body.contains("10.0.0.7"), "{body}");
        }
    }
}

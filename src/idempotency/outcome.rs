//! What becomes of a request's answer.

use http::StatusCode;

/// What becomes of an answer. In the response's extensions, or set by
/// [`Idempotent::decide`](crate::idempotency::Idempotent::decide), it overrides what the status says.
///
/// Without it, 2xx, 3xx and 4xx are stored, except 401, 403, 408, 409, 425 and 429, which say that
/// the same request may succeed later, or with other credentials. Those, and 5xx, are retryable.
///
/// In axum a handler returns it with its answer:
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Extension, http::StatusCode};
/// use towerkeep::idempotency::Outcome;
///
/// async fn order() -> (StatusCode, Extension<Outcome>, &'static str) {
///     // The warehouse took the order although it could not print the invoice.
///     (StatusCode::BAD_GATEWAY, Extension(Outcome::Store), "ordered, invoice follows")
/// }
/// # let _ = order;
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The answer is stored, and every later request with the key gets it.
    Store,
    /// It is stored that the request was handled, but not with what answer: later requests with the
    /// key get 409 and do not run. For an answer that may be seen only once, or that is streamed;
    /// its body is passed on as it comes.
    Tombstone,
    /// Nothing is stored: the next request with the key runs as the first. Only for a request that
    /// had no effect, or whose effect may happen again.
    Retryable,
}

impl Outcome {
    /// What the status alone says.
    pub(crate) fn of(status: StatusCode) -> Self {
        let again = matches!(status.as_u16(), 401 | 403 | 408 | 409 | 425 | 429);
        let settled =
            status.is_success() || status.is_redirection() || status.is_client_error() && !again;
        if settled { Self::Store } else { Self::Retryable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_by_itself_is_retryable_and_the_rest_is_stored() {
        let retryable =
            |code: &u16| Outcome::of(StatusCode::from_u16(*code).unwrap()) == Outcome::Retryable;
        let found: Vec<u16> = (100..600).filter(retryable).collect();
        let expected: Vec<u16> =
            (100..200).chain([401, 403, 408, 409, 425, 429]).chain(500..600).collect();
        assert_eq!(found, expected);
    }
}

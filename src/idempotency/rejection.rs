//! Why the layer answers a request itself.

use crate::{idempotency::header::KeyError, problem::Problem};
use http::StatusCode;
use std::{error::Error, fmt, time::Duration};

/// A retry against a record in use, or a store that is down, may succeed soon: nobody knows when a
/// handler ends, and its lease is only the latest moment.
const SOON: Duration = Duration::from_secs(1);

/// Why the layer answered a request itself. It is in the extensions of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// 400: the method requires an `Idempotency-Key` and there is none.
    KeyMissing,
    /// 400: the `Idempotency-Key` is malformed.
    KeyMalformed(KeyError),
    /// 403: the request has no scope, such as a user, that its key could belong to.
    ScopeMissing,
    /// 400: the body ended with an error.
    BodyBroken,
    /// 408: the body did not arrive in time.
    BodyTimeout,
    /// 413: the body is larger than the limit, in bytes.
    BodyTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// 422: the key was used for another request.
    Mismatch,
    /// 409 with `Retry-After`: the first request with the key is being handled.
    InFlight {
        /// How long its lease lasts if it is not renewed.
        left: Duration,
    },
    /// 409: an earlier request with the key was begun and vanished, so what came of it is unknown,
    /// and the layer is told to [reject](crate::idempotency::Orphan::Reject) those.
    Orphan {
        /// How many vanished.
        attempts: u32,
    },
    /// 409: the request was handled, with this status, and its answer is not kept.
    Tombstone {
        /// The status of the answer.
        status: StatusCode,
    },
    /// 409: the record was written by another version of the crate. It is never run again.
    Unreadable,
    /// 503 with `Retry-After`: the store cannot be asked, or is full. The handler did not run.
    Unavailable,
    /// 503: the handler took longer than the layer allows and was stopped; what came of it is
    /// unknown.
    TimeLimit {
        /// The limit.
        limit: Duration,
    },
    /// 500: a handler asked for an [`Idempotent`](crate::idempotency::Idempotent) and the layer does
    /// not guard the route or the method.
    NotGuarded,
}

impl Rejection {
    /// The status of the default answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::KeyMissing | Self::KeyMalformed(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::ScopeMissing => StatusCode::FORBIDDEN,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::InFlight { .. }
            | Self::Orphan { .. }
            | Self::Tombstone { .. }
            | Self::Unreadable => StatusCode::CONFLICT,
            Self::Unavailable | Self::TimeLimit { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotGuarded => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The address of the documentation of a rejection, by which programs tell one 409 from another.
macro_rules! documented {
    ($variant:literal) => {
        concat!(
            "https://docs.rs/towerkeep/latest/towerkeep/idempotency/enum.Rejection.html#variant.",
            $variant
        )
    };
}

impl Problem for Rejection {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn type_uri(&self) -> &'static str {
        match self {
            Self::KeyMissing => documented!("KeyMissing"),
            Self::KeyMalformed(_) => documented!("KeyMalformed"),
            Self::ScopeMissing => documented!("ScopeMissing"),
            Self::Mismatch => documented!("Mismatch"),
            Self::InFlight { .. } => documented!("InFlight"),
            Self::Orphan { .. } => documented!("Orphan"),
            Self::Tombstone { .. } => documented!("Tombstone"),
            Self::Unreadable => documented!("Unreadable"),
            Self::TimeLimit { .. } => documented!("TimeLimit"),
            _ => "about:blank",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::KeyMissing => "Idempotency-Key is missing",
            Self::KeyMalformed(_) => "Idempotency-Key is malformed",
            Self::ScopeMissing => "The request needs an identified caller",
            Self::Mismatch => "Idempotency-Key was used for another request",
            Self::InFlight { .. } => "The request is being handled",
            Self::Orphan { .. } => "The outcome of the request is unknown",
            Self::Tombstone { .. } => "The request was handled and its answer is not kept",
            Self::Unreadable => "The recorded outcome cannot be read",
            _ => self.status().canonical_reason().unwrap_or("Error"),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::InFlight { .. } | Self::Unavailable).then_some(SOON)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyMissing => f.write_str(
                "this request needs the header Idempotency-Key with a value that is new for each \
                 operation and the same for each retry, such as \
                 Idempotency-Key: \"8e03978e-40d5-43dd-bc93-6b82f0d5b0e5\"",
            ),
            Self::KeyMalformed(error) => error.fmt(f),
            Self::ScopeMissing => {
                f.write_str("what is to be handled once is accepted only from an identified caller")
            }
            Self::BodyBroken => f.write_str("the request's body could not be read to its end"),
            Self::BodyTimeout => f.write_str("the request's body did not arrive in time"),
            Self::BodyTooLarge { limit } => write!(
                f,
                "the body of a request that is handled once may have at most {limit} bytes"
            ),
            Self::Mismatch => f.write_str(
                "this Idempotency-Key was used before for a request with another method, host, \
                 path, content type or body; use a new key for a new request",
            ),
            Self::InFlight { .. } => f.write_str(
                "the same request is being handled; retry, with the same Idempotency-Key if it has \
                 one, to get its answer",
            ),
            Self::Orphan { .. } => f.write_str(
                "the same request was begun and its outcome is unknown; it is not run again",
            ),
            Self::Tombstone { status } => write!(
                f,
                "the same request was handled with status {}; its answer is not available any more \
                 and it is not run again",
                status.as_u16()
            ),
            Self::Unreadable => f.write_str(
                "the outcome recorded for this request was written by another version of the server \
                 and cannot be read; it is not run again",
            ),
            Self::Unavailable => f.write_str(
                "requests that are handled once cannot be taken at the moment; this one was not, \
                 and can be retried with the same Idempotency-Key",
            ),
            Self::TimeLimit { limit } => write!(
                f,
                "the request took longer than {limit:?} and was stopped; its outcome is unknown, \
                 and it can be retried with the same key"
            ),
            Self::NotGuarded => f.write_str(
                "this handler asks for an Idempotent, and no IdempotencyLayer guards this method \
                 on this route",
            ),
        }
    }
}

impl Error for Rejection {}

impl From<KeyError> for Rejection {
    fn from(error: KeyError) -> Self {
        Self::KeyMalformed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::document;
    use http::header::RETRY_AFTER;

    #[test]
    fn a_retry_is_asked_for_only_where_it_may_succeed() {
        let in_flight = document(&Rejection::InFlight { left: Duration::from_secs(30) });
        assert_eq!(in_flight.headers()[RETRY_AFTER], "1");
        assert!(document(&Rejection::Unavailable).headers().contains_key(RETRY_AFTER));
        for settled in [
            Rejection::Mismatch,
            Rejection::Orphan { attempts: 1 },
            Rejection::Tombstone { status: StatusCode::OK },
            Rejection::KeyMissing,
        ] {
            assert!(!document(&settled).headers().contains_key(RETRY_AFTER), "{settled:?}");
        }
    }

    #[test]
    fn each_rejection_is_a_problem_document_that_programs_can_tell_from_the_others() {
        let (left, limit, status) =
            (Duration::from_secs(9), Duration::from_secs(5), StatusCode::OK);
        let mut types = Vec::new();
        for (rejection, code, kind, words) in [
            (Rejection::KeyMissing, 400, "KeyMissing", "Idempotency-Key: \""),
            (Rejection::KeyMalformed(KeyError::Empty), 400, "KeyMalformed", "is empty"),
            (Rejection::ScopeMissing, 403, "ScopeMissing", "identified caller"),
            (Rejection::BodyBroken, 400, "", "could not be read"),
            (Rejection::BodyTimeout, 408, "", "in time"),
            (Rejection::BodyTooLarge { limit: 77 }, 413, "", "77 bytes"),
            (Rejection::Mismatch, 422, "Mismatch", "use a new key"),
            (Rejection::InFlight { left }, 409, "InFlight", "being handled"),
            (Rejection::Orphan { attempts: 2 }, 409, "Orphan", "unknown"),
            (Rejection::Tombstone { status }, 409, "Tombstone", "status 200"),
            (Rejection::Unreadable, 409, "Unreadable", "another version"),
            (Rejection::Unavailable, 503, "", "can be retried"),
            (Rejection::TimeLimit { limit }, 503, "TimeLimit", "5s"),
            (Rejection::NotGuarded, 500, "", "IdempotencyLayer"),
        ] {
            let response = document(&rejection);
            assert_eq!(response.status(), code, "{rejection:?}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(problem["status"], code, "{problem}");
            assert!(!problem["title"].as_str().unwrap().is_empty(), "{problem}");
            assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
            let uri = problem["type"].as_str().unwrap_or("about:blank").to_owned();
            let known = uri.strip_suffix(kind).is_some_and(|uri| uri.ends_with("#variant."));
            assert!(if kind.is_empty() { uri == "about:blank" } else { known }, "{problem}");
            types.extend((!kind.is_empty()).then_some(uri));
        }
        let count = types.len();
        types.sort();
        types.dedup();
        assert_eq!(types.len(), count);
    }
}

//! Why the rate limit did not let a request through.

use crate::problem::Problem;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::{error::Error, fmt, sync::Arc, time::Duration};

/// The reason of a rejection, in the response's extensions and in the hands of
/// [`RateLimitLayer::rejection`](crate::rate_limit::RateLimitLayer::rejection).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// 429: at least one policy denied the request.
    Limited {
        /// The policies that did.
        violated: Vec<Arc<str>>,
        /// When the same request would be let through; `None` if never.
        retry_after: Option<Duration>,
    },
    /// 503: the store could not decide, and the layer denies then.
    StoreUnavailable,
    /// 500: the request has no key because of how the server is set up.
    Misconfigured {
        /// What is wrong, and the fix.
        advice: &'static str,
    },
}

impl Rejection {
    /// The status of the default response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Misconfigured { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited { violated, .. } => {
                write!(f, "too many requests under {}", violated.join(", "))
            }
            Self::StoreUnavailable => f.write_str("the rate limit cannot be checked right now"),
            Self::Misconfigured { advice } => f.write_str(advice),
        }
    }
}

impl Error for Rejection {}

impl Problem for Rejection {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn type_uri(&self) -> &'static str {
        match self {
            Self::Limited { .. } => {
                "https://iana.org/assignments/http-problem-types#quota-exceeded"
            }
            Self::StoreUnavailable | Self::Misconfigured { .. } => "about:blank",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Limited { .. } => {
                "Request cannot be satisfied as assigned quota has been exceeded"
            }
            Self::StoreUnavailable => "Service Unavailable",
            Self::Misconfigured { .. } => "Internal Server Error",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } => *retry_after,
            Self::StoreUnavailable => Some(Duration::from_secs(1)),
            Self::Misconfigured { .. } => None,
        }
    }

    fn extend(&self, members: &mut Map<String, Value>) {
        if let Self::Limited { violated, .. } = self {
            let names: Vec<&str> = violated.iter().map(|name| &**name).collect();
            members.insert("violated-policies".into(), json!(names));
        }
    }
}

//! Why the rate limit did not let a request through.

use crate::problem::Problem;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use serde::ser::SerializeMap;
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
    /// 429: the key is banned under at least one policy.
    Banned {
        /// The policies under which it is.
        violated: Vec<Arc<str>>,
        /// When the ban has ended.
        retry_after: Option<Duration>,
    },
    /// 403: the layer's [deny list](crate::rate_limit::RateLimitLayer::deny) has the request.
    Denied,
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
            Self::Limited { .. } | Self::Banned { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Denied => StatusCode::FORBIDDEN,
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
            Self::Banned { violated, .. } => {
                write!(f, "denied for a time under {}", violated.join(", "))
            }
            Self::Denied => f.write_str("requests like this one are denied"),
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
            Self::Banned { .. } => {
                "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
            }
            Self::Denied | Self::StoreUnavailable | Self::Misconfigured { .. } => "about:blank",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Limited { .. } => {
                "Request cannot be satisfied as assigned quota has been exceeded"
            }
            Self::Banned { .. } => {
                "Request not satisfied due to detection of abnormal request pattern"
            }
            Self::Denied => "Forbidden",
            Self::StoreUnavailable => "Service Unavailable",
            Self::Misconfigured { .. } => "Internal Server Error",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } | Self::Banned { retry_after, .. } => *retry_after,
            Self::StoreUnavailable => Some(Duration::from_secs(1)),
            Self::Denied | Self::Misconfigured { .. } => None,
        }
    }

    fn extend<M: SerializeMap>(&self, members: &mut M) -> Result<(), M::Error> {
        if let Self::Limited { violated, .. } | Self::Banned { violated, .. } = self {
            let names: Vec<&str> = violated.iter().map(|name| &**name).collect();
            members.serialize_entry("violated-policies", &names)?;
        }
        Ok(())
    }
}

/// A rejection in the words of gRPC, for [`RateLimitLayer::rejection`]: status 200 and trailers alone,
/// with `RESOURCE_EXHAUSTED` (8), `PERMISSION_DENIED` (7), `UNAVAILABLE` (14) or `INTERNAL` (13).
///
/// ```
/// # use towerkeep::{Backend, rate_limit::{self, Policy, Quota, RateLimitLayer}};
/// let limit = RateLimitLayer::new(Backend::memory(), Policy::gcra("calls", Quota::per_second(20)))
///     .rejection(rate_limit::grpc);
/// ```
///
/// [`RateLimitLayer::rejection`]: crate::rate_limit::RateLimitLayer::rejection
#[must_use]
pub fn grpc(rejection: &Rejection) -> Response<Bytes> {
    let code = match rejection {
        Rejection::Limited { .. } | Rejection::Banned { .. } => "8",
        Rejection::Denied => "7",
        Rejection::StoreUnavailable => "14",
        Rejection::Misconfigured { .. } => "13",
    };
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code));
    // The texts are of this crate and of policies' names: plain ASCII without a percent sign.
    if let Ok(message) = HeaderValue::try_from(rejection.to_string()) {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
    response
}

//! Rejections as `application/problem+json` (RFC 9457), replaceable by a closure.

use crate::body::ResponseBody;
use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use http_body::Body;
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::{fmt, sync::Arc, time::Duration};

/// The typed reason of a rejection, and how it reads as a problem document.
pub(crate) trait Problem: fmt::Display + Clone + Send + Sync + 'static {
    fn status(&self) -> StatusCode;

    /// A URI that names the kind of problem; `about:blank` says no more than the status.
    fn type_uri(&self) -> &'static str {
        "about:blank"
    }

    fn title(&self) -> &'static str {
        self.status().canonical_reason().unwrap_or("Error")
    }

    /// When a retry may succeed: sent as `Retry-After` in whole seconds, rounded up, at least 1.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// Members beyond those of RFC 9457.
    ///
    /// # Errors
    ///
    /// Those of writing.
    fn extend<M: SerializeMap>(&self, _members: &mut M) -> Result<(), M::Error> {
        Ok(())
    }
}

type Render<P> = dyn Fn(&P) -> Response<Bytes> + Send + Sync;

/// How a layer answers what it does not let through.
pub(crate) struct Rejection<P>(Arc<Render<P>>);

impl<P> Clone for Rejection<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Problem> Default for Rejection<P> {
    fn default() -> Self {
        Self(Arc::new(document))
    }
}

impl<P: Problem> Rejection<P> {
    /// Answers by a closure of the application's.
    pub(crate) fn new<T: Into<Bytes>>(
        render: impl Fn(&P) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |problem| render(problem).map(Into::into)))
    }

    /// The response, with the typed reason in its extensions.
    pub(crate) fn respond<B: Body>(&self, problem: P) -> Response<ResponseBody<B>> {
        let mut response = (self.0)(&problem).map(ResponseBody::full);
        response.extensions_mut().insert(problem);
        response
    }
}

impl<P> fmt::Debug for Rejection<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rejection")
    }
}

/// A problem as its document.
struct Document<'a, P>(&'a P);

impl<P: Problem> Serialize for Document<'_, P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(problem) = self;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("type", problem.type_uri())?;
        members.serialize_entry("title", problem.title())?;
        members.serialize_entry("status", &problem.status().as_u16())?;
        members.serialize_entry("detail", &format_args!("{problem}"))?;
        problem.extend(&mut members)?;
        members.end()
    }
}

/// The default rendering of a problem.
pub(crate) fn document<P: Problem>(problem: &P) -> Response<Bytes> {
    // Writing text to memory cannot fail.
    let body = serde_json::to_vec(&Document(problem)).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = problem.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(after) = problem.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    response
}

/// Seconds, rounded up, at least one: `Retry-After: 0` makes clients spin.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0)).max(1)
}

/// A bare 503 for when there is nobody left to say more.
pub(crate) fn unavailable() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use serde_json::Value;

    #[derive(Clone, Debug)]
    struct Teapot;

    impl fmt::Display for Teapot {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("short and \"stout\"")
        }
    }

    impl Problem for Teapot {
        fn status(&self) -> StatusCode {
            StatusCode::IM_A_TEAPOT
        }

        fn retry_after(&self) -> Option<Duration> {
            Some(Duration::from_millis(1_001))
        }
    }

    #[test]
    fn a_problem_document_is_json_with_the_members_of_the_rfc() {
        let response = document(&Teapot);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let document: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(document["status"], 418);
        assert_eq!(document["detail"], "short and \"stout\"");
    }

    #[test]
    fn the_typed_reason_stays_in_the_extensions_whoever_renders() {
        let custom = Rejection::new(|_: &Teapot| Response::new("mine"));
        let response = custom.respond::<Full<Bytes>>(Teapot);
        assert!(response.extensions().get::<Teapot>().is_some());
        let response = Rejection::default().respond::<Full<Bytes>>(Teapot);
        assert!(response.extensions().get::<Teapot>().is_some());
    }

    #[test]
    fn a_retry_is_never_asked_for_at_once() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_micros(1_000_001)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }
}

//! `Cache-Status` (RFC 9211): what the cache did with a request, for whoever reads the response.

use crate::cache::policy::Reason;
use http::{HeaderMap, HeaderValue, StatusCode, header::CACHE_STATUS};
use std::fmt::Write;

/// One member of the list, without the key, which is nobody's business.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CacheStatus {
    /// Why the request went forward; a hit if it did not.
    pub(crate) forward: Option<Forward>,
    /// The status of the response that came back, where it is not the one that is sent on.
    pub(crate) forward_status: Option<StatusCode>,
    /// The seconds until the response is stale, negative once it is.
    pub(crate) ttl: Option<i64>,
    /// The response is being stored.
    pub(crate) stored: bool,
    /// The request waited for the response to another.
    pub(crate) collapsed: bool,
    /// Nobody was asked and nothing was stored: the answer is the cache's own.
    pub(crate) own: bool,
    pub(crate) detail: Option<Reason>,
}

/// RFC 9211, section 2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    Bypass,
    Method,
    UriMiss,
    VaryMiss,
    Stale,
    Partial,
    Request,
}

impl CacheStatus {
    pub(crate) fn hit(ttl: i64) -> Self {
        Self { ttl: Some(ttl), ..Self::default() }
    }

    pub(crate) fn forward(forward: Forward) -> Self {
        Self { forward: Some(forward), ..Self::default() }
    }

    /// What is not the cache's business.
    pub(crate) fn bypass(reason: Reason) -> Self {
        match reason {
            Reason::Method => Self::forward(Forward::Method),
            reason => Self::forward(Forward::Bypass).detail(reason),
        }
    }

    pub(crate) fn detail(self, reason: Reason) -> Self {
        Self { detail: Some(reason), ..self }
    }

    /// Appends itself to what caches nearer to the origin have written.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let mut value = String::with_capacity(64);
        value.push_str("towerkeep");
        match self.forward {
            None if self.own => {}
            None => value.push_str("; hit"),
            Some(forward) => {
                value.push_str("; fwd=");
                value.push_str(forward.as_str());
            }
        }
        if let Some(status) = self.forward_status {
            let _ = write!(value, "; fwd-status={}", status.as_u16());
        }
        if let Some(ttl) = self.ttl {
            let _ = write!(value, "; ttl={ttl}");
        }
        for (holds, name) in [(self.stored, "; stored"), (self.collapsed, "; collapsed")] {
            value.push_str(if holds { name } else { "" });
        }
        if let Some(reason) = self.detail {
            value.push_str("; detail=");
            value.push_str(reason.as_str());
        }
        // Tokens and digits only, so it always is a header value.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(CACHE_STATUS, value);
        }
    }
}

impl Forward {
    fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Partial => "partial",
            Self::Request => "request",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: CacheStatus) -> String {
        let mut headers = HeaderMap::new();
        status.write(&mut headers);
        headers[CACHE_STATUS].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_status_reads_as_the_rfc_has_it() {
        assert_eq!(written(CacheStatus::hit(9)), "towerkeep; hit; ttl=9");
        assert_eq!(written(CacheStatus::hit(-9)), "towerkeep; hit; ttl=-9");
        let own = CacheStatus { own: true, ..CacheStatus::default() };
        assert_eq!(written(own.detail(Reason::OnlyIfCached)), "towerkeep; detail=only-if-cached");
        assert_eq!(written(CacheStatus::bypass(Reason::Method)), "towerkeep; fwd=method");
        assert_eq!(
            written(CacheStatus::bypass(Reason::Range)),
            "towerkeep; fwd=bypass; detail=range"
        );
        let stored = CacheStatus {
            forward_status: Some(StatusCode::OK),
            stored: true,
            collapsed: true,
            ..CacheStatus::forward(Forward::UriMiss)
        };
        assert_eq!(written(stored), "towerkeep; fwd=uri-miss; fwd-status=200; stored; collapsed");
    }

    #[test]
    fn it_stands_behind_the_caches_nearer_to_the_origin() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_STATUS, HeaderValue::from_static("origin; hit"));
        CacheStatus::forward(Forward::Stale).write(&mut headers);
        let values: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(values, ["origin; hit", "towerkeep; fwd=stale"]);
    }
}

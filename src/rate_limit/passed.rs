//! A request that was let through, and what its response is told.

use crate::{
    body::ResponseBody,
    rate_limit::{
        headers,
        held::HeldLeases,
        layer::Config,
        outcome::Verdict,
        status::RateLimitStatus,
        store::{Charge, RateLimitStore},
    },
    store::StoreFuture,
};
use bytes::Bytes;
use http::Response;
use http_body::Body;

/// A refund on its way, and what is refunded.
pub(crate) type Refund = (StoreFuture<Verdict>, Vec<Charge>);

/// A request that was let through.
#[derive(Default)]
pub(crate) struct Passed {
    /// What this layer said; nothing if it was not asked.
    pub(crate) status: Option<RateLimitStatus>,
    pub(crate) leases: Option<HeldLeases>,
}

impl Passed {
    /// The response, and the refund of what does not count, now that it is there.
    pub(crate) fn settle<R>(
        &self,
        config: &Config,
        response: Response<R>,
    ) -> (Response<R>, Option<Refund>) {
        let decided = self.status.as_ref().and_then(RateLimitStatus::last);
        let Some(decided) = decided.filter(|decided| decided.counts_later()) else {
            return (response, None);
        };
        let (parts, body) = response.into_parts();
        let charges = decided.to_refund(&parts);
        let response = Response::from_parts(parts, body);
        if charges.is_empty() {
            return (response, None);
        }
        let refund = decided.asked.store.refund(&charges);
        (response, Some((refund.within("a rate limit refund", config.deadline), charges)))
    }

    /// What stands after a refund.
    pub(crate) fn refunded(&mut self, charges: &[Charge], said: &Verdict) {
        let decided = self.status.as_ref().and_then(RateLimitStatus::last);
        self.status = decided.map(|decided| RateLimitStatus::new(decided.refunded(charges, said)));
    }

    /// The response with its headers, whose body holds the leases.
    pub(crate) fn finish<R: Body<Data = Bytes>>(
        self,
        config: &Config,
        response: Response<R>,
    ) -> Response<ResponseBody<R>> {
        let mut response = response.map(ResponseBody::inner);
        tell(config, self.status, &mut response);
        match self.leases {
            Some(leases) => response.map(|body| body.holding(leases)),
            None => response,
        }
    }
}

/// Writes where the client stands into the response's headers.
pub(crate) fn tell<B>(
    config: &Config,
    status: Option<RateLimitStatus>,
    response: &mut Response<B>,
) {
    if let Some(status) = status {
        headers::write(config, status.told(), response.headers_mut());
    }
}

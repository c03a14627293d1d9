//! What becomes of a response to a method that may change something: what it changed is forgotten, and
//! that to a POST may answer the next GET.

use crate::{
    body::ResponseBody,
    cache::{
        contend::Claim,
        fill::{Lead, written},
        filling::{Filling, Moments},
        http::{
            groups,
            invalidate::{self, Origin},
            storing::loses_a_field,
        },
        key::Key,
        layer::Shared,
        policy::Reason,
        tag::Purge,
        visit::Visit,
    },
    detached::{Detached, HeadSender},
    store::StoreFuture,
    telemetry,
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use std::{sync::Arc, time::SystemTime};
use tokio::time::Instant;

/// So many groups a response invalidates at most; the rest is left alone.
const MAX_INVALIDATED: usize = 900;

/// What became of a response.
#[expect(clippy::large_enum_variant, reason = "it is matched where it is made")]
pub(crate) enum Kept<R: Body, E> {
    /// A task stores it while it is read.
    Stored(Detached<R, E>),
    Passed(Response<ResponseBody<R>>),
}

/// A request that may change what is stored, on its way.
pub(crate) struct Change {
    visit: Box<Visit>,
    /// The headers of a POST: what its response may vary by.
    post: Option<HeaderMap>,
    started: Instant,
    /// The last purge that was known before.
    seen: u64,
}

impl Change {
    pub(crate) fn new<Q>(seen: u64, visit: Box<Visit>, request: &Request<Q>) -> Self {
        let post = (request.method() == Method::POST && !loses_a_field(request.headers()))
            .then(|| request.headers().clone());
        Self { visit, post, started: Instant::now(), seen }
    }

    /// Whether the response says that something has changed.
    pub(crate) fn has_changed<B>(&self, response: &Response<B>) -> bool {
        invalidate::has_changed(response.status())
    }

    /// Forgets what the handler says that it has changed (RFC 9111, section 4.4, and RFC 9875, section
    /// 3).
    pub(crate) fn forget<B>(&self, shared: &Shared, response: &Response<B>) -> StoreFuture<u64> {
        let key = &self.visit.key;
        let named = invalidate::named(response.headers(), origin(key));
        let keys = named.iter().map(|target| shared.key.sibling(key, target));
        // HTTP/1 does not say the scheme, HTTP/2 does: the same thing may be stored under both.
        let keys: Vec<_> = keys.chain([key.clone()]).collect();
        let entries = keys.iter().flat_map(Key::of_all_schemes);
        let entries: Vec<_> = entries.flat_map(|key| key.hashes()).collect();
        let purge = shared.store.purge(&entries);
        let mut tags = groups::invalidated(response.headers(), key.origin(), MAX_INVALIDATED);
        if shared.key.tells_more_than_the_uri() {
            tags.extend(keys.iter().map(Key::tag));
        }
        if tags.is_empty() {
            return purge;
        }
        let tags = shared.store.purge_tags(&tags, Purge::Hard);
        StoreFuture::boxed(async move {
            let (purged, tagged) = tokio::join!(purge, tags);
            tagged.and(purged)
        })
    }

    /// Hands the response on.
    pub(crate) fn pass<R: Body>(&self, response: Response<R>) -> Response<ResponseBody<R>> {
        written(response.map(ResponseBody::inner), self.visit.status())
    }

    /// Stores the response, in a task, if it is one to a POST that a GET may get. Else hands it on.
    pub(crate) fn keep<R, E>(mut self, shared: &Arc<Shared>, response: Response<R>) -> Kept<R, E>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send + 'static,
        E: Send + 'static,
    {
        let post = self.post.take();
        let Some(asked) = post.filter(|_| self.answers_get(shared, &response)) else {
            return Kept::Passed(self.pass(response));
        };
        let (started, answered) = (self.started, Instant::now());
        let lead = Lead { shared: shared.clone(), visit: self.visit, leader: None };
        let judged = match lead.visit.asked.no_store {
            true => Err(Reason::NoStore),
            false => lead.judge(&response, answered - started),
        };
        let freshness = match judged {
            Ok(freshness) => freshness,
            Err(reason) => {
                let status = lead.visit.status().detail(reason);
                return Kept::Passed(written(response.map(ResponseBody::inner), status));
            }
        };
        let (parts, body) = response.into_parts();
        let at = Moments { started, answered, give_up: answered + shared.fill_timeout };
        let (freshness, before) = (Ok(freshness), Bytes::new());
        let filling = Filling { parts, before, freshness, asked, at, forward_status: None };
        let seen = self.seen;
        let spawn = |head| shared.tasks.spawn(store(lead, seen, filling, body, head));
        Kept::Stored(Detached::new(spawn))
    }

    /// Whether it is what a GET would get, and says for how long (RFC 9110, section 9.3.3).
    fn answers_get<B>(&self, shared: &Shared, response: &Response<B>) -> bool {
        let headers = response.headers();
        response.status() == StatusCode::OK
            && invalidate::is_of_its_target(headers, origin(&self.visit.key))
            && shared.policy.is_explicit(headers, SystemTime::now())
    }
}

/// Stores the response while its client reads it.
async fn store<R: Body<Data = Bytes>, E>(
    lead: Lead,
    seen: u64,
    filling: Filling,
    body: R,
    head: HeadSender<R, E>,
) {
    match Claim::alone(&lead.shared, &lead.visit).await {
        Ok(claim) => filling.run(lead, claim.since(seen), body, head).await,
        Err(error) => {
            telemetry::store_failed("cache", &error);
            let status = lead.visit.status().detail(Reason::StoreUnavailable);
            let response = Response::from_parts(filling.parts, ResponseBody::inner(body));
            let _ = head.send(Ok(written(response, status)));
        }
    }
}

fn origin(key: &Key) -> Origin<'_> {
    let ((scheme, host), path) = (key.origin(), key.target());
    Origin { scheme, host, path }
}

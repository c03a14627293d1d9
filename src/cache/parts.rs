//! Parts of a response: how one is asked for, completed, and joined with another.

use crate::{
    cache::{
        contend::{Claim, Contended, unavailable},
        fill::Lead,
        filling::{Filling, Moments},
        headers,
        http::{
            combine::{self, Joined},
            range::RangeRequest,
            validate::{self, Conditions},
            vary,
        },
        layer::Shared,
        policy::{Reason, initial_age},
        status::CacheStatus,
        store::{Address, Found, Lookup},
        visit::Visit,
    },
    detached::HeadSender,
    snapshot::Snapshot,
    telemetry,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{AGE, IF_RANGE},
};
use http_body::Body;
use std::{sync::Arc, time::SystemTime};

/// What the handler is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// What the client wants.
    Plain,
    /// Whether what is held still holds.
    Validate,
    /// What is missing behind the part that is held.
    Complete,
}

/// The right to fetch a part. Nobody waits for it elsewhere, where it may not be what is wanted.
pub(super) async fn without_waiting(shared: &Arc<Shared>, visit: &Visit) -> Contended {
    match Claim::alone(shared, visit).await {
        Ok(claim) => Contended::Granted(claim),
        Err(error) => unavailable(&error),
    }
}

/// An answer to a request for the rest that is none to a request for the whole.
pub(super) fn is_of_a_part(status: StatusCode) -> bool {
    matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE)
}

impl Lead {
    /// Makes it a request for the whole response, for word that what is stored still holds, or for what
    /// is missing of it.
    pub(super) fn plan(&self, request: &mut HeaderMap) -> Plan {
        if !self.shared.policy.is_proxy() {
            Conditions::strip(request);
            return Plan::Plain;
        }
        let Some(held) = &self.visit.held else { return Plan::Plain };
        let snapshot = &held.response.snapshot;
        let mut validate = || match validate::ask_again(&snapshot.headers, request) {
            true => Plan::Validate,
            false => Plan::Plain,
        };
        if !held.response.is_part() {
            let plan = validate();
            RangeRequest::strip(request);
            return plan;
        }
        if self.visit.background || self.visit.is_met_by(&held.response) {
            // Should it hold no more, the client gets its part of what there is now.
            return validate();
        }
        let rest = self.visit.range.is_none()
            && combine::ask_for_the_rest(snapshot, self.shared.body_limit, request);
        if rest { Plan::Complete } else { Plan::Plain }
    }

    /// Whether a 206 may be stored, as far as the request tells.
    pub(super) fn may_store_part(&self, response: &HeaderMap) -> bool {
        let held = self.visit.held.as_ref().map(|held| &held.response.snapshot.headers);
        let same = || held.is_some_and(|held| combine::same_strong_tag(held, response));
        self.visit.range.as_ref().is_some_and(|range| !range.is_conditional() || same())
    }

    /// Hands on the part that is held and what was missing behind it, and stores both as one.
    pub(super) async fn complete<R: Body<Data = Bytes>, E>(
        mut self,
        claim: Claim,
        response: Response<R>,
        asked: HeaderMap,
        at: Moments,
        head: HeadSender<R, E>,
    ) {
        let now = SystemTime::now();
        let status = response.status();
        let (mut parts, body) = response.into_parts();
        let held = self.visit.held.take();
        let completed = held.as_ref().filter(|_| status == StatusCode::PARTIAL_CONTENT);
        let completed = completed.and_then(|held| {
            let stored = &held.response.snapshot;
            Some((stored.body.clone(), combine::completed(stored, &parts.headers, now)?))
        });
        let Some((before, mut headers)) = completed else {
            // An origin that goes by If-Range does not do that. What is held is of no use any more.
            self.forget().await;
            let status = CacheStatus { forward_status: Some(status), ..self.visit.status() };
            let _ = head.send(Ok(headers::mismatched(status.detail(Reason::Mismatch))));
            return claim.fail().await;
        };
        held.iter().for_each(|held| self.visit.inherit(held));
        let delay = at.answered - at.started;
        let age = initial_age(&self.shared.policy, &parts.headers, delay, now);
        let freshness = self.shared.policy.judge(
            &self.shared.key,
            self.visit.asked_of_store(),
            (StatusCode::OK, &headers),
            self.shared.windows,
            age,
            now,
        );
        if freshness.is_err() {
            self.forget().await;
        }
        headers.insert(AGE, HeaderValue::from(age.as_secs()));
        (parts.status, parts.headers) = (StatusCode::OK, headers);
        let forward_status = Some(status);
        let filling = Filling { parts, before, freshness, asked, at, forward_status };
        filling.run(self, claim, body, head).await;
    }

    /// What is to be stored now that a part is there: with what is stored already, or in its place.
    /// Nothing if that has more.
    pub(super) async fn joined(&self, part: Snapshot, asked: &HeaderMap) -> Option<Snapshot> {
        let stored = self.stored_beside(&part.headers, asked).await;
        let (limit, now) = (self.shared.body_limit, SystemTime::now());
        let joined = match &stored {
            Some(found) => {
                let fresh = !found.fresh_for.is_zero();
                combine::join(&found.response.snapshot, fresh, part, limit, now)
            }
            None => Joined::New(part),
        };
        match joined {
            Joined::Both(both) => {
                stored.iter().for_each(|found| self.visit.inherit(found));
                Some(both)
            }
            // It may lack what its client has already.
            Joined::New(_) if asked.contains_key(IF_RANGE) => None,
            Joined::New(part) => Some(combine::alone(part)),
            Joined::Stays => None,
        }
    }

    /// What is stored by now where a response with these headers will be.
    async fn stored_beside(&self, response: &HeaderMap, asked: &HeaderMap) -> Option<Found> {
        let held = &self.visit.address;
        let names = vary::union(held.vary(), &vary::names(response)?)?;
        let variant = self.visit.variant(&names, asked);
        let address = Address::variant_of(held.entry(), variant, held.lane()).varying_by(names);
        match self.shared.store.lookup(&address).await {
            Ok(Lookup::Found(found)) => {
                Some(found).filter(|found| *found.response.key == *self.visit.identity())
            }
            Ok(_) => None,
            Err(error) => {
                telemetry::store_failed("cache", &error);
                None
            }
        }
    }
}

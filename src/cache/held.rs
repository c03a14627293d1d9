//! What becomes of a response that is held already: it stands in, is made fresh again, or is forgotten.

use crate::{
    body::ResponseBody,
    cache::{
        contend::{Claim, Outcome},
        fill::{Lead, written},
        future::Call,
        headers,
        http::{extent::Extent, update},
        policy::{Reason, initial_age},
        status::CacheStatus,
        store::{Fill, Found},
        stored::StoredResponse,
    },
    detached::HeadSender,
    snapshot::Snapshot,
    telemetry::{self, CACHE_TOTAL},
};
use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;
use tower::Service;

impl Lead {
    /// Answers with what is stored, since a new response cannot be had.
    pub(super) async fn stand_in<R: Body<Data = Bytes>, E>(
        mut self,
        claim: Claim,
        found: &Found,
        forward_status: Option<StatusCode>,
        head: HeadSender<R, E>,
    ) {
        let status = CacheStatus { forward_status, ttl: Some(found.ttl()), ..self.visit.status() };
        let status = status.detail(Reason::StaleIfError);
        let _ = head.send(Ok(headers::stored(found, &self.visit, status)));
        self.land(Outcome::Failed);
        claim.fail().await;
    }

    /// Answers with what is held, although the origin says that something else still holds: the client
    /// has neither. Nobody else gets it, and nobody at all if it must not be given stale.
    pub(super) async fn mistaken<R: Body<Data = Bytes>, E>(
        mut self,
        claim: Claim,
        held: &Found,
        told: StatusCode,
        head: HeadSender<R, E>,
    ) {
        self.forget().await;
        let status = CacheStatus { forward_status: Some(told), ..self.visit.status() };
        let status = status.detail(Reason::Mismatch);
        let (directives, _) = self.shared.policy.directives(&held.response.snapshot.headers);
        let _ = head.send(Ok(match directives.forbids_stale() {
            true => headers::mismatched(status),
            false => headers::stored(held, &self.visit, status),
        }));
        self.land(Outcome::Settled);
        claim.fail().await;
    }

    /// Stores what is held with the fields of the origin's answer, which says that it still holds.
    /// Returns it, and what is told of that.
    pub(super) async fn freshen(
        &mut self,
        claim: Claim,
        held: &Found,
        (answer, extensions): (&HeaderMap, &Extensions),
        started: Instant,
        asked: &HeaderMap,
    ) -> (Found, CacheStatus) {
        let (old, now) = (&held.response.snapshot, SystemTime::now());
        // A field that is of the old response alone says nothing of the new one's age.
        let age = initial_age(&self.shared.policy, answer, started.elapsed(), now);
        let headers = update::freshened(&old.headers, answer, now);
        let judged = self.shared.policy.judge(
            &self.shared.key,
            self.visit.asked_of_store(),
            (old.status, &headers),
            self.shared.windows,
            age,
            now,
        );
        let judged = match self.touched(extensions) {
            true => Err(Reason::Session),
            false => judged,
        };
        let judged = judged.and_then(|freshness| {
            Ok((freshness, self.visit.tags_of_held(&self.shared, held, &headers)?))
        });
        let snapshot = Snapshot { status: old.status, headers, body: old.body.clone() };
        let key = held.response.key.clone();
        let response = Arc::new(StoredResponse { key, snapshot });
        let mut found = Found::new(response.clone(), held.stamp.clone(), age, Duration::ZERO);
        let (stored, detail) = (judged.is_ok(), judged.as_ref().err().copied());
        let outcome = match judged {
            Ok((freshness, tags)) => {
                found.fresh_for = freshness.left(age);
                let fill = Fill {
                    // From before the origin was asked: a purge meanwhile is about this, too.
                    seen: claim.seen(),
                    tags,
                    response,
                    age,
                    lifetime: freshness.lifetime,
                    stale: freshness.stale,
                    compress_above: self.shared.compress_above,
                    cost: started.elapsed(),
                };
                self.store(claim, fill, asked).await
            }
            Err(reason) => {
                // It says now that it must not be stored. Another client's answer may well be.
                if !reason.is_of_one_client() {
                    self.forget().await;
                }
                claim.fail().await;
                Outcome::Uncacheable
            }
        };
        self.land(outcome);
        let ttl = stored.then(|| found.ttl());
        let status = CacheStatus { stored, ttl, detail, ..self.visit.status() };
        (found, status)
    }

    /// Forgets what is stored.
    pub(super) async fn forget(&self) {
        if let Err(error) = self.shared.store.purge(&[self.visit.address.entry().into()]).await {
            telemetry::store_failed("cache", &error);
        }
    }

    /// Asks for a head, which may tell that what is stored still holds, or that it does not (RFC
    /// 9111, section 4.3.5).
    pub(super) async fn describe<S, Q, R>(
        mut self,
        call: Call<S, Q>,
        asked: HeaderMap,
        head: HeadSender<R, S::Error>,
    ) where
        S: Service<Request<Q>, Response = Response<R>>,
        R: Body<Data = Bytes>,
    {
        let claim = match Claim::alone(&self.shared, &self.visit).await {
            Ok(claim) => Some(claim),
            Err(error) => {
                telemetry::store_failed("cache", &error);
                None
            }
        };
        let started = Instant::now();
        let response = call.run(&self.visit).await;
        let mut status = self.visit.status().detail(Reason::Head);
        let whole = response.as_ref().ok().filter(|response| response.status() == StatusCode::OK);
        let answer =
            whole.map(|response| (response.headers().clone(), response.extensions().clone()));
        if let (Some((answer, extensions)), Some(held), Some(claim)) =
            (answer, self.visit.held.take(), claim)
        {
            let old = &held.response.snapshot;
            let extent = Extent::of(old.status, &old.headers, old.body.len());
            match update::describes(&answer, &old.headers, extent.and_then(|held| held.total)) {
                true => {
                    let answer = (&answer, &extensions);
                    status = self.freshen(claim, &held, answer, started, &asked).await.1;
                }
                false => self.forget().await,
            }
        }
        telemetry::count(CACHE_TOTAL, "bypass");
        let _ =
            head.send(response.map(|response| written(response.map(ResponseBody::inner), status)));
    }
}

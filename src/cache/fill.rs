//! The task that makes a missing response. It goes on when its client leaves.

use crate::{
    body::ResponseBody,
    cache::{
        contend::{Claim, Contended, Outcome, contend},
        filling::{Filling, Moments},
        future::Call,
        headers,
        http::{
            range::RangeRequest,
            storing::Freshness,
            validate::{self, Conditions},
            vary,
        },
        layer::Shared,
        parts::{Plan, is_of_a_part, without_waiting},
        policy::{Reason, UNCACHEABLE_FOR, content_length, initial_age},
        status::CacheStatus,
        store::{Fill, FillReply, Found},
        visit::Visit,
    },
    detached::HeadSender,
    flight::Leader,
    marks::SessionTouched,
    telemetry::{self, CACHE_TOTAL},
};
use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{AUTHORIZATION, COOKIE, IF_MATCH, IF_UNMODIFIED_SINCE},
    request::Parts,
};
use http_body::Body;
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, sleep_until};
use tower::Service;

/// What a lead needs of everything around it.
pub(crate) struct Lead {
    pub(crate) shared: Arc<Shared>,
    pub(crate) visit: Box<Visit>,
    /// None if nobody waits for it.
    pub(crate) leader: Option<Leader<Outcome>>,
}

impl Lead {
    /// Gets a response for the client behind `head` and for all that wait for the same.
    pub(crate) async fn run<S, Q, R>(mut self, mut call: Call<S, Q>, head: HeadSender<R, S::Error>)
    where
        S: Service<Request<Q>, Response = Response<R>>,
        R: Body<Data = Bytes>,
    {
        if self.visit.background {
            let (mut parts, body) = call.request.into_parts();
            self.make_impersonal(&mut parts);
            call.request = Request::from_parts(parts, body);
        }
        // What the response may vary by is known only when the request is gone.
        let asked = match self.shared.policy.is_proxy() {
            true => call.request.headers().clone(),
            false => HeaderMap::new(),
        };
        let Some(leader) = &self.leader else { return self.describe(call, asked, head).await };
        let background = self.visit.background;
        let deserted = || head.is_closed() && !background;
        let part = self.visit.wants_part();
        let contended = match part {
            true => without_waiting(&self.shared, &self.visit).await,
            false => contend(&self.shared, &mut self.visit, &asked, leader, deserted).await,
        };
        match contended {
            Contended::Granted(claim) => {
                if claim.is_alone() && !part {
                    self.land(Outcome::Uncacheable);
                }
                self.make(claim, call, asked, head).await;
            }
            Contended::Found(found) => {
                self.land(Outcome::Settled);
                telemetry::count(CACHE_TOTAL, "collapsed");
                let _ = head.send(Ok(headers::hit(&found, &self.visit)));
            }
            Contended::Forward(reason, outcome) => {
                match outcome {
                    Some(outcome) => self.land(outcome),
                    None => self.leader = None,
                }
                telemetry::count(CACHE_TOTAL, "bypass");
                let response = pin!(call.run(&self.visit));
                self.visit.detail = Some(reason);
                answer(response, head, &self.visit, (Plan::Plain, None)).await;
            }
            Contended::Deserted => {}
        }
    }

    /// Tells those that wait; from then on nobody waits for this one.
    pub(super) fn land(&mut self, outcome: Outcome) {
        if let Some(leader) = self.leader.take() {
            leader.land(outcome);
        }
    }

    /// Takes off what is about the client whose request this was, but for what the key has.
    fn make_impersonal(&mut self, request: &mut Parts) {
        let headers = &mut request.headers;
        Conditions::strip(headers);
        RangeRequest::strip(headers);
        headers.remove(IF_MATCH);
        headers.remove(IF_UNMODIFIED_SINCE);
        let personal = headers.clone();
        for name in [COOKIE, AUTHORIZATION] {
            let mut varies = self.visit.address.vary().split(',');
            if !self.shared.key.declares(name.as_str()) && !varies.any(|held| held == name) {
                headers.remove(name);
            }
        }
        // A part of the key that is the application's own may be made of them.
        if self.shared.key.of(request).ok().as_ref() != Some(&self.visit.key) {
            request.headers = personal;
        }
        self.visit.authorized = request.headers.contains_key(AUTHORIZATION);
    }

    /// Runs the handler and stores what it answers, if it may be stored.
    async fn make<S, Q, R>(
        mut self,
        claim: Claim,
        mut call: Call<S, Q>,
        asked: HeaderMap,
        head: HeadSender<R, S::Error>,
    ) where
        S: Service<Request<Q>, Response = Response<R>>,
        R: Body<Data = Bytes>,
    {
        telemetry::count(CACHE_TOTAL, "miss");
        let plan = self.plan(call.request.headers_mut());
        let validating = plan == Plan::Validate;
        let started = Instant::now();
        let give_up = started + self.shared.fill_timeout;
        let mut response = pin!(call.run(&self.visit));
        let response = tokio::select! {
            response = &mut response => response,
            () = sleep_until(give_up) => {
                self.land(Outcome::Uncacheable);
                claim.uncacheable(UNCACHEABLE_FOR).await;
                let held = self.visit.held.take().filter(|_| validating);
                self.visit.detail = Some(Reason::TooSlow);
                return answer(response, head, &self.visit, (plan, held)).await;
            }
        };
        let stand_in = self.visit.stand_in(&self.shared).cloned();
        let response = match (response, stand_in) {
            (Ok(response), Some(found)) if is_failure(response.status()) => {
                let status = Some(response.status());
                return self.stand_in(claim, &found, status, head).await;
            }
            (Err(_), Some(found)) => return self.stand_in(claim, &found, None, head).await,
            (Ok(response), _) => response,
            (Err(error), None) => {
                let _ = head.send(Err(error));
                return claim.fail().await;
            }
        };
        let at = Moments { started, answered: Instant::now(), give_up };
        let mut answers = false;
        if validating
            && response.status() == StatusCode::NOT_MODIFIED
            && let Some(held) = self.visit.held.take_if(|held| {
                let stored = &held.response.snapshot.headers;
                answers = validate::still_holds(stored, response.headers(), &self.visit.conditions);
                // To a client that asked by no tag, a 304 would mean nothing.
                answers || !self.visit.conditions.has_tags()
            })
        {
            let (answer, _) = response.into_parts();
            if !answers {
                return self.mistaken(claim, &held, answer.status, head).await;
            }
            let told = (&answer.headers, &answer.extensions);
            let (found, status) = self.freshen(claim, &held, told, started, &asked).await;
            let status = CacheStatus { forward_status: Some(answer.status), ..status };
            let _ = head.send(Ok(headers::stored(&found, &self.visit, status)));
            return;
        }
        if plan == Plan::Complete && is_of_a_part(response.status()) {
            return self.complete(claim, response, asked, at, head).await;
        }
        // What was asked to validate, or for the rest, may have got another answer.
        let forward_status = (plan != Plan::Plain).then(|| response.status());
        match self.judge(&response, at.answered - at.started) {
            Ok(freshness) => {
                let (parts, body) = response.into_parts();
                let (freshness, before) = (Ok(freshness), Bytes::new());
                let filling = Filling { parts, before, freshness, asked, at, forward_status };
                filling.run(self, claim, body, head).await;
            }
            Err(reason) => {
                let status = self.visit.status().detail(reason);
                let status = CacheStatus { forward_status, ..status };
                self.pass(claim, response, head, status).await;
            }
        }
    }

    pub(super) fn judge<R: Body>(
        &self,
        response: &Response<R>,
        delay: Duration,
    ) -> Result<Freshness, Reason> {
        if self.touched(response.extensions()) {
            return Err(Reason::Session);
        }
        let freshness = self.judge_head(response.status(), response.headers(), delay)?;
        let part = response.status() == StatusCode::PARTIAL_CONTENT;
        if part && !self.may_store_part(response.headers()) {
            return Err(Reason::Partial);
        }
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && self.visit.range.is_some() {
            return Err(Reason::Range);
        }
        self.visit.tags(&self.shared, response.headers())?;
        let announced = content_length(response.headers()).unwrap_or(0);
        let least = announced.max(response.body().size_hint().lower());
        match least > self.shared.body_limit as u64 {
            true => Err(Reason::TooLarge),
            false => Ok(freshness),
        }
    }

    fn judge_head(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        delay: Duration,
    ) -> Result<Freshness, Reason> {
        let (shared, now) = (&self.shared, SystemTime::now());
        let age = initial_age(&shared.policy, headers, delay, now);
        let asked = self.visit.asked_of_store();
        shared.policy.judge(&shared.key, asked, (status, headers), shared.windows, age, now)
    }

    pub(super) fn touched(&self, response: &http::Extensions) -> bool {
        self.visit.touched() || SessionTouched::in_extensions(response)
    }

    /// Stores a response, and returns what those that wait are told.
    pub(super) async fn store(&self, claim: Claim, fill: Fill, asked: &HeaderMap) -> Outcome {
        let headers = &fill.response.snapshot.headers;
        let (directives, _) = self.shared.policy.directives(headers);
        let reusable = fill.age < fill.lifetime && !directives.no_cache.is_whole();
        let vary = match self.shared.policy.is_proxy() {
            true => vary::names(headers).unwrap_or_default(),
            false => String::new(),
        };
        let variant = |names: &str| self.visit.variant(names, asked);
        let response = fill.response.clone();
        match claim.fill(fill, &vary, variant).await {
            Ok((reply, names)) => {
                if !names.is_empty() {
                    self.shared.vary.set(self.visit.address.entry(), &names);
                    let (variant, headers) = (variant(&names), &response.snapshot.headers);
                    self.visit.note_language(&self.shared, &variant, &names, headers, asked);
                }
                let stored = reply == FillReply::Stored;
                telemetry::count(CACHE_TOTAL, if stored { "stored" } else { "refused" });
                // What has to be validated each time, or varies by too much, is not waited for in turn.
                let in_turn = reusable && !matches!(reply, FillReply::Varies { .. });
                if in_turn { Outcome::Settled } else { Outcome::Uncacheable }
            }
            Err(error) => {
                telemetry::store_failed("cache", &error);
                Outcome::Unavailable
            }
        }
    }

    /// Hands on what cannot be stored, with its own body: this task has nothing to do with it.
    async fn pass<R: Body<Data = Bytes>, E>(
        mut self,
        claim: Claim,
        response: Response<R>,
        head: HeadSender<R, E>,
        status: CacheStatus,
    ) {
        telemetry::count(CACHE_TOTAL, "bypass");
        // What one client's condition or range has led to says nothing of the next response either.
        let failed = response.status().is_server_error()
            || (self.shared.policy.is_proxy() && depends_on_client(response.status()));
        let personal = status.detail.is_some_and(Reason::is_of_one_client);
        let conditions = &self.visit.conditions;
        let response = if conditions.not_modified(response.status(), response.headers()) {
            let status = CacheStatus { forward_status: Some(response.status()), ..status };
            written(headers::not_modified(response.into_parts().0.headers), status)
        } else {
            written(response.map(ResponseBody::inner), status)
        };
        let _ = head.send(Ok(response));
        // An error of the handler says nothing about the next response; what is not cacheable does.
        if failed {
            claim.fail().await;
        } else if self.visit.held.is_some() {
            // What was stored is not what there is any more, as far as this response tells.
            if !personal {
                self.forget().await;
            }
            self.land(Outcome::Uncacheable);
            claim.fail().await;
        } else {
            self.land(Outcome::Uncacheable);
            claim.uncacheable(UNCACHEABLE_FOR).await;
        }
    }
}

fn depends_on_client(status: StatusCode) -> bool {
    matches!(status.as_u16(), 206 | 304 | 412 | 416)
}

/// What a stale response may stand in for (RFC 5861, section 4).
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Sends a response that is not stored. If the client leaves, so does the handler. A 304 to the cache's
/// own condition says that what is `held` is the answer.
async fn answer<R: Body<Data = Bytes>, E>(
    mut response: Pin<&mut impl Future<Output = Result<Response<R>, E>>>,
    mut head: HeadSender<R, E>,
    visit: &Visit,
    (plan, held): (Plan, Option<Found>),
) {
    let response = tokio::select! {
        response = &mut response => response,
        () = head.closed() => return,
    };
    let status = visit.status();
    let _ = head.send(response.map(|response| match held {
        Some(held) if response.status() == StatusCode::NOT_MODIFIED => {
            let forward_status = Some(response.status());
            headers::stored(&held, visit, CacheStatus { forward_status, ..status })
        }
        _ if plan == Plan::Complete && is_of_a_part(response.status()) => {
            let status = status.detail(Reason::Mismatch);
            headers::mismatched(CacheStatus { forward_status: Some(response.status()), ..status })
        }
        _ => written(response.map(ResponseBody::inner), status),
    }));
}

pub(crate) fn written<B>(mut response: Response<B>, status: CacheStatus) -> Response<B> {
    status.write(response.headers_mut());
    response
}

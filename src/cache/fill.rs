//! The task that makes a missing response. It goes on when its client leaves.

use crate::{
    body::{PipeSender, Recording, ResponseBody},
    cache::{
        contend::{Claim, Contended, Outcome, contend},
        future::Call,
        headers,
        http::{
            range::RangeRequest,
            storing::{self, Freshness},
            update,
            validate::{self, Conditions},
            vary,
        },
        layer::Shared,
        policy::{Reason, UNCACHEABLE_FOR, content_length, initial_age},
        status::CacheStatus,
        store::{Fill, FillReply, Found},
        stored::StoredResponse,
        visit::Visit,
    },
    detached::HeadSender,
    flight::Leader,
    marks::SessionTouched,
    snapshot::Snapshot,
    telemetry::{self, CACHE_TOTAL},
};
use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{AUTHORIZATION, COOKIE, IF_MATCH, IF_UNMODIFIED_SINCE},
    response::Parts,
};
use http_body::{Body, Frame};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, sleep_until};
use tower::Service;

/// What a pipe to a client holds at least, however small the bodies that are stored.
const MIN_PIPE: usize = 64 << 10;

/// And at most: a semaphore counts it.
const MAX_PIPE: usize = 1 << 30;

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
        // What the response may vary by is known only when the request is gone.
        let asked = match self.shared.policy.is_proxy() {
            true => call.request.headers().clone(),
            false => HeaderMap::new(),
        };
        if self.visit.background {
            self.make_impersonal(call.request.headers_mut());
        }
        let Some(leader) = &self.leader else { return self.describe(call, asked, head).await };
        let background = self.visit.background;
        let deserted = || head.is_closed() && !background;
        match contend(&self.shared, &mut self.visit, &asked, leader, deserted).await {
            Contended::Granted(claim) => {
                if claim.is_alone() {
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
                answer(response, head, self.visit.status().detail(reason)).await;
            }
            Contended::Deserted => {}
        }
    }

    /// Tells those that wait; from then on nobody waits for this one.
    fn land(&mut self, outcome: Outcome) {
        if let Some(leader) = self.leader.take() {
            leader.land(outcome);
        }
    }

    /// Takes off what is about the client whose request this was, but for what the key has.
    fn make_impersonal(&self, request: &mut HeaderMap) {
        Conditions::strip(request);
        RangeRequest::strip(request);
        request.remove(IF_MATCH);
        request.remove(IF_UNMODIFIED_SINCE);
        for name in [COOKIE, AUTHORIZATION] {
            let mut varies = self.visit.address.vary().split(',');
            if !self.shared.key.declares(name.as_str()) && !varies.any(|held| held == name) {
                request.remove(name);
            }
        }
    }

    /// Makes it a request for the whole response, or for word that what is stored still holds.
    /// Returns whether it asks for that.
    fn set_conditions(&self, request: &mut HeaderMap) -> bool {
        if !self.shared.policy.is_proxy() {
            Conditions::strip(request);
            return false;
        }
        let Some(held) = &self.visit.held else { return false };
        RangeRequest::strip(request);
        validate::ask_again(&held.response.snapshot.headers, request)
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
        let validating = self.set_conditions(call.request.headers_mut());
        let started = Instant::now();
        let give_up = started + self.shared.fill_timeout;
        let mut response = pin!(call.run(&self.visit));
        let response = tokio::select! {
            response = &mut response => response,
            () = sleep_until(give_up) => {
                self.land(Outcome::Uncacheable);
                claim.uncacheable(UNCACHEABLE_FOR).await;
                return answer(response, head, self.visit.status()).await;
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
        let answered = Instant::now();
        if validating
            && response.status() == StatusCode::NOT_MODIFIED
            && let Some(held) = self.visit.held.take_if(|held| {
                let stored = &held.response.snapshot.headers;
                validate::still_holds(stored, response.headers(), &self.visit.conditions)
            })
        {
            let (answer, _) = response.into_parts();
            let (found, stored) =
                self.freshen(claim, &held, &answer.headers, started, &asked).await;
            let forward_status = Some(answer.status);
            let status = CacheStatus { forward_status, stored, ..self.visit.status() };
            let _ = head.send(Ok(headers::stored(&found, &self.visit, status)));
            return;
        }
        match self.judge(&response, answered - started) {
            Ok(freshness) => {
                let (parts, body) = response.into_parts();
                let filling = Filling { parts, freshness, asked, started, answered, give_up };
                filling.run(self, claim, body, head).await;
            }
            Err(reason) => self.pass(claim, response, head, reason).await,
        }
    }

    fn judge<R: Body>(&self, response: &Response<R>, delay: Duration) -> Result<Freshness, Reason> {
        if self.touched(response.extensions()) {
            return Err(Reason::Session);
        }
        let freshness = self.judge_head(response.status(), response.headers(), delay)?;
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
        let authorized = self.visit.authorized;
        shared.policy.judge(&shared.key, authorized, (status, headers), shared.windows, age, now)
    }

    fn touched(&self, response: &http::Extensions) -> bool {
        self.visit.touched() || SessionTouched::in_extensions(response)
    }

    /// Answers with what is stored, since a new response cannot be had.
    async fn stand_in<R: Body<Data = Bytes>, E>(
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

    /// Stores what is held with the fields of the origin's answer, which says that it still holds.
    /// Returns it, and whether it may be stored at all.
    async fn freshen(
        &mut self,
        claim: Claim,
        held: &Found,
        answer: &HeaderMap,
        started: Instant,
        asked: &HeaderMap,
    ) -> (Found, bool) {
        let (old, now) = (&held.response.snapshot, SystemTime::now());
        // A field that is of the old response alone says nothing of the new one's age.
        let age = initial_age(&self.shared.policy, answer, started.elapsed(), now);
        let headers = update::freshened(&old.headers, answer, now);
        let (authorized, windows) = (self.visit.authorized, self.shared.windows);
        let judged = self.shared.policy.judge(
            &self.shared.key,
            authorized,
            (old.status, &headers),
            windows,
            age,
            now,
        );
        let snapshot = Snapshot { status: old.status, headers, body: old.body.clone() };
        let key = held.response.key.clone();
        let response = Arc::new(StoredResponse { key, snapshot });
        let mut found = Found::new(response.clone(), held.stamp.clone(), age, Duration::ZERO);
        let stored = judged.is_ok();
        let outcome = match judged {
            Ok(freshness) => {
                found.fresh_for = freshness.left(age);
                let fill = Fill {
                    response,
                    age,
                    lifetime: freshness.lifetime,
                    stale: freshness.stale,
                    cost: started.elapsed(),
                };
                self.store(claim, fill, asked).await
            }
            Err(_) => {
                // It says now that it must not be stored.
                self.forget().await;
                claim.fail().await;
                Outcome::Uncacheable
            }
        };
        self.land(outcome);
        (found, stored)
    }

    /// Stores a response, and returns what those that wait are told.
    async fn store(&self, claim: Claim, fill: Fill, asked: &HeaderMap) -> Outcome {
        let headers = &fill.response.snapshot.headers;
        let (directives, _) = self.shared.policy.directives(headers);
        let reusable = fill.age < fill.lifetime && !directives.no_cache.is_whole();
        let vary = match self.shared.policy.is_proxy() {
            true => vary::names(headers).unwrap_or_default(),
            false => String::new(),
        };
        match claim.fill(fill, &vary, asked).await {
            Ok((reply, names)) => {
                if !names.is_empty() {
                    self.shared.vary.set(self.visit.address.entry(), &names);
                }
                let stored = reply == FillReply::Stored;
                telemetry::count(CACHE_TOTAL, if stored { "stored" } else { "refused" });
                // What has to be validated each time is not waited for in turn.
                if stored && !reusable { Outcome::Uncacheable } else { Outcome::Settled }
            }
            Err(error) => {
                telemetry::store_failed("cache", &error);
                Outcome::Unavailable
            }
        }
    }

    /// Forgets what is stored.
    async fn forget(&self) {
        if let Err(error) = self.shared.store.purge(&[self.visit.address.entry().into()]).await {
            telemetry::store_failed("cache", &error);
        }
    }

    /// Asks for a head, which may tell that what is stored still holds, or that it does not (RFC
    /// 9111, section 4.3.5).
    async fn describe<S, Q, R>(
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
        let status = self.visit.status();
        let whole = response.as_ref().ok().filter(|response| response.status() == StatusCode::OK);
        let answer = whole.map(|response| response.headers().clone());
        if let (Some(answer), Some(held), Some(claim)) = (answer, self.visit.held.take(), claim) {
            let old = &held.response.snapshot;
            match update::describes(&answer, &old.headers, old.body.len()) {
                true => drop(self.freshen(claim, &held, &answer, started, &asked).await),
                false => self.forget().await,
            }
        }
        telemetry::count(CACHE_TOTAL, "bypass");
        let _ =
            head.send(response.map(|response| written(response.map(ResponseBody::inner), status)));
    }

    /// Hands on what cannot be stored, with its own body: this task has nothing to do with it.
    async fn pass<R: Body<Data = Bytes>, E>(
        mut self,
        claim: Claim,
        response: Response<R>,
        head: HeadSender<R, E>,
        reason: Reason,
    ) {
        telemetry::count(CACHE_TOTAL, "bypass");
        // What one client's condition or range has led to says nothing of the next response either.
        let failed = response.status().is_server_error()
            || (self.shared.policy.is_proxy() && depends_on_client(response.status()));
        let status = self.visit.status().detail(reason);
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
        } else {
            self.land(Outcome::Uncacheable);
            claim.uncacheable(UNCACHEABLE_FOR).await;
        }
    }
}

fn depends_on_client(status: StatusCode) -> bool {
    matches!(status.as_u16(), 206 | 304 | 412 | 416)
}

/// A response that is being read: for its client, and for the store.
struct Filling {
    parts: Parts,
    freshness: Freshness,
    /// The request's own headers.
    asked: HeaderMap,
    started: Instant,
    answered: Instant,
    give_up: Instant,
}

/// How the reading went.
enum Recorded {
    Complete(Bytes),
    /// It is too long, or has what cannot be stored. This frame is still to be sent.
    Unfit(Frame<Bytes>),
    TooSlow,
    /// It ended before the length that was announced.
    Cut,
    Broken,
}

impl Filling {
    async fn run<R: Body<Data = Bytes>, E>(
        self,
        mut lead: Lead,
        claim: Claim,
        body: R,
        head: HeadSender<R, E>,
    ) {
        let capacity = lead.shared.body_limit.clamp(MIN_PIPE, MAX_PIPE);
        let (pipe, piped) = ResponseBody::piped(capacity, body.size_hint());
        // Nobody reads the pipe behind a 304, or if the client has left; the fill goes on.
        let _ = head.send(Ok(self.response(&lead, piped)));
        let mut body = pin!(body);
        match self.record(&lead, body.as_mut(), &pipe).await {
            Recorded::Complete(data) => {
                pipe.end();
                self.finish(lead, claim, data).await;
            }
            Recorded::Unfit(frame) => {
                lead.land(Outcome::Uncacheable);
                claim.uncacheable(UNCACHEABLE_FOR).await;
                if pipe.send(Ok(frame)).await {
                    pump(body, pipe).await;
                }
            }
            Recorded::TooSlow => {
                lead.land(Outcome::Uncacheable);
                claim.uncacheable(UNCACHEABLE_FOR).await;
                pump(body, pipe).await;
            }
            // The client gets what the handler gave, and its server knows what to make of that.
            Recorded::Cut => {
                pipe.end();
                claim.fail().await;
            }
            Recorded::Broken => claim.fail().await,
        }
    }

    /// What the client gets.
    fn response<R: Body>(&self, lead: &Lead, body: ResponseBody<R>) -> Response<ResponseBody<R>> {
        let (visit, parts) = (&lead.visit, &self.parts);
        let status = CacheStatus { stored: true, ..visit.status() };
        if visit.conditions.not_modified(parts.status, &parts.headers) {
            let status = CacheStatus { forward_status: Some(parts.status), ..status };
            return written(headers::not_modified(parts.headers.clone()), status);
        }
        written(Response::from_parts(parts.clone(), body), status)
    }

    /// Reads at the origin's pace, however slowly the client does: others wait for this. Up to the
    /// limit, the pipe has room for everything.
    async fn record<R: Body<Data = Bytes>>(
        &self,
        lead: &Lead,
        mut body: Pin<&mut R>,
        pipe: &PipeSender<R::Error>,
    ) -> Recorded {
        let mut recording = Recording::new(lead.shared.body_limit);
        loop {
            let frame = tokio::select! {
                frame = next(body.as_mut()) => frame,
                () = sleep_until(self.give_up) => return Recorded::TooSlow,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    pipe.send(Err(error)).await;
                    return Recorded::Broken;
                }
                None => break,
            };
            match frame.data_ref() {
                Some(data) if data.is_empty() => {}
                Some(data) if recording.push(data) => {
                    pipe.send(Ok(frame)).await;
                }
                _ => return Recorded::Unfit(frame),
            }
        }
        match recording.finish() {
            Some(data) if self.is_whole(&data) => Recorded::Complete(data),
            _ => Recorded::Cut,
        }
    }

    /// A body that ended before the length that was announced was cut.
    fn is_whole(&self, data: &Bytes) -> bool {
        content_length(&self.parts.headers).is_none_or(|length| length == data.len() as u64)
    }

    async fn finish(self, mut lead: Lead, claim: Claim, data: Bytes) {
        // The handler may have touched the session while its body was read.
        let age = self.freshness.age + self.answered.elapsed();
        let past = age >= self.freshness.lifetime && self.freshness.stale.is_zero();
        if lead.touched(&self.parts.extensions) || past {
            lead.land(Outcome::Uncacheable);
            return claim.uncacheable(UNCACHEABLE_FOR).await;
        }
        let snapshot = Snapshot {
            status: self.parts.status,
            headers: storing::to_store(&self.parts.headers, SystemTime::now()),
            body: data,
        };
        let key = Bytes::copy_from_slice(lead.visit.key.as_bytes());
        let fill = Fill {
            response: Arc::new(StoredResponse { key, snapshot }),
            age,
            lifetime: self.freshness.lifetime,
            stale: self.freshness.stale,
            cost: self.started.elapsed(),
        };
        let outcome = lead.store(claim, fill, &self.asked).await;
        lead.land(outcome);
    }
}

/// What a stale response may stand in for (RFC 5861, section 4).
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Sends a response that is not stored. If the client leaves, so does the handler.
async fn answer<R: Body<Data = Bytes>, E>(
    mut response: Pin<&mut impl Future<Output = Result<Response<R>, E>>>,
    mut head: HeadSender<R, E>,
    status: CacheStatus,
) {
    let response = tokio::select! {
        response = &mut response => response,
        () = head.closed() => return,
    };
    let _ = head.send(response.map(|response| written(response.map(ResponseBody::inner), status)));
}

/// Hands on the rest of a body as fast as its client reads, and stops when it has left.
async fn pump<R: Body<Data = Bytes>>(mut body: Pin<&mut R>, pipe: PipeSender<R::Error>) {
    loop {
        let frame = tokio::select! {
            frame = next(body.as_mut()) => frame,
            () = pipe.closed() => return,
        };
        match frame {
            Some(frame) => {
                let failed = frame.is_err();
                if !pipe.send(frame).await || failed {
                    return;
                }
            }
            None => return pipe.end(),
        }
    }
}

fn next<R: Body>(
    mut body: Pin<&mut R>,
) -> impl Future<Output = Option<Result<Frame<R::Data>, R::Error>>> {
    poll_fn(move |cx| body.as_mut().poll_frame(cx))
}

fn written<B>(mut response: Response<B>, status: CacheStatus) -> Response<B> {
    status.write(response.headers_mut());
    response
}

//! The task that makes a missing response. It goes on when its client leaves.

use crate::{
    body::{PipeSender, Recording, ResponseBody},
    cache::{
        contend::{Claim, Contended, Outcome, contend},
        future::Call,
        headers,
        layer::Shared,
        policy::{Freshness, Reason, UNCACHEABLE_FOR, content_length},
        status::CacheStatus,
        store::{Fill, FillReply},
        stored::StoredResponse,
        validate::Conditions,
        visit::Visit,
    },
    detached::HeadSender,
    flight::Leader,
    marks::SessionTouched,
    snapshot::Snapshot,
    telemetry::{self, CACHE_TOTAL},
};
use bytes::Bytes;
use http::{Request, Response, response::Parts};
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
    pub(crate) leader: Leader<Outcome>,
}

impl Lead {
    /// Gets a response for the client behind `head` and for all that wait for the same.
    pub(crate) async fn run<S, Q, R>(mut self, mut call: Call<S, Q>, head: HeadSender<R, S::Error>)
    where
        S: Service<Request<Q>, Response = Response<R>>,
        R: Body<Data = Bytes>,
    {
        let deserted = || head.is_closed();
        match contend(&self.shared, &mut self.visit, &self.leader, deserted).await {
            Contended::Granted(claim) => {
                Conditions::strip(call.request.headers_mut());
                self.make(claim, call, head).await;
            }
            Contended::Found(found) => {
                self.leader.land(Outcome::Settled);
                telemetry::count(CACHE_TOTAL, "collapsed");
                let _ = head.send(Ok(headers::hit(&found, &self.visit)));
            }
            Contended::Forward(reason, outcome) => {
                if let Some(outcome) = outcome {
                    self.leader.land(outcome);
                } else {
                    drop(self.leader);
                }
                telemetry::count(CACHE_TOTAL, "bypass");
                let response = pin!(call.run(&self.visit));
                answer(response, head, self.visit.status().detail(reason)).await;
            }
            Contended::Deserted => {}
        }
    }

    /// Runs the handler and stores what it answers, if it may be stored.
    async fn make<S, Q, R>(self, claim: Claim, call: Call<S, Q>, head: HeadSender<R, S::Error>)
    where
        S: Service<Request<Q>, Response = Response<R>>,
        R: Body<Data = Bytes>,
    {
        telemetry::count(CACHE_TOTAL, "miss");
        let started = Instant::now();
        let give_up = started + self.shared.fill_timeout;
        let mut response = pin!(call.run(&self.visit));
        let response = tokio::select! {
            response = &mut response => response,
            () = sleep_until(give_up) => {
                self.leader.land(Outcome::Uncacheable);
                claim.uncacheable(UNCACHEABLE_FOR).await;
                return answer(response, head, self.visit.status()).await;
            }
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                let _ = head.send(Err(error));
                return claim.fail().await;
            }
        };
        let answered = Instant::now();
        match self.judge(&response) {
            Ok(freshness) => {
                let (parts, body) = response.into_parts();
                let filling = Filling { parts, freshness, started, answered, give_up };
                filling.run(self, claim, body, head).await;
            }
            Err(reason) => self.pass(claim, response, head, reason).await,
        }
    }

    fn judge<R: Body>(&self, response: &Response<R>) -> Result<Freshness, Reason> {
        if self.touched(response.extensions()) {
            return Err(Reason::Session);
        }
        let (status, headers) = (response.status(), response.headers());
        let (key, authorized) = (&self.shared.key, self.visit.authorized);
        let freshness =
            self.shared.policy.judge(key, authorized, status, headers, SystemTime::now())?;
        let least = content_length(headers).unwrap_or(0).max(response.body().size_hint().lower());
        match least > self.shared.body_limit as u64 {
            true => Err(Reason::TooLarge),
            false => Ok(freshness),
        }
    }

    fn touched(&self, response: &http::Extensions) -> bool {
        self.visit.touched() || SessionTouched::in_extensions(response)
    }

    /// Hands on what cannot be stored, with its own body: this task has nothing to do with it.
    async fn pass<R: Body<Data = Bytes>, E>(
        self,
        claim: Claim,
        response: Response<R>,
        head: HeadSender<R, E>,
        reason: Reason,
    ) {
        telemetry::count(CACHE_TOTAL, "bypass");
        let failed = response.status().is_server_error();
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
            self.leader.land(Outcome::Uncacheable);
            claim.uncacheable(UNCACHEABLE_FOR).await;
        }
    }
}

/// A response that is being read: for its client, and for the store.
struct Filling {
    parts: Parts,
    freshness: Freshness,
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
        lead: Lead,
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
                lead.leader.land(Outcome::Uncacheable);
                claim.uncacheable(UNCACHEABLE_FOR).await;
                if pipe.send(Ok(frame)).await {
                    pump(body, pipe).await;
                }
            }
            Recorded::TooSlow => {
                lead.leader.land(Outcome::Uncacheable);
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

    async fn finish(self, lead: Lead, claim: Claim, data: Bytes) {
        // The handler may have touched the session while its body was read.
        let age = self.freshness.age + self.answered.elapsed();
        if lead.touched(&self.parts.extensions) || age >= self.freshness.lifetime {
            lead.leader.land(Outcome::Uncacheable);
            return claim.uncacheable(UNCACHEABLE_FOR).await;
        }
        let snapshot = Snapshot {
            status: self.parts.status,
            headers: headers::to_store(&self.parts.headers, SystemTime::now()),
            body: data,
        };
        let key = Bytes::copy_from_slice(lead.visit.key.as_bytes());
        let fill = Fill {
            response: Arc::new(StoredResponse { key, snapshot }),
            age,
            lifetime: self.freshness.lifetime,
            stale: Duration::ZERO,
            cost: self.started.elapsed(),
        };
        let outcome = match claim.fill(fill).await {
            Ok(FillReply::Stored) => {
                telemetry::count(CACHE_TOTAL, "stored");
                Outcome::Settled
            }
            Ok(FillReply::Refused) => {
                telemetry::count(CACHE_TOTAL, "refused");
                Outcome::Settled
            }
            Err(error) => {
                telemetry::store_failed("cache", &error);
                Outcome::Unavailable
            }
        };
        lead.leader.land(outcome);
    }
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

//! Reads a response for its client and for the store at once.

use crate::{
    body::{PipeSender, Recording, ResponseBody, longer},
    cache::{
        contend::{Claim, Outcome},
        fill::{Lead, written},
        headers,
        http::{
            extent::Extent,
            storing::{self, Freshness},
        },
        policy::{Reason, UNCACHEABLE_FOR, content_length},
        status::CacheStatus,
        store::Fill,
        stored::StoredResponse,
    },
    detached::HeadSender,
    snapshot::Snapshot,
};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, response::Parts};
use http_body::{Body, Frame};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::SystemTime,
};
use tokio::time::{Instant, sleep_until};

/// What a pipe to a client holds at least, however small the bodies that are stored.
const MIN_PIPE: usize = 64 << 10;

/// And at most: a semaphore counts it.
const MAX_PIPE: usize = 1 << 30;

/// A response that is being read: for its client, and for the store.
pub(super) struct Filling {
    pub(super) parts: Parts,
    /// What is there already of its body.
    pub(super) before: Bytes,
    /// Or why it is not stored.
    pub(super) freshness: Result<Freshness, Reason>,
    /// The request's own headers.
    pub(super) asked: HeaderMap,
    pub(super) at: Moments,
    /// The status that the handler gave, where it is another.
    pub(super) forward_status: Option<StatusCode>,
}

/// When a response was asked for and came, and when it is too late.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub(super) started: Instant,
    pub(super) answered: Instant,
    pub(super) give_up: Instant,
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
    pub(super) async fn run<R: Body<Data = Bytes>, E>(
        self,
        lead: Lead,
        claim: Claim,
        body: R,
        head: HeadSender<R, E>,
    ) {
        let capacity = lead.shared.body_limit.clamp(MIN_PIPE, MAX_PIPE);
        let (pipe, piped) =
            ResponseBody::piped(capacity, longer(body.size_hint(), self.before.len() as u64));
        // Nobody reads the pipe behind a 304, or if the client has left; the fill goes on.
        let _ = head.send(Ok(self.response(&lead, piped)));
        let mut body = pin!(body);
        match self.record(&lead, body.as_mut(), &pipe).await {
            Recorded::Complete(data) => {
                pipe.end();
                self.finish(lead, claim, data).await;
            }
            Recorded::Unfit(frame) => {
                refuse(lead, claim).await;
                if pipe.send(Ok(frame)).await {
                    pump(body, pipe).await;
                }
            }
            Recorded::TooSlow => {
                refuse(lead, claim).await;
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
        let (stored, forward_status) = (self.freshness.is_ok(), self.forward_status);
        let detail = self.freshness.as_ref().err().copied().or(visit.detail);
        let ttl = self.freshness.as_ref().ok().map(Freshness::ttl);
        let status = CacheStatus { stored, forward_status, ttl, detail, ..visit.status() };
        if visit.conditions.not_modified(parts.status, &parts.headers) {
            let forward_status = forward_status.or(Some(parts.status));
            let status = CacheStatus { forward_status, ..status };
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
        if !self.before.is_empty() {
            recording.push(&self.before);
            pipe.send(Ok(Frame::data(self.before.clone()))).await;
        }
        loop {
            let frame = tokio::select! {
                frame = next(body.as_mut()) => frame,
                () = sleep_until(self.at.give_up) => return Recorded::TooSlow,
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

    /// A body that ended before the length that was announced was cut, and so was a part that has not
    /// all the bytes that it is said to have.
    fn is_whole(&self, data: &Bytes) -> bool {
        let (headers, length) = (&self.parts.headers, data.len() as u64);
        let all_of_the_part =
            || Extent::of_part(headers).is_some_and(|extent| extent.length() == length);
        content_length(headers).is_none_or(|announced| announced == length)
            && (self.parts.status != StatusCode::PARTIAL_CONTENT || all_of_the_part())
    }

    async fn finish(self, mut lead: Lead, claim: Claim, data: Bytes) {
        let freshness = match self.freshness {
            // The handler may have touched the session while its body was read.
            Ok(freshness) if !lead.touched(&self.parts.extensions) => freshness,
            _ => return refuse(lead, claim).await,
        };
        let age = freshness.age + self.at.answered.elapsed();
        if age >= freshness.lifetime && freshness.stale.is_zero() {
            return refuse(lead, claim).await;
        }
        let snapshot = Snapshot {
            status: self.parts.status,
            headers: storing::to_store(&self.parts.headers, SystemTime::now()),
            body: data,
        };
        let joined = match snapshot.status {
            StatusCode::PARTIAL_CONTENT => lead.joined(snapshot, &self.asked).await,
            _ => Some(snapshot),
        };
        let Some(snapshot) = joined else {
            lead.land(Outcome::Uncacheable);
            return claim.fail().await;
        };
        // The handler may have tagged it while its body was read.
        let Ok(tags) = lead.visit.tags(&lead.shared, &snapshot.headers) else {
            lead.land(Outcome::Uncacheable);
            return claim.uncacheable(UNCACHEABLE_FOR).await;
        };
        let key = lead.visit.identity().into_owned().into();
        let fill = Fill {
            seen: claim.seen(),
            tags: tags.into_iter().collect(),
            response: Arc::new(StoredResponse { key, snapshot }),
            age,
            lifetime: freshness.lifetime,
            stale: freshness.stale,
            compress_above: lead.shared.compress_above,
            cost: self.at.started.elapsed(),
        };
        let outcome = lead.store(claim, fill, &self.asked).await;
        lead.land(outcome);
    }
}

/// Nobody needs to wait for such a response.
async fn refuse(mut lead: Lead, claim: Claim) {
    lead.land(Outcome::Uncacheable);
    claim.uncacheable(UNCACHEABLE_FOR).await;
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

//! The run of a handler, in a task of its own that outlives the client.

use crate::{
    body::{RequestBody, ResponseBody},
    detached::HeadSender,
    idempotency::{
        handle::Idempotent,
        layer::Config,
        outcome::Outcome,
        rejection::Rejection,
        store::{Claim, Completed, SMALL_OUTCOME, Terms},
        stored::Stored,
        stream::Streaming,
    },
    lease::Lease,
    marks::Finish,
    telemetry::{self, IDEMPOTENCY_TOTAL},
    token,
};
use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    response::Parts,
};
use http_body::{Body, Frame};
use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tower::Service;

/// The first pause before a `complete` that failed is sent again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A run that was granted.
pub(crate) struct Run {
    pub(crate) config: Arc<Config>,
    pub(crate) claim: Claim,
    pub(crate) lease: Lease,
    pub(crate) handle: Idempotent,
    /// How the outcome is kept.
    pub(crate) terms: Terms,
}

/// What a handler made.
#[expect(clippy::large_enum_variant, reason = "it is matched where it is made")]
enum Made<B: Body> {
    /// The answer, and what to record of it (`None`: nothing, it may run again).
    Whole { response: Response<ResponseBody<B>>, record: Option<Stored> },
    /// An answer to record whose end nobody knows yet.
    Streaming(Streaming<B>),
}

/// Runs the handler, records the outcome, and only then hands the answer to the client; of one that
/// comes bit by bit, only its end.
///
/// A panic, an error of the inner service and a broken body leave the record as it is: whether the
/// handler had its effect is unknown, so the next attempt comes when the lease has ended and is told
/// that it is not the first.
pub(crate) async fn run<S, Q, R>(
    mut this: Run,
    mut inner: S,
    mut request: Request<RequestBody<Q>>,
    head: HeadSender<R, S::Error>,
) where
    S: Service<Request<RequestBody<Q>>, Response = Response<R>>,
    Q: Body<Data = Bytes>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    // From here on a drop must not abandon the record: the handler may have had an effect.
    this.lease.disarm();
    this.lease.auto_renew();
    let finish = Finish::of(request.extensions_mut());
    let limit = this.config.time_limit;
    let has_body = request.method() != Method::HEAD;
    // `Err` is what the client gets of a run that made nothing to go on with.
    let made = async {
        let response = inner.call(request).await.map_err(Err)?;
        let made = this.read(response, has_body).await.map_err(Ok)?;
        let finished = finish.run(made.status()).await;
        Ok((made, finished))
    };
    match timeout(limit, made).await {
        Ok(Ok((Made::Streaming(answer), Ok(())))) => this.stream(answer, head).await,
        Ok(Ok((Made::Whole { response, record: Some(record) }, Ok(())))) => {
            this.complete(record, response, head).await;
        }
        Ok(Ok((Made::Whole { response, record: None }, Ok(())))) => {
            this.abandon(response, head).await;
        }
        Ok(Ok((made, Err(error)))) => {
            telemetry::store_failed("idempotency", &error);
            let _ = head.send(Ok(made.into_response()));
        }
        Ok(Err(ended)) => {
            let _ = head.send(ended);
        }
        Err(_) => {
            let rejection = this.config.rejection.respond(Rejection::TimeLimit { limit });
            let _ = head.send(Ok(rejection));
        }
    }
}

impl<B: Body<Data = Bytes>> Made<B> {
    fn status(&self) -> StatusCode {
        match self {
            Self::Whole { response, .. } => response.status(),
            Self::Streaming(answer) => answer.head.status,
        }
    }

    /// The answer, with nobody who records it.
    fn into_response(self) -> Response<ResponseBody<B>> {
        match self {
            Self::Whole { response, .. } => response,
            Self::Streaming(answer) => answer.into_response(),
        }
    }
}

impl Run {
    /// Reads the answer as far as it is to be recorded. `Err` is the answer with a body that broke.
    async fn read<R: Body<Data = Bytes>>(
        &self,
        response: Response<R>,
        has_body: bool,
    ) -> Result<Made<R>, Response<ResponseBody<R>>> {
        let (head, body) = response.into_parts();
        let limit = self.config.stored_limit;
        let tombstone = Stored::Tombstone { status: head.status };
        let record = match self.outcome(&head) {
            Outcome::Retryable => None,
            Outcome::Store if body.size_hint().lower() <= limit as u64 && !is_stream(&head) => {
                let announced = announced(&head).filter(|_| has_body);
                return read(body, limit, head, announced).await;
            }
            Outcome::Store | Outcome::Tombstone => Some(tombstone),
        };
        let response = Response::from_parts(head, ResponseBody::inner(body));
        Ok(Made::Whole { response, record })
    }

    /// What becomes of the answer: as its extensions say, else as the handler said, else as its
    /// status says.
    fn outcome(&self, head: &Parts) -> Outcome {
        let said = head.extensions.get::<Outcome>().copied();
        said.or_else(|| self.handle.decided()).unwrap_or_else(|| Outcome::of(head.status))
    }

    async fn complete<R: Body, E>(
        mut self,
        record: Stored,
        response: Response<ResponseBody<R>>,
        head: HeadSender<R, E>,
    ) {
        self.settle(&record, async { drop(head.send(Ok(response))) }).await;
    }

    /// Records the outcome, and answers as soon as that has succeeded or failed once. After a failure
    /// it goes on trying while the lease lasts: it never gives the record up, as a retry would then
    /// run what has been run.
    pub(crate) async fn settle(&mut self, record: &Stored, answer: impl Future<Output = ()>) {
        // A renewal that arrives after the outcome would be refused and taken for a loss.
        self.lease.stop_renewal().await;
        let mut outcome = record.encode(self.config.stored_limit);
        let mut recorded = self.record(record, &mut outcome).await;
        answer.await;
        let mut pause = FIRST_PAUSE;
        while !recorded {
            let rest = self.lease.valid_for();
            if rest.is_zero() {
                break;
            }
            let jitter = Duration::from_millis(token::jitter(pause.as_millis() as u64));
            sleep((pause + jitter).min(rest)).await;
            pause *= 2;
            recorded = self.record(record, &mut outcome).await;
        }
    }

    /// `false` if the store failed. It is asked for less if it has no room for `outcome`.
    async fn record(&self, record: &Stored, outcome: &mut Bytes) -> bool {
        let store = &self.config.store;
        loop {
            match store.complete(&self.claim, outcome.clone(), self.terms).await {
                Ok(Completed::Lost) => {
                    telemetry::count(IDEMPOTENCY_TOTAL, "lost");
                    return true;
                }
                Ok(Completed::Stored | Completed::Already) => {
                    telemetry::count(IDEMPOTENCY_TOTAL, "completed");
                    return true;
                }
                Err(error) => {
                    telemetry::store_failed("idempotency", &error);
                    if !error.is_full() || outcome.len() <= SMALL_OUTCOME {
                        return false;
                    }
                    *outcome = record.encode(SMALL_OUTCOME);
                }
            }
        }
    }

    /// Gives the record up, so that the next request is the first again, and sends the answer.
    async fn abandon<R: Body, E>(
        self,
        response: Response<ResponseBody<R>>,
        head: HeadSender<R, E>,
    ) {
        if self.lease.is_lost() {
            // Another may run it by now, or begin while this one is given up: it is an orphan.
            telemetry::count(IDEMPOTENCY_TOTAL, "lost");
            let _ = head.send(Ok(response));
            return;
        }
        match self.lease.release().await {
            Ok(true) => telemetry::count(IDEMPOTENCY_TOTAL, "abandoned"),
            Ok(false) => telemetry::count(IDEMPOTENCY_TOTAL, "lost"),
            Err(error) => telemetry::store_failed("idempotency", &error),
        }
        let _ = head.send(Ok(response));
    }
}

/// Reads a body to its end, or until it is larger than the limit or the next part of it is not there
/// yet: a client must not wait for the end of an answer that has none.
async fn read<R: Body<Data = Bytes>>(
    body: R,
    limit: usize,
    head: Parts,
    announced: Option<u64>,
) -> Result<Made<R>, Response<ResponseBody<R>>> {
    let (mut chunks, mut length) = (Vec::new(), 0_usize);
    let mut trailers: Option<HeaderMap> = None;
    let hint = body.size_hint();
    let mut body = Box::pin(body);
    loop {
        let polled = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx))).await;
        let frame = match polled {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) => break,
            Poll::Pending => {
                let answer = Streaming { head, chunks, length, trailers, body, announced };
                return Ok(Made::Streaming(answer));
            }
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if data.is_empty() => {}
            Ok(Ok(data)) => {
                length = length.saturating_add(data.len());
                chunks.push(data);
                if length > limit {
                    let record = Some(Stored::Tombstone { status: head.status });
                    let body = ResponseBody::resumed(chunks, body);
                    let response = Response::from_parts(head, body);
                    return Ok(Made::Whole { response, record });
                }
            }
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => {
                let body = ResponseBody::broken(chunks, length, error, hint).await;
                return Err(Response::from_parts(head, body));
            }
        }
    }
    let data = ResponseBody::<R>::joined(chunks, length);
    if announced.is_some_and(|announced| announced > length as u64) {
        // It was cut. A replay would pass it off as a whole one.
        return Err(Response::from_parts(head, ResponseBody::buffered(data, trailers)));
    }
    let record = Some(Stored::response(&head, data.clone(), trailers.clone()));
    let body = ResponseBody::buffered(data, trailers);
    Ok(Made::Whole { response: Response::from_parts(head, body), record })
}

/// The length of the body that the head announces, if it does: of a 304 it is that of another answer.
fn announced(head: &Parts) -> Option<u64> {
    if head.status == StatusCode::NOT_MODIFIED {
        return None;
    }
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether the answer is a stream of events, which has to be passed on as it comes.
fn is_stream(head: &Parts) -> bool {
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("text/event-stream")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    #[tokio::test]
    async fn an_answer_shorter_than_it_announces_is_passed_on_and_not_recorded() {
        let answer = |announced: &str| {
            let response = Response::builder().header(CONTENT_LENGTH, announced).body(());
            let head = response.unwrap().into_parts().0;
            let announced = super::announced(&head);
            read(Full::new(Bytes::from_static(b"half")), 100, head, announced)
        };
        let cut = answer("8").await.err().expect("it is not recorded");
        assert_eq!(cut.into_body().collect().await.unwrap().to_bytes(), "half");
        assert!(answer("4").await.is_ok());
    }
}

//! What happens to one request.

use crate::{
    body::ResponseBody,
    cache::{
        contend::Outcome,
        fill::Lead,
        headers,
        layer::Shared,
        policy::Reason,
        status::CacheStatus,
        store::Lookup,
        visit::{Admission, Judgement, Visit},
    },
    detached::Detached,
    flight::{Follower, Role},
    store::StoreFuture,
    telemetry::{self, CACHE_TOTAL},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, error::Elapsed, timeout_at};
use tower::Service;

const POLLED_ONCE: &str = "a response future is polled to its end once";

pin_project! {
    /// The response of a [`Cache`](crate::cache::Cache).
    pub struct ResponseFuture<S, Q, R>
    where
        S: Service<Request<Q>>,
        R: Body,
    {
        shared: Arc<Shared>,
        #[pin]
        state: State<S, Q, R, S::Future, S::Error>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Q, R: Body, F, E> {
        Lookup { lookup: StoreFuture<Lookup>, guest: Option<Guest<S, Q>> },
        /// Another request of this process makes the response.
        Follow { wait: Wait, guest: Option<Guest<S, Q>> },
        /// A task makes it.
        Lead { response: Detached<R, E> },
        /// The handler answers, and nothing is stored.
        Inner { #[pin] future: F, status: Option<CacheStatus> },
    }
}

type Wait = Pin<Box<dyn Future<Output = Result<Option<Outcome>, Elapsed>> + Send>>;

/// The ready service and what it is to be called with.
pub(crate) struct Call<S, Q> {
    pub(crate) service: S,
    pub(crate) request: Request<Q>,
}

impl<S: Service<Request<Q>>, Q> Call<S, Q> {
    /// Calls the service, on behalf of `visit`.
    pub(crate) fn run(mut self, visit: &Visit) -> S::Future {
        visit.mark(self.request.extensions_mut());
        self.service.call(self.request)
    }
}

/// A request, and what the cache knows of it.
struct Guest<S, Q> {
    call: Call<S, Q>,
    visit: Box<Visit>,
}

impl<S, Q, R> ResponseFuture<S, Q, R>
where
    S: Service<Request<Q>>,
    Q: Body,
    R: Body,
{
    pub(crate) fn new(mut service: S, request: Request<Q>, shared: Arc<Shared>) -> Self {
        let state = match Visit::of(&shared, &request) {
            Admission::Visit(visit) => look_up(&shared, Call { service, request }, visit),
            Admission::Bypass(reason) => {
                telemetry::count(CACHE_TOTAL, "bypass");
                let status = Some(CacheStatus::bypass(reason));
                State::Inner { future: service.call(request), status }
            }
            Admission::Nested => State::Inner { future: service.call(request), status: None },
        };
        Self { shared, state }
    }
}

impl<S, Q, R> Future for ResponseFuture<S, Q, R>
where
    S: Service<Request<Q>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let shared: &Arc<Shared> = this.shared;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Lookup { lookup, guest } => {
                    let lookup = ready!(Pin::new(lookup).poll(cx));
                    let Guest { call, mut visit } = guest.take().expect(POLLED_ONCE);
                    match lookup.map(|lookup| visit.judge(shared, lookup)) {
                        Ok(Judgement::Hit(found)) => {
                            let outcome = if visit.collapsed { "collapsed" } else { "hit" };
                            telemetry::count(CACHE_TOTAL, outcome);
                            return Poll::Ready(Ok(headers::hit(&found, &visit)));
                        }
                        Ok(Judgement::Miss) => miss(shared, call, visit),
                        Ok(Judgement::NotForYou) => {
                            forward(call, &visit, Some(Reason::Authorization))
                        }
                        Err(error) => {
                            telemetry::store_failed("cache", &error);
                            let status = CacheStatus::bypass(Reason::StoreUnavailable);
                            State::Inner { future: call.run(&visit), status: Some(status) }
                        }
                    }
                }
                StateProj::Follow { wait, guest } => {
                    let outcome = ready!(wait.as_mut().poll(cx));
                    let Guest { call, visit } = guest.take().expect(POLLED_ONCE);
                    follow(shared, call, visit, outcome)
                }
                StateProj::Lead { response } => return Pin::new(response).poll(cx),
                StateProj::Inner { future, status } => {
                    let mut response = ready!(future.poll(cx))?.map(ResponseBody::inner);
                    if let Some(status) = status.take() {
                        status.write(response.headers_mut());
                    }
                    return Poll::Ready(Ok(response));
                }
            };
            this.state.set(next);
        }
    }
}

fn look_up<S, Q, R: Body, F, E>(
    shared: &Shared,
    call: Call<S, Q>,
    visit: Box<Visit>,
) -> State<S, Q, R, F, E> {
    let lookup = shared.store.lookup(&visit.address).within("a cache lookup", shared.deadline);
    State::Lookup { lookup, guest: Some(Guest { call, visit }) }
}

/// Nothing usable is stored.
fn miss<S, Q, R>(
    shared: &Arc<Shared>,
    call: Call<S, Q>,
    visit: Box<Visit>,
) -> State<S, Q, R, S::Future, S::Error>
where
    S: Service<Request<Q>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    if visit.head {
        return forward(call, &visit, None);
    }
    if visit.touched() {
        // Its response is not for others, whatever it will be: nobody should wait for it.
        return forward(call, &visit, Some(Reason::Session));
    }
    match shared.flights.join(&visit.flight()) {
        Role::Lead(leader) => {
            let lead = Lead { shared: shared.clone(), visit, leader };
            let spawn = |head| shared.tasks.spawn(lead.run(call, head));
            State::Lead { response: Detached::new(spawn) }
        }
        Role::Follow(follower) => wait(call, visit, follower),
    }
}

fn wait<S, Q, R: Body, F, E>(
    call: Call<S, Q>,
    mut visit: Box<Visit>,
    follower: Follower<Outcome>,
) -> State<S, Q, R, F, E> {
    visit.collapsed = true;
    let wait = Box::pin(timeout_at(visit.deadline, follower.outcome()));
    State::Follow { wait, guest: Some(Guest { call, visit }) }
}

/// What the leader's outcome means for one that waited.
fn follow<S, Q, R>(
    shared: &Arc<Shared>,
    call: Call<S, Q>,
    visit: Box<Visit>,
    outcome: Result<Option<Outcome>, Elapsed>,
) -> State<S, Q, R, S::Future, S::Error>
where
    S: Service<Request<Q>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    match outcome {
        Ok(Some(Outcome::Uncacheable)) => forward(call, &visit, Some(Reason::Uncacheable)),
        Ok(Some(Outcome::Unavailable)) => forward(call, &visit, Some(Reason::StoreUnavailable)),
        Ok(_) if Instant::now() >= visit.deadline => {
            forward(call, &visit, Some(Reason::WaitedTooLong))
        }
        Ok(Some(Outcome::Settled)) => look_up(shared, call, visit),
        Ok(None) => miss(shared, call, visit),
        Err(_) => forward(call, &visit, Some(Reason::WaitedTooLong)),
    }
}

/// To the handler, without storing.
fn forward<S, Q, R>(
    call: Call<S, Q>,
    visit: &Visit,
    reason: Option<Reason>,
) -> State<S, Q, R, S::Future, S::Error>
where
    S: Service<Request<Q>, Response = Response<R>>,
    R: Body,
{
    telemetry::count(CACHE_TOTAL, "bypass");
    let status = CacheStatus { detail: reason, ..visit.status() };
    State::Inner { future: call.run(visit), status: Some(status) }
}

impl<S, Q, R> fmt::Debug for ResponseFuture<S, Q, R>
where
    S: Service<Request<Q>>,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

//! What happens to one request.

use crate::{
    body::ResponseBody,
    cache::{
        change::{Change, Kept},
        contend::Outcome,
        fill::{Lead, written},
        headers,
        layer::Shared,
        policy::Reason,
        status::CacheStatus,
        store::Lookup,
        visit::{Admission, Judgement, Visit},
    },
    detached::Detached,
    flight::{Follower, Leader, Role},
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
        Inner { #[pin] future: F, status: Option<CacheStatus>, change: Option<Change> },
        /// What the handler has changed is being forgotten.
        Forget { purge: StoreFuture<u64>, changed: Option<(Change, Response<R>)> },
        /// The answer is there.
        Done { response: Option<Response<ResponseBody<R>>> },
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
        let (parts, body) = request.into_parts();
        let admission = Visit::of(&shared, &parts, &body);
        let mut request = Request::from_parts(parts, body);
        let state = match admission {
            Admission::Visit(visit) => look_up(&shared, Call { service, request }, visit),
            Admission::Bypass(reason) => {
                telemetry::count(CACHE_TOTAL, "bypass");
                let status = Some(CacheStatus::bypass(reason));
                State::Inner { future: service.call(request), status, change: None }
            }
            Admission::Change(visit) => {
                telemetry::count(CACHE_TOTAL, "bypass");
                let status = Some(visit.status());
                visit.listen(request.extensions_mut());
                let change = Some(Change::new(shared.store.last_purge(), visit, &request));
                State::Inner { future: service.call(request), status, change }
            }
            Admission::Nested => {
                State::Inner { future: service.call(request), status: None, change: None }
            }
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
                    let judged =
                        lookup.map(|lookup| visit.judge(shared, lookup, call.request.headers()));
                    match judged {
                        Ok(Judgement::Hit(found)) => {
                            let outcome = if visit.collapsed { "collapsed" } else { "hit" };
                            telemetry::count(CACHE_TOTAL, outcome);
                            return Poll::Ready(Ok(headers::hit(&found, &visit)));
                        }
                        Ok(Judgement::Refresh(found)) => {
                            telemetry::count(CACHE_TOTAL, "hit");
                            let response = headers::hit(&found, &visit);
                            visit.held = Some(found);
                            refresh(shared, call, visit);
                            return Poll::Ready(Ok(response));
                        }
                        Ok(Judgement::Moved) => look_up(shared, call, visit),
                        Ok(Judgement::Miss) => miss(shared, call, visit),
                        Ok(Judgement::NotForYou) => forward(call, &visit, Reason::Authorization),
                        Err(error) => {
                            telemetry::store_failed("cache", &error);
                            let status = CacheStatus::bypass(Reason::StoreUnavailable);
                            inner(call.run(&visit), status)
                        }
                    }
                }
                StateProj::Follow { wait, guest } => {
                    let outcome = ready!(wait.as_mut().poll(cx));
                    let Guest { call, visit } = guest.take().expect(POLLED_ONCE);
                    follow(shared, call, visit, outcome)
                }
                StateProj::Lead { response } => return Pin::new(response).poll(cx),
                StateProj::Inner { future, status, change } => {
                    let response = ready!(future.poll(cx))?;
                    match change.take().filter(|change| change.has_changed(&response)) {
                        Some(change) => {
                            let purge = change.forget(shared, &response);
                            State::Forget { purge, changed: Some((change, response)) }
                        }
                        None => {
                            let response = response.map(ResponseBody::inner);
                            return Poll::Ready(Ok(match status.take() {
                                Some(status) => written(response, status),
                                None => response,
                            }));
                        }
                    }
                }
                StateProj::Forget { purge, changed } => {
                    let purged = ready!(Pin::new(purge).poll(cx));
                    let (change, response) = changed.take().expect(POLLED_ONCE);
                    let kept = match purged {
                        // What could not be forgotten is not to be mixed with what is new.
                        Err(error) => {
                            telemetry::store_failed("cache", &error);
                            Kept::Passed(change.pass(response))
                        }
                        Ok(_) => change.keep(shared, response),
                    };
                    match kept {
                        Kept::Stored(response) => State::Lead { response },
                        Kept::Passed(response) => return Poll::Ready(Ok(response)),
                    }
                }
                StateProj::Done { response } => {
                    return Poll::Ready(Ok(response.take().expect(POLLED_ONCE)));
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
    if visit.asked.only_if_cached {
        telemetry::count(CACHE_TOTAL, "bypass");
        let status = CacheStatus { own: true, ..CacheStatus::default() };
        let response = headers::nothing_stored(status.detail(Reason::OnlyIfCached));
        return State::Done { response: Some(response) };
    }
    if visit.head {
        return match shared.policy.is_proxy() && visit.held.is_some() {
            true => lead(shared, call, visit, None),
            false => forward(call, &visit, Reason::Head),
        };
    }
    if visit.touched() {
        // Its response is not for others, whatever it will be: nobody should wait for it.
        return forward(call, &visit, Reason::Session);
    }
    match shared.flights.join(&visit.flight()) {
        Role::Lead(leader) => lead(shared, call, visit, Some(leader)),
        Role::Follow(follower) => wait(call, visit, follower),
    }
}

/// A task makes the response.
fn lead<S, Q, R>(
    shared: &Arc<Shared>,
    call: Call<S, Q>,
    visit: Box<Visit>,
    leader: Option<Leader<Outcome>>,
) -> State<S, Q, R, S::Future, S::Error>
where
    S: Service<Request<Q>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    let lead = Lead { shared: shared.clone(), visit, leader };
    let spawn = |head| shared.tasks.spawn(lead.run(call, head));
    State::Lead { response: Detached::new(spawn) }
}

/// Makes a new response although the client has its answer, unless somebody does already.
fn refresh<S, Q, R>(shared: &Arc<Shared>, call: Call<S, Q>, mut visit: Box<Visit>)
where
    S: Service<Request<Q>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    if visit.head || visit.touched() {
        return;
    }
    visit.refresh();
    if let Role::Lead(leader) = shared.flights.join(&visit.flight()) {
        // The task goes on though nobody waits for its response.
        drop(lead::<S, Q, R>(shared, call, visit, Some(leader)));
    }
}

fn inner<S, Q, R: Body, F, E>(future: F, status: CacheStatus) -> State<S, Q, R, F, E> {
    State::Inner { future, status: Some(status), change: None }
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
        Ok(Some(Outcome::Failed)) => match visit.stand_in(shared) {
            Some(found) => {
                telemetry::count(CACHE_TOTAL, "collapsed");
                State::Done { response: Some(headers::hit(found, &visit)) }
            }
            None => miss(shared, call, visit),
        },
        Ok(Some(Outcome::Uncacheable)) => forward(call, &visit, Reason::Uncacheable),
        Ok(Some(Outcome::Unavailable)) => forward(call, &visit, Reason::StoreUnavailable),
        Ok(_) if Instant::now() >= visit.deadline => forward(call, &visit, Reason::WaitedTooLong),
        Ok(Some(Outcome::Settled)) => look_up(shared, call, visit),
        Ok(None) => miss(shared, call, visit),
        Err(_) => forward(call, &visit, Reason::WaitedTooLong),
    }
}

/// To the handler, without storing.
fn forward<S, Q, R>(
    call: Call<S, Q>,
    visit: &Visit,
    reason: Reason,
) -> State<S, Q, R, S::Future, S::Error>
where
    S: Service<Request<Q>, Response = Response<R>>,
    R: Body,
{
    telemetry::count(CACHE_TOTAL, "bypass");
    let status = visit.status().detail(reason);
    inner(call.run(visit), status)
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

//! What happens to one request.

use crate::{
    body::ResponseBody,
    marks::UserId,
    rate_limit::{
        by::{KeyBuilder, Missing},
        headers,
        layer::{Config, OnStoreError},
        outcome::Verdict,
        rejection::Rejection,
        status::{Asked, RateLimitStatus},
        store::Charge,
    },
    store::{StoreError, StoreFuture},
    telemetry,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use smallvec::SmallVec;
use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower::Service;

pin_project! {
    /// The response of a [`RateLimit`](crate::rate_limit::RateLimit).
    pub struct ResponseFuture<S, Q>
    where
        S: Service<Request<Q>>,
    {
        config: Arc<Config>,
        #[pin]
        state: State<S, Q, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Q, F> {
        /// The session is loaded, since a policy counts by user.
        User { lookup: StoreFuture<Option<UserId>>, call: Option<Call<S, Q>> },
        Start { call: Option<Call<S, Q>> },
        Check { check: StoreFuture<Verdict>, asked: Asked, call: Option<Call<S, Q>> },
        Inner { #[pin] future: F, status: Option<RateLimitStatus> },
        Rejected { rejection: Option<Rejection>, status: Option<RateLimitStatus> },
    }
}

/// The ready service and what it is to be called with.
struct Call<S, Q> {
    service: S,
    request: Request<Q>,
}

impl<S, Q> ResponseFuture<S, Q>
where
    S: Service<Request<Q>>,
{
    pub(crate) fn new(service: S, request: Request<Q>, config: Arc<Config>) -> Self {
        let state = if config.needs_user() {
            let lookup = UserId::of(request.extensions());
            State::User { lookup, call: Some(Call { service, request }) }
        } else {
            State::Start { call: Some(Call { service, request }) }
        };
        Self { config, state }
    }
}

impl<S, Q, R> Future for ResponseFuture<S, Q>
where
    S: Service<Request<Q>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let config: &Arc<Config> = this.config;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::User { lookup, call } => {
                    let user = ready!(Pin::new(lookup).poll(cx));
                    let call = take(call);
                    match user {
                        Ok(user) => start_for(call, user),
                        Err(error) => on_store_error(config, call, &error),
                    }
                }
                StateProj::Start { call } => start(config, take(call)),
                StateProj::Check { check, asked, call } => {
                    let verdict = ready!(Pin::new(check).poll(cx));
                    let call = take(call);
                    match verdict {
                        Ok(verdict) => judge(config, call, mem::take(asked), verdict),
                        Err(error) => on_store_error(config, call, &error),
                    }
                }
                StateProj::Inner { future, status } => {
                    let mut response = ready!(future.poll(cx))?.map(ResponseBody::inner);
                    tell(config, status.take(), &mut response);
                    return Poll::Ready(Ok(response));
                }
                StateProj::Rejected { rejection, status } => {
                    let rejection = rejection.take().expect(POLLED_ONCE);
                    let mut response = config.rejection.respond(rejection);
                    tell(config, status.take(), &mut response);
                    return Poll::Ready(Ok(response));
                }
            };
            this.state.set(next);
        }
    }
}

const POLLED_ONCE: &str = "a response future is polled to its end once";

fn take<S, Q>(call: &mut Option<Call<S, Q>>) -> Call<S, Q> {
    call.take().expect(POLLED_ONCE)
}

fn start_for<S, Q, F>(mut call: Call<S, Q>, user: Option<UserId>) -> State<S, Q, F> {
    if let Some(user) = user {
        call.request.extensions_mut().insert(user);
    }
    State::Start { call: Some(call) }
}

/// Asks the store about every policy that applies.
fn start<S, Q, F>(config: &Config, call: Call<S, Q>) -> State<S, Q, F>
where
    S: Service<Request<Q>, Future = F>,
{
    let Call { service, request } = call;
    let (parts, body) = request.into_parts();
    let cost = config.cost_of(&parts);
    let mut charges = SmallVec::<[Charge; 4]>::new();
    let mut asked = Asked::new();
    for (at, policy) in config.policies.iter().enumerate() {
        let mut key = KeyBuilder::default();
        match policy.key_by().write(&parts, &mut key) {
            Ok(()) => {
                charges.push(Charge::new(policy, key.finish(), cost));
                asked.push(at);
            }
            Err(Missing::NotApplicable) => {}
            Err(Missing::Misconfigured(advice)) => {
                telemetry::warn(format_args!("rate limit policy {:?}: {advice}", policy.name()));
                return rejected(Rejection::Misconfigured { advice }, None);
            }
        }
    }
    let mut call = Call { service, request: Request::from_parts(parts, body) };
    if cost == 0 || charges.is_empty() {
        return State::Inner { future: call.service.call(call.request), status: None };
    }
    let check = config.store.check(&charges).within("a rate limit check", config.deadline);
    State::Check { check, asked, call: Some(call) }
}

fn judge<S, Q, F>(
    config: &Arc<Config>,
    mut call: Call<S, Q>,
    asked: Asked,
    verdict: Verdict,
) -> State<S, Q, F>
where
    S: Service<Request<Q>, Future = F>,
{
    let allowed = verdict.is_allowed();
    telemetry::count(telemetry::RATE_LIMIT_TOTAL, if allowed { "allowed" } else { "denied" });
    let status = RateLimitStatus::new(config.clone(), asked, verdict);
    if !allowed {
        let violated = status.violated().map(Into::into).collect();
        let retry_after = status.retry_after();
        return rejected(Rejection::Limited { violated, retry_after }, Some(status));
    }
    RateLimitStatus::add(call.request.extensions_mut(), &status);
    State::Inner { future: call.service.call(call.request), status: Some(status) }
}

fn on_store_error<S, Q, F>(
    config: &Config,
    mut call: Call<S, Q>,
    error: &StoreError,
) -> State<S, Q, F>
where
    S: Service<Request<Q>, Future = F>,
{
    telemetry::store_failed("rate_limit", error);
    match config.on_store_error {
        OnStoreError::Allow => {
            State::Inner { future: call.service.call(call.request), status: None }
        }
        OnStoreError::Deny => rejected(Rejection::StoreUnavailable, None),
    }
}

fn rejected<S, Q, F>(rejection: Rejection, status: Option<RateLimitStatus>) -> State<S, Q, F> {
    State::Rejected { rejection: Some(rejection), status }
}

fn tell<B>(config: &Config, status: Option<RateLimitStatus>, response: &mut Response<B>) {
    if let Some(status) = status {
        headers::write(config.headers, status.pairs(), response.headers_mut());
    }
}

impl<S, Q> fmt::Debug for ResponseFuture<S, Q>
where
    S: Service<Request<Q>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

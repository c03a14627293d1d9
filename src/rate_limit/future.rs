//! What happens to one request.

use crate::{
    body::ResponseBody,
    marks::UserId,
    rate_limit::{
        asked::{Asked, Decided, Lookups},
        held::HeldLeases,
        layer::{Config, OnStoreError},
        outcome::Verdict,
        passed::{self, Passed},
        rejection::Rejection,
        status::RateLimitStatus,
        store::Charge,
    },
    store::{StoreError, StoreFuture},
    telemetry,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
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
        state: State<S, Q, S::Future, S::Response>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Q, F, P> {
        /// The session is loaded, since a policy counts by user.
        User { lookup: StoreFuture<Option<UserId>>, call: Option<Call<S, Q>> },
        Start { call: Option<Call<S, Q>> },
        /// The quotas are looked up that a policy has not seen lately.
        Quotas { lookups: Lookups, asked: Option<Asked>, call: Option<Call<S, Q>> },
        Check { check: StoreFuture<Verdict>, open: Option<Open>, call: Option<Call<S, Q>> },
        Inner { #[pin] future: F, passed: Passed },
        /// What does not count, now that there is a response, goes back before it goes out.
        Refund { refund: StoreFuture<Verdict>, charges: Vec<Charge>, response: Option<P>, passed: Passed },
        Rejected { rejection: Option<Rejection>, status: Option<RateLimitStatus> },
    }
}

/// A request that the store is asked about.
struct Open {
    asked: Asked,
    leases: Option<HeldLeases>,
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
                        Err(error) => without_user(config, call, &error),
                    }
                }
                StateProj::Start { call } => start(config, take(call)),
                StateProj::Quotas { lookups, asked, call } => {
                    let found = ready!(lookups.as_mut().poll(cx));
                    let asked = asked.take().expect(POLLED_ONCE).with_quotas(config, found);
                    check(config, take(call), asked)
                }
                StateProj::Check { check, open, call } => {
                    let verdict = ready!(Pin::new(check).poll(cx));
                    let (call, open) = (take(call), open.take().expect(POLLED_ONCE));
                    match verdict {
                        Ok(verdict) => judge(config, call, open, verdict),
                        Err(error) => on_store_error(config, call, open.asked, &error),
                    }
                }
                StateProj::Inner { future, passed } => {
                    let response = ready!(future.poll(cx))?;
                    let passed = mem::take(passed);
                    let (response, refund) = passed.settle(config, response);
                    match refund {
                        Some((refund, charges)) => {
                            State::Refund { refund, charges, response: Some(response), passed }
                        }
                        None => return Poll::Ready(Ok(passed.finish(config, response))),
                    }
                }
                StateProj::Refund { refund, charges, response, passed } => {
                    let said = ready!(Pin::new(refund).poll(cx));
                    let mut passed = mem::take(passed);
                    match said {
                        Ok(said) => passed.refunded(charges, &said),
                        // It counts then, until it comes back by itself.
                        Err(error) => telemetry::store_failed("rate_limit", &error),
                    }
                    let response = response.take().expect(POLLED_ONCE);
                    return Poll::Ready(Ok(passed.finish(config, response)));
                }
                StateProj::Rejected { rejection, status } => {
                    let rejection = rejection.take().expect(POLLED_ONCE);
                    let mut response = config.rejection.respond(rejection);
                    passed::tell(config, status.take(), &mut response);
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

fn start_for<S, Q, F, P>(mut call: Call<S, Q>, user: Option<UserId>) -> State<S, Q, F, P> {
    if let Some(user) = user {
        call.request.extensions_mut().insert(user);
    }
    State::Start { call: Some(call) }
}

/// It is not known who asks: policies by user do not apply, and all others do, unless that is to be
/// denied.
fn without_user<S, Q, F, P>(
    config: &Config,
    call: Call<S, Q>,
    error: &StoreError,
) -> State<S, Q, F, P> {
    telemetry::store_failed("rate_limit", error);
    match config.on_store_error {
        OnStoreError::Deny => rejected(Rejection::StoreUnavailable, None),
        OnStoreError::Allow | OnStoreError::LocalFallback { .. } => start_for(call, None),
    }
}

/// Asks the store about every policy that applies.
fn start<S, Q, F, P>(config: &Config, call: Call<S, Q>) -> State<S, Q, F, P>
where
    S: Service<Request<Q>, Future = F>,
{
    let Call { service, mut request } = call;
    if let Some(proxies) = &config.proxies {
        proxies.identify(&mut request);
    }
    let (parts, body) = request.into_parts();
    let chosen = config.chosen(&parts);
    let cost = config.cost_of(&parts);
    let mut asked = Asked::of(config, &parts, cost);
    let lookups = match (chosen, &mut asked) {
        (None, Ok(asked)) if cost > 0 => asked.look_up(config, &parts),
        _ => None,
    };
    let call = Call { service, request: Request::from_parts(parts, body) };
    match (chosen, asked) {
        (Some(true), _) => call.pass(Passed::default()),
        (Some(false), _) => rejected(Rejection::Denied, None),
        (None, Err((policy, advice))) => {
            telemetry::warn(format_args!("rate limit policy {:?}: {advice}", policy.name()));
            rejected(Rejection::Misconfigured { advice }, None)
        }
        (None, Ok(asked)) if cost == 0 || asked.charges.is_empty() => call.pass(Passed::default()),
        (None, Ok(asked)) => match lookups {
            Some(lookups) => State::Quotas { lookups, asked: Some(asked), call: Some(call) },
            None => check(config, call, asked),
        },
    }
}

fn check<S, Q, F, P>(config: &Config, call: Call<S, Q>, asked: Asked) -> State<S, Q, F, P> {
    let leases = HeldLeases::of(&asked.store, &asked.charges);
    let check = asked.store.check(&asked.charges).within("a rate limit check", config.deadline);
    State::Check { check, open: Some(Open { asked, leases }), call: Some(call) }
}

fn judge<S, Q, F, P>(
    config: &Arc<Config>,
    mut call: Call<S, Q>,
    open: Open,
    verdict: Verdict,
) -> State<S, Q, F, P>
where
    S: Service<Request<Q>, Future = F>,
{
    let (allowed, banned) = (verdict.is_allowed(), verdict.is_banned());
    telemetry::count(telemetry::RATE_LIMIT_TOTAL, if allowed { "allowed" } else { "denied" });
    let Open { asked, leases } = open;
    let status = RateLimitStatus::new(Decided::new(config.clone(), asked, verdict));
    if allowed {
        RateLimitStatus::add(call.request.extensions_mut(), &status);
        let leases = leases.map(HeldLeases::renew);
        return call.pass(Passed { status: Some(status), leases });
    }
    if let Some(leases) = leases {
        leases.disarm();
    }
    let violated = status.violated().collect();
    let retry_after = status.retry_after();
    let rejection = if banned {
        Rejection::Banned { violated, retry_after }
    } else {
        Rejection::Limited { violated, retry_after }
    };
    rejected(rejection, Some(status))
}

/// What the store was asked, it has not decided.
fn on_store_error<S, Q, F, P>(
    config: &Config,
    call: Call<S, Q>,
    asked: Asked,
    error: &StoreError,
) -> State<S, Q, F, P>
where
    S: Service<Request<Q>, Future = F>,
{
    telemetry::store_failed("rate_limit", error);
    match (config.on_store_error, &config.fallback) {
        (OnStoreError::Deny, _) => rejected(Rejection::StoreUnavailable, None),
        (OnStoreError::LocalFallback { shares }, Some(own))
            if Arc::ptr_eq(&asked.store, &config.store) =>
        {
            check(config, call, asked.shared_among(shares, own.clone()))
        }
        _ => call.pass(Passed::default()),
    }
}

fn rejected<S, Q, F, P>(
    rejection: Rejection,
    status: Option<RateLimitStatus>,
) -> State<S, Q, F, P> {
    State::Rejected { rejection: Some(rejection), status }
}

impl<S, Q> Call<S, Q> {
    fn pass<F, P>(mut self, passed: Passed) -> State<S, Q, F, P>
    where
        S: Service<Request<Q>, Future = F>,
    {
        State::Inner { future: self.service.call(self.request), passed }
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

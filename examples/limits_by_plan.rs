//! An API whose tenants have plans: each tenant's limits are those of its plan, shared by all servers, and
//! told in every response. An operator looks at a tenant, changes its plan, gives it a fresh start or
//! bans it.
//!
//! ```sh
//! cargo run --example limits_by_plan
//! REDIS_URL=redis://127.0.0.1:6379 PORT=3002 cargo run --example limits_by_plan   # a server of a fleet
//!
//! # RateLimit-Policy and RateLimit say where the tenant stands; 5 at once on the free plan, 50 on pro
//! curl -i -H 'x-api-key: acme-key' http://127.0.0.1:3000/report
//! for i in $(seq 8); do curl -s -o /dev/null -w '%{http_code} ' -H 'x-api-key: acme-key' http://127.0.0.1:3000/report; done; echo
//!
//! # the operator's own port, one further
//! curl http://127.0.0.1:3001/tenants/acme
//! curl -X PUT http://127.0.0.1:3001/tenants/acme/plan/pro
//! curl -X POST http://127.0.0.1:3001/tenants/acme/reset
//! curl -X PUT 'http://127.0.0.1:3001/tenants/acme/ban?seconds=60'
//! curl -X DELETE http://127.0.0.1:3001/tenants/acme/ban
//! ```

use axum::{
    Json, Router,
    extract::{Extension, Path, Query, Request, State},
    http::{StatusCode, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    env,
    error::Error,
    fmt,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{net::TcpListener, signal};
use towerkeep::{
    Backend, StoreError,
    rate_limit::{
        Headers, OnStoreError, Outcome, Policy, Quota, RateLimitLayer, RateLimitStatus, by,
    },
};

/// The policies' names, in headers, in Redis and for the operator.
const BURST: &str = "burst";
const DAILY: &str = "daily";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let backend = Backend::from_env().await?;
    let port: u16 = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let next =
        port.checked_add(1).ok_or("the operator's port is one further: PORT=65534 at most")?;
    let (public, operator) = (listener(port).await?, listener(next).await?);
    println!(
        "The API is at http://{}, the operator's routes at http://{}. State lives in {backend}. The \
         commands to try are at the top of examples/limits_by_plan.rs.",
        public.local_addr()?,
        operator.local_addr()?
    );
    let tenants = Tenants::default();
    let limits = limits(backend.clone());
    let app = app(&backend, limits.clone(), tenants.clone());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let interrupted = || async { signal::ctrl_c().await.unwrap_or_default() };
    tokio::try_join!(
        axum::serve(public, app).with_graceful_shutdown(interrupted()),
        axum::serve(operator, admin(limits, tenants)).with_graceful_shutdown(interrupted()),
    )?;
    backend.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

async fn listener(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        format!("cannot listen on port {port}: {error}; choose another one by PORT=…")
    })
}

/// What a tenant pays for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Plan {
    Free,
    Pro,
}

impl Plan {
    fn burst(self) -> Quota {
        match self {
            Self::Free => Quota::per_minute(30).burst(5),
            Self::Pro => Quota::per_minute(300).burst(50),
        }
    }

    fn daily(self) -> Quota {
        match self {
            Self::Free => Quota::per_day(1_000),
            Self::Pro => Quota::per_day(100_000),
        }
    }
}

/// Who asks, in the request's extensions once the API key is known. It is counted by its name.
#[derive(Clone, Debug)]
struct Tenant {
    name: Arc<str>,
    plan: Plan,
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Stands for the table of tenants in a database: what each one's plan is.
#[derive(Clone)]
pub(crate) struct Tenants(Arc<RwLock<HashMap<Arc<str>, Plan>>>);

impl Default for Tenants {
    fn default() -> Self {
        let plans = [("acme", Plan::Free), ("globex", Plan::Pro)];
        let plans = plans.map(|(name, plan)| (name.into(), plan));
        Self(Arc::new(RwLock::new(plans.into())))
    }
}

impl Tenants {
    fn plan_of(&self, name: &str) -> Option<Plan> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    fn change(&self, name: &str, plan: Plan) -> Option<Plan> {
        let mut plans = self.0.write().unwrap_or_else(PoisonError::into_inner);
        plans.get_mut(name).map(|old| std::mem::replace(old, plan))
    }

    /// Stands for looking up a key by its hash: acme's is "acme-key".
    fn by_key(&self, key: &str) -> Option<Tenant> {
        let name = key.strip_suffix("-key")?;
        Some(Tenant { name: name.into(), plan: self.plan_of(name)? })
    }
}

/// Both limits of a tenant: one request is one step of the store, whatever the number of policies.
pub(crate) fn limits(backend: Backend) -> RateLimitLayer {
    let plan = |parts: &Parts| parts.extensions.get::<Tenant>().map(|tenant| tenant.plan);
    let burst = Policy::gcra(BURST, Plan::Free.burst()).key(by::extension::<Tenant>());
    let daily = Policy::fixed_window(DAILY, Plan::Free.daily()).key(by::extension::<Tenant>());
    RateLimitLayer::new(backend, burst.quota_with(move |parts| plan(parts).map(Plan::burst)))
        .policy(daily.quota_with(move |parts| plan(parts).map(Plan::daily)))
        .headers(Headers::Both)
}

/// What tenants see.
pub(crate) fn app(backend: &Backend, limits: RateLimitLayer, tenants: Tenants) -> Router {
    // Nobody finds a key by trying: only answers with 401 count, and nobody else is slowed down.
    let guesses = Policy::sliding_log("guesses", Quota::per_minute(10))
        .key(by::ip())
        .count_if(|response| response.status == StatusCode::UNAUTHORIZED);
    let guesses = RateLimitLayer::new(backend.clone(), guesses)
        .headers(Headers::Off)
        .on_store_error(OnStoreError::Deny);
    Router::new()
        .route("/report", get(report))
        .layer(limits)
        .layer(from_fn_with_state(tenants, authenticate))
        .layer(guesses)
}

/// Finds the tenant before its limits are looked at.
async fn authenticate(
    State(tenants): State<Tenants>,
    mut request: Request,
    next: Next,
) -> Response {
    let key = request.headers().get("x-api-key").and_then(|key| key.to_str().ok());
    match key.and_then(|key| tenants.by_key(key)) {
        Some(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        None => (StatusCode::UNAUTHORIZED, "send your key as x-api-key\n").into_response(),
    }
}

async fn report(Extension(tenant): Extension<Tenant>, status: RateLimitStatus) -> String {
    // Of its plan; `remaining` would be the least of all layers, that of the guesses included.
    let left = status.outcome(BURST).map(|burst| burst.remaining.to_string());
    let left = left.unwrap_or_else(|| "any number of".into());
    format!("a report for {tenant}; {left} more at once\n")
}

/// What operators see, on a port of their own that is not open to the world.
pub(crate) fn admin(limits: RateLimitLayer, tenants: Tenants) -> Router {
    Router::new()
        .route("/tenants/{tenant}", get(look))
        .route("/tenants/{tenant}/plan/{plan}", put(change_plan))
        .route("/tenants/{tenant}/reset", post(reset))
        .route("/tenants/{tenant}/ban", put(ban).delete(unban))
        .with_state(Operator { limits, tenants })
}

#[derive(Clone)]
struct Operator {
    limits: RateLimitLayer,
    tenants: Tenants,
}

/// Where a tenant stands under a policy.
#[derive(Serialize)]
struct Standing {
    remaining: u64,
    full_again_in_seconds: u64,
    banned: bool,
}

impl From<Outcome> for Standing {
    fn from(outcome: Outcome) -> Self {
        let full_again_in_seconds = outcome.reset.as_secs_f64().ceil() as u64;
        Self { remaining: outcome.remaining, full_again_in_seconds, banned: outcome.banned }
    }
}

#[derive(Serialize)]
struct Overview {
    plan: Plan,
    burst: Standing,
    daily: Standing,
}

async fn look(
    State(operator): State<Operator>,
    Path(tenant): Path<String>,
) -> Answer<Json<Overview>> {
    let plan = operator.tenants.plan_of(&tenant).ok_or(Refused::NoTenant)?;
    let limits = operator.limits;
    Ok(Json(Overview {
        plan,
        burst: limits.peek_with(BURST, [&tenant], plan.burst()).await?.into(),
        daily: limits.peek_with(DAILY, [&tenant], plan.daily()).await?.into(),
    }))
}

/// What was used of the day counts under the new plan, too. The burst is whole at once: it would be as
/// empty as it was under the old plan, though it fills faster.
async fn change_plan(
    State(operator): State<Operator>,
    Path((tenant, plan)): Path<(String, Plan)>,
) -> Answer<StatusCode> {
    operator.tenants.change(&tenant, plan).ok_or(Refused::NoTenant)?;
    operator.limits.reset(BURST, [&tenant]).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reset(State(operator): State<Operator>, Path(tenant): Path<String>) -> Answer<StatusCode> {
    for policy in [BURST, DAILY] {
        operator.limits.reset(policy, [&tenant]).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Length {
    seconds: u64,
}

/// A ban under one policy is enough: a request is let through by all or not at all.
async fn ban(
    State(operator): State<Operator>,
    Path(tenant): Path<String>,
    Query(length): Query<Length>,
) -> Answer<StatusCode> {
    operator.limits.ban(DAILY, [&tenant], Duration::from_secs(length.seconds)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unban(State(operator): State<Operator>, Path(tenant): Path<String>) -> Answer<StatusCode> {
    operator.limits.unban(DAILY, [&tenant]).await?;
    Ok(StatusCode::NO_CONTENT)
}

type Answer<T> = Result<T, Refused>;

enum Refused {
    NoTenant,
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::NoTenant => (StatusCode::NOT_FOUND, "there is no such tenant\n").into_response(),
            Self::Store(error) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
        }
    }
}

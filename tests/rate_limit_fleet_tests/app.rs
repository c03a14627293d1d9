//! One process of the fleet.

use crate::{
    harness::PREFIX,
    support::{
        http::{client::HttpClient, server::HttpServer},
        process::{self, ChildApp},
        server::RedisServer,
    },
};
use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use std::{convert::Infallible, env, future, time::Duration};
use towerkeep::{
    Backend,
    connection::redis::{self, FromRedisValue},
    rate_limit::{OnStoreError, Policy, Quota, RateLimitLayer, RateLimitStatus, by},
};

const APP: &str = "tests::app::app";

/// The tests ask what is decided on a small machine under load, not how fast.
pub(super) const PATIENT: Duration = Duration::from_secs(20);

/// What each policy of a rate admits in a [`PERIOD`]; the burst is the same.
pub(super) const LIMIT: u32 = 10;
pub(super) const PERIOD: Duration = Duration::from_secs(2);

/// How many may be at it at a time.
pub(super) const AT_ONCE: u32 = 3;

/// The lease of a stream, of which one is allowed at a time.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// The algorithms, as the routes and the policies are called.
pub(super) const ALGORITHMS: [&str; 6] =
    ["gcra", "token_bucket", "fixed_window", "sliding_window", "sliding_log", "concurrency"];

/// Not a test of its own: what the child processes run.
#[tokio::test]
async fn app() {
    if !process::is_child(APP) {
        return;
    }
    let builder = Backend::builder().prefix(PREFIX).deadline(PATIENT);
    let builder = match env::var("DENY_CACHE") {
        Ok(_) => builder,
        // Every denial is Redis's own.
        Err(_) => builder.rate_limit_deny_cache(Duration::ZERO),
    };
    let backend = builder.from_env().await.unwrap();
    let server = HttpServer::start(routes(&backend)).await;
    process::announce(server.addr());
    future::pending::<()>().await;
}

/// Starts a child with these variables.
pub(super) fn spawn(redis_url: &str, envs: &[(&str, &str)]) -> ChildApp {
    let envs: Vec<_> = [("REDIS_URL", redis_url)].iter().chain(envs).copied().collect();
    ChildApp::spawn(APP, &envs)
}

/// So many children at once.
pub(super) fn spawn_all(redis: &RedisServer, envs: &[Vec<(&str, &str)>]) -> Vec<ChildApp> {
    let url = redis.url();
    std::thread::scope(|scope| {
        let starts: Vec<_> = envs.iter().map(|envs| scope.spawn(|| spawn(&url, envs))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    })
}

/// The policy of a route. A process that was told a name of its own has limits of its own.
fn policy(algorithm: &str) -> Policy {
    let quota = Quota::new(LIMIT, PERIOD).unwrap();
    let own = env::var("OWN_NAME").unwrap_or_default();
    let name = format!("{algorithm}{own}");
    let policy = match algorithm {
        "gcra" => Policy::gcra(&name, quota),
        "token_bucket" => Policy::token_bucket(&name, quota),
        "fixed_window" => Policy::fixed_window(&name, quota),
        "sliding_window" => Policy::sliding_window(&name, quota),
        "sliding_log" => Policy::sliding_log(&name, quota),
        _ => Policy::concurrency(&name, AT_ONCE),
    };
    policy.key(by::everyone())
}

pub(super) fn login() -> Policy {
    Policy::sliding_log("login", Quota::per_hour(5))
        .key(by::header("x-user"))
        .count_if(|response| response.status == StatusCode::UNAUTHORIZED)
}

pub(super) fn streaming() -> Policy {
    Policy::concurrency("streams", 1).lease(LEASE).key(by::everyone())
}

fn limit(backend: &Backend, policy: Policy) -> RateLimitLayer {
    RateLimitLayer::new(backend.clone(), policy)
        .on_store_error(OnStoreError::Deny)
        .deadline(PATIENT)
}

fn routes(backend: &Backend) -> Router {
    let router = Router::new()
        .route("/login", post(guess).layer(limit(backend, login())))
        .route("/stream", get(endless).layer(limit(backend, streaming())));
    let router = ALGORITHMS.into_iter().fold(router, |router, algorithm| {
        let handler = if algorithm == "concurrency" { get(at_once) } else { get(admitted) };
        let handler = handler.layer(limit(backend, policy(algorithm)));
        router.route(&format!("/{algorithm}"), handler)
    });
    let timed = middleware::from_fn_with_state(backend.clone(), before);
    router.layer(timed).with_state(backend.clone())
}

/// The server's time in µs before the limit was asked.
#[derive(Clone)]
struct Before(u64);

async fn before(State(backend): State<Backend>, mut request: Request, next: Next) -> Response {
    let time = Before(time(&backend).await);
    request.extensions_mut().insert(time);
    next.run(request).await
}

/// Notes between which times it was admitted, and with which receipt.
async fn admitted(
    State(backend): State<Backend>,
    Extension(Before(before)): Extension<Before>,
    status: RateLimitStatus,
) {
    let (policy, outcome) = status.outcomes().next().unwrap();
    let algorithm = policy.split('.').next().unwrap();
    let note = format!("{before} {} {}", time(&backend).await, outcome.receipt);
    let list = format!("admitted:{algorithm}");
    query::<u64>(&backend, redis::cmd("RPUSH").arg(list).arg(note)).await;
}

/// Notes how many are inside; a request is inside for less long than it holds its lease.
async fn at_once(State(backend): State<Backend>) {
    let inside: u64 = query(&backend, redis::cmd("INCR").arg("inside")).await;
    query::<u64>(&backend, redis::cmd("RPUSH").arg("admitted:concurrency").arg(inside)).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    query::<u64>(&backend, redis::cmd("DECR").arg("inside")).await;
}

async fn guess(State(backend): State<Backend>, password: String) -> StatusCode {
    query::<u64>(&backend, redis::cmd("INCR").arg("guesses")).await;
    if password == "right" { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
}

async fn endless() -> impl IntoResponse {
    axum::body::Body::from_stream(
        stream::once(future::ready(Ok::<_, Infallible>(Bytes::from("first"))))
            .chain(stream::pending()),
    )
}

async fn query<T: FromRedisValue + Send + 'static>(backend: &Backend, cmd: &redis::Cmd) -> T {
    backend.connection().unwrap().query(cmd).await.unwrap()
}

async fn time(backend: &Backend) -> u64 {
    let (seconds, micros): (u64, u64) = query(backend, &redis::cmd("TIME")).await;
    seconds * 1_000_000 + micros
}

/// The status of a request without a body.
pub(super) async fn status(client: &HttpClient, url: &str) -> u16 {
    client.get(url).await.status.as_u16()
}

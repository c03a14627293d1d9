//! A login that nobody gets into by guessing: wrong passwords count, by address and by account, and right
//! ones never do. Who goes on although there is no more to try, or tries an account that does not exist for
//! anybody, is banned.
//!
//! ```sh
//! cargo run --example login_throttle
//! REDIS_URL=redis://127.0.0.1:6379 PORT=3001 cargo run --example login_throttle   # a server of a fleet
//! PROXIES=127.0.0.1 cargo run --example login_throttle   # behind a proxy on this machine
//!
//! # 5 wrong passwords for one account, or 10 from one address, and then 429 with Retry-After
//! curl -i -d 'user=ann&password=wrong' http://127.0.0.1:3000/login
//! for i in $(seq 6); do curl -s -o /dev/null -w '%{http_code} ' -d 'user=ann&password=wrong' http://127.0.0.1:3000/login; done; echo
//!
//! # an address that does not stop there is banned for an hour: right passwords, too, and other accounts
//! for i in $(seq 40); do curl -s -o /dev/null -w '%{http_code} ' -d "user=u$i&password=wrong" http://127.0.0.1:3000/login; done; echo
//! curl -i -d 'user=bob&password=battery staple' http://127.0.0.1:3000/login
//!
//! # after a restart: the right one, as often as you like
//! curl -i -d 'user=bob&password=battery staple' http://127.0.0.1:3000/login
//!
//! # an account that only guessers try: the address is banned for an hour
//! curl -i -d 'user=root&password=toor' http://127.0.0.1:3000/login
//!
//! # with PROXIES=127.0.0.1, as the proxy would write it: another address, another count
//! curl -i -H 'X-Forwarded-For: 203.0.113.7' -d 'user=bob&password=wrong' http://127.0.0.1:3000/login
//! ```

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Extension, FromRequest, Request, rejection::FormRejection},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use std::{env, error::Error, fmt, net::SocketAddr, process::ExitCode, time::Duration};
use tokio::{net::TcpListener, signal};
use towerkeep::{
    Backend, ClientAddr, TrustedProxies,
    rate_limit::{OnStoreError, Policy, Quota, RateLimitLayer, RateLimitStatus, by},
};

/// Stands for a table of accounts; a real one has hashes of passwords.
const ACCOUNTS: [(&str, &str); 2] = [("ann", "correct horse"), ("bob", "battery staple")];

/// Nobody here has such an account, and everybody who guesses tries one.
const TRAPS: [&str; 3] = ["admin", "administrator", "root"];

/// So many attempts more, within so long of the first of them, after an address was told to wait.
const INSISTS: (u32, Duration) = (20, Duration::from_secs(10 * 60));

const BANNED_FOR: Duration = Duration::from_secs(60 * 60);

/// A form with a name and a password is not longer.
const LONGEST_FORM: usize = 1_024;

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
    let proxies = env::var("PROXIES").unwrap_or_default();
    let proxies = TrustedProxies::networks(proxies.split_terminator(','))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        format!("cannot listen on port {port}: {error}; choose another one by PORT=…")
    })?;
    println!(
        "The login is at http://{}/login. State lives in {backend}. The commands to try are at the top \
         of examples/login_throttle.rs.",
        listener.local_addr()?
    );
    let app = app(&backend, proxies).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    backend.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

/// From the outside in: by address, which costs no body; then the form is read; then by account.
pub(crate) fn app(backend: &Backend, proxies: TrustedProxies) -> Router {
    // A person waits, or asks for a new password; an address that goes on is a machine.
    let by_address = wrong_passwords("address", Quota::per_minute(10))
        .key((by::route(), by::ip()))
        .ban_after(INSISTS.0, INSISTS.1, BANNED_FOR);
    // Whoever guesses at an account keeps its owner out as well, so not for long.
    let five = Quota::new(5, Duration::from_secs(5 * 60)).expect("5 in 5 minutes is a quota");
    let by_account = wrong_passwords("account", five).key(by::extension::<Account>());
    Router::new()
        .route("/login", post(login))
        .route_layer(guard(backend, by_account))
        .route_layer(from_fn(read_form))
        .route_layer(guard(backend, by_address).trust_proxies(proxies))
}

/// Each attempt is charged before the password is looked at, and given back if it was right: a thousand
/// guesses at a time are no way around. The log is exact: never one more in any minute.
fn wrong_passwords(name: &str, quota: Quota) -> Policy {
    Policy::sliding_log(name, quota)
        .count_if(|response| response.status == StatusCode::UNAUTHORIZED)
}

/// While the store is away nobody logs in, rather than everybody guessing.
fn guard(backend: &Backend, policy: Policy) -> RateLimitLayer {
    RateLimitLayer::new(backend.clone(), policy).on_store_error(OnStoreError::Deny)
}

#[derive(Clone, Deserialize)]
struct Attempt {
    user: String,
    password: String,
}

/// Whose account is tried, in the request's extensions: what the limit counts by.
#[derive(Clone)]
struct Account(String);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The form, which says whose account it is, for the layer further in.
async fn read_form(request: Request, next: Next) -> Response {
    match form(request).await {
        Ok((attempt, mut request)) => {
            request.extensions_mut().insert(Account(attempt.user.to_lowercase()));
            request.extensions_mut().insert(attempt);
            next.run(request).await
        }
        Err(refused) => refused,
    }
}

async fn form(request: Request) -> Result<(Attempt, Request), Response> {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, LONGEST_FORM).await;
    let bytes = bytes.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE.into_response())?;
    let whole = Request::from_parts(parts.clone(), Body::from(bytes));
    let attempt = axum::Form::<Attempt>::from_request(whole, &()).await;
    let axum::Form(attempt) = attempt.map_err(FormRejection::into_response)?;
    Ok((attempt, Request::from_parts(parts, Body::empty())))
}

async fn login(
    Extension(attempt): Extension<Attempt>,
    Extension(account): Extension<Account>,
    client: ClientAddr,
    limits: RateLimitStatus,
) -> (StatusCode, String) {
    if TRAPS.contains(&account.0.as_str()) {
        // What the store cannot keep is a wrong password all the same.
        if let Err(error) = limits.ban("address", BANNED_FOR).await {
            eprintln!("{client} is not banned: {error}");
        }
    }
    let known = ACCOUNTS.iter().find(|(user, _)| *user == account.0);
    if known.is_some_and(|(_, password)| *password == attempt.password) {
        return (StatusCode::OK, format!("Hello, {account}.\n"));
    }
    (StatusCode::UNAUTHORIZED, "The name or the password is wrong.\n".into())
}

//! Accounts with sessions: register, log in ("remember me"), see where you are logged in, log out here,
//! on one device or everywhere.
//!
//! ```sh
//! cargo run --example login
//! REDIS_URL=redis://127.0.0.1:6379 PORT=3001 cargo run --example login
//! ```
//!
//! It opens at <http://localhost:3000>. The cookie is `Secure`, which browsers other than Safari take
//! from this machine over plain HTTP, too.

mod accounts;
mod devices;
mod origin;
mod pages;

use self::{
    accounts::{Accounts, Refused},
    pages::Page,
};
use axum::{
    Router,
    extract::{Form, FromRef, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{from_fn, map_response},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use std::{env, error::Error, net::SocketAddr, process::ExitCode, time::Duration};
use tokio::{net::TcpListener, signal};
use towerkeep::{
    Backend,
    rate_limit::{Policy, Quota, RateLimitLayer, by},
    session::{self, Key, OnMaxSessions, Selector, Session, SessionLayer},
};

const VISITS: Key<u64> = Key::new("visits");

/// What the name of every key in Redis begins with: that of the sessions by default, so of the accounts
/// here, too.
const PREFIX: &str = "towerkeep";

/// How long "remember me" holds.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

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
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        format!("cannot listen on port {port}: {error}; choose another one by PORT=…")
    })?;
    let port = listener.local_addr()?.port();
    println!("Open http://localhost:{port} in a browser. State lives in {backend}.");
    if backend.connection().is_some() {
        println!(
            "\n  redis-cli -u $REDIS_URL --scan --pattern 'towerkeep:*'
  redis-cli -u $REDIS_URL HGETALL towerkeep:session:…   # `visits` and the rest, as JSON"
        );
    }
    let app = app(backend.clone(), PREFIX).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    backend.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

/// What handlers work with.
#[derive(Clone, FromRef)]
struct Site {
    accounts: Accounts,
    backend: Backend,
}

/// The whole application; the test drives it, too.
pub(crate) fn app(backend: Backend, prefix: &'static str) -> Router {
    // Guessing passwords is slow: 20 attempts, then one in 6 seconds.
    let attempts = Policy::gcra("attempts", Quota::per_minute(10).burst(20)).key(by::ip());
    let sessions = SessionLayer::new(backend.clone()).max_sessions(10, OnMaxSessions::EvictOldest);
    Router::new()
        .route("/register", post(register))
        .route("/login", post(login))
        .layer(RateLimitLayer::new(backend.clone(), attempts))
        .route("/", get(home))
        .route("/logout", post(logout))
        .route("/logout-everywhere", post(logout_everywhere))
        .route("/revoke", post(revoke))
        .layer(sessions)
        .layer(from_fn(origin::same_origin))
        .route("/style.css", get(style))
        .layer(map_response(secure))
        .with_state(Site { accounts: Accounts::new(&backend, prefix), backend })
}

#[derive(Deserialize)]
struct Said {
    /// How many devices were logged out, this one too. A visitor without a session has no place for
    /// it but the address.
    bye: Option<usize>,
}

/// Everything is on this page: the forms for visitors, the devices for users.
async fn home(
    session: Session,
    State(backend): State<Backend>,
    Query(said): Query<Said>,
    headers: HeaderMap,
) -> Result<Response, session::Error> {
    let Some(user) = session.user() else {
        // Nothing is written: who only looks gets neither a cookie nor a session.
        let bye = said.bye.map(|ended| match ended {
            ..2 => "You are logged out.".to_owned(),
            ended => format!("You are logged out on {ended} devices."),
        });
        return Ok(Page::welcome(&backend, bye.as_slice()).into_response());
    };
    let messages = session.flashes::<String>()?;
    let visits = session.incr(VISITS, 1)?;
    let devices = session.sessions().list(&user).await?;
    let recent = session.recent(8).await?;
    let agent = devices::label(&headers);
    let page = Page::account(&backend, &messages, &user, visits, &agent)
        .devices(&devices, session.handle())
        .activity(&recent);
    Ok(page.into_response())
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
    /// Sent if the box is ticked.
    remember: Option<String>,
}

async fn register(
    session: Session,
    State(accounts): State<Accounts>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<Response, Failure> {
    accounts.register(&form.name, form.password).await?;
    enter(&session, &form.name, "registered", false, &headers)?;
    session.flash(&format!("Welcome, {}. Your account is ready.", form.name))?;
    Ok(Redirect::to("/").into_response())
}

async fn login(
    session: Session,
    State(accounts): State<Accounts>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<Response, Failure> {
    accounts.verify(&form.name, form.password).await?;
    enter(&session, &form.name, "logged in", form.remember.is_some(), &headers)?;
    Ok(Redirect::to("/").into_response())
}

/// An event of the user's trail.
#[derive(Serialize, Deserialize)]
struct Event {
    what: String,
    on: String,
}

/// Binds the session to the user. Its cookie changes, so one that was planted before is worth nothing.
fn enter(
    session: &Session,
    user: &str,
    what: &str,
    remember: bool,
    headers: &HeaderMap,
) -> Result<(), session::Error> {
    // Nothing that was put into the session before, by whomever, goes into the account.
    session.clear()?;
    session.login(user)?;
    if remember {
        session.remember(REMEMBERED)?;
    }
    note(session, what, headers)?;
    session.set_device(&devices::label(headers))
}

fn note(session: &Session, what: &str, headers: &HeaderMap) -> Result<(), session::Error> {
    session.record(&Event { what: what.to_owned(), on: devices::label(headers) })
}

async fn logout(session: Session) -> Redirect {
    session.destroy();
    Redirect::to("/?bye=1")
}

#[derive(Deserialize)]
struct Everywhere {
    /// Sent by the button that spares this device.
    keep: Option<String>,
}

async fn logout_everywhere(
    session: Session,
    headers: HeaderMap,
    Form(form): Form<Everywhere>,
) -> Result<Redirect, session::Error> {
    let Some(user) = session.user() else { return Ok(Redirect::to("/")) };
    let kept = session.handle().filter(|_| form.keep.is_some());
    let ended = session.sessions().revoke_all(&user, kept).await?;
    if kept.is_none() {
        session.destroy();
        return Ok(Redirect::to(&format!("/?bye={ended}")));
    }
    note(&session, "logged out on all other devices", &headers)?;
    let devices = if ended == 1 { "device" } else { "devices" };
    session.flash(&format!("Logged out on {ended} other {devices}."))?;
    Ok(Redirect::to("/"))
}

#[derive(Deserialize)]
struct Revoke {
    handle: String,
}

async fn revoke(
    session: Session,
    headers: HeaderMap,
    Form(form): Form<Revoke>,
) -> Result<Response, session::Error> {
    let Some(user) = session.user() else { return Ok(Redirect::to("/").into_response()) };
    let Ok(handle) = form.handle.parse::<Selector>() else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    // Only a session of this user: a handle from somewhere else ends nothing.
    let message = if session.sessions().revoke(&user, handle).await? {
        note(&session, "logged out another device", &headers)?;
        "That device is logged out."
    } else {
        "That device was logged out already."
    };
    session.flash(message)?;
    Ok(Redirect::to("/").into_response())
}

/// Why somebody was not let in.
enum Failure {
    Refused(Refused),
    Session(session::Error),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<session::Error> for Failure {
    fn from(error: session::Error) -> Self {
        Self::Session(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(refused) => (refused.status(), Page::refused(&refused)).into_response(),
            Self::Session(error) => error.into_response(),
        }
    }
}

async fn style() -> impl IntoResponse {
    let headers =
        [(header::CONTENT_TYPE, "text/css"), (header::CACHE_CONTROL, "public, max-age=60")];
    (headers, include_str!("style.css"))
}

/// The pages need no script, and nothing from elsewhere.
async fn secure(mut response: Response) -> Response {
    let policy = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; \
        frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

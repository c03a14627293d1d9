//! No password, session token, cookie or key of a user is in an error, in a `Debug`, in a report or in
//! the log, whatever goes wrong.
//!
//! Every secret here contains [`MARK`], but for session tokens, whose secret half is noted when one is
//! issued. Whatever the library says goes through [`clean`].

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod harness;
mod support;

use crate::{
    harness::{PREFIX, allow_user, user_url},
    support::server::RedisServer,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Extension,
    routing::{get, post},
};
use futures_util::FutureExt;
use http::{
    Request, StatusCode,
    header::{CACHE_CONTROL, COOKIE, SET_COOKIE},
};
use std::{error::Error, fmt::Debug, sync::Mutex, time::Duration};
use tower::{Layer, ServiceExt, service_fn};
#[cfg(feature = "redis-tls")]
use towerkeep::connection::Tls;
use towerkeep::{
    Backend, StoreError, UserId,
    cache::{self, CacheLayer},
    connection::{Config, Connection, Script, deadpool_redis, redis},
    idempotency::{
        self, Claim, Fingerprint, IdempotencyLayer, IdempotencyStore, Idempotent, Terms,
    },
    lock::{self, LockStore, Locks},
    rate_limit::{
        self, Charge, Policy, Quota, RateLimitLayer, RateLimitStatus, RateLimitStore, by,
    },
    session::{self, LazySession, Session, SessionLayer, SessionStore, Token},
};

const MARK: &str = "hunter2";

/// A user's name is no secret, and `Debug` of a session shows it; errors of stores and the log do not.
const USER: &str = "ann7431";

/// The secret halves of the tokens that were issued.
static TOKENS: Mutex<Vec<String>> = Mutex::new(Vec::new());

const MINUTE: Duration = Duration::from_secs(60);

#[track_caller]
fn clean(what: &str, text: impl AsRef<str>) {
    let text = text.as_ref();
    assert!(!text.contains(MARK), "{what} shows a secret: {text}");
    for token in &*TOKENS.lock().unwrap() {
        assert!(!text.contains(token), "{what} shows the token {token}: {text}");
    }
}

#[track_caller]
fn clean_debug(what: &str, value: impl Debug) {
    clean(what, format!("{value:?} {value:#?}"));
}

/// The error and everything beneath it.
#[track_caller]
fn clean_error(error: &(dyn Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = format!("{error} {error:?} {error:#?}");
        assert!(!text.contains(USER), "an error names a user: {text}");
        clean("an error", text);
        next = error.source();
    }
}

#[track_caller]
fn fails<T>(result: Result<T, impl Into<StoreError>>) -> StoreError {
    let error = result.err().expect("it fails").into();
    clean_error(&error);
    error
}

/// What the crate logs, at every level.
mod log {
    #[cfg(feature = "tracing")]
    mod capture {
        use std::{
            fmt::{Debug, Write},
            sync::{
                Mutex,
                atomic::{AtomicU64, Ordering::Relaxed},
            },
        };
        use tracing::{
            Event, Metadata, Subscriber,
            field::{Field, Visit},
            span::{Attributes, Id, Record},
        };

        pub(super) static LINES: Mutex<String> = Mutex::new(String::new());

        pub(super) struct Capture(pub(super) AtomicU64);

        struct Line<'a>(&'a mut String);

        impl Visit for Line<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                let _ = write!(self.0, " {field}={value:?}");
            }
        }

        impl Capture {
            fn write(&self, metadata: Option<&Metadata<'_>>, fields: impl FnOnce(&mut Line<'_>)) {
                let mut lines = LINES.lock().unwrap();
                if let Some(metadata) = metadata {
                    let _ = write!(
                        lines,
                        "{} {} {}",
                        metadata.level(),
                        metadata.target(),
                        metadata.name()
                    );
                }
                fields(&mut Line(&mut lines));
                lines.push('\n');
            }
        }

        impl Subscriber for Capture {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                true
            }

            fn new_span(&self, span: &Attributes<'_>) -> Id {
                self.write(Some(span.metadata()), |line| span.record(line));
                Id::from_u64(self.0.fetch_add(1, Relaxed))
            }

            fn record(&self, _: &Id, values: &Record<'_>) {
                self.write(None, |line| values.record(line));
            }

            fn record_follows_from(&self, _: &Id, _: &Id) {}

            fn event(&self, event: &Event<'_>) {
                self.write(Some(event.metadata()), |line| event.record(line));
            }

            fn enter(&self, _: &Id) {}

            fn exit(&self, _: &Id) {}
        }
    }

    /// Everything is captured from here on.
    pub(super) fn begin() {
        #[cfg(feature = "tracing")]
        {
            static ONCE: std::sync::Once = std::sync::Once::new();
            ONCE.call_once(|| {
                tracing::subscriber::set_global_default(capture::Capture(1.into())).unwrap();
            });
        }
    }

    /// What every test of this binary has logged so far.
    #[track_caller]
    pub(super) fn check(expected: &[&str]) {
        #[cfg(feature = "tracing")]
        {
            let lines = capture::LINES.lock().unwrap().clone();
            super::clean("the log", &lines);
            assert!(!lines.contains(super::USER), "the log names a user: {lines}");
            for words in expected {
                assert!(lines.contains(words), "the log has no {words:?}: {lines}");
            }
        }
        let _ = expected;
    }
}

/// What a URL with a password looks like, in every grammar. The password is `{}`.
const GRAMMARS: &[&str] = &[
    "redis://user:{}@host.example:6379/0",
    "redis://:{}@host.example",
    "valkey://user:{}@[::1]:6379/0?protocol=resp3",
    "rediss://user:{}@host.example:6380",
    "unix:///run/redis.sock?db=1&user=u&pass={}",
    "redis+unix:///run/redis.sock?pass={}&db=1",
    "redis://host.example?pass={}",
    "redis://host.example:6379/0?user=u&pass={}&protocol=resp3",
    "redis+sentinel://user:{}@a.example:26379,b.example/master/0?sentinel_user=s&sentinel_pass={}",
    "valkey-sentinel://:{}@a.example,b.example:26379/master?protocol=resp3",
    "rediss+sentinel://a.example/master?sentinel_pass={}",
    "redis+cluster://user:{}@a.example:6379,b.example:6380,[::1]:7000",
    "rediss-cluster://:{}@a.example?protocol=resp3",
    // What people write though nobody knows it.
    "redis://host.example?password={}",
    "redis://host.example/0?protocol=resp3&auth={}",
    "http://user:{}@host.example/",
    "user:{}@host.example:6379",
    "host.example:6379,password={}",
];

/// Passwords that were not percent-encoded, and one that was.
const PASSWORDS: &[&str] = &[
    "hunter2",
    "a@hunter2",
    "a/hunter2",
    "a:hunter2",
    "a?hunter2",
    "a#hunter2",
    "a&hunter2",
    "a=hunter2",
    "a,hunter2",
    "a%hunter2",
    "a[hunter2",
    "a hunter2 b",
    "pass=hunter2@",
    "?pass=x@hunter2",
    "1234:hunter2",
    "%68hunter2",
];

/// Every URL with every password, as it is and with one slip of the finger in it.
fn slips() -> Vec<String> {
    let mut slips = Vec::new();
    for grammar in GRAMMARS {
        let (head, tail) = grammar.split_once("{}").unwrap();
        for password in PASSWORDS {
            let tail = tail.replace("{}", password);
            slips.push(format!("{head}{password}{tail}"));
            // Without the '@' that ends the login, the rest of such a password is a proper host.
            if password.contains('@') {
                continue;
            }
            slips.extend(slips_in(head).map(|head| format!("{head}{password}{tail}")));
            // Not in a second password.
            let end = tail.find(password).unwrap_or(tail.len());
            let (tail, rest) = tail.split_at(end);
            slips.extend(slips_in(tail).map(|tail| format!("{head}{password}{tail}{rest}")));
        }
    }
    slips
}

/// One character left out, twice, or another in its place.
fn slips_in(text: &str) -> impl Iterator<Item = String> {
    text.char_indices().flat_map(move |(at, old)| {
        let (before, after) = (&text[..at], &text[at + old.len_utf8()..]);
        let others = ["", "/", "?", "#", "@", ":", "&", "%", "=", ",", " "];
        others
            .map(|new| format!("{before}{new}{after}"))
            .into_iter()
            .chain([format!("{before}{old}{old}{after}")])
    })
}

#[tokio::test]
async fn no_url_with_any_slip_in_it_gives_its_password_away() {
    log::begin();
    let mut refused = 0;
    for url in slips() {
        #[allow(unused_mut)]
        let mut config = Config::new(&url);
        // Or the system's roots are read, each time anew.
        #[cfg(feature = "redis-tls")]
        if url.starts_with("rediss") {
            config.tls = Some(Tls::new().insecure_accept_any_certificate());
        }
        let shown = format!("{config:?}");
        assert!(!shown.contains(MARK), "{url:?} is shown as {shown}");
        // Never dialled: what is right is dropped before it gets there.
        if let Some(Err(error)) = Connection::connect(config).now_or_never() {
            refused += 1;
            assert!(error.is_config(), "{url:?}: {error}");
            let text = format!("{error} {error:?} {:?}", error.source());
            assert!(!text.contains(MARK), "{url:?} is refused with {text}");
        }
    }
    assert!(refused > 1_000, "most slips are noticed, and only {refused} were");
    log::check(&[]);
}

/// Every verb that can be tried, with secrets wherever a caller may put one.
async fn try_everything(backend: &Backend) -> Vec<StoreError> {
    let token = Token::random();
    note(&token.encode());
    clean_debug("a token", token);
    let mut errors = Vec::new();
    let mut seen = |error: Option<StoreError>| errors.extend(error);
    let new = session::NewSession::new(token.hash(), MINUTE);
    clean_debug("a new session", &new);
    let limits = session::Limits::default();
    seen(backend.create(&token.selector(), new, limits).await.err());
    seen(SessionStore::load(backend, &token.selector()).await.err());
    seen(backend.destroy(&token.selector(), &token.hash(), None).await.err());

    let policy = Policy::gcra("key", Quota::per_day(1));
    let charge = Charge::new(&policy, "hunter2-of-a-user", 1);
    clean_debug("a charge", &charge);
    seen(backend.check(&[charge]).await.err());

    let claim = Claim::new("id", "hunter2-token");
    clean_debug("a claim", &claim);
    let print = Fingerprint::new([1; 32]);
    seen(backend.begin(&claim, &print, Terms::new(MINUTE, MINUTE)).await.err());
    seen(backend.complete(&claim, "hunter2-body".into(), Terms::new(MINUTE, MINUTE)).await.err());

    let address = cache::Address::new("entry", cache::Lane::Open);
    seen(cache::CacheStore::lookup(backend, &address).await.err());

    seen(backend.acquire("order-of-ann7431", "hunter2-token", MINUTE).await.err());
    seen(LockStore::release(backend, "order-of-ann7431", "hunter2-token").await.err());
    let locks = Locks::new(backend.clone());
    clean_debug("locks", &locks);
    if let Err(error) = locks.try_lock("order-of-ann7431").await {
        seen(error.store_error().cloned());
    }

    if let Some(connection) = backend.connection() {
        let mut set = redis::cmd("SET");
        set.arg("test:hunter2").arg("hunter2");
        seen(connection.query::<u64>(&set).await.err());
        // A value that is not a number, and a command that is none.
        seen(connection.query::<u64>(redis::cmd("GET").arg("test:hunter2")).await.err());
        seen(connection.query::<u64>(redis::cmd("NONE").arg("hunter2").arg("hunter2")).await.err());
        seen(connection.query::<u64>(redis::cmd("LPUSH").arg("test:hunter2").arg(1)).await.err());
        seen(connection.query::<u64>(redis::cmd("INCR").arg("test:hunter2")).await.err());
        static CALL: Script = Script::new("return redis.call(ARGV[1], KEYS[1], ARGV[2])");
        for command in ["NONE", "INCR", "LPUSH", "SET"] {
            let call = CALL.keys(["test:hunter2"]).arg(command).arg("hunter2");
            clean_debug("a call", &call);
            seen(connection.script(call, MINUTE / 12).await.err());
        }
        clean_debug("the pool", connection.pool());
        clean_debug("the pool", connection.blocking_pool());
        match connection.pool().unwrap().get().await {
            Ok(own) => drop(own),
            Err(error) => clean_error(&error),
        }
        clean_debug("the connection", connection);
        clean_debug("the settings", connection.config());
        clean("the connection's health", connection.health().to_string());
    }
    errors.iter().for_each(|error| clean_error(error));
    clean_debug("the backend", backend);
    clean("the backend", backend.to_string());
    clean_debug("health", backend.health());
    clean("health", backend.health().to_string());
    errors
}

/// What is shown to operators.
async fn seen_report(backend: &Backend) {
    let report = backend.doctor().await;
    clean_debug("the doctor", &report);
    clean("the doctor", report.to_string());
    clean("the doctor's JSON", serde_json::to_string(&report).unwrap());
    for shown in [
        backend.info().await.map(|info| format!("{info:?}")),
        backend.slow_log(128).await.map(|calls| format!("{calls:?}")),
    ] {
        match shown {
            Ok(text) => clean("info", text),
            Err(error) => clean_error(&error),
        }
    }
}

/// Notes the half of a cookie's value that proves a session.
fn note(token: &str) {
    TOKENS.lock().unwrap().push(token[22..].to_owned());
}

fn builder() -> towerkeep::backend::Builder {
    let builder = Backend::builder().prefix(PREFIX).deadline(MINUTE / 12);
    clean_debug("the builder", builder.clone().password("hunter2").username("shop"));
    builder
}

#[tokio::test]
async fn no_login_that_fails_shows_what_was_tried() {
    log::begin();
    let server = RedisServer::builder().password("hunter2").start();
    let port = server.port();
    server.command(&["ACL", "SETUSER", "shop", "on", ">hunter2-of-shop", "~*", "+@all"]);
    // The last is a password in the place of the user's name, as many write it.
    for login in ["", "shop@", ":hunter2wrong@", "shop:hunter2wrong@", "hunter2@"] {
        for protocol in ["resp2", "resp3"] {
            let url = format!("redis://{login}127.0.0.1:{port}?protocol={protocol}");
            fails(builder().redis(&url).await);
        }
    }
    // A server that is neither a sentinel nor a node of a cluster, with the login and without.
    for login in ["", ":hunter2@", ":hunter2wrong@", "hunter2@"] {
        for settings in ["", "?sentinel_pass=hunter2", "?sentinel_user=shop&sentinel_pass=hunter2x"]
        {
            let place = format!("{login}127.0.0.1:{port}/shop{settings}");
            fails(builder().redis(format!("redis+sentinel://{place}")).await);
        }
        fails(builder().redis(format!("redis+cluster://{login}127.0.0.1:{port}")).await);
    }
    let url = format!("redis://127.0.0.1:{port}");
    let wrong = builder().username("shop").password("hunter2-wrong").redis(&url).await;
    assert!(fails(wrong).is_config());
    let right = builder().username("shop").password("hunter2-of-shop").redis(&url).await.unwrap();
    clean_debug("the backend", right);
    log::check(&[]);
}

#[tokio::test]
async fn nothing_that_a_server_refuses_or_fails_at_is_shown() {
    log::begin();
    let server = RedisServer::builder().password("hunter2").start();
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    let backend = builder().redis(server.url()).await.unwrap();
    let errors = try_everything(&backend).await;
    assert!(errors.iter().all(|error| error.is_refused() || error.is_corrupt()), "{errors:?}");
    assert!(errors.len() >= 7, "{errors:?}");
    seen_report(&backend).await;

    // Every command is refused, one after the other.
    for command in allow_user(&server) {
        allow_user(&server);
        server.command(&["ACL", "SETUSER", "shop", &format!("-{command}")]);
        if let Ok(backend) = builder().redis(user_url(&server)).await {
            try_everything(&backend).await;
        }
    }
    // And every key.
    allow_user(&server);
    server.command(&["ACL", "SETUSER", "shop", "resetkeys", "~other:*"]);
    let other = builder().redis(user_url(&server)).await.unwrap();
    // And a pool of the application's own fails.
    for password in ["hunter2", "hunter2wrong"] {
        let url = format!("redis://:{password}@127.0.0.1:{}", server.port());
        let pool = deadpool_redis::Config::from_url(url);
        let pool = pool.create_pool(Some(deadpool_redis::Runtime::Tokio1)).unwrap();
        let through = builder().pool(pool).unwrap();
        assert!(try_everything(&through).await.len() > 6);
        seen_report(&through).await;
    }
    assert!(try_everything(&other).await.len() > 7);
    seen_report(&other).await;

    server.kill();
    for backend in [backend, other] {
        let errors = try_everything(&backend).await;
        assert!(errors.len() > 12, "{errors:?}");
        while backend.health().is_up() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        try_everything(&backend).await;
        seen_report(&backend).await;
    }
    log::check(&["WARN towerkeep"]);
}

const KEY: &str = "idempotency-key";
const API_KEY: &str = "x-api-key";

/// A shop that shows what its extractors hold.
fn app(backend: &Backend) -> Router {
    let sessions = SessionLayer::new(backend.clone());
    let idempotency = IdempotencyLayer::new(backend.clone());
    let cache = CacheLayer::new(backend.clone());
    let once = Policy::gcra("key", Quota::per_day(3)).key((by::header(API_KEY), by::user()));
    let limit = RateLimitLayer::new(backend.clone(), once.clone());
    clean_debug("a policy", &once);
    clean_debug("a layer", (&sessions, &idempotency, &cache, &limit));
    clean_debug("the cache's handle", cache.handle());
    let inner = service_fn(async |_: Request<Body>| Ok::<_, StoreError>(http::Response::new(())));
    clean_debug("a service", sessions.layer(inner));
    Router::new()
        .route("/page", get(page))
        .layer(cache)
        .route("/checkout", post(checkout))
        .layer(idempotency)
        .route("/login", post(login))
        .route("/cart", get(cart))
        .layer(limit)
        .layer(sessions)
        .layer(Extension(Locks::new(backend.clone())))
}

async fn page() -> impl axum::response::IntoResponse {
    ([(CACHE_CONTROL, "max-age=60")], "a page")
}

async fn login(session: Session) -> Result<(), session::Error> {
    session.login(USER)?;
    session.set("card", "hunter2-card")?;
    clean_debug("the session", &session);
    Ok(())
}

async fn cart(
    lazy: LazySession,
    session: Option<Session>,
    status: RateLimitStatus,
    Extension(locks): Extension<Locks>,
) -> StatusCode {
    clean_debug("the rate limit", &status);
    clean_debug("the session", (&lazy, &session));
    if let Some(session) = session
        && let Some(Err(error)) = session.exists().then(|| session.get::<u64>("card"))
    {
        clean_error(&error);
        clean_error(&StoreError::from(error));
    }
    match locks.try_lock(format!("cart-of-{USER}")).await {
        Ok(guard) => drop(guard),
        // The release of the one before it may be on its way.
        Err(error) => error.store_error().into_iter().for_each(|error| clean_error(error)),
    }
    StatusCode::OK
}

async fn checkout(run: Idempotent, session: Session) -> StatusCode {
    clean_debug("the run", (&run, &session));
    StatusCode::OK
}

/// Sends a request, looks at all that comes back, and returns the session's cookie if there is one.
async fn send(app: &Router, method: &str, path: &str, cookie: &str, key: &str) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(COOKIE, cookie)
        .header(API_KEY, "hunter2-api-key")
        .header(KEY, key)
        .header("authorization", "Bearer hunter2-bearer");
    let request = request.body(Body::from("hunter2-body")).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let (mut parts, body) = response.into_parts();
    let cookie = match parts.headers.remove(SET_COOKIE) {
        Some(cookie) => cookie.to_str().unwrap().split(';').next().unwrap().to_owned(),
        None => String::new(),
    };
    if let Some((_, token)) = cookie.split_once('=').filter(|(_, token)| token.len() == 43) {
        note(token);
    }
    let body = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
    clean("a response", &body);
    clean_debug("a response", &parts);
    if let Some(rejection) = parts.extensions.get::<rate_limit::Rejection>() {
        clean_debug("a rejection", rejection);
    }
    if let Some(rejection) = parts.extensions.get::<idempotency::Rejection>() {
        clean_error(rejection);
    }
    (parts.status.as_u16(), cookie)
}

/// All that a visitor may do, and some of what they should not.
async fn visit(app: &Router) -> Vec<u16> {
    let mut statuses = Vec::new();
    let (status, mut cookie) = send(app, "POST", "/login", "", "").await;
    statuses.push(status);
    let name = cookie.split('=').next().filter(|name| !name.is_empty()).unwrap_or("__Host-id");
    let forged = format!("{name}={}", "hunter2-forged-cookie".repeat(3).split_at(43).0);
    let garbage = format!("{name}=hunter2;{name}=hunter2-garbage; hunter2=\"hunter2");
    if cookie.is_empty() {
        cookie = forged.clone();
    }
    for (method, path, key) in [
        ("GET", "/cart", ""),
        ("POST", "/checkout", "\"hunter2-key\""),
        ("POST", "/checkout", "\"hunter2-key\""),
        ("POST", "/checkout", "hunter2 no string"),
        ("POST", "/checkout", &"hunter2".repeat(99)),
        ("GET", "/page", ""),
        ("GET", "/page", ""),
        ("GET", "/page?hunter2", ""),
    ] {
        for cookie in [&cookie, &forged, &garbage] {
            statuses.push(send(app, method, path, cookie, key).await.0);
        }
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_visitor_sends_or_is_given_is_shown() {
    log::begin();
    let memory = Backend::memory();
    let statuses = visit(&app(&memory)).await;
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    clean_debug("memory", &memory);
    clean_debug("stores", (session::MemoryStore::default(), lock::MemoryStore::default()));

    let server = RedisServer::start();
    allow_user(&server);
    let backend = builder().redis(user_url(&server)).await.unwrap();
    let app = app(&backend);
    let statuses = visit(&app).await;
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    seen_report(&backend).await;
    for key in server.command(&["KEYS", "*"]).texts() {
        clean("the name of a key", key);
    }

    server.command(&["FLUSHALL"]);
    server.command(&["ACL", "SETUSER", "shop", "-evalsha", "-eval", "-hgetall"]);
    visit(&app).await;
    server.kill();
    let statuses = visit(&app).await;
    assert!(statuses.contains(&503), "{statuses:?}");
    log::check(&["session", "rate_limit", "lock", "store call failed"]);
}

#[test]
fn what_carries_a_key_or_a_value_does_not_show_it() {
    let mut key = by::KeyBuilder::default();
    key.push("hunter2-api-key");
    clean_debug("a key", key);
    let id = UserId::new("ann");
    clean_debug("a user", id);
}

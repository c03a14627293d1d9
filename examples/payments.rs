//! A shop that takes a payment once: idempotency keys before the handler, the payment service's own keys
//! and a fence in the database behind it, and a crash in between to see what each is for.
//!
//! ```sh
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example payments
//! # without REDIS_URL: in memory, which forgets with the process who ran before
//!
//! # a payment, and the same again: one charge, the same receipt, idempotent-replayed: true
//! curl -i http://127.0.0.1:3000/pay -H 'x-user: ann' -H 'idempotency-key: "key-1"' \
//!      -H 'content-type: application/json' -d '{"order":"o-1","cents":1200}'
//!
//! # the process dies after the card was charged and before the order is paid
//! curl -i 'http://127.0.0.1:3000/pay?crash=after-charge' -H 'x-user: ann' -H 'idempotency-key: "key-2"' \
//!      -H 'content-type: application/json' -d '{"order":"o-2","cents":500}'
//! # start it again, and send the same again: 409 until the lease of 3 s has ended, then attempt 2,
//! # which finds the charge and pays the order with it
//!
//! curl http://127.0.0.1:3000/orders/o-2
//! curl http://127.0.0.1:3001/charges      # the payment service: one charge for each payment
//! ```
//!
//! The databases of both are files in `DATA_DIR`, or else in `towerkeep-payments` beside other temporary
//! files. `PORT` is the shop's; the payment service listens on the next one.

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, Request, State},
    http::{Method, StatusCode},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::{
    env,
    error::Error,
    fs, io,
    path::{Path as FilePath, PathBuf},
    process::{self, ExitCode},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, signal};
use towerkeep::{
    Backend, UserId,
    idempotency::{IdempotencyLayer, Idempotent, InFlight, Outcome},
};

/// What a crash costs a retry. Longer in earnest: a failover of Redis must not end it.
const LEASE: Duration = Duration::from_secs(3);

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

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let backend = Backend::from_env().await?;
    let port: u16 = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let data = env::var_os("DATA_DIR").map(PathBuf::from);
    let data = data.unwrap_or_else(|| env::temp_dir().join("towerkeep-payments"));
    let (shop, provider) = (Shop::open(&data)?, Provider::open(&data)?);
    let (public, theirs) = (listener(port).await?, listener(port + 1).await?);
    println!(
        "The shop is at http://{}, the payment service at http://{}. State lives in {backend}, the \
         databases in {}. The commands to try are at the top of examples/payments.rs.",
        public.local_addr()?,
        theirs.local_addr()?,
        data.display()
    );
    let app = app(backend.clone(), shop, provider.clone());
    let interrupted = || async { signal::ctrl_c().await.unwrap_or_default() };
    tokio::try_join!(
        axum::serve(public, app).with_graceful_shutdown(interrupted()),
        axum::serve(theirs, service(provider)).with_graceful_shutdown(interrupted()),
    )?;
    // A payment whose client has left is finished.
    backend.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

async fn listener(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        format!("cannot listen on port {port}: {error}; choose another one by PORT=…")
    })
}

/// The shop.
pub(crate) fn app(backend: Backend, shop: Shop, provider: Provider) -> Router {
    let once = IdempotencyLayer::new(backend)
        .require(Method::POST)
        .lenient()
        .in_flight(InFlight::Wait { max: Duration::from_secs(1) })
        .lease(LEASE);
    Router::new()
        .route("/pay", post(pay).layer(once))
        .route("/orders/{id}", get(order))
        .layer(from_fn(authenticate))
        .with_state((shop, provider))
}

/// Believes what the client says. In earnest, a session or a token says who asks.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let user = request.headers().get("x-user").and_then(|user| user.to_str().ok());
    if let Some(user) = user.map(UserId::new) {
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

#[derive(Debug, Deserialize)]
struct Pay {
    order: String,
    cents: u32,
}

#[derive(Debug, Deserialize)]
struct Faults {
    crash: Option<String>,
}

#[derive(Debug, Serialize)]
struct Receipt {
    order: String,
    cents: u32,
    charge: i64,
    attempt: u32,
}

/// Charges the card, then marks the order as paid.
async fn pay(
    State((shop, provider)): State<(Shop, Provider)>,
    Query(faults): Query<Faults>,
    idem: Idempotent,
    Json(pay): Json<Pay>,
) -> Result<(StatusCode, Json<Receipt>), Failure> {
    // The same for every run of this request, so the service charges once even if we ask twice.
    let key = idem.downstream_key("charge");
    // An earlier run vanished, and nobody knows how far it got: look, before doing anything.
    let found = if idem.attempt() > 1 { provider.find(&key)? } else { None };
    idem.check()?;
    let charge = match found {
        Some(charge) => charge,
        None => provider.charge(&key, pay.cents)?,
    };
    if faults.crash.as_deref() == Some("after-charge") && idem.attempt() == 1 {
        process::abort(); // no destructor runs, and no answer is sent
    }
    idem.check()?;
    // The check may be old news when the database hears of it; the fence is not.
    if !shop.paid(&pay.order, pay.cents, charge, idem.fence())? {
        return Err(Failure::Outrun);
    }
    let Pay { order, cents } = pay;
    let receipt = Receipt { order, cents, charge, attempt: idem.attempt() };
    Ok((StatusCode::CREATED, Json(receipt)))
}

async fn order(
    State((shop, _)): State<(Shop, Provider)>,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, Failure> {
    Ok(Json(shop.order(&id)?))
}

/// The shop's database. Its calls are short; longer ones belong into `spawn_blocking`.
#[derive(Clone)]
pub(crate) struct Shop(Arc<Mutex<Connection>>);

impl Shop {
    pub(crate) fn open(folder: &FilePath) -> Result<Self, Box<dyn Error>> {
        let create = "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, cents INTEGER NOT NULL, \
                      charge INTEGER NOT NULL, fence INTEGER NOT NULL)";
        Ok(Self(open(folder, "shop.db", create)?))
    }

    /// Marks the order as paid, unless a later run has: a run that was paused beyond its lease, and goes
    /// on beside its successor, comes with a lower fence and changes nothing.
    pub(crate) fn paid(
        &self,
        order: &str,
        cents: u32,
        charge: i64,
        fence: u64,
    ) -> rusqlite::Result<bool> {
        let write = "INSERT INTO orders (id, cents, charge, fence) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT (id) DO UPDATE SET cents = ?2, charge = ?3, fence = ?4 WHERE fence < ?4";
        // A fence is below 2⁶³.
        let written = lock(&self.0).execute(write, params![order, cents, charge, fence as i64])?;
        Ok(written == 1)
    }

    fn order(&self, id: &str) -> rusqlite::Result<serde_json::Value> {
        let read = "SELECT cents, charge FROM orders WHERE id = ?1";
        let paid = lock(&self.0).query_row(read, [id], |row| {
            let (cents, charge): (u32, i64) = (row.get(0)?, row.get(1)?);
            Ok(serde_json::json!({ "order": id, "paid": cents, "charge": charge }))
        });
        Ok(paid.optional()?.unwrap_or_else(|| serde_json::json!({ "order": id, "paid": 0 })))
    }
}

/// A payment service with idempotency keys of its own, and a database that outlives the shop's crash.
#[derive(Clone)]
pub(crate) struct Provider(Arc<Mutex<Connection>>);

impl Provider {
    pub(crate) fn open(folder: &FilePath) -> Result<Self, Box<dyn Error>> {
        let create = "CREATE TABLE IF NOT EXISTS charges (id INTEGER PRIMARY KEY, key TEXT NOT NULL \
                      UNIQUE, cents INTEGER NOT NULL, asked INTEGER NOT NULL)";
        Ok(Self(open(folder, "provider.db", create)?))
    }

    /// Charges the card once for each key, and says with which charge.
    fn charge(&self, key: &str, cents: u32) -> rusqlite::Result<i64> {
        let write = "INSERT INTO charges (key, cents, asked) VALUES (?1, ?2, 1) \
                     ON CONFLICT (key) DO UPDATE SET asked = asked + 1 RETURNING id";
        lock(&self.0).query_row(write, params![key, cents], |row| row.get(0))
    }

    /// The charge that was made for a key.
    fn find(&self, key: &str) -> rusqlite::Result<Option<i64>> {
        let read = "SELECT id FROM charges WHERE key = ?1";
        lock(&self.0).query_row(read, [key], |row| row.get(0)).optional()
    }

    fn all(&self) -> rusqlite::Result<Vec<serde_json::Value>> {
        let provider = lock(&self.0);
        let mut read = provider.prepare("SELECT id, cents, asked FROM charges ORDER BY id")?;
        let rows = read.query_map([], |row| {
            let (id, cents, asked): (i64, u32, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(serde_json::json!({ "charge": id, "cents": cents, "asked": asked }))
        })?;
        rows.collect()
    }
}

/// The payment service's own port: what it has charged, and how often it was asked to.
fn service(provider: Provider) -> Router {
    let charges = async |State(provider): State<Provider>| {
        provider.all().map(Json).map_err(Failure::Database)
    };
    Router::new().route("/charges", get(charges)).with_state(provider)
}

fn open(
    folder: &FilePath,
    name: &str,
    create: &str,
) -> Result<Arc<Mutex<Connection>>, Box<dyn Error>> {
    fs::create_dir_all(folder).map_err(|error| {
        io::Error::other(format!("cannot make the folder {}: {error}", folder.display()))
    })?;
    let database = Connection::open(folder.join(name))?;
    database.execute(create, [])?;
    Ok(Arc::new(Mutex::new(database)))
}

fn lock(database: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    database.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a payment has no receipt.
#[derive(Debug)]
enum Failure {
    /// 503: another run of the request goes on, or has written already. A retry gets its answer.
    Outrun,
    /// 500: 5xx is not recorded, so a retry runs again; what was charged is found by its key.
    Database(rusqlite::Error),
}

impl From<towerkeep::idempotency::LeaseLost> for Failure {
    fn from(_: towerkeep::idempotency::LeaseLost) -> Self {
        Self::Outrun
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Outrun => {
                let said = "another run of this request has taken over; retry for its answer";
                (StatusCode::SERVICE_UNAVAILABLE, Extension(Outcome::Retryable), said)
                    .into_response()
            }
            Self::Database(error) => {
                eprintln!("database: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, "the payment failed; retry").into_response()
            }
        }
    }
}

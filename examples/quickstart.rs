//! A small shop whose state a fleet of servers can share: products from a cache, a cart in the
//! session, a checkout that happens once however often it is sent, and a limit on all of it.
//!
//! ```sh
//! cargo run --example quickstart
//! REDIS_URL=redis://127.0.0.1:6379 PORT=3001 cargo run --example quickstart
//! ```

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{Method, StatusCode, header::CACHE_CONTROL},
    response::{Html, IntoResponse},
    routing::{get, post},
};
use serde::Serialize;
use std::{
    collections::BTreeMap, env, error::Error, net::SocketAddr, process::ExitCode, time::Duration,
};
use tokio::{net::TcpListener, signal};
use towerkeep::{
    Backend,
    cache::CacheLayer,
    idempotency::{IdempotencyLayer, Idempotent},
    rate_limit::{Policy, Quota, RateLimitLayer, by},
    session::{self, Key, Session, SessionLayer},
};

/// How many of each product are in the cart.
type Cart = BTreeMap<String, u32>;

const CART: Key<Cart> = Key::new("cart");

#[derive(Serialize)]
struct Product {
    id: &'static str,
    name: &'static str,
    cents: u32,
}

const PRODUCTS: [Product; 3] = [
    Product { id: "teapot", name: "Teapot", cents: 24_90 },
    Product { id: "kettle", name: "Kettle", cents: 39_00 },
    Product { id: "cup", name: "Cup", cents: 7_50 },
];

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
    let port = port()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        format!("cannot listen on port {port}: {error}; choose another one by PORT=…")
    })?;
    introduce(&backend, listener.local_addr()?);

    let app = shop(backend.clone()).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).with_graceful_shutdown(interrupted()).await?;
    let unfinished = backend.shutdown(Duration::from_secs(10)).await;
    println!("Stopped; {unfinished} tasks were cut off.");
    Ok(())
}

fn shop(backend: Backend) -> Router {
    let limit = Policy::gcra("shop", Quota::per_second(10).burst(40)).key(by::ip());
    let products = get(products).layer(CacheLayer::new(backend.clone()));
    let checkout =
        post(checkout).layer(IdempotencyLayer::new(backend.clone()).require(Method::POST));
    Router::new()
        .route("/products", products)
        .route("/cart", get(cart))
        .route("/cart/{product}", post(add))
        .route("/checkout", checkout)
        .route("/login/{user}", post(login))
        .route("/logout", post(logout))
        .route("/", get(page))
        // The session cookie works over plain http here, for a browser on this machine. Behind TLS,
        // leave the line with `insecure` out.
        .layer(SessionLayer::new(backend.clone()).insecure_plain_http())
        .layer(RateLimitLayer::new(backend.clone(), limit))
        // Added after the layers, so outside them: a probe needs no session and is never limited.
        .route("/health", get(health))
        .with_state(backend)
}

/// Slow, and the same for everyone: its `max-age` lets the cache answer for it.
async fn products() -> impl IntoResponse {
    tokio::time::sleep(Duration::from_millis(300)).await;
    ([(CACHE_CONTROL, "max-age=30")], Json(PRODUCTS))
}

#[derive(Serialize)]
struct CartView {
    user: Option<String>,
    items: Cart,
}

async fn cart(session: Session) -> Result<Json<CartView>, session::Error> {
    let user = session.user().map(|user| user.to_string());
    Ok(Json(CartView { user, items: session.get(CART)?.unwrap_or_default() }))
}

async fn add(session: Session, Path(product): Path<String>) -> Result<Json<Cart>, session::Error> {
    let mut cart = session.get(CART)?.unwrap_or_default();
    if PRODUCTS.iter().any(|known| known.id == product) {
        *cart.entry(product).or_default() += 1;
        session.set(CART, &cart)?;
    }
    Ok(Json(cart))
}

#[derive(Serialize)]
struct Receipt {
    order: String,
    items: Cart,
}

/// Takes its time, and must not happen twice: the layer around it sees to that. It runs to its end
/// even if the client leaves, and the cart is emptied before the receipt is recorded.
async fn checkout(
    session: Session,
    idempotent: Idempotent,
) -> Result<(StatusCode, Json<Receipt>), session::Error> {
    let items = session.take(CART)?.unwrap_or_default();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The same in every attempt, so a payment provider would recognise it.
    let order = idempotent.downstream_key("order");
    Ok((StatusCode::CREATED, Json(Receipt { order, items })))
}

/// Stands for a real login. The session gets a new token, and its user is the scope of the keys.
async fn login(session: Session, Path(user): Path<String>) -> Result<StatusCode, session::Error> {
    session.login(user)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn logout(session: Session) -> StatusCode {
    session.destroy();
    StatusCode::NO_CONTENT
}

async fn page(State(backend): State<Backend>) -> Html<String> {
    let page = include_str!("assets/quickstart.html");
    Html(page.replace("{{backend}}", &backend.to_string()))
}

async fn health(State(backend): State<Backend>) -> (StatusCode, String) {
    let health = backend.health();
    let status = if health.is_up() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{health}\n"))
}

fn port() -> Result<u16, String> {
    match env::var("PORT") {
        Ok(port) => port.parse().map_err(|_| format!("PORT={port} is not a port: 0 to 65535")),
        Err(_) => Ok(3000),
    }
}

async fn interrupted() {
    if signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

fn introduce(backend: &Backend, address: SocketAddr) {
    let url = format!("http://{address}");
    println!(
        "The shop is open at {url} (in a browser, too). State lives in {backend}.

  # the first is slow, the second comes from the cache: see Cache-Status
  curl -i {url}/products
  curl -i {url}/products

  # a cart in the session
  curl -i -c jar -b jar -X POST {url}/cart/teapot
  curl -i -c jar -b jar {url}/cart

  # sign in; the cart stays, the token changes
  curl -i -c jar -b jar -X POST {url}/login/ann

  # check out, twice with one key: one order, and the second answer says Idempotent-Replayed
  curl -i -c jar -b jar -X POST -H 'Idempotency-Key: \"order-1\"' {url}/checkout
  curl -i -c jar -b jar -X POST -H 'Idempotency-Key: \"order-1\"' {url}/checkout

  # more than 40 at once: 429 with Retry-After
  for i in $(seq 70); do curl -s -o /dev/null -w '%{{http_code}} ' {url}/cart; done; echo
"
    );
    if backend.connection().is_some() {
        println!(
            "  # what is stored
  redis-cli -u $REDIS_URL --scan --pattern 'towerkeep:*'
  redis-cli -u $REDIS_URL HGETALL \\
    \"$(redis-cli -u $REDIS_URL --scan --pattern 'towerkeep:session:*' | head -1)\"
"
        );
    }
}

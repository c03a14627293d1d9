//! The example `payments`, started as a process, killed in the middle of a payment and started again.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;

#[expect(dead_code, reason = "its `main` is not called here")]
#[path = "../examples/payments.rs"]
mod example;

use crate::support::{
    http::{
        client::{HttpClient, Reply},
        server::HttpServer,
    },
    ports::free_pair,
    process::{self, ChildApp},
    server::RedisServer,
    temp_dir::TempDir,
};
use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use std::{
    env,
    time::{Duration, Instant},
};
use towerkeep::Backend;

const PATIENCE: Duration = Duration::from_secs(30);
const CHILD: &str = "shop";

/// Not a test of its own: the example, as its `main` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shop() {
    if !process::is_child(CHILD) {
        return;
    }
    let port: u16 = env::var("PORT").unwrap().parse().unwrap();
    tokio::spawn(async move {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process::announce(([127, 0, 0, 1], port).into());
    });
    example::run().await.unwrap();
}

fn payment(url: &str, key: &str, order: &str) -> Request<Body> {
    let request = Request::post(url)
        .header("x-user", "ann")
        .header("idempotency-key", format!("\"{key}\""))
        .header("content-type", "application/json");
    request.body(Body::from(format!(r#"{{"order":"{order}","cents":500}}"#))).unwrap()
}

fn read(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_whose_process_dies_is_charged_once_and_answered_by_the_retry() {
    let (redis, data, port) = (RedisServer::start(), TempDir::new(), free_pair());
    let (url, folder) = (redis.url(), data.path().to_str().unwrap().to_owned());
    let number = port.to_string();
    let envs = [("REDIS_URL", url.as_str()), ("DATA_DIR", &folder), ("PORT", &number)];
    let pay = format!("http://127.0.0.1:{port}/pay?crash=after-charge");
    let client = HttpClient::http1();
    let get = async |port: u16, path: &str| {
        read(&client.get(&format!("http://127.0.0.1:{port}{path}")).await)
    };

    let first = ChildApp::spawn(CHILD, &envs);
    assert!(client.try_send(payment(&pay, "k", "o-1")).await.is_err(), "the process died");
    drop(first);
    let _second = ChildApp::spawn(CHILD, &envs);
    assert_eq!(get(port, "/orders/o-1").await["paid"], 0, "the card was charged, and no more");
    let charges = json!([{ "charge": 1, "cents": 500, "asked": 1 }]);
    assert_eq!(get(port + 1, "/charges").await, charges);

    let started = Instant::now();
    let reply = loop {
        let reply = client.send(payment(&pay, "k", "o-1")).await;
        if reply.status != 409 {
            break reply;
        }
        assert!(started.elapsed() < PATIENCE, "the lease ends");
    };
    let receipt = json!({ "order": "o-1", "cents": 500, "charge": 1, "attempt": 2 });
    assert_eq!((reply.status.as_u16(), read(&reply)), (201, receipt.clone()));
    let again = client.send(payment(&pay, "k", "o-1")).await;
    assert_eq!((again.header("idempotent-replayed"), read(&again)), (Some("true"), receipt));
    assert_eq!(get(port + 1, "/charges").await, charges, "it was reconciled, not asked for again");
    let order = json!({ "order": "o-1", "paid": 500, "charge": 1 });
    assert_eq!(get(port, "/orders/o-1").await, order);
}

#[tokio::test]
async fn in_memory_a_retry_is_charged_once_as_well_and_a_key_is_required() {
    let data = TempDir::new();
    let shop = example::Shop::open(data.path()).unwrap();
    let provider = example::Provider::open(data.path()).unwrap();
    let server = HttpServer::start(example::app(Backend::memory(), shop, provider)).await;
    let client = HttpClient::http1();
    for replayed in [None, Some("true")] {
        let reply = client.send(payment(&server.url("/pay"), "k", "o-1")).await;
        assert_eq!((reply.status.as_u16(), reply.header("idempotent-replayed")), (201, replayed));
        assert_eq!(read(&reply)["charge"], 1);
    }
    let keyless = Request::post(server.url("/pay")).header("x-user", "ann").body(Body::empty());
    assert_eq!(client.send(keyless.unwrap()).await.status, 400);
}

#[test]
fn the_database_refuses_a_run_that_was_taken_over() {
    let data = TempDir::new();
    let shop = example::Shop::open(data.path()).unwrap();
    assert!(shop.paid("o-1", 500, 1, 8).unwrap());
    assert!(!shop.paid("o-1", 500, 2, 7).unwrap(), "it has a lower fence");
    assert!(shop.paid("o-1", 500, 3, 9).unwrap());
}

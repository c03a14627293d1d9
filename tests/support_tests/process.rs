use std::{
    env,
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use tokio::time::timeout;

use crate::support::{
    http::{client::HttpClient, server::HttpServer},
    process::{self, ChildApp},
    server::RedisServer,
};

const APP: &str = "tests::process::app";
const OWNER: &str = "tests::process::owner_of_a_server";

/// A child: an HTTP server that answers with its greeting.
#[tokio::test]
async fn app() {
    if !process::is_child(APP) {
        return;
    }
    let greeting = env::var("GREETING").unwrap();
    let server = HttpServer::start(Router::new().route("/", get(|| async { greeting }))).await;
    process::announce(server.addr());
    println!("and the last word is out");
    std::future::pending::<()>().await;
}

/// A child: it has a Redis server of its own, paused, and announces the server's address.
#[test]
fn owner_of_a_server() {
    if !process::is_child(OWNER) {
        return;
    }
    let redis = RedisServer::start();
    if env::var("PAUSED").unwrap() == "yes" {
        redis.pause();
    }
    process::announce(SocketAddr::from(([127, 0, 0, 1], redis.port())));
    println!("DIR {}", redis.unix_path().parent().unwrap().display());
    loop {
        thread::park();
    }
}

#[tokio::test]
async fn a_child_serves_until_it_is_killed() {
    let child = ChildApp::spawn(APP, &[("GREETING", "hello")]);
    assert!(child.wait_for_line("last word").ends_with("out"));
    let client = HttpClient::http1();
    assert_eq!(client.get(&child.url("/")).await.text(), "hello");

    child.kill();
    assert!(TcpStream::connect(child.addr()).is_err());
}

#[tokio::test]
async fn a_paused_child_answers_when_it_is_resumed() {
    let child = ChildApp::spawn(APP, &[("GREETING", "late")]);
    child.pause();
    let (client, url) = (HttpClient::http1(), child.url("/"));
    let mut answer = Box::pin(client.get(&url));
    assert!(timeout(Duration::from_millis(300), &mut answer).await.is_err());

    child.resume();
    assert_eq!(answer.await.text(), "late");
}

#[test]
fn a_server_dies_with_its_test_process() {
    for paused in ["no", "yes"] {
        let child = ChildApp::spawn(OWNER, &[("PAUSED", paused)]);
        let line = child.wait_for_line("DIR ");
        let dir = Path::new(line.strip_prefix("DIR ").unwrap());
        assert!(TcpStream::connect(child.addr()).is_ok() && dir.exists());

        child.kill();
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(child.addr()).is_ok() || dir.exists() {
            assert!(Instant::now() < deadline, "the server outlives its test (paused: {paused})");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

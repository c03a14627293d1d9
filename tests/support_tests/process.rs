use std::{
    env,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use tokio::time::timeout;

use crate::support::{
    cluster::RedisCluster,
    http::{client::HttpClient, server::HttpServer},
    process::{self, ChildApp},
    server::RedisServer,
};

const APP: &str = "tests::process::app";
const OWNER: &str = "tests::process::owner_of_a_server";
const OWNER_OF_CLUSTERS: &str = "tests::process::owner_of_clusters";

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

/// A child: it has two Clusters, one of them idle in the pool, and ends as it is told to.
#[test]
fn owner_of_clusters() {
    if !process::is_child(OWNER_OF_CLUSTERS) {
        return;
    }
    let clusters = [RedisCluster::start(), RedisCluster::with_replicas()];
    let nodes = clusters.iter().flat_map(|cluster| cluster.nodes());
    let ports: Vec<_> = nodes.map(|node| node.port().to_string()).collect();
    let [idle, _used] = clusters;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(idle);
    process::announce(listener.local_addr().unwrap());
    println!("PORTS {}", ports.join(" "));
    listener.accept().unwrap();
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

/// The pool is a static, which nobody drops.
#[test]
fn clusters_die_with_their_test_process_however_it_ends() {
    type End = fn(&ChildApp);
    let returns: End = |child| drop(TcpStream::connect(child.addr()));
    for end in [ChildApp::kill, returns] {
        let child = ChildApp::spawn(OWNER_OF_CLUSTERS, &[]);
        let line = child.wait_for_line("PORTS ");
        let ports = line.strip_prefix("PORTS ").unwrap().split(' ');
        let ports: Vec<u16> = ports.map(|port| port.parse().unwrap()).collect();
        let alive =
            || ports.iter().filter(|port| TcpStream::connect(("127.0.0.1", **port)).is_ok());
        assert_eq!((ports.len(), alive().count()), (9, 9));

        end(&child);
        let deadline = Instant::now() + Duration::from_secs(5);
        while alive().count() > 0 {
            assert!(Instant::now() < deadline, "nodes outlive their test: {:?}", {
                alive().collect::<Vec<_>>()
            });
            thread::sleep(Duration::from_millis(5));
        }
    }
}

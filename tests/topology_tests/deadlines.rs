//! Nothing takes longer than it may: calls their deadline, a start its connect timeout.

use super::load::until;
use crate::support::{cluster::RedisCluster, proxy::FaultProxy, sentinel::Sentinels};
use std::{
    net::TcpListener,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};
use towerkeep::connection::{Config, Connection, State, redis};

const LIMIT: Duration = Duration::from_secs(2);
/// What a loaded machine may add; what is measured here would be twice the limit.
const SLACK: Duration = Duration::from_millis(900);

/// Takes connections and never says a word.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn get() -> redis::Cmd {
    redis::cmd("GET").arg("test:k").take()
}

#[tokio::test]
async fn a_call_that_waits_for_the_first_link_and_for_the_next_has_one_deadline() {
    let (_listener, address) = silent();
    let mut config = Config::new(format!("redis://{address}"));
    (config.lazy, config.deadline, config.down_wait) = (true, LIMIT, LIMIT);
    config.connect_timeout = LIMIT * 30;
    let connection = Connection::connect(config).await.unwrap();
    let started = Instant::now();
    let error = connection.query::<()>(&get()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(started.elapsed() < LIMIT + SLACK, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_replica_that_hangs_leaves_the_primary_time_to_answer() {
    let cluster = RedisCluster::with_replicas();
    let key = "test:k";
    let replica = cluster.replica_of(cluster.owner_of(key));
    let mut config = Config::new(cluster.url());
    (config.read_replicas, config.deadline) = (true, LIMIT);
    // It hangs before anybody has noticed.
    config.ping_interval = LIMIT * 30;
    let connection = Connection::connect(config).await.unwrap();
    connection.query::<()>(redis::cmd("SET").arg(key).arg(1)).await.unwrap();
    let before = reads(replica);
    until("a replica answers", || async {
        connection.query_replica::<Option<String>>(&get()).await.unwrap();
        reads(replica) > before
    })
    .await;
    replica.pause();
    let started = Instant::now();
    let answer: Option<String> = connection.query_replica(&get()).await.unwrap();
    let elapsed = started.elapsed();
    replica.resume();
    assert_eq!(answer.as_deref(), Some("1"));
    assert!(elapsed < LIMIT, "{elapsed:?}");
}

fn reads(server: &crate::support::server::RedisServer) -> u64 {
    super::idle::calls(server, "get")
}

/// Lets a client in after `pause`, and then says nothing more.
fn slow_sentinel(pause: Duration) -> (JoinHandle<()>, String) {
    let (listener, address) = silent();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let serve = async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes).await;
            tokio::time::sleep(pause).await;
            let _ = stream.write_all(b"+OK\r\n+OK\r\n+PONG\r\n").await;
            open.push(stream);
        }
    };
    (tokio::spawn(serve), address)
}

#[tokio::test]
async fn a_sentinel_that_hangs_costs_a_start_its_connect_timeout() {
    let (_serving, address) = slow_sentinel(LIMIT * 8 / 10);
    for scheme in ["redis+sentinel", "redis+cluster"] {
        let mut config = Config::new(format!(
            "{scheme}://{address}/{}",
            match scheme {
                "redis+sentinel" => "name",
                _ => "",
            }
        ));
        config.connect_timeout = LIMIT;
        let started = Instant::now();
        let error = Connection::connect(config).await.unwrap_err();
        assert!(error.is_unavailable() || error.is_timeout(), "{error}");
        assert!(started.elapsed() < LIMIT + SLACK, "{scheme}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_sentinel_that_was_trusted_and_hangs_is_not_asked_for_ever() {
    let group = Sentinels::start();
    let door = FaultProxy::start(group.sentinels()[0].port());
    let mut config = Config::new(format!("redis+sentinel://127.0.0.1:{}/mymaster", door.port()));
    // A dial gives up before an unanswered question does.
    config.connect_timeout = LIMIT / 4;
    config.ping_timeout = LIMIT * 30;
    let connection = Connection::connect(config).await.unwrap();
    door.half_open();
    group.servers()[0].command(&["CLIENT", "KILL", "TYPE", "normal"]);
    until("the loss is known", || async { connection.health().state == State::Down }).await;
    until("it is back", || async { connection.health().is_up() }).await;
}

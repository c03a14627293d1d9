//! Reads that tolerate lag.

use super::{load::until, tour::MINUTE};
use crate::support::{cluster::RedisCluster, sentinel::Sentinels, server::RedisServer};
use towerkeep::connection::{Config, Connection, redis};

async fn connect(url: &str, replicas: bool) -> Connection {
    let mut config = Config::new(url);
    config.read_replicas = replicas;
    config.deadline = MINUTE / 6;
    Connection::connect(config).await.unwrap()
}

/// How many GETs a server has answered.
fn reads(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).text();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

async fn read(connection: &Connection, key: &str) -> Option<String> {
    connection.query_replica(redis::cmd("GET").arg(key)).await.unwrap()
}

#[tokio::test]
async fn they_go_to_a_replica_only_if_that_is_wanted() {
    let group = Sentinels::start();
    let [primary, replica] = group.servers() else { panic!("two servers") };
    primary.command(&["SET", "test:k", "v"]);
    let urls = [group.url(), format!("redis://127.0.0.1:{}", primary.port())];
    for url in &urls {
        let connection = connect(url, true).await;
        let before = reads(replica);
        until("a replica answers", || async {
            read(&connection, "test:k").await;
            reads(replica) > before
        })
        .await;
        until("it has the data", || async { read(&connection, "test:k").await.is_some() }).await;
        // Everything else stays with the primary.
        let (there, here) = (reads(replica), reads(primary));
        connection.query::<String>(redis::cmd("GET").arg("test:k")).await.unwrap();
        assert_eq!((reads(replica), reads(primary)), (there, here + 1));
    }
    let connection = connect(&urls[0], false).await;
    let before = reads(replica);
    assert_eq!(read(&connection, "test:k").await.as_deref(), Some("v"));
    assert_eq!(reads(replica), before);

    // The loss of the replica costs no read.
    let connection = connect(&urls[0], true).await;
    until("a replica answers", || async {
        read(&connection, "test:k").await;
        reads(replica) > before
    })
    .await;
    replica.kill();
    for _ in 0..50 {
        assert_eq!(read(&connection, "test:k").await.as_deref(), Some("v"));
    }
}

#[tokio::test]
async fn in_a_cluster_each_key_is_read_from_a_replica_of_its_owner() {
    let cluster = RedisCluster::with_replicas();
    let connection = connect(&cluster.url(), true).await;
    for n in 0..6 {
        let key = format!("test:{n}");
        connection.query::<()>(redis::cmd("SET").arg(&key).arg(n)).await.unwrap();
        let owner = cluster.owner_of(&key);
        let replica = cluster.replica_of(owner);
        let before = reads(replica);
        until("a replica answers", || async {
            read(&connection, &key).await;
            reads(replica) > before
        })
        .await;
        until("it has the data", || async { read(&connection, &key).await.is_some() }).await;
    }
}

#[tokio::test]
async fn without_a_replica_the_primary_answers() {
    let server = RedisServer::start();
    server.command(&["SET", "test:k", "v"]);
    let connection = connect(&server.url(), true).await;
    assert_eq!(read(&connection, "test:k").await.as_deref(), Some("v"));
}

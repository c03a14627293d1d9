//! What is sent when nobody asks for anything, or when nothing can be had; and what stays behind.

use super::{
    load::{Load, until},
    tour::MINUTE,
};
use crate::{
    harness::PREFIX,
    support::{cluster::RedisCluster, sentinel::Sentinels, server::RedisServer},
};
use std::time::Duration;
use towerkeep::connection::{Config, Connection, State};

/// How often a server has run a command, whatever its subcommand.
pub(super) fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).text();
    let lines =
        stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    lines
        .filter(|(name, _)| name.split('|').next() == Some(command))
        .map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// The connections of clients there, this question's own among them; those of sentinels and of
/// replication are not.
fn clients(server: &RedisServer) -> usize {
    let list = server.command(&["CLIENT", "LIST"]).text();
    let foreign = ["name=sentinel-", "flags=S", "flags=M"];
    list.lines().filter(|line| !foreign.iter().any(|mark| line.contains(mark))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_under_load_does_not_make_a_storm_of_questions() {
    let cluster = RedisCluster::builder().start();
    let connection = Connection::connect(Config::new(cluster.url())).await.unwrap();
    let keys: Vec<_> = (0..50).map(|n| format!("{PREFIX}:storm:{n}")).collect();
    let dead = cluster.owner_of(&keys[0]).port();
    let (dead, alive): (Vec<_>, Vec<_>) =
        cluster.nodes()[..3].iter().partition(|node| node.port() == dead);
    let load = Load::on(&connection, keys);
    dead[0].kill();
    until("the loss is known", || async { connection.health().state == State::Partial }).await;
    let asked = || alive.iter().map(|node| calls(node, "cluster")).sum::<u64>();
    let before = asked();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = asked() - before;
    load.stop().await;
    eprintln!("the map was asked for {asked} times in 4 s");
    // Twice a second, and a few more at the beginning; without a pause it would be 200.
    assert!((4..40).contains(&asked), "{asked}");
}

#[tokio::test]
async fn nothing_stays_open_after_the_last_handle() {
    let cluster = RedisCluster::start();
    let group = Sentinels::start();
    let single = RedisServer::start();
    let mut servers: Vec<_> = cluster.nodes().iter().collect();
    servers.extend(group.servers().iter().chain(group.sentinels()));
    servers.push(&single);
    let count = || servers.iter().map(|server| clients(server)).sum::<usize>();
    let before = servers.len();
    for url in [cluster.url(), group.url(), single.url()] {
        let mut config = Config::new(url);
        config.read_replicas = true;
        config.deadline = MINUTE / 6;
        let connection = Connection::connect(config).await.unwrap();
        let get = towerkeep::connection::redis::cmd("GET").arg("test:k").take();
        connection.query_replica::<Option<String>>(&get).await.unwrap();
        let mut kept = connection.hints().subscribe("test:channel");
        assert!(kept.ready(MINUTE).await);
        assert!(count() > before + 1, "there are links");
        drop(connection);
        // Whoever still listens may do so, on its one connection.
        until("the links are closed", || async { count() <= before + 1 }).await;
        drop(kept);
        until("all is closed", || async { count() == before }).await;
    }
}

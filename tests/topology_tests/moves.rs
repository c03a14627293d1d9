//! Servers that change their places behind a connection's back.

use super::{
    load::until,
    tour::{MINUTE, hint},
};
use crate::{
    harness::PREFIX,
    support::{sentinel::Sentinels, server::RedisServer},
};
use std::{
    io::Read as _,
    net::{TcpListener, TcpStream},
    time::Duration,
};
use towerkeep::{
    Backend,
    connection::{Config, Connection, State, redis},
};

/// A sentinel that names whatever server it is told to.
struct Guide(Sentinels);

impl Guide {
    fn to(port: u16) -> Self {
        let guide = Self(Sentinels::start());
        guide.monitor(port);
        guide
    }

    fn monitor(&self, port: u16) {
        let monitor = ["SENTINEL", "MONITOR", "guided", "127.0.0.1", &port.to_string(), "2"];
        self.0.sentinels()[0].command(&monitor);
    }

    fn lead(&self, port: u16) {
        self.0.sentinels()[0].command(&["SENTINEL", "REMOVE", "guided"]);
        self.monitor(port);
    }

    fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/guided", self.0.sentinels()[0].port())
    }
}

fn leads_to(connection: &Connection, server: &RedisServer) -> bool {
    connection.health().address.ends_with(&format!(":{}", server.port()))
}

#[tokio::test]
async fn hints_follow_the_primary_though_the_old_one_lives_on() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let guide = Guide::to(old.port());
    let backend =
        Backend::builder().prefix(PREFIX).deadline(MINUTE / 6).redis(guide.url()).await.unwrap();
    let connection = backend.connection().unwrap();
    let mut elsewhere = connection.hints().subscribe("test:elsewhere");
    assert!(elsewhere.ready(MINUTE).await);
    hint(&backend).await;
    guide.lead(new.port());
    until("the new primary is used", || async { leads_to(connection, &new) }).await;
    let publish = ["PUBLISH", "test:elsewhere", "x"];
    until("hints arrive", || async { new.command(&publish).int() > 0 }).await;
    hint(&backend).await;
}

#[tokio::test]
async fn a_lost_connection_for_hints_does_not_hide_that_the_primary_has_moved() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let guide = Guide::to(old.port());
    let mut config = Config::new(guide.url());
    config.discovery_interval = Duration::from_secs(2);
    let connection = Connection::connect(config).await.unwrap();
    let mut subscription = connection.hints().subscribe("test:channel");
    assert!(subscription.ready(MINUTE).await);
    guide.lead(new.port());
    old.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    until("the new primary is used", || async { leads_to(&connection, &new) }).await;
}

#[tokio::test]
async fn a_primary_that_was_replaced_while_it_hung_is_not_gone_back_to() {
    let old = RedisServer::start();
    let guide = Guide::to(old.port());
    let mut config = Config::new(guide.url());
    config.discovery_interval = MINUTE;
    config.connect_timeout = MINUTE;
    let connection = Connection::connect(config).await.unwrap();
    // The new one takes its time.
    let new = TcpListener::bind("127.0.0.1:0").unwrap();
    guide.lead(new.local_addr().unwrap().port());
    old.pause();
    let set = redis::cmd("SET").arg("test:k").arg(1).take();
    connection.query::<()>(&set).await.unwrap_err();
    let dialled = tokio::task::spawn_blocking(move || is_dialled(&new));
    let _open = tokio::time::timeout(MINUTE, dialled).await.unwrap().unwrap();
    old.resume();
    old.command(&["PING"]);
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(connection.health().state, State::Down, "{}", connection.health());
    }
}

/// Returns when this crate has connected, and not only the sentinel that watches.
fn is_dialled(listener: &TcpListener) -> Vec<TcpStream> {
    let mut open = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).unwrap_or(0);
        open.push(stream);
        if String::from_utf8_lossy(&bytes[..read]).contains("SETINFO") {
            return open;
        }
    }
}

#[tokio::test]
async fn a_replica_that_follows_no_more_is_not_read() {
    let group = Sentinels::start();
    let [primary, replica] = group.servers() else { panic!("two servers") };
    for sentinel in group.sentinels() {
        sentinel.kill();
    }
    primary.command(&["SET", "test:k", "here"]);
    let mut config = Config::new(format!("redis://127.0.0.1:{}", primary.port()));
    config.read_replicas = true;
    config.deadline = MINUTE / 6;
    let connection = Connection::connect(config).await.unwrap();
    let get = redis::cmd("GET").arg("test:k").take();
    let read = async || connection.query_replica::<Option<String>>(&get).await.unwrap();
    let before = super::idle::calls(replica, "get");
    until("a replica answers", || async {
        read().await;
        super::idle::calls(replica, "get") > before
    })
    .await;
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    replica.command(&["SET", "test:k", "elsewhere"]);
    until("it is left", || async { read().await.as_deref() == Some("here") }).await;
}

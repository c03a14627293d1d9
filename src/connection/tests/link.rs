use super::server::{Proxy, Server, until};
use crate::{
    connection::{
        Config, Connection, State,
        dial::Dialer,
        servers::Servers,
        standalone::{Site, Standalone},
        topology::{BoxFuture, Stream, Topology},
        url::{self, Place},
    },
    store::StoreError,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(5);

/// An INCR whose caller gives up early, as a middleware with a deadline of its own does.
async fn impatient(connection: &Connection) -> bool {
    let incr = connection.cmd(redis::cmd("INCR").arg("n").take(), LONG);
    matches!(timeout(SHORT, incr).await, Ok(Ok(_)))
}

async fn works(connection: &Connection) -> bool {
    connection.ping(LONG).await.is_ok()
}

#[tokio::test]
async fn a_paused_server_costs_each_call_its_deadline_then_nothing_and_then_works_again() {
    let server = Server::start().await;
    let connection = server.connect().await;
    assert!(works(&connection).await);
    server.signal("STOP");
    let started = Instant::now();
    let error = connection.ping(Duration::from_millis(100)).await.unwrap_err();
    assert!(error.is_timeout() && started.elapsed() < Duration::from_secs(5), "{error:?}");

    until("the link is given up", || async { connection.health().state == State::Down }).await;
    let error = connection.ping(LONG).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("PING"), "{error}");

    server.signal("CONT");
    until("it works again", || works(&connection)).await;
    assert!(connection.health().is_up());
}

#[tokio::test]
async fn a_killed_server_is_noticed_without_a_call_and_found_again_after_its_restart() {
    let mut server = Server::start().await;
    let connection = server.connect().await;
    server.kill();
    until("the loss is noticed", || async { connection.health().state == State::Down }).await;
    let started = Instant::now();
    for _ in 0..1000 {
        assert!(connection.ping(LONG).await.unwrap_err().is_unavailable());
    }
    assert!(started.elapsed() < LONG, "failing fast took {:?}", started.elapsed());
    server.restart().await;
    until("it works again", || works(&connection)).await;
    let health = connection.health();
    assert!(health.is_up() && health.links == 2 && health.last_error.is_some(), "{health:?}");
}

#[tokio::test]
async fn a_half_open_link_is_replaced_when_every_caller_gives_up_early() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let connection = Connection::connect(Config::new(proxy.url())).await.unwrap();
    assert!(works(&connection).await);
    proxy.swallow_existing();
    until("a call gets through", || impatient(&connection)).await;
    assert_eq!(connection.health().links, 2);
    assert_eq!(proxy.accepted.load(SeqCst), 2);
}

#[tokio::test]
async fn a_link_that_was_only_paused_comes_back_when_no_new_one_can_be_made() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let connection = Connection::connect(Config::new(proxy.url())).await.unwrap();
    proxy.refuse_new();
    proxy.hold(true);
    until("the link is given up", || async {
        impatient(&connection).await;
        connection.health().state == State::Down
    })
    .await;
    proxy.hold(false);
    until("it works again", || works(&connection)).await;
    assert_eq!(connection.health().links, 1);
}

#[tokio::test]
async fn a_call_in_flight_when_the_link_breaks_is_of_unknown_outcome() {
    let mut server = Server::start().await;
    let connection = server.connect().await;
    server.signal("STOP");
    let call = tokio::spawn({
        let connection = connection.clone();
        async move { connection.cmd(redis::cmd("INCR").arg("n").take(), LONG).await }
    });
    tokio::time::sleep(SHORT).await;
    server.kill();
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("INCR"), "{error:?}");
}

#[tokio::test]
async fn timeouts_in_a_row_open_the_breaker_and_a_ping_closes_it() {
    let server = Server::start().await;
    // No other detection: the link itself is never found silent.
    let config = Config {
        ping_interval: Duration::from_secs(3600),
        ping_timeout: Duration::from_secs(3600),
        ..Config::new(server.url())
    };
    let connection = Connection::connect(config).await.unwrap();
    server.signal("STOP");
    let calls = (0..5).map(|_| connection.ping(SHORT));
    assert!(futures_util::future::join_all(calls).await.iter().all(|call| call.is_err()));
    until("the breaker opens", || async { connection.health().state == State::Open }).await;
    let error = connection.ping(LONG).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("in a row"), "{error}");
    server.signal("CONT");
    until("the breaker closes", || async { connection.health().is_up() }).await;
    assert!(works(&connection).await);
    assert_eq!(connection.health().links, 1);
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_loses_the_link_without_a_storm_of_dials() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let connection = Connection::connect(Config::new(proxy.url())).await.unwrap();
    let replica_of = async |host: &str, port: &str| {
        let other = server.connect().await;
        other.query::<()>(redis::cmd("REPLICAOF").arg(host).arg(port)).await.unwrap();
    };
    replica_of("127.0.0.1", "1").await;
    let write = || async { connection.query::<()>(redis::cmd("SET").arg("k").arg(1)).await };
    let error = write().await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("READONLY"), "{error}");
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let _ = write().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let dials = proxy.accepted.load(SeqCst);
    assert!((2..60).contains(&dials), "{dials} dials in 2 s");
    replica_of("NO", "ONE").await;
    until("writes work again", || async { write().await.is_ok() }).await;
}

#[tokio::test]
async fn while_down_a_call_waits_at_most_as_long_as_it_was_told_to() {
    let mut server = Server::start().await;
    let config = Config { down_wait: LONG, ..Config::new(server.url()) };
    let connection = Connection::connect(config).await.unwrap();
    server.kill();
    until("the loss is noticed", || async { !connection.health().is_up() }).await;
    assert!(connection.ping(SHORT).await.unwrap_err().is_unavailable());
    let call = tokio::spawn({
        let connection = connection.clone();
        async move { connection.ping(Duration::from_secs(20)).await }
    });
    server.restart().await;
    // It either got the new link in time, or was told that there is none.
    if let Err(error) = call.await.unwrap() {
        assert!(error.is_unavailable(), "{error:?}");
    }
    until("it works again", || works(&connection)).await;
}

/// Panics at every dial but the first and from the fourth on.
struct Panics {
    real: Standalone,
    dials: AtomicU64,
}

impl Topology for Panics {
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>> {
        let dial = self.dials.fetch_add(1, SeqCst);
        assert!(dial == 0 || dial > 3, "this dial panics, as the test wants it");
        self.real.open(limit)
    }

    fn address(&self) -> Arc<str> {
        self.real.address()
    }

    fn site(&self) -> &Site {
        self.real.site()
    }

    fn server(&self) -> Result<Standalone, StoreError> {
        self.real.server()
    }
}

#[tokio::test]
async fn a_panic_while_dialling_is_one_failed_attempt() {
    let server = Server::start().await;
    let config = Arc::new(Config::new(server.url()));
    let target = url::parse(&server.url()).unwrap();
    let site = Site::new(&target, &config).unwrap();
    let Place::Server(address) = target.place else { panic!("one server") };
    let real = Standalone::new(address, site).unwrap();
    let topology = Arc::new(Panics { real, dials: AtomicU64::new(0) });
    let dialer = Dialer { topology: topology.clone(), config: config.clone() };
    let connection = Connection::over(Servers::one(dialer).await.unwrap(), config);
    let other = server.connect().await;
    let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").take();
    other.query::<()>(&kill).await.unwrap();
    until("a dial that does not panic", || async { topology.dials.load(SeqCst) > 4 }).await;
    until("it works again", || works(&connection)).await;
}

#[tokio::test]
async fn dropping_the_last_clone_closes_the_connection() {
    let server = Server::start().await;
    let watcher = server.connect().await;
    let clients = async || {
        let list: String = watcher.query(redis::cmd("CLIENT").arg("LIST")).await.unwrap();
        list.lines().count()
    };
    let connection = server.connect().await;
    let clone = connection.clone();
    let hints = connection.hints();
    let mut subscription = hints.subscribe("channel");
    assert!(subscription.ready(LONG).await);
    assert_eq!(clients().await, 3);
    drop(connection);
    assert!(works(&clone).await);
    drop((clone, subscription, hints));
    until("only the watcher is left", || async { clients().await == 1 }).await;
}

#[test]
fn a_runtime_that_ended_is_named_as_the_cause() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let server = first.block_on(Server::start());
    let connection = first.block_on(server.connect());
    drop(first);
    let error = runtime().block_on(connection.ping(LONG)).unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("runtime"), "{error}");
}

#[tokio::test]
async fn the_pools_work_beside_the_link() {
    let server = Server::start().await;
    let connection = server.connect().await;
    let mut blocked = connection.blocking_pool().unwrap().get().await.unwrap();
    let pop = tokio::spawn(async move {
        redis::cmd("BLPOP").arg("queue").arg(10).query_async::<(String, String)>(&mut blocked).await
    });
    let mut transaction = connection.pool().unwrap().get().await.unwrap();
    let (value,): (i64,) = {
        redis::cmd("WATCH").arg("n").query_async::<()>(&mut transaction).await.unwrap();
        redis::pipe().atomic().incr("n", 5).query_async(&mut transaction).await.unwrap()
    };
    assert_eq!(value, 5);
    connection.query::<()>(redis::cmd("RPUSH").arg("queue").arg("job")).await.unwrap();
    assert_eq!(pop.await.unwrap().unwrap().1, "job");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_that_waits_behind_many_answers_is_no_sign_of_a_half_open_link() {
    let server = Server::start().await;
    let mut config = Config::new(server.url());
    config.deadline = Duration::from_secs(60);
    (config.ping_interval, config.ping_timeout) =
        (Duration::from_millis(10), Duration::from_millis(100));
    let connection = Connection::connect(config).await.unwrap();
    let size = 1_000_000;
    connection.query::<()>(redis::cmd("SETRANGE").arg("big").arg(size - 1).arg("x")).await.unwrap();
    // The answers take longer than a PING may.
    let reads = (0..400).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move {
            connection.query::<Vec<u8>>(redis::cmd("GET").arg("big")).await.map(|big| big.len())
        })
    });
    for read in reads.collect::<Vec<_>>() {
        assert_eq!(read.await.unwrap().unwrap(), size);
    }
    assert_eq!(connection.health().links, 1);
}

//! Sentinel: a primary that changes its place while calls go on.

use super::{
    load::{Load, count, until},
    tour::{MINUTE, backend, hint, tour},
};
use crate::{
    harness::PREFIX,
    support::{sentinel::Sentinels, server::RedisServer},
};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;
use towerkeep::{
    Backend,
    connection::{Config, Connection, redis},
};

/// Beyond its deadline, what a loaded machine may take to wake a task.
const SLACK: Duration = Duration::from_secs(1);

async fn connect(group: &Sentinels) -> Connection {
    Connection::connect(Config::new(group.url())).await.unwrap()
}

fn key() -> String {
    format!("{PREFIX}:key")
}

async fn is_usable(connection: &Connection) -> bool {
    connection.query::<()>(redis::cmd("SET").arg(format!("{PREFIX}:probe")).arg(1)).await.is_ok()
}

fn leads_to(connection: &Connection, server: &RedisServer) -> bool {
    connection.health().address.ends_with(&format!(":{}", server.port()))
}

#[tokio::test]
async fn every_store_and_hint_works_also_with_dead_sentinels() {
    let group = Sentinels::start();
    let backend = backend(&group.url()).await;
    tour(&backend).await.unwrap();
    hint(&backend).await;
    assert!(leads_to(backend.connection().unwrap(), group.master()));
    let url = group.url().replace("@", "@127.0.0.1:1,");
    let other = Backend::builder().prefix("other").redis(url).await.unwrap();
    tour(&other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_costs_calls_their_deadline_at_most_until_another_is_promoted() {
    let group = Sentinels::start();
    let connection = connect(&group).await;
    let pool = connection.pool().unwrap();
    let load = Load::on(&connection, [key()]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    group.master().kill();
    let new = block_in_place(|| group.wait_until_promoted());
    let promoted = Instant::now();
    until("the new primary is used", || is_usable(&connection)).await;
    eprintln!("usable {:?} after the promotion", promoted.elapsed());
    assert!(leads_to(&connection, new));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let tally = load.stop().await.remove(&key()).unwrap();
    assert!(!tally.errors.is_empty() && tally.recovered.is_some(), "{tally:?}");
    assert!(tally.longest < connection.deadline() + SLACK, "a call took {:?}", tally.longest);
    eprintln!("the longest call took {:?}", tally.longest);
    // The pools follow.
    assert!(pool.get().await.is_err());
    let mut own = connection.pool().unwrap().get().await.unwrap();
    redis::cmd("PING").exec_async(&mut own).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_hangs_is_left_for_the_one_that_is_promoted() {
    let group = Sentinels::start();
    let connection = connect(&group).await;
    let old = group.master();
    let load = Load::on(&connection, [key()]);
    old.pause();
    let new = block_in_place(|| group.wait_until_promoted());
    let promoted = Instant::now();
    until("the new primary is used", || is_usable(&connection)).await;
    eprintln!("usable {:?} after the promotion", promoted.elapsed());
    let tally = load.stop().await.remove(&key()).unwrap();
    assert!(tally.longest < connection.deadline() + SLACK, "a call took {:?}", tally.longest);
    eprintln!("the longest call took {:?}", tally.longest);
    // It comes back as a primary, for a while, and nobody goes back to it.
    old.resume();
    for _ in 0..50 {
        assert!(is_usable(&connection).await);
        assert!(leads_to(&connection, new), "{}", connection.health());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_others_have_replaced_is_left_though_it_answers() {
    let group = Sentinels::start();
    let connection = connect(&group).await;
    let old = group.master();
    let load = Load::on(&connection, [key()]);
    let new = block_in_place(|| group.failover());
    until("the new primary is used", || async { leads_to(&connection, new) }).await;
    until("it is usable", || is_usable(&connection)).await;
    let tally = load.stop().await.remove(&key()).unwrap();
    assert!(tally.longest < connection.deadline() + SLACK, "a call took {:?}", tally.longest);
    assert!(tally.done > 0 && count(&connection, &key()).await > 0);
    assert_ne!(old.port(), new.port());
}

#[tokio::test]
async fn what_is_wrong_is_told_by_name() {
    let group = Sentinels::start();
    let fail = async |url: String| {
        let error = Backend::redis(url).await.unwrap_err();
        let text = error.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        (error, text)
    };
    let (error, text) = fail(group.url().replace("/mymaster", "/other")).await;
    assert!(error.is_config() && text.contains("\"other\""), "{text}");
    let (error, text) =
        fail("redis+sentinel://:hunter2@127.0.0.1:1,127.0.0.1:2/mymaster".into()).await;
    assert!(error.is_unavailable() && text.contains("127.0.0.1"), "{text}");
    let (error, text) = fail(group.url_as("test", "hunter2")).await;
    assert!(error.is_config() && text.contains("WRONGPASS"), "{text}");
    let server = group.master().port();
    let (error, text) = fail(format!("redis+sentinel://127.0.0.1:{server}/mymaster")).await;
    assert!(error.is_refused() && text.contains("unknown command"), "{text}");

    // Sentinels that ask for a login.
    for sentinel in group.sentinels() {
        sentinel.command(&["ACL", "SETUSER", "default", "resetpass", ">hunter2"]);
    }
    let (error, text) = fail(group.url()).await;
    assert!(error.is_config() && text.contains("NOAUTH"), "{text}");
    assert!(text.contains("sentinel_pass"), "{text}");
    let url = format!("{}?sentinel_pass=hunter2", group.url());
    Backend::redis(url).await.unwrap();
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_the_role_is_told_so() {
    let group = Sentinels::start();
    let on_servers = |words: &[&str]| {
        group.servers().iter().for_each(|server| drop(server.command(words)));
    };
    for line in crate::harness::rights() {
        on_servers(&line.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let allowed = backend(&group.url_as("shop", "password")).await;
    tour(&allowed).await.unwrap();
    hint(&allowed).await;
    on_servers(&["ACL", "SETUSER", "shop", "-role"]);
    let error = Backend::redis(group.url_as("shop", "password")).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("role"), "{error}");
}

#[tokio::test]
async fn a_replica_that_is_named_too_early_is_not_used() {
    let group = Sentinels::start();
    let replica = group.replica().port();
    // A sentinel that watches the replica as if it were a master.
    let sentinel = &group.sentinels()[0];
    let monitor = ["SENTINEL", "MONITOR", "wrong", "127.0.0.1", &replica.to_string(), "2"];
    sentinel.command(&monitor);
    let url = format!("redis+sentinel://127.0.0.1:{}/wrong", sentinel.port());
    let mut config = Config::new(url);
    config.connect_timeout = MINUTE / 6;
    let error = Connection::connect(config).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("slave"), "{error}");
}

//! The backend: how it is made, what it says when it cannot be, and how it ends.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;

use crate::support::{cluster::RedisCluster, proxy::FaultProxy, proxy::Mode, server::RedisServer};
use std::{
    env,
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};
use towerkeep::{
    Backend, StoreError,
    connection::{
        Config, Connection,
        redis::{self, AsyncCommands},
    },
    lock::{self, Locks},
    rate_limit::{Charge, Policy, Quota, RateLimitStore},
};

async fn refused(url: &str) -> StoreError {
    let started = Instant::now();
    let error = Backend::redis(url).await.expect_err(url);
    assert!(started.elapsed() < Duration::from_secs(10), "{url} took {:?}", started.elapsed());
    error
}

#[tokio::test]
async fn a_wrong_url_is_refused_with_its_cause_its_value_and_the_fix() {
    for (url, cause, fix) in [
        ("http://127.0.0.1:6379", "http", "redis://"),
        ("127.0.0.1:6379", "127.0.0.1:6379", "redis://"),
        ("redis://127.0.0.1:99999", "99999", "65535"),
        ("redis://127.0.0.1:6379/first", "first", "database"),
        ("redis://:hunter2@", "host", "redis://"),
        ("", "redis://", "redis://"),
    ] {
        let error = refused(url).await;
        let text = error.to_string();
        assert!(error.is_config() && text.contains(cause) && text.contains(fix), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&format!("redis://{free}")).await;
    assert!(error.is_unavailable(), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_never_shown() {
    let server = RedisServer::builder().password("right").start();
    let at = |login: &str| format!("redis://{login}127.0.0.1:{}", server.port());
    for (login, cause) in
        [(":hunter2@", "password"), ("", "password"), ("bob:hunter2@", "password")]
    {
        let error = refused(&at(login)).await;
        let text = format!("{error} {error:?}");
        assert!(error.is_config() && error.to_string().contains(cause), "{login}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let backend = Backend::builder().password("right").redis(at("")).await.unwrap();
    assert!(!format!("{backend:?} {backend}").contains("right"));
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_does_not_hang_the_start() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let builder = Backend::builder().connect_timeout(Duration::from_millis(200));
    let error = builder.redis(url).await.unwrap_err();
    assert!(error.is_unavailable() || error.is_timeout(), "{error}");
}

/// `from_env` reads the environment, which threads share; so it runs in a process of its own.
#[tokio::test]
async fn state_lives_where_redis_url_says() {
    if env::var_os("SHOW_BACKEND").is_some() {
        match Backend::from_env().await {
            Ok(backend) => println!("<{backend}>"),
            Err(error) => println!("<{error}>"),
        }
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    let shown = |url: Option<&str>| {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "state_lives_where_redis_url_says", "--nocapture"]);
        child.env("SHOW_BACKEND", "1").env_remove("REDIS_URL");
        if let Some(url) = url {
            child.env("REDIS_URL", url);
        }
        String::from_utf8(child.output().unwrap().stdout).unwrap()
    };
    assert!(shown(None).contains("<this process's memory>"));
    assert!(shown(Some("")).contains("<this process's memory>"));
    assert!(shown(Some(&url)).contains(&format!("<Redis at 127.0.0.1:{}>", server.port())));
    assert!(shown(Some("memory")).contains("redis://"), "a typo must not mean memory");
}

#[tokio::test]
async fn health_tells_of_an_outage_and_of_its_end() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    assert!(backend.health().is_up());
    proxy.set(Mode::Refuse);
    proxy.cut();
    let connection = backend.connection().unwrap();
    let until = async |up: bool| {
        let reached = async {
            while backend.health().is_up() != up {
                let _ = connection.ping(Duration::from_millis(100)).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
    };
    until(false).await;
    let down = connection.ping(Duration::from_millis(100)).await.unwrap_err();
    assert!(down.is_unavailable(), "{down}");
    assert!(backend.health().to_string().contains("down"), "{}", backend.health());
    proxy.set(Mode::Pass);
    until(true).await;
    connection.ping(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn what_blocks_has_a_pool_of_its_own() {
    let server = RedisServer::start();
    let backend = Backend::redis(server.url()).await.unwrap();
    let connection = backend.connection().unwrap().clone();
    let waiting = tokio::spawn({
        let connection = connection.clone();
        async move {
            let mut own = connection.blocking_pool().unwrap().get().await.unwrap();
            own.blpop::<_, (String, String)>("jobs", 5.0).await.unwrap()
        }
    });
    // The hot path is not held up by the command that blocks.
    for _ in 0..50 {
        connection.ping(Duration::from_secs(1)).await.unwrap();
    }
    connection.query::<u64>(redis::cmd("RPUSH").arg("jobs").arg("one")).await.unwrap();
    assert_eq!(waiting.await.unwrap(), ("jobs".into(), "one".into()));

    let mut own = connection.pool().unwrap().get().await.unwrap();
    redis::cmd("WATCH").arg("n").exec_async(&mut own).await.unwrap();
    connection.query::<()>(redis::cmd("SET").arg("n").arg(1)).await.unwrap();
    let mut transaction = redis::pipe();
    transaction.atomic().set("n", 2);
    let outcome: Option<()> = transaction.query_async(&mut own).await.unwrap();
    assert_eq!(outcome, None, "a watched key was changed, so the transaction must not run");
}

#[tokio::test]
async fn shutdown_waits_for_tasks_and_says_what_is_left() {
    let backend = Backend::memory();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    backend.tasks().spawn(async move { ended.await.ok() });
    assert_eq!(backend.shutdown(Duration::from_millis(10)).await, 1);
    end.send(()).unwrap();
    assert_eq!(backend.shutdown(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn a_store_over_a_connection_of_the_applications_own_shares_the_keys_of_its_prefix() {
    let server = RedisServer::start();
    let backend = Backend::builder().prefix("shop").redis(server.url()).await.unwrap();
    let connection = Connection::connect(Config::new(server.url())).await.unwrap();
    let locks = Locks::new(lock::RedisStore::new(connection.clone(), "shop").unwrap());
    let held = locks.try_lock("job").await.unwrap();
    assert!(Locks::new(backend).try_lock("job").await.unwrap_err().is_contended());
    held.release().await.unwrap();
    assert!(lock::RedisStore::new(connection, "a b").unwrap_err().is_config());
}

/// Whoever means "no limit" writes the longest time there is.
#[tokio::test]
async fn the_longest_time_there_is_is_a_limit_like_any_other() {
    let (server, cluster) = (RedisServer::start(), RedisCluster::start());
    let never = Duration::MAX;
    for url in [server.url(), cluster.url()] {
        let builder = Backend::builder().connect_timeout(never).deadline(never).down_wait(never);
        let builder = builder.ping(never, never).backoff(never, never).discovery_interval(never);
        let builder = builder.keepalive(never, never, u32::MAX).user_timeout(never);
        let backend = builder.redis(url).await.unwrap();
        let connection = backend.connection().unwrap();
        connection.ping(never).await.unwrap();
        let gets = ["a", "b", "c"].map(|key| redis::cmd("GET").arg(key).take());
        let batch = gets.into_iter().fold(connection.batch(), |batch, get| batch.cmd(get));
        assert_eq!(batch.run(never).await.unwrap().len(), 3);
        Locks::new(backend.clone()).try_lock("a").await.unwrap().release().await.unwrap();
        let policy = Policy::gcra("burst", Quota::per_second(20));
        let charges = ["a", "b", "c"].map(|key| Charge::new(&policy, key, 1));
        assert!(backend.check(&charges).await.unwrap().is_allowed());
    }
    let backend = Backend::builder().pool_deadline(never).redis(server.url()).await.unwrap();
    let mut pooled = backend.connection().unwrap().pool().unwrap().get().await.unwrap();
    pooled.ping::<String>().await.unwrap();
}

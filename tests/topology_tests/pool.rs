//! A pool of the application's own.

use super::tour::{MINUTE, backend, tour};
use crate::{
    harness::PREFIX,
    support::{proxy::FaultProxy, server::RedisServer},
};
use std::time::Duration;
use towerkeep::{
    Backend,
    connection::{
        deadpool_redis::{Config, Pool, Runtime},
        redis,
    },
};

fn pool(url: &str) -> Pool {
    Config::from_url(url).create_pool(Some(Runtime::Tokio1)).unwrap()
}

fn over(pool: &Pool) -> Backend {
    let builder = Backend::builder().prefix(PREFIX).deadline(MINUTE / 6);
    builder.pool(pool.clone()).unwrap()
}

#[tokio::test]
async fn every_store_works_through_it_and_shares_state_with_a_link() {
    let server = RedisServer::start();
    let pool = pool(&server.url());
    let through = over(&pool);
    tour(&through).await.unwrap();
    assert!(through.health().is_up());
    assert_eq!(through.to_string(), "Redis at the application's own pool");
    assert!(pool.status().size >= 1, "it was used");

    server.command(&["SET", "test:shared", "1"]);
    let link = backend(&server.url()).await;
    for backend in [&through, &link] {
        let connection = backend.connection().unwrap();
        connection.query::<()>(redis::cmd("INCR").arg("test:shared")).await.unwrap();
    }
    assert_eq!(server.command(&["GET", "test:shared"]).text(), "3");
    // Its own pool is the one that it was given.
    let mut own = through.connection().unwrap().pool().unwrap().get().await.unwrap();
    redis::cmd("PING").exec_async(&mut own).await.unwrap();
    assert_eq!(through.doctor().await.server, link.doctor().await.server);
}

#[tokio::test]
async fn it_costs_one_more_round_trip() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let pool = pool(&proxy.url());
    let connection = over(&pool).connection().unwrap().clone();
    let get = redis::cmd("GET").arg("k").take();
    connection.query::<Option<String>>(&get).await.unwrap();
    proxy.reset();
    connection.query::<Option<String>>(&get).await.unwrap();
    assert_eq!(proxy.turns(), 2);
}

#[tokio::test]
async fn a_lost_server_is_an_error_in_time_and_works_again_when_it_is_back() {
    let server = RedisServer::start();
    let backend = Backend::builder()
        .prefix(PREFIX)
        .deadline(Duration::from_millis(200))
        .pool(pool(&server.url()))
        .unwrap();
    let connection = backend.connection().unwrap();
    connection.ping(MINUTE).await.unwrap();

    server.pause();
    let error = connection.ping(Duration::from_millis(200)).await.unwrap_err();
    assert!(error.is_unavailable() || error.is_timeout(), "{error}");
    server.resume();
    connection.ping(MINUTE).await.unwrap();

    server.kill();
    let error = connection.ping(MINUTE).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("pool"), "{error}");
    assert!(!backend.health().is_up());
    server.restart();
    connection.ping(MINUTE).await.unwrap();
    assert!(backend.health().is_up());
}

#[tokio::test]
async fn a_connection_whose_answer_is_still_to_come_is_not_given_back() {
    let server = RedisServer::start();
    let pool = pool(&server.url());
    let connection = over(&pool).connection().unwrap().clone();
    let block = redis::cmd("BLPOP").arg("test:none").arg(0).take();
    let error = connection.cmd(block, Duration::from_millis(200)).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(pool.status().size, 0);
}

//! An application that starts before its server.

use super::{
    load::until,
    tour::{MINUTE, tour},
};
use crate::{
    harness::PREFIX,
    support::{cluster::RedisCluster, server::RedisServer},
};
use towerkeep::{Backend, connection::State};

async fn lazy(url: String) -> Backend {
    let builder = Backend::builder().prefix(PREFIX).lazy(true).deadline(MINUTE / 6);
    builder.redis(url).await.unwrap()
}

#[tokio::test]
async fn calls_fail_until_the_server_is_there_and_then_work() {
    let server = RedisServer::start();
    server.kill();
    for url in [
        server.url(),
        format!("redis+cluster://127.0.0.1:{}", server.port()),
        format!("redis+sentinel://127.0.0.1:{}/name", server.port()),
    ] {
        let backend = lazy(url).await;
        let error = tour(&backend).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert_eq!(backend.health().link().unwrap().state, State::Down);
    }
    let backend = lazy(server.url()).await;
    assert!(tour(&backend).await.is_err());
    server.restart();
    until("the server is found", || async { backend.health().is_up() }).await;
    tour(&backend).await.unwrap();
}

#[tokio::test]
async fn the_first_calls_wait_for_the_first_link() {
    let server = RedisServer::start();
    tour(&lazy(server.url()).await).await.unwrap();
    let cluster = RedisCluster::start();
    tour(&lazy(cluster.url()).await).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_the_settings_is_told_at_once() {
    let wrong = Backend::builder().lazy(true).redis("redis://localhost:x").await;
    assert!(wrong.unwrap_err().is_config());
}

#[tokio::test]
async fn what_is_wrong_with_the_server_is_told_by_each_call() {
    let server = RedisServer::builder().password("right").start();
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let error = tour(&lazy(url).await).await.unwrap_err();
    assert!(error.to_string().contains("WRONGPASS"), "{error}");
}

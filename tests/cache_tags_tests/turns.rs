//! What purges cost: turns, as a proxy counts them.

use super::verbs::{is_fresh, is_gone, make, tag};
use crate::support::{proxy::FaultProxy, server::RedisServer};
use towerkeep::{
    Backend,
    cache::{CacheStore, Purge, Tag},
};

#[tokio::test]
async fn a_hit_and_a_purge_are_one_turn_each_whatever_was_purged_before() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let backend = Backend::redis(proxy.url()).await.unwrap();
    let elsewhere = Backend::redis(redis.url()).await.unwrap();
    // The server learns the scripts.
    make(&backend, "e", "1", &["a"]).await;
    backend.purge_tags(&[tag("a")], Purge::Hard).await.unwrap();
    assert_eq!(proxy.turns_of(is_gone(&backend, "e")).await, (true, 1));
    make(&backend, "e", "2", &["a"]).await;
    assert_eq!(proxy.turns_of(is_fresh(&backend, "e")).await, (true, 1));
    let many: Vec<Tag> = (0..1_000).map(|n| tag(&n.to_string())).collect();
    elsewhere.purge_tags(&many, Purge::Soft).await.unwrap();
    assert_eq!(proxy.turns_of(is_fresh(&backend, "e")).await, (true, 1));
    let (purged, turns) = proxy.turns_of(backend.purge_tags(&many, Purge::Hard)).await;
    assert_eq!((purged.is_ok(), turns), (true, 1));
    let newcomer = Backend::redis(proxy.url()).await.unwrap();
    assert_eq!(proxy.turns_of(is_fresh(&newcomer, "e")).await, (true, 1));
}

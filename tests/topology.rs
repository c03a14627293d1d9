//! Every store over every way to reach a server, and under a user with few rights.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod harness;
mod support;

use crate::{
    harness::{PREFIX, allow_user, user_url},
    support::server::RedisServer,
};
use std::{sync::Arc, time::Duration};
use towerkeep::{
    Backend, StoreError,
    cache::{
        Address, CacheStore, Fill, FillReply, Lane, LeaseReply, Lookup, StoredResponse, Verdict,
    },
    connection::redis,
    idempotency::{Begun, Claim, Completed, Fingerprint, IdempotencyStore, Terms},
    lock::{Attempt, LockStore},
    rate_limit::{Charge, Policy, Quota, RateLimitStore},
    session::{Change, Created, Delta, Destroyed, Limits, NewSession, SessionStore, Token},
};

const MINUTE: Duration = Duration::from_secs(60);

/// Every verb of every store, once.
async fn tour(backend: &Backend) -> Result<(), StoreError> {
    let token = Token::random();
    let new = NewSession::new(token.hash(), MINUTE);
    let created = backend.create(&token.selector(), new, Limits::default()).await?;
    assert_eq!(created, Created::Done { ttl: MINUTE });
    for clear in [false, true] {
        let mut delta = Delta::default();
        delta.clear = clear;
        delta.changes = [("n".into(), Change::Increment(2))].into();
        backend.commit(&token.selector(), &token.hash(), delta, Limits::default()).await?;
    }
    let record = SessionStore::load(backend, &token.selector()).await?.unwrap();
    assert_eq!(record.fields.get("n").map(|value| &value[..]), Some(&b"2"[..]));
    let destroyed = backend.destroy(&token.selector(), &token.hash(), None).await?;
    assert!(matches!(destroyed, Destroyed::Done { .. }));

    let policy = Policy::gcra("p", Quota::per_day(1));
    for allowed in [true, false] {
        let verdict = backend.check(&[Charge::new(&policy, "k", 1)]).await?;
        assert_eq!(verdict.is_allowed(), allowed);
    }

    let (run, print) = (Claim::new("id", "run"), Fingerprint::new([1; 32]));
    let terms = || Terms::new(MINUTE, MINUTE);
    assert!(matches!(backend.begin(&run, &print, terms()).await?, Begun::Acquired { .. }));
    assert!(IdempotencyStore::renew(backend, &run, terms()).await?);
    assert_eq!(backend.complete(&run, "done".into(), terms()).await?, Completed::Stored);
    assert!(!backend.abandon(&run).await?);

    let at = Address::new("entry", Lane::Open);
    assert_eq!(backend.lease(&at, "token", MINUTE, None).await?, LeaseReply::Granted);
    assert!(CacheStore::renew(backend, &at, "token", MINUTE).await?);
    let response = Arc::new(StoredResponse::new("key", http::Response::new("body".into())));
    let filled = backend.fill(&at, "token", Fill::new(response, MINUTE)).await?;
    assert_eq!(filled, FillReply::Stored);
    assert!(!CacheStore::release(backend, &at, "token", Verdict::Failed).await?);
    assert!(matches!(backend.lookup(&at).await?, Lookup::Found(_)));
    assert_eq!(backend.purge(&["entry".into()]).await?, 1);

    assert!(matches!(backend.acquire("job", "token", MINUTE).await?, Attempt::Acquired { .. }));
    assert!(LockStore::renew(backend, "job", "token", MINUTE).await?);
    assert!(LockStore::release(backend, "job", "token").await?);
    Ok(())
}

/// A hint gets through from one process to the other.
async fn hint(backend: &Backend) {
    let mut released = LockStore::watch(backend, "hint").unwrap();
    assert!(released.ready(MINUTE).await);
    backend.acquire("hint", "token", MINUTE).await.unwrap();
    assert!(LockStore::release(backend, "hint", "token").await.unwrap());
    tokio::time::timeout(MINUTE, released.recv()).await.unwrap();
}

async fn backend(url: &str) -> Backend {
    Backend::builder().prefix(PREFIX).deadline(MINUTE / 6).redis(url).await.unwrap()
}

#[tokio::test]
async fn every_store_works_over_resp2_and_resp3_and_tcp_and_a_unix_socket() {
    let server = RedisServer::builder().unix_socket().start();
    for url in [
        server.url(),
        format!("{}?protocol=resp3", server.url()),
        server.unix_url(),
        format!("{}?protocol=resp3", server.unix_url()),
    ] {
        let backend = backend(&url).await;
        tour(&backend).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        hint(&backend).await;
        server.command(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let server = RedisServer::start();
    allow_user(&server);
    let backend = backend(&user_url(&server)).await;
    tour(&backend).await.unwrap();
    hint(&backend).await;
    // And the pool's.
    let pool = backend.connection().unwrap().pool().unwrap();
    for _ in 0..2 {
        let mut own = pool.get().await.unwrap();
        redis::cmd("PING").exec_async(&mut own).await.unwrap();
    }
    assert_eq!(pool.status().size, 1, "it was used again");
}

#[tokio::test]
async fn without_any_one_of_the_documented_rights_the_error_names_the_command() {
    let server = RedisServer::start();
    for command in allow_user(&server) {
        // The link's, the pool's and the hints' own: no verb of a store fails without them.
        if ["ping", "unwatch", "publish", "subscribe", "unsubscribe"].contains(&command) {
            continue;
        }
        server.command(&["FLUSHALL"]);
        server.command(&["SCRIPT", "FLUSH"]);
        allow_user(&server);
        server.command(&["ACL", "SETUSER", "shop", &format!("-{command}")]);
        let error = tour(&backend(&user_url(&server)).await).await.expect_err(command);
        let text = error.to_string();
        assert!(error.is_refused() && text.to_lowercase().contains(command), "{command}: {text}");
        assert!(text.contains("ACL") && !text.contains("password"), "{command}: {text}");
    }
}

#[tokio::test]
async fn keys_of_another_prefix_are_out_of_reach() {
    let server = RedisServer::start();
    allow_user(&server);
    let url = user_url(&server);
    let other = Backend::builder().prefix("other").redis(&url).await.unwrap();
    let error = tour(&other).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("NOPERM"), "{error}");
}

//! Every verb of every store, once.

use crate::harness::PREFIX;
use std::{sync::Arc, time::Duration};
use towerkeep::{
    Backend, StoreError, UserId,
    cache::{
        Address, CacheStore, Fill, FillReply, Lane, LeaseReply, Lookup, StoredResponse, Verdict,
    },
    idempotency::{Begun, Claim, Completed, Fingerprint, IdempotencyStore, Terms},
    lock::{Attempt, LockStore},
    rate_limit::{Charge, Policy, Quota, RateLimitStore},
    session::{
        Change, Created, Delta, Destroyed, Limits, NewSession, SessionStore, Token, Trail,
        UserStore,
    },
};

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Every verb of every store, once.
pub(super) async fn tour(backend: &Backend) -> Result<(), StoreError> {
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

    let ann = UserId::new("ann");
    let listed = backend.enlist(&ann, &token.selector(), MINUTE).await?;
    assert_eq!((listed, backend.listed(&ann).await?.len()), (1, 1));
    backend.unlist(&ann, &[token.selector()], Duration::ZERO).await?;
    assert!(backend.listed(&ann).await?.is_empty());
    backend.append(&ann, vec!["1".into()], Trail::default()).await?;
    assert_eq!(backend.recent(&ann, 9).await?, ["1"]);

    limits(backend).await?;

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

/// Every verb of the rate limits, with every algorithm.
async fn limits(backend: &Backend) -> Result<(), StoreError> {
    let policies = [
        Policy::gcra("gcra", Quota::per_day(1)),
        Policy::token_bucket("bucket", Quota::per_day(1)),
        Policy::fixed_window("fixed", Quota::per_day(1)),
        Policy::sliding_window("sliding", Quota::per_day(1)),
        Policy::sliding_log("log", Quota::per_day(1)),
        Policy::concurrency("leases", 1),
    ];
    for policy in policies {
        let first = Charge::new(&policy, "k", 1);
        let taken = backend.check(std::slice::from_ref(&first)).await?;
        assert!(taken.is_allowed());
        let other = [Charge::new(&policy, "k", 1)];
        assert!(!backend.check(&other).await?.is_allowed());
        backend.charge(&other).await?;
        assert!(RateLimitStore::renew(backend, std::slice::from_ref(&first)).await?.is_allowed());
        backend.refund(&[first.with_receipt(taken.outcomes()[0].receipt)]).await?;
        backend.ban(&other, MINUTE).await?;
        assert!(backend.peek(&other).await?.is_banned());
        backend.unban(&other).await?;
        RateLimitStore::reset(backend, &other).await?;
        assert!(backend.peek(&other).await?.is_allowed());
    }
    Ok(())
}

/// A hint gets through from one process to the other.
pub(super) async fn hint(backend: &Backend) {
    let mut released = LockStore::watch(backend, "hint").unwrap();
    assert!(released.ready(MINUTE).await);
    backend.acquire("hint", "token", MINUTE).await.unwrap();
    assert!(LockStore::release(backend, "hint", "token").await.unwrap());
    tokio::time::timeout(MINUTE, released.recv()).await.unwrap();
}

pub(super) async fn backend(url: &str) -> Backend {
    Backend::builder().prefix(PREFIX).deadline(MINUTE / 6).redis(url).await.unwrap()
}

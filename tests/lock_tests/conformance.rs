//! What every store must answer, and what every guard must know.

use super::spy::{HOUR, Spy, eventually, locks, settle, two};
use crate::harness::Harness;
use std::time::Duration;
use towerkeep::lock::{Attempt, LockStore, Locks};

const TTL: Duration = Duration::from_secs(30);

on_every_backend! {
    a_lock_has_one_holder_and_fences_rise_from_one_to_the_next,
    a_repeated_acquisition_says_the_same_again,
    an_expired_lock_is_free_and_its_stale_holder_can_do_nothing,
    a_dropped_guard_releases,
    a_refused_renewal_is_a_loss,
    a_renewed_lock_outlives_its_ttl,
    a_lock_that_was_granted_too_late_is_given_back,
    names_that_differ_are_different_locks,
    a_ttl_out_of_bounds_is_refused_with_the_fix,
}

async fn a_lock_has_one_holder_and_fences_rise_from_one_to_the_next(harness: Harness) {
    let [here, there] = locks(&two(&harness).await);
    let mut last = 0;
    for _ in 0..3 {
        for (locks, other) in [(&here, &there), (&there, &here)] {
            let guard = locks.lock("job:7").ttl(TTL).acquire().await.unwrap();
            assert!(guard.fence() > last, "{} after {last}", guard.fence());
            last = guard.fence();
            let refused = other.try_lock("job:7").await.unwrap_err();
            assert!(refused.is_contended(), "{refused}");
            assert_eq!(refused.held_for(), Some(TTL));
            guard.check().unwrap();
            guard.release().await.unwrap();
        }
    }
}

async fn a_repeated_acquisition_says_the_same_again(harness: Harness) {
    let [store, other] = two(&harness).await;
    let first = store.acquire("a", "token", TTL).await.unwrap();
    assert!(matches!(first, Attempt::Acquired { .. }));
    harness.advance(TTL / 2);
    assert_eq!(store.acquire("a", "token", TTL).await.unwrap(), first);
    harness.advance(TTL - Duration::from_micros(1));
    let left = Duration::from_micros(1);
    assert_eq!(other.acquire("a", "other", TTL).await.unwrap(), Attempt::Held { left });
}

async fn an_expired_lock_is_free_and_its_stale_holder_can_do_nothing(harness: Harness) {
    let [here, there] = locks(&two(&harness).await);
    let stale = here.lock("a").ttl(TTL).acquire().await.unwrap();
    let stale_too = here.lock("b").ttl(TTL).acquire().await.unwrap();
    harness.advance(TTL);
    let current = there.lock("a").ttl(TTL).acquire().await.unwrap();
    assert!(current.fence() > stale.fence());

    assert!(stale.renew().await.unwrap_err().is_lost());
    assert!(stale.is_lost() && stale.check().unwrap_err().is_lost());
    assert!(stale.release().await.unwrap_err().is_lost());
    assert!(stale_too.release().await.unwrap_err().is_lost(), "expired, though nobody took it");
    assert!(here.try_lock("a").await.unwrap_err().is_contended());
    current.renew().await.unwrap();
    current.release().await.unwrap();
}

async fn a_dropped_guard_releases(harness: Harness) {
    let backends = two(&harness).await;
    let [here, there] = locks(&backends);
    drop(here.lock("a").ttl(TTL).auto_renew().acquire().await.unwrap());
    settle(&backends).await;
    there.try_lock("a").await.unwrap().release().await.unwrap();
}

async fn a_refused_renewal_is_a_loss(harness: Harness) {
    let backends = two(&harness).await;
    let [here, there] = locks(&backends);
    let ttl = Duration::from_secs(1);
    let guard = here.lock("a").ttl(ttl).auto_renew().acquire().await.unwrap();
    harness.advance(ttl);
    let current = there.lock("a").ttl(HOUR).acquire().await.unwrap();
    guard.lost().await;
    assert!(guard.valid_for().is_zero() && guard.check().unwrap_err().is_lost());
    drop(guard);
    settle(&backends).await;
    current.release().await.unwrap();
}

async fn a_renewed_lock_outlives_its_ttl(harness: Harness) {
    let backends = two(&harness).await;
    let spy = Spy::new(&backends[0]);
    let ttl = Duration::from_millis(1_500);
    let guard = Locks::new(spy.clone()).lock("a").ttl(ttl).auto_renew().acquire().await.unwrap();
    for renewals in 1..=3 {
        eventually("renewals go on", || spy.renewals() >= renewals).await;
        harness.advance(ttl - Duration::from_millis(1));
    }
    let refused = locks(&backends)[1].try_lock("a").await.unwrap_err();
    assert!(refused.is_contended());
    guard.check().unwrap();
    guard.release().await.unwrap();
}

async fn a_lock_that_was_granted_too_late_is_given_back(harness: Harness) {
    let backends = two(&harness).await;
    let spy = Spy::new(&backends[0]).keep_replies();
    let ttl = Duration::from_millis(20);
    let late = async {
        tokio::time::sleep(ttl).await;
        spy.reply();
    };
    let granted = Locks::new(spy.clone());
    let (acquired, ()) = tokio::join!(granted.lock("a").ttl(ttl).acquire(), late);
    assert!(acquired.unwrap_err().is_lost());
    settle(&backends).await;
    let other = locks(&backends)[1].try_lock("a").await;
    assert!(other.is_ok(), "the store's clock stood still, so only a release frees the lock");
}

async fn names_that_differ_are_different_locks(harness: Harness) {
    let locks = Locks::new(harness.backend.clone());
    let (long, longer) = ("x".repeat(128), "x".repeat(129));
    let names = ["", "job:7", "job:8", "job{7}", "job 7", "#x", "ä", &long, &longer];
    let mut guards = Vec::new();
    for name in names {
        guards.push(locks.lock(name).acquire().await.unwrap_or_else(|error| panic!("{error}")));
        assert!(locks.lock(name).acquire().await.unwrap_err().is_contended(), "{name:?}");
    }
    assert_eq!(guards.iter().map(|guard| guard.name()).collect::<Vec<_>>(), names);
}

async fn a_ttl_out_of_bounds_is_refused_with_the_fix(harness: Harness) {
    for ttl in [Duration::ZERO, Duration::from_millis(9), Duration::MAX] {
        let error =
            Locks::new(harness.backend.clone()).lock("a").ttl(ttl).acquire().await.unwrap_err();
        let store = error.store_error().unwrap();
        assert!(store.is_config() && store.to_string().contains("auto_renew"), "{store}");
    }
}

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
    a_guard_goes_by_the_clock_of_its_store,
    an_operator_sees_who_holds_a_lock_and_may_take_it_away,
    a_lock_that_was_granted_too_late_is_given_back,
    names_that_differ_are_different_locks,
    a_ttl_out_of_bounds_is_refused_with_the_fix,
    a_store_takes_the_longest_ttl_there_is_for_a_day,
    a_guard_that_is_dropped_outside_of_the_runtime_releases,
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
    let guard = here.lock("a").ttl(TTL).auto_renew().acquire().await.unwrap();
    assert!(there.force_release("a").await.unwrap());
    let current = there.lock("a").ttl(HOUR).acquire().await.unwrap();
    assert!(current.fence() > guard.fence());
    guard.check().expect("it does not know yet");
    // The renewal is due, and the TTL far from its end.
    harness.advance(TTL / 2);
    guard.lost().await;
    assert!(guard.valid_for().is_zero() && guard.check().unwrap_err().is_lost());
    drop(guard);
    settle(&backends).await;
    current.release().await.unwrap();
}

async fn a_renewed_lock_outlives_its_ttl(harness: Harness) {
    let backends = two(&harness).await;
    let guard = locks(&backends)[0].lock("a").ttl(TTL).auto_renew().acquire().await.unwrap();
    for _ in 0..4 {
        harness.advance(TTL / 2);
        eventually("it is renewed", || guard.valid_for() > TTL * 9 / 10).await;
    }
    let refused = locks(&backends)[1].try_lock("a").await.unwrap_err();
    assert!(refused.is_contended());
    guard.check().unwrap();
    guard.release().await.unwrap();
}

async fn a_guard_goes_by_the_clock_of_its_store(harness: Harness) {
    let [here, there] = locks(&two(&harness).await);
    let guard = here.lock("a").ttl(TTL).acquire().await.unwrap();
    let certain = TTL * 99 / 100 - Duration::from_millis(2);
    assert_eq!(guard.valid_for(), certain);
    let lost = tokio::spawn(guard.lost());
    harness.advance(certain - Duration::from_micros(1));
    guard.check().unwrap();
    assert_eq!(guard.valid_for(), Duration::from_micros(1));
    assert!(!lost.is_finished());
    harness.advance(Duration::from_micros(1));
    assert!(guard.check().unwrap_err().is_lost());
    lost.await.unwrap();
    assert!(there.try_lock("a").await.unwrap_err().is_contended(), "the holder knows first");
}

async fn a_lock_that_was_granted_too_late_is_given_back(harness: Harness) {
    let backends = two(&harness).await;
    let spy = Spy::new(&backends[0]).keep_replies();
    let late = async {
        eventually("the store has granted it", || spy.acquires() == 1).await;
        harness.advance(TTL - Duration::from_micros(1));
        spy.reply();
    };
    let granted = Locks::new(spy.clone());
    let (acquired, ()) = tokio::join!(granted.lock("a").ttl(TTL).acquire(), late);
    assert!(acquired.unwrap_err().is_lost());
    settle(&backends).await;
    let other = locks(&backends)[1].try_lock("a").await;
    assert!(other.is_ok(), "its TTL has not passed, so only a release frees the lock");
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

async fn a_store_takes_the_longest_ttl_there_is_for_a_day(harness: Harness) {
    let [store, other] = two(&harness).await;
    let day = Duration::from_secs(86_400);
    let first = store.acquire("a", "token", Duration::MAX).await.unwrap();
    assert!(matches!(first, Attempt::Acquired { .. }));
    assert_eq!(other.acquire("a", "other", TTL).await.unwrap(), Attempt::Held { left: day });
    harness.advance(day / 2);
    assert!(store.renew("a", "token", Duration::MAX).await.unwrap());
    assert_eq!(other.acquire("a", "other", TTL).await.unwrap(), Attempt::Held { left: day });
}

async fn a_guard_that_is_dropped_outside_of_the_runtime_releases(harness: Harness) {
    let backends = two(&harness).await;
    let [here, there] = locks(&backends);
    let guard = here.lock("a").ttl(TTL).auto_renew().acquire().await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    settle(&backends).await;
    there.try_lock("a").await.unwrap().release().await.unwrap();
}

async fn an_operator_sees_who_holds_a_lock_and_may_take_it_away(harness: Harness) {
    let [here, there] = locks(&two(&harness).await);
    assert_eq!(there.holder("a").await.unwrap(), None);
    assert!(!there.force_release("a").await.unwrap());

    let owned = here.clone().owner("web-3, process 4711");
    let guard = owned.lock("a").ttl(TTL).acquire().await.unwrap();
    harness.advance(TTL / 2);
    let holder = there.holder("a").await.unwrap().unwrap();
    assert_eq!(holder.owner.as_deref(), Some("web-3, process 4711"));
    assert_eq!((holder.fence, holder.left), (guard.fence(), TTL / 2));
    let nobodys = here.try_lock("b").await.unwrap();
    assert_eq!(there.holder("b").await.unwrap().unwrap().owner, None);
    nobodys.release().await.unwrap();

    assert!(there.force_release("a").await.unwrap());
    assert_eq!(here.holder("a").await.unwrap(), None);
    assert!(!there.force_release("a").await.unwrap());
    let next = there.try_lock("a").await.unwrap();
    assert!(next.fence() > guard.fence());
    assert!(guard.renew().await.unwrap_err().is_lost());
    assert!(guard.release().await.unwrap_err().is_lost());
    next.release().await.expect("the stale holder has not released it");

    drop(here.lock("a").ttl(TTL).acquire().await.unwrap());
    harness.advance(TTL);
    assert_eq!(there.holder("a").await.unwrap(), None);
    assert!(!there.force_release("a").await.unwrap(), "it had expired");
}

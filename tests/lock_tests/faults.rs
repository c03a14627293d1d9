//! What goes wrong between a holder and the store, and what must not come of it.

use super::spy::{HOUR, PATIENCE, Spy, eventually, locks, redis_at, settle, two_live};
use crate::{
    harness::{Harness, PREFIX},
    support::{
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use std::time::{Duration, Instant};
use towerkeep::{Backend, lock::Locks};

on_every_backend! {
    an_acquisition_that_is_dropped_before_its_answer_leaves_no_lock_behind,
}

async fn an_acquisition_that_is_dropped_before_its_answer_leaves_no_lock_behind(harness: Harness) {
    let backends = two_live(&harness).await;
    let spy = Spy::new(&backends[0]).keep_replies();
    let dropped = Locks::new(spy.clone());
    let acquisition = tokio::spawn(async move { dropped.lock("a").ttl(HOUR).acquire().await });
    eventually("the store has granted it", || spy.acquires() == 1).await;
    acquisition.abort();
    assert!(acquisition.await.unwrap_err().is_cancelled());

    let [_, other] = locks(&backends);
    assert!(other.try_lock("a").await.unwrap_err().is_contended(), "granted and held");
    spy.reply();
    settle(&backends).await;
    drop(other.try_lock("a").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_none_the_worse_where_an_acl_forbids_its_hint() {
    let server = RedisServer::start();
    let user = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "resetchannels"];
    server.command(&user);
    let locks = Locks::new(redis_at(&server.url().replace("://", "://app:secret@")).await);
    locks.try_lock("a").await.unwrap().release().await.expect("it is released");
    drop(locks.try_lock("a").await.unwrap());
}

fn lock_keys(server: &RedisServer) -> Vec<String> {
    let mut keys = server.command(&["KEYS", "*"]).texts();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_are_as_documented_and_expire() {
    let server = RedisServer::start();
    let locks = Locks::new(redis_at(&server.url()).await);
    let ttl = Duration::from_secs(30);
    let guard = locks.lock("job:7").ttl(ttl).acquire().await.unwrap();
    let (lock, fence) = (format!("{PREFIX}:lock:{{job:7}}"), format!("{PREFIX}:lock:{{job:7}}:f"));
    assert_eq!(lock_keys(&server), [lock.clone(), fence.clone()]);

    let fields = server.command(&["HGETALL", &lock]).map();
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["d", "f", "t"]);
    assert_eq!(fields["f"], guard.fence().to_string());
    assert_eq!(server.command(&["GET", &fence]).text(), guard.fence().to_string());
    let ttl_of = |key: &str| server.command(&["PTTL", key]).int();
    assert!((1..=31_000).contains(&ttl_of(&lock)));
    assert!((86_000_000..=86_430_000).contains(&ttl_of(&fence)));
    // It outlives a lock that is renewed for days.
    server.command(&["PEXPIRE", &fence, "60000"]);
    guard.renew().await.unwrap();
    assert!((86_000_000..=86_430_000).contains(&ttl_of(&fence)));

    guard.release().await.unwrap();
    assert_eq!(lock_keys(&server), [fence]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_rises_when_its_counter_is_lost_and_when_the_clock_is_set_back() {
    let server = RedisServer::start();
    let locks = Locks::new(redis_at(&server.url()).await);
    let mut last = 0;
    for round in 0..6 {
        let guard = locks.lock("a").acquire().await.unwrap();
        assert!(guard.fence() > last, "{} after {last}", guard.fence());
        last = guard.fence();
        guard.release().await.unwrap();
        if round == 2 {
            server.command(&["FLUSHALL"]);
        }
        if round > 2 {
            // A counter ahead of the clock is what a clock that was set back looks like.
            last += 3_600_000_000;
            server.command(&["SET", &format!("{PREFIX}:lock:{{a}}:f"), &last.to_string()]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquisition_a_renewal_and_a_release_are_one_round_trip_each() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let locks = Locks::new(redis_at(&proxy.url()).await);
    let warm = locks.lock("a").wait(PATIENCE).acquire().await.unwrap();
    warm.renew().await.unwrap();
    locks.holder("a").await.unwrap();
    warm.release().await.unwrap();
    locks.force_release("a").await.unwrap();

    let (guard, turns) = proxy.turns_of(locks.lock("a").wait(PATIENCE).acquire()).await;
    assert_eq!(turns, 1, "to acquire");
    let guard = guard.unwrap();
    assert_eq!(proxy.turns_of(guard.renew()).await.1, 1, "to renew");
    assert_eq!(proxy.turns_of(locks.holder("a")).await.1, 1, "to see who holds it");
    assert_eq!(proxy.turns_of(guard.release()).await.1, 1, "to release");
    assert_eq!(proxy.turns_of(locks.force_release("a")).await.1, 1, "to take it away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquisition_whose_answer_is_lost_fails_and_is_released() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let backend = redis_at(&proxy.url()).await;
    let locks = Locks::new(backend.clone());
    locks.lock("warm").acquire().await.unwrap().release().await.unwrap();

    proxy.plan([(0, Mode::CutReplies), (1, Mode::Pass)]);
    let error = locks.lock("a").ttl(HOUR).acquire().await.unwrap_err();
    assert!(error.store_error().is_some_and(|error| error.is_timeout()), "{error:?}");
    let fence = format!("{PREFIX}:lock:{{a}}:f");
    assert!(lock_keys(&server).contains(&fence), "it was acquired");
    assert_eq!(backend.shutdown(PATIENCE).await, 0);
    assert!(!lock_keys(&server).contains(&format!("{PREFIX}:lock:{{a}}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_server_is_a_timeout() {
    let server = RedisServer::start();
    let deadline = Duration::from_millis(100);
    let backend =
        Backend::builder().prefix(PREFIX).deadline(deadline).redis(server.url()).await.unwrap();
    let locks = Locks::new(backend);
    server.pause();
    let error = locks.lock("a").wait(PATIENCE).acquire().await.unwrap_err();
    assert!(error.store_error().is_some_and(|error| error.is_timeout()), "{error:?}");
    server.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_a_clear_error_and_a_held_lock_ends_at_its_deadline() {
    let server = RedisServer::start();
    let deadline = Duration::from_millis(250);
    let backend =
        Backend::builder().prefix(PREFIX).deadline(deadline).redis(server.url()).await.unwrap();
    let locks = Locks::new(backend).poll(HOUR);
    let ttl = Duration::from_secs(2);
    let guard = locks.lock("a").ttl(ttl).auto_renew().acquire().await.unwrap();
    let waiter = tokio::spawn({
        let acquire = locks.lock("a").wait(PATIENCE);
        async move { acquire.acquire().await }
    });
    eventually("the waiter has subscribed", || {
        !server.command(&["PUBSUB", "CHANNELS"]).texts().is_empty()
    })
    .await;

    server.kill();
    let started = Instant::now();
    for wait in [Duration::ZERO, PATIENCE] {
        let error = locks.lock("b").wait(wait).acquire().await.unwrap_err();
        assert!(error.is_store() && !error.is_contended() && !error.is_timed_out(), "{error}");
        let store = error.store_error().unwrap();
        assert!(store.is_unavailable() || store.is_timeout(), "{store}");
    }
    // Two deadlines, and patience for a busy machine; far from the wait that was asked for.
    assert!(started.elapsed() < deadline * 2 + Duration::from_secs(5));
    assert!(waiter.await.unwrap().unwrap_err().is_store(), "a waiter is told, too");

    guard.lost().await;
    assert!(guard.check().unwrap_err().is_lost());
    assert!(guard.release().await.unwrap_err().is_store());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_survives_a_short_cut_of_the_link() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let spy = Spy::new(&redis_at(&proxy.url()).await);
    let locks = Locks::new(spy.clone());
    let ttl = Duration::from_secs(3);
    let guard = locks.lock("a").ttl(ttl).auto_renew().acquire().await.unwrap();
    proxy.cut();
    eventually("renewals go on over a new link", || spy.renewals() >= 2).await;
    guard.check().unwrap();
    guard.release().await.unwrap();
}

/// The holder's link is gone, and another's is not: the one knows before the other can hold the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_knows_of_its_loss_before_another_holds_the_lock() {
    let server = RedisServer::start();
    let other = Locks::new(redis_at(&server.url()).await);
    for fault in [Mode::BlackHole, Mode::HangUp, Mode::DropReplies] {
        let proxy = FaultProxy::start(server.port());
        let cut_off = Locks::new(redis_at(&proxy.url()).await);
        let ttl = Duration::from_millis(500);
        let first = cut_off.lock("a").ttl(ttl).wait(PATIENCE).auto_renew().acquire().await.unwrap();
        let told = tokio::spawn(first.lost());
        proxy.set(fault);
        let second = other.lock("a").ttl(HOUR).wait(PATIENCE).acquire();
        // Whose replies are lost renews all the same, and holds the lock as long as it does so.
        let second = match fault {
            Mode::DropReplies => {
                first.lost().await;
                drop(first);
                second.await.unwrap()
            }
            _ => {
                let second = second.await.unwrap();
                assert!(first.is_lost(), "{fault:?}: two believed to hold the lock");
                second
            }
        };
        told.await.unwrap();
        second.release().await.unwrap();
    }
}

/// A server that hangs tells nobody anything, and time passes on it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holder_on_a_server_that_hangs_knows_of_its_loss_by_itself() {
    let server = RedisServer::start();
    let locks = Locks::new(redis_at(&server.url()).await);
    let ttl = Duration::from_secs(1);
    let first = locks.lock("a").ttl(ttl).auto_renew().acquire().await.unwrap();
    server.pause();
    first.lost().await;
    assert!(first.check().unwrap_err().is_lost());
    server.resume();
    let second = locks.lock("a").ttl(HOUR).wait(PATIENCE).acquire().await.unwrap();
    assert!(second.fence() > first.fence());
    assert!(first.release().await.unwrap_err().is_lost());
    second.release().await.unwrap();
}

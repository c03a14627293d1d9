//! How a lock is waited for: woken by hints and by expiry, in line, with an end.

use super::spy::{HOUR, PATIENCE, Spy, eventually, locks, settle, two_live};
use crate::harness::Harness;
use std::time::Duration;
use tokio::task::JoinSet;
use towerkeep::{
    Backend,
    lock::{Attempt, Guard, LockStore, Locks},
};

on_every_backend! {
    a_release_wakes_a_waiter,
    a_forced_release_wakes_a_waiter,
    a_waiter_without_hints_polls,
    an_expiry_wakes_a_waiter,
    a_wait_has_an_end,
    those_who_wait_in_one_process_are_served_in_order_and_only_the_first_asks,
    a_crowd_is_sent_away,
    a_waiter_that_gives_up_leaves_no_lock_behind,
}

fn wait(locks: &Locks) -> tokio::task::JoinHandle<Guard> {
    let acquire = locks.lock("a").ttl(HOUR).wait(PATIENCE);
    tokio::spawn(async move { acquire.acquire().await.unwrap() })
}

async fn a_release_wakes_a_waiter(harness: Harness) {
    wakes(harness, async |holder, _| holder.release().await.unwrap()).await;
}

async fn a_forced_release_wakes_a_waiter(harness: Harness) {
    wakes(harness, async |holder, locks| {
        assert!(locks.force_release(holder.name()).await.unwrap());
    })
    .await;
}

/// The poll and the TTL are an hour away: only the hint can wake it.
async fn wakes(harness: Harness, free: impl AsyncFnOnce(Guard, &Locks)) {
    let backends = two_live(&harness).await;
    let holders = &locks(&backends)[0];
    let holder = holders.lock("a").ttl(HOUR).acquire().await.unwrap();
    let spy = Spy::new(&backends[1]);
    let waiter = wait(&Locks::new(spy.clone()).poll(HOUR));
    // Once more for each time that the connection of the hints is made anew, on a busy machine.
    eventually("it asks, subscribes, and asks again", || spy.acquires() >= 2).await;
    let asked = spy.acquires();
    free(holder, holders).await;
    waiter.await.unwrap().release().await.unwrap();
    assert_eq!(spy.acquires(), asked + 1, "the release wakes it once");
}

async fn a_waiter_without_hints_polls(harness: Harness) {
    let backends = two_live(&harness).await;
    let holder = locks(&backends)[0].lock("a").ttl(HOUR).acquire().await.unwrap();
    let spy = Spy::new(&backends[1]).deaf();
    let waiter = wait(&Locks::new(spy.clone()).poll(Duration::from_millis(20)));
    eventually("it polls", || spy.acquires() > 3).await;
    holder.release().await.unwrap();
    drop(waiter.await.unwrap());
}

/// The poll is an hour away, and nobody releases.
async fn an_expiry_wakes_a_waiter(harness: Harness) {
    let backends = two_live(&harness).await;
    let held = backends[0].acquire("a", "vanished", Duration::from_millis(100)).await.unwrap();
    assert!(matches!(held, Attempt::Acquired { .. }));
    drop(wait(&locks(&backends)[1]).await.unwrap());
}

async fn a_wait_has_an_end(harness: Harness) {
    let backends = two_live(&harness).await;
    let [here, there] = locks(&backends);
    let holder = here.lock("a").ttl(HOUR).acquire().await.unwrap();
    for _ in 0..2 {
        let wait = Duration::from_millis(30);
        let error = there.lock("a").wait(wait).acquire().await.unwrap_err();
        assert!(error.is_timed_out() && !error.is_contended(), "{error}");
        assert!(error.held_for().is_some_and(|left| left > HOUR / 2));
    }
    holder.release().await.unwrap();
    drop(there.lock("a").wait(Duration::MAX).acquire().await.unwrap());
}

async fn those_who_wait_in_one_process_are_served_in_order_and_only_the_first_asks(
    harness: Harness,
) {
    let backends = two_live(&harness).await;
    let holder = locks(&backends)[0].lock("a").ttl(HOUR).acquire().await.unwrap();
    let spy = Spy::new(&backends[1]);
    let locks = Locks::new(spy.clone()).poll(HOUR);
    let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
    let (waiters, mut tasks) = (8, JoinSet::new());
    for waiter in 0..waiters {
        let (acquire, order) = (locks.lock("a").ttl(HOUR).wait(PATIENCE), order.clone());
        let mut acquire = Box::pin(acquire.acquire());
        // Polled once here, so that they line up in the order of their numbers.
        assert!(futures_util::poll!(&mut acquire).is_pending());
        tasks.spawn(async move {
            let guard = acquire.await.unwrap();
            order.send(waiter).unwrap();
            guard.release().await.unwrap();
        });
    }
    eventually("the first asks, subscribes, and asks again", || spy.acquires() == 2).await;
    holder.release().await.unwrap();
    for waiter in 0..waiters {
        assert_eq!(served.recv().await, Some(waiter));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    // A release wakes the next one before or after its turn: once or twice for each.
    assert!(spy.acquires() <= 2 + 3 * waiters, "{} questions", spy.acquires());
}

/// Hints that came before a question was sent have their answer by it.
#[tokio::test]
async fn a_waiter_asks_once_for_all_hints_that_came_before() {
    let store = Backend::memory();
    let locks = Locks::new(store.clone());
    let holder = locks.lock("a").ttl(HOUR).acquire().await.unwrap();
    let spy = Spy::new(&store).keep_replies();
    let waiter = wait(&Locks::new(spy.clone()).poll(HOUR));
    eventually("it has asked", || spy.acquires() == 1).await;
    spy.reply();
    eventually("it has subscribed and asked again", || spy.acquires() == 2).await;
    let mut holder = Some(holder);
    for _ in 0..5 {
        holder.take().unwrap().release().await.unwrap();
        holder = Some(locks.lock("a").ttl(HOUR).acquire().await.unwrap());
    }
    spy.reply();
    eventually("the hints wake it", || spy.acquires() == 3).await;
    spy.reply();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(spy.acquires(), 3, "one question is enough for all");
    holder.take().unwrap().release().await.unwrap();
    eventually("the release wakes it", || spy.acquires() == 4).await;
    spy.reply();
    drop(waiter.await.unwrap());
}

async fn a_crowd_is_sent_away(harness: Harness) {
    let backends = two_live(&harness).await;
    let holder = locks(&backends)[0].lock("a").ttl(HOUR).acquire().await.unwrap();
    let locks = locks(&backends)[1].clone().max_waiters(1);
    let mut first = Box::pin(locks.lock("a").wait(PATIENCE).acquire());
    assert!(futures_util::poll!(&mut first).is_pending());
    let error = locks.lock("a").wait(PATIENCE).acquire().await.unwrap_err();
    assert!(error.is_contended() && error.held_for().is_none(), "{error}");
    let other = locks.lock("b").wait(PATIENCE).acquire().await;
    assert!(other.is_ok(), "another lock has another line");
    holder.release().await.unwrap();
    drop(first.await.unwrap());
}

async fn a_waiter_that_gives_up_leaves_no_lock_behind(harness: Harness) {
    let backends = two_live(&harness).await;
    let [here, there] = locks(&backends);
    let holder = here.lock("a").ttl(HOUR).acquire().await.unwrap();
    let spy = Spy::new(&backends[1]);
    let waiter = wait(&Locks::new(spy.clone()).poll(HOUR));
    eventually("it waits", || spy.acquires() == 2).await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    holder.release().await.unwrap();
    settle(&backends).await;
    drop(there.try_lock("a").await.unwrap());
}

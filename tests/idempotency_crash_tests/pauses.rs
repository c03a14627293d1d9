//! A process that is paused (SIGSTOP) until its lease has ended and another has run the request.

use super::site::{Answer, Site, made, pay, pay_aside, replayed, settle, wait_for};
use std::sync::Arc;

/// Pauses a process at a step, lets another run the request, and lets the first go on: it answers its
/// client, and changes nothing.
async fn pause_at(step: &str, refused: &[&str]) {
    let site = Site::open();
    let [paused, other] =
        site.spawn_all([Box::new(|site| site.victim(step, &[])), Box::new(|site| site.app(&[]))]);
    let stale = pay_aside(&paused, "k");
    wait_for(&paused, &format!("AT {step}"));
    paused.pause();
    assert_eq!(settle(&other, "k").await, made("attempt 2"));
    paused.resume();
    let (last, before) = refused.split_last().unwrap();
    before.iter().for_each(|line| drop(wait_for(&paused, line)));
    site.go(step);
    wait_for(&paused, last);
    assert_eq!(stale.await.unwrap(), Some(made("attempt 1")));
    assert_eq!(site.runs("k").len(), 2);
    assert_eq!(pay(&other, "k").await, replayed("attempt 2"), "the stale answer is stored");
    assert_eq!(pay(&paused, "k").await, replayed("attempt 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_paused_before_its_handler_stores_nothing() {
    pause_at("after_begin", &["COMPLETED Ok(Lost)"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_paused_in_its_handler_is_told_of_its_loss_and_stores_nothing() {
    pause_at("during", &["LOST true", "COMPLETED Ok(Lost)"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_paused_before_it_stores_its_answer_stores_nothing() {
    pause_at("before_complete", &["COMPLETED Ok(Lost)"]).await;
}

/// What would be given up is the record of the other, which is at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_paused_and_fails_gives_nothing_up() {
    let site = Site::open();
    let [paused, other] = site.spawn_all([
        Box::new(|site| site.victim("before_abandon", &[("STATUS", "500")])),
        Box::new(|site| site.app(&[("AT", "before_complete")])),
    ]);
    let stale = pay_aside(&paused, "k");
    wait_for(&paused, "AT before_abandon");
    paused.pause();
    let other = Arc::new(other);
    let working = tokio::spawn({
        let other = other.clone();
        async move { settle(&other, "k").await }
    });
    wait_for(&other, "AT before_complete");
    paused.resume();
    site.go("before_abandon");
    wait_for(&paused, "ABANDONED Ok(false)");
    assert_eq!(stale.await.unwrap(), Some(Answer::Made(500, "attempt 1".into())));
    site.go("before_complete");
    assert_eq!(working.await.unwrap(), made("attempt 2"));
    assert_eq!(pay(&other, "k").await, replayed("attempt 2"));
    assert_eq!(site.runs("k").len(), 2);
}

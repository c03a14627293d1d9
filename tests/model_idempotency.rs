//! The steps of an idempotency store in memory, in Redis and in a Cluster: one by one, and random
//! histories against a naive model.
//!
//! `TOWERKEEP_FUZZ_STEPS=200000` makes the histories many, `TOWERKEEP_FUZZ_SEED` makes others.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;
mod idempotency_tests;

use crate::{
    harness::{Harness, PREFIX},
    idempotency_tests::history,
};
use bytes::Bytes;
use std::time::Duration;
use towerkeep::idempotency::{
    Begun, Claim, Completed, Fingerprint, IdempotencyStore, Orphan, Terms,
};

on_every_backend! {
    a_lost_answer_to_any_step_can_be_asked_for_again,
    a_claim_that_was_taken_over_changes_nothing_any_more,
    an_orphan_is_told_apart_from_another_request_and_rejected_if_so_wished,
    the_fence_rises_over_abandoned_and_ended_records_and_over_a_clock_that_stands_still,
    the_fence_rises_when_all_that_was_known_of_the_last_one_is_lost,
    a_record_outlives_its_retention_while_it_is_renewed,
    without_renewal_a_slow_holder_is_run_beside,
    a_watcher_is_told_of_the_end_by_another_process,
    histories_agree_with_a_naive_model,
}

const PRINT: Fingerprint = Fingerprint::new([1; 32]);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn terms() -> Terms {
    Terms::new(MINUTE, HOUR)
}

fn claim(token: &str) -> Claim {
    Claim::new("id", token)
}

async fn acquired(store: &impl IdempotencyStore, claim: &Claim) -> (u64, u32) {
    match store.begin(claim, &PRINT, terms()).await.unwrap() {
        Begun::Acquired { fence, attempts } => (fence, attempts),
        other => panic!("{claim:?} was answered {other:?}"),
    }
}

async fn a_lost_answer_to_any_step_can_be_asked_for_again(harness: Harness) {
    let (ours, theirs) = (claim("ours"), claim("theirs"));
    let first = acquired(&harness.backend, &ours).await;
    harness.advance(MINUTE * 2);
    assert_eq!(acquired(&harness.backend, &ours).await, first, "asked again, it is the same run");
    let busy = harness.begin(&theirs, &PRINT, terms()).await.unwrap();
    assert_eq!(busy, Begun::Busy { left: MINUTE }, "and its lease begins anew");

    for expected in [Completed::Stored, Completed::Already] {
        let outcome = Bytes::from(format!("{expected:?}"));
        assert_eq!(harness.complete(&ours, outcome, terms()).await.unwrap(), expected);
    }
    let replay = harness.begin(&theirs, &PRINT, terms()).await.unwrap();
    assert_eq!(replay, Begun::Replay("Stored".into()), "the first outcome stays");
    assert!(!harness.abandon(&ours).await.unwrap(), "a complete record is not given up");
}

async fn a_claim_that_was_taken_over_changes_nothing_any_more(harness: Harness) {
    let (stale, fresh) = (claim("stale"), claim("fresh"));
    let (old_fence, _) = acquired(&harness.backend, &stale).await;
    harness.advance(MINUTE);
    let (new_fence, attempts) = acquired(&harness.backend, &fresh).await;
    assert_eq!(attempts, 2);
    assert!(new_fence > old_fence);

    assert!(!harness.renew(&stale, terms()).await.unwrap());
    assert!(!harness.abandon(&stale).await.unwrap());
    let late = harness.complete(&stale, "stale".into(), terms()).await.unwrap();
    assert_eq!(late, Completed::Lost);
    assert!(harness.renew(&fresh, terms()).await.unwrap());
    let done = harness.complete(&fresh, "fresh".into(), terms()).await.unwrap();
    assert_eq!(done, Completed::Stored);
    let late = harness.complete(&stale, "stale".into(), terms()).await.unwrap();
    assert_eq!(late, Completed::Lost);
    let replay = harness.begin(&claim("later"), &PRINT, terms()).await.unwrap();
    assert_eq!(replay, Begun::Replay("fresh".into()));
}

async fn an_orphan_is_told_apart_from_another_request_and_rejected_if_so_wished(harness: Harness) {
    acquired(&harness.backend, &claim("crashed")).await;
    harness.advance(MINUTE);
    let other = Fingerprint::new([2; 32]);
    let begin = async |print, on_orphan| {
        harness.begin(&claim("next"), print, terms().on_orphan(on_orphan)).await.unwrap()
    };
    assert_eq!(begin(&other, Orphan::Retry).await, Begun::Mismatch, "the crash forgot the request");
    assert_eq!(begin(&PRINT, Orphan::Reject).await, Begun::Orphan { attempts: 1 });
    assert!(matches!(begin(&PRINT, Orphan::Retry).await, Begun::Acquired { attempts: 2, .. }));
}

async fn the_fence_rises_over_abandoned_and_ended_records_and_over_a_clock_that_stands_still(
    harness: Harness,
) {
    let now_us = || u64::try_from(harness.clock.now().as_micros()).unwrap();
    let mut last = 0;
    for round in 0..3 {
        let ours = claim(&format!("token {round}"));
        let (fence, attempts) = acquired(&harness.backend, &ours).await;
        assert!(fence > last && fence >= now_us(), "{fence} after {last} at {}", now_us());
        assert_eq!(attempts, 1, "an abandoned record was never begun");
        last = fence;
        assert!(harness.abandon(&ours).await.unwrap());
        assert!(!harness.abandon(&ours).await.unwrap());
    }
    harness.advance(HOUR * 3);
    let (fence, _) = acquired(&harness.backend, &claim("much later")).await;
    assert!(fence > last && fence >= now_us());
    assert!(fence < 1 << 53, "a fence is a whole number in every language");
}

async fn the_fence_rises_when_all_that_was_known_of_the_last_one_is_lost(harness: Harness) {
    let backend = harness.live().await;
    let mut last = 0;
    for round in 0..3 {
        let ours = claim(&format!("token {round}"));
        let (fence, _) = acquired(&backend, &ours).await;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        if harness.is_shared() {
            // The counter alone, or the record with it.
            assert!(backend.abandon(&ours).await.unwrap() || round > 0);
            let keys = harness.keys(&format!("{PREFIX}:idempotency:*"));
            assert!(!keys.is_empty());
            keys.iter().for_each(|key| drop(harness.command(&["DEL", key])));
        } else {
            assert!(backend.abandon(&ours).await.unwrap());
        }
    }
}

async fn a_record_outlives_its_retention_while_it_is_renewed(harness: Harness) {
    let ours = claim("ours");
    acquired(&harness.backend, &ours).await;
    for _ in 0..3 {
        harness.advance(HOUR - MINUTE);
        assert!(harness.renew(&ours, terms()).await.unwrap());
    }
    let busy = harness.begin(&claim("theirs"), &PRINT, terms()).await.unwrap();
    assert_eq!(busy, Begun::Busy { left: MINUTE });

    // A lease that is longer than the retention keeps the record as well.
    let long = Terms::new(HOUR * 5, MINUTE);
    assert!(harness.renew(&ours, long).await.unwrap());
    harness.advance(HOUR * 4);
    assert_eq!(harness.complete(&ours, "done".into(), long).await.unwrap(), Completed::Stored);
    harness.advance(MINUTE);
    assert_eq!(acquired(&harness.backend, &claim("after")).await.1, 1, "retention has ended");
}

/// What a lease without renewal allows, so that the tests that see one run only are known to be able
/// to see two.
async fn without_renewal_a_slow_holder_is_run_beside(harness: Harness) {
    let mut effects = 0;
    for token in ["slow", "impatient"] {
        acquired(&harness.backend, &claim(token)).await;
        effects += 1;
        harness.advance(MINUTE * 2);
    }
    assert_eq!(effects, 2);
}

async fn a_watcher_is_told_of_the_end_by_another_process(harness: Harness) {
    let elsewhere = harness.another().await;
    let patience = Duration::from_secs(10);
    for abandons in [true, false] {
        let ours = claim("ours");
        acquired(&harness.backend, &ours).await;
        let mut hints = elsewhere.watch("id").unwrap();
        assert!(hints.ready(patience).await);
        if abandons {
            assert!(harness.abandon(&ours).await.unwrap());
        } else {
            harness.complete(&ours, "done".into(), terms()).await.unwrap();
        }
        let told = tokio::time::timeout(patience, hints.recv()).await;
        assert!(told.is_ok(), "no hint came");
    }
}

async fn histories_agree_with_a_naive_model(harness: Harness) {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let steps = number("TOWERKEEP_FUZZ_STEPS", 2_000);
    history::replay(&harness, steps, number("TOWERKEEP_FUZZ_SEED", 1)).await;
}

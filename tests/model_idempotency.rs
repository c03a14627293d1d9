//! The steps of an idempotency store, over memory and Redis: one by one, and random histories
//! against a naive model.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::harness::Harness;
use bytes::Bytes;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{collections::HashMap, time::Duration};
use towerkeep::idempotency::{
    Begun, Claim, Completed, Fingerprint, IdempotencyStore, Orphan, SMALL_OUTCOME, Terms,
};

on_every_backend! {
    a_lost_answer_to_any_step_can_be_asked_for_again,
    a_claim_that_was_taken_over_changes_nothing_any_more,
    an_orphan_is_told_apart_from_another_request_and_rejected_if_so_wished,
    the_fence_rises_over_abandoned_and_ended_records_and_over_a_clock_that_stands_still,
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

#[derive(Clone, Debug)]
enum Op {
    Begin { id: u8, who: u8, print: u8, terms: Terms },
    Renew { id: u8, who: u8, terms: Terms },
    Complete { id: u8, who: u8, outcome: u8, terms: Terms },
    Abandon { id: u8, who: u8 },
    Advance { half_minutes: u32 },
}

fn histories() -> impl Strategy<Value = Vec<Op>> {
    // Whole minutes, and steps of half ones: the real time that passes in Redis beside the manual
    // one never decides.
    let terms = (1u32..4, 1u32..9, any::<bool>()).prop_map(|(lease, retain, reject)| {
        let on_orphan = if reject { Orphan::Reject } else { Orphan::Retry };
        Terms::new(MINUTE * lease, MINUTE * retain).on_orphan(on_orphan)
    });
    let (id, who) = (0..2u8, 0..3u8);
    let step = prop_oneof![
        4 => (id.clone(), who.clone(), prop_oneof![9 => Just(0), 1 => Just(1u8)], terms.clone())
            .prop_map(|(id, who, print, terms)| Op::Begin { id, who, print, terms }),
        2 => (id.clone(), who.clone(), terms.clone())
            .prop_map(|(id, who, terms)| Op::Renew { id, who, terms }),
        2 => (id.clone(), who.clone(), any::<u8>(), terms)
            .prop_map(|(id, who, outcome, terms)| Op::Complete { id, who, outcome, terms }),
        1 => (id, who).prop_map(|(id, who)| Op::Abandon { id, who }),
        3 => (1..8u32).prop_map(|half_minutes| Op::Advance { half_minutes }),
    ];
    proptest::collection::vec(step, 1..40)
}

#[derive(Debug, PartialEq)]
enum Reply {
    Begun(Begun),
    Flag(bool),
    Completed(Completed),
    Nothing,
}

async fn ask(harness: &Harness, round: usize, op: &Op) -> Reply {
    let claim = |id: &u8, who: &u8| Claim::new(format!("{round}-{id}"), format!("token {who}"));
    match op {
        Op::Begin { id, who, print, terms } => {
            let print = Fingerprint::new([*print; 32]);
            Reply::Begun(harness.begin(&claim(id, who), &print, *terms).await.unwrap())
        }
        Op::Renew { id, who, terms } => {
            Reply::Flag(harness.renew(&claim(id, who), *terms).await.unwrap())
        }
        Op::Complete { id, who, outcome, terms } => {
            let outcome = Bytes::from(vec![*outcome; SMALL_OUTCOME]);
            let completed = harness.complete(&claim(id, who), outcome, *terms).await.unwrap();
            Reply::Completed(completed)
        }
        Op::Abandon { id, who } => Reply::Flag(harness.abandon(&claim(id, who)).await.unwrap()),
        Op::Advance { half_minutes } => {
            harness.advance(MINUTE / 2 * *half_minutes);
            Reply::Nothing
        }
    }
}

/// The records as one would write them down, all times in half minutes from the start.
#[derive(Default)]
struct Model {
    now: u32,
    records: HashMap<u8, Line>,
    /// The last fence, and when it is forgotten.
    fences: HashMap<u8, (u64, u32)>,
}

struct Line {
    holder: u8,
    print: u8,
    fence: u64,
    attempts: u32,
    lease_ends: u32,
    outcome: Option<u8>,
    ends: u32,
}

fn half_minutes(duration: Duration) -> u32 {
    (duration.as_secs() / 30) as u32
}

impl Model {
    fn ask(&mut self, op: &Op, start_us: u64) -> Reply {
        let now = self.now;
        self.records.retain(|_, line| line.ends > now);
        self.fences.retain(|_, (_, ends)| *ends > now);
        match *op {
            Op::Advance { half_minutes } => {
                self.now += half_minutes;
                Reply::Nothing
            }
            Op::Begin { id, who, print, terms } => {
                Reply::Begun(self.begin(id, who, print, terms, start_us))
            }
            Op::Renew { id, who, terms } => Reply::Flag(match self.held(id, who) {
                Some(line) => {
                    line.lease_ends = now + half_minutes(terms.lease);
                    line.ends = now + half_minutes(terms.retain.max(terms.lease));
                    true
                }
                None => false,
            }),
            Op::Complete { id, who, outcome, terms } => {
                if let Some(line) = self.held(id, who) {
                    line.outcome = Some(outcome);
                    line.ends = now + half_minutes(terms.retain);
                    return Reply::Completed(Completed::Stored);
                }
                let mine = self.records.get(&id).is_some_and(|line| line.holder == who);
                Reply::Completed(if mine { Completed::Already } else { Completed::Lost })
            }
            Op::Abandon { id, who } => {
                let held = self.held(id, who).is_some();
                if held {
                    self.records.remove(&id);
                }
                Reply::Flag(held)
            }
        }
    }

    fn held(&mut self, id: u8, who: u8) -> Option<&mut Line> {
        self.records.get_mut(&id).filter(|line| line.holder == who && line.outcome.is_none())
    }

    fn begin(&mut self, id: u8, who: u8, print: u8, terms: Terms, start_us: u64) -> Begun {
        let now = self.now;
        let lease_ends = now + half_minutes(terms.lease);
        let ends = now + half_minutes(terms.retain.max(terms.lease));
        let mut attempts = 0;
        let mut last = self.fences.get(&id).map_or(0, |(fence, _)| *fence);
        if let Some(line) = self.records.get_mut(&id) {
            if line.print != print {
                return Begun::Mismatch;
            }
            if let Some(outcome) = line.outcome {
                return Begun::Replay(vec![outcome; SMALL_OUTCOME].into());
            }
            if line.holder == who {
                (line.lease_ends, line.ends) = (lease_ends, ends);
                return Begun::Acquired { fence: line.fence, attempts: line.attempts };
            }
            if line.lease_ends > now {
                return Begun::Busy { left: MINUTE / 2 * (line.lease_ends - now) };
            }
            if terms.on_orphan == Orphan::Reject {
                return Begun::Orphan { attempts: line.attempts };
            }
            attempts = line.attempts;
            last = last.max(line.fence);
        }
        let fence = (last + 1).max(start_us + u64::from(now) * 30_000_000);
        attempts += 1;
        let line = Line { holder: who, print, fence, attempts, lease_ends, outcome: None, ends };
        self.records.insert(id, line);
        self.fences.insert(id, (fence, now + 2 * (ends - now)));
        Begun::Acquired { fence, attempts }
    }
}

async fn histories_agree_with_a_naive_model(harness: Harness) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    for round in 0..100 {
        let history = histories().new_tree(&mut runner).unwrap().current();
        let start_us = u64::try_from(harness.clock.now().as_micros()).unwrap();
        let mut model = Model::default();
        for (at, op) in history.iter().enumerate() {
            let expected = model.ask(op, start_us);
            let found = ask(&harness, round, op).await;
            assert_eq!(found, expected, "step {at} of {history:#?}");
        }
    }
}

//! Random histories, replayed on a store and on the naive model: every reply has to agree.
//!
//! A reply that was lost is a step that is done twice by the same token; a process that crashed is a
//! token that is not heard of again.

use super::naive::Naive;
use crate::harness::{Harness, PREFIX};
use bytes::Bytes;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use std::time::Duration;
use towerkeep::idempotency::{
    Begun, Claim, Completed, Fingerprint, IdempotencyStore, Orphan, SMALL_OUTCOME, Terms,
};

const HALF_MINUTE: Duration = Duration::from_secs(30);

/// How many records a history is about.
const IDS: u8 = 2;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Begin { id: u8, who: u8, print: u8, terms: Terms },
    Renew { id: u8, who: u8, terms: Terms },
    Complete { id: u8, who: u8, outcome: u8, terms: Terms },
    Abandon { id: u8, who: u8 },
    Advance { half_minutes: u32 },
    SetBack { half_minutes: u32 },
    LoseCounter { id: u8 },
}

#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    Begun(Begun),
    Flag(bool),
    Completed(Completed),
    Nothing,
}

/// Replays about so many steps. A failure names the seed, which repeats it.
pub(crate) async fn replay(harness: &Harness, steps: u64, seed: u64) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let (mut done, mut round) = (0, 0_usize);
    while done < steps {
        let history = histories().new_tree(&mut runner).unwrap().current();
        let start_us = u64::try_from(harness.clock.now().as_micros()).unwrap();
        let mut naive = Naive::new(start_us, !harness.is_shared());
        for (at, op) in history.iter().enumerate() {
            let found = ask(harness, round, op).await;
            let expected = naive.ask(op, &found);
            assert_eq!(found, expected, "seed {seed}, round {round}, step {at} of {history:#?}");
        }
        every_key_has_a_ttl(harness);
        done += history.len() as u64;
        round += 1;
    }
}

fn histories() -> impl Strategy<Value = Vec<Op>> {
    // Whole minutes, and steps of half ones: the real time that passes in Redis beside the manual
    // one never decides.
    let terms = (1u32..4, 1u32..9, any::<bool>()).prop_map(|(lease, retain, reject)| {
        let on_orphan = if reject { Orphan::Reject } else { Orphan::Retry };
        Terms::new(HALF_MINUTE * 2 * lease, HALF_MINUTE * 2 * retain).on_orphan(on_orphan)
    });
    let (id, who) = (0..IDS, 0..3u8);
    let step = prop_oneof![
        8 => (id.clone(), who.clone(), prop_oneof![9 => Just(0), 1 => Just(1u8)], terms.clone())
            .prop_map(|(id, who, print, terms)| Op::Begin { id, who, print, terms }),
        4 => (id.clone(), who.clone(), terms.clone())
            .prop_map(|(id, who, terms)| Op::Renew { id, who, terms }),
        3 => (id.clone(), who.clone(), any::<u8>(), terms)
            .prop_map(|(id, who, outcome, terms)| Op::Complete { id, who, outcome, terms }),
        2 => (id.clone(), who).prop_map(|(id, who)| Op::Abandon { id, who }),
        6 => (1..8u32).prop_map(|half_minutes| Op::Advance { half_minutes }),
        1 => (1..16u32).prop_map(|half_minutes| Op::SetBack { half_minutes }),
        1 => id.prop_map(|id| Op::LoseCounter { id }),
    ];
    // The reply is lost, and the same is sent again.
    let step = (step, 0..4u8).prop_map(|(op, lost)| match op {
        Op::Advance { .. } | Op::SetBack { .. } => vec![op],
        _ if lost == 0 => vec![op.clone(), op],
        _ => vec![op],
    });
    proptest::collection::vec(step, 1..60).prop_map(|steps| steps.concat())
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
            harness.advance(HALF_MINUTE * *half_minutes);
            for id in 0..IDS {
                // In memory, what has ended goes when it is looked at.
                assert!(!harness.abandon(&claim(&id, &u8::MAX)).await.unwrap());
            }
            Reply::Nothing
        }
        Op::SetBack { half_minutes } => {
            harness.clock.set_back(HALF_MINUTE * *half_minutes);
            Reply::Nothing
        }
        Op::LoseCounter { id } => {
            if harness.is_shared() {
                harness.command(&["DEL", &format!("{PREFIX}:idempotency:{{{round}-{id}}}:f")]);
            }
            Reply::Nothing
        }
    }
}

fn every_key_has_a_ttl(harness: &Harness) {
    if harness.is_shared() {
        for key in harness.keys(&format!("{PREFIX}:*")) {
            let ttl = harness.command(&["PTTL", &key]);
            assert_ne!(ttl, crate::support::resp::Value::Int(-1), "{key} stays for ever");
        }
    }
}

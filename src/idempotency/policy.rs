//! What a record says to each step. No I/O and no clock: the scripts are the same rules in Lua.

use crate::idempotency::store::{
    Begun, Claim, Completed, Fingerprint, Look, Orphan, Settled, Standing,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// A record that is there.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) token: Arc<str>,
    pub(crate) fence: u64,
    pub(crate) attempts: u32,
    pub(crate) state: State,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    Pending { deadline_us: u64 },
    Complete { outcome: Bytes },
}

/// What a `begin` does to the record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Nothing; this is the answer.
    Answer(Begun),
    /// The holder asks again, because the first answer was lost: only the deadline moves.
    Again { fence: u64, attempts: u32 },
    /// The claim becomes the holder.
    Take { attempts: u32 },
}

/// `begin`, on the record if there is one.
pub(crate) fn begin(
    record: Option<&Record>,
    claim: &Claim,
    fingerprint: &Fingerprint,
    on_orphan: Orphan,
    now_us: u64,
) -> Begin {
    let Some(record) = record else { return Begin::Take { attempts: 1 } };
    if record.fingerprint != *fingerprint {
        return Begin::Answer(Begun::Mismatch);
    }
    let deadline_us = match &record.state {
        State::Complete { outcome } => return Begin::Answer(Begun::Replay(outcome.clone())),
        State::Pending { deadline_us } => *deadline_us,
    };
    if *record.token == *claim.token() {
        return Begin::Again { fence: record.fence, attempts: record.attempts };
    }
    if deadline_us > now_us {
        let left = Duration::from_micros(deadline_us - now_us);
        return Begin::Answer(Begun::Busy { left });
    }
    match on_orphan {
        Orphan::Reject => Begin::Answer(Begun::Orphan { attempts: record.attempts }),
        Orphan::Retry => Begin::Take { attempts: record.attempts.saturating_add(1) },
    }
}

/// The fence of a new attempt. Above the last one, which is `None` once its counter has ended; above
/// the time as well, so that it still rises after the counter was lost or a replica that lags has
/// become the primary.
pub(crate) fn fence(counter: Option<u64>, record: Option<&Record>, now_us: u64) -> u64 {
    let last = counter.max(record.map(|record| record.fence)).unwrap_or(0);
    now_us.max(last + 1)
}

/// Whether a `renew` or an `abandon` by this claim may change the record.
pub(crate) fn holds(record: Option<&Record>, claim: &Claim) -> bool {
    record.is_some_and(|record| {
        *record.token == *claim.token() && matches!(record.state, State::Pending { .. })
    })
}

/// What a `complete` by this claim comes to.
pub(crate) fn complete(record: Option<&Record>, claim: &Claim) -> Completed {
    match record {
        Some(record) if *record.token == *claim.token() => match record.state {
            State::Pending { .. } => Completed::Stored,
            State::Complete { .. } => Completed::Already,
        },
        _ => Completed::Lost,
    }
}

/// What an operator is shown of a record that is kept for `left` yet, without its outcome. A fence is
/// the time of its attempt, or a little more.
pub(crate) fn look(record: &Record, left: Duration, now_us: u64) -> Look {
    let state = match record.state {
        State::Complete { .. } => Standing::Complete,
        State::Pending { deadline_us } if deadline_us > now_us => {
            Standing::Running { left: Duration::from_micros(deadline_us - now_us) }
        }
        State::Pending { .. } => Standing::Orphan,
    };
    let age = Duration::from_micros(now_us.saturating_sub(record.fence));
    Look::new(state, record.fence, record.attempts, age, left)
}

/// What a `settle` comes to.
pub(crate) fn settle(record: Option<&Record>, now_us: u64) -> Settled {
    match record.map(|record| look(record, Duration::ZERO, now_us).state) {
        None => Settled::Absent,
        Some(Standing::Complete) => Settled::Complete,
        Some(Standing::Running { left }) => Settled::Running { left },
        Some(Standing::Orphan) => Settled::Settled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: Fingerprint = Fingerprint::new([1; 32]);

    fn record(state: State) -> Record {
        Record { fingerprint: PRINT, token: "holder".into(), fence: 7, attempts: 2, state }
    }

    fn begin_at(now_us: u64, token: &str, on_orphan: Orphan) -> Begin {
        let pending = record(State::Pending { deadline_us: 100 });
        begin(Some(&pending), &Claim::new("id", token), &PRINT, on_orphan, now_us)
    }

    #[test]
    fn a_held_record_is_busy_until_its_deadline_and_an_orphan_from_then_on() {
        let busy = Begin::Answer(Begun::Busy { left: Duration::from_micros(1) });
        assert_eq!(begin_at(99, "other", Orphan::Retry), busy);
        assert_eq!(begin_at(100, "other", Orphan::Retry), Begin::Take { attempts: 3 });
        let orphan = Begin::Answer(Begun::Orphan { attempts: 2 });
        assert_eq!(begin_at(100, "other", Orphan::Reject), orphan);
    }

    #[test]
    fn the_holder_may_ask_again_before_and_after_its_deadline() {
        for now_us in [99, 100, 1_000] {
            let again = Begin::Again { fence: 7, attempts: 2 };
            assert_eq!(begin_at(now_us, "holder", Orphan::Reject), again);
        }
    }

    #[test]
    fn another_request_is_a_mismatch_whatever_the_state() {
        let other = Fingerprint::new([2; 32]);
        for state in
            [State::Pending { deadline_us: 100 }, State::Complete { outcome: Bytes::new() }]
        {
            for now_us in [0, 1_000] {
                let step = begin(
                    Some(&record(state.clone())),
                    &Claim::new("id", "holder"),
                    &other,
                    Orphan::Retry,
                    now_us,
                );
                assert_eq!(step, Begin::Answer(Begun::Mismatch));
            }
        }
    }

    #[test]
    fn the_fence_rises_with_the_counter_the_record_and_the_time() {
        let held = record(State::Pending { deadline_us: 0 });
        assert_eq!(fence(None, None, 5), 5);
        assert_eq!(fence(Some(5), None, 5), 6);
        assert_eq!(fence(None, Some(&held), 5), 8);
        assert_eq!(fence(Some(9), Some(&held), 5), 10);
    }

    #[test]
    fn only_the_holder_changes_a_pending_record() {
        let pending = record(State::Pending { deadline_us: 100 });
        let complete_one = record(State::Complete { outcome: Bytes::new() });
        let (holder, other) = (Claim::new("id", "holder"), Claim::new("id", "other"));
        assert!(holds(Some(&pending), &holder));
        assert!(!holds(Some(&pending), &other));
        assert!(!holds(Some(&complete_one), &holder));
        assert!(!holds(None, &holder));
        assert_eq!(complete(Some(&pending), &holder), Completed::Stored);
        assert_eq!(complete(Some(&complete_one), &holder), Completed::Already);
        assert_eq!(complete(Some(&complete_one), &other), Completed::Lost);
        assert_eq!(complete(None, &holder), Completed::Lost);
    }

    #[test]
    fn only_a_record_past_its_deadline_is_an_orphan_that_can_be_settled() {
        let pending = record(State::Pending { deadline_us: 100 });
        let left = Duration::from_micros(1);
        assert_eq!(settle(Some(&pending), 99), Settled::Running { left });
        assert_eq!(settle(Some(&pending), 100), Settled::Settled);
        let complete_one = record(State::Complete { outcome: Bytes::new() });
        assert_eq!(settle(Some(&complete_one), 1_000), Settled::Complete);
        assert_eq!(settle(None, 0), Settled::Absent);
    }

    #[test]
    fn the_age_of_an_attempt_is_told_from_its_fence() {
        let held = record(State::Pending { deadline_us: 100 });
        assert_eq!(look(&held, Duration::ZERO, 20).age, Duration::from_micros(13));
        assert_eq!(look(&held, Duration::ZERO, 5).age, Duration::ZERO, "a clock went back");
    }
}

//! The records as one would write them down, all times in half minutes.

use super::history::{Op, Reply};
use std::{collections::HashMap, time::Duration};
use towerkeep::idempotency::{Begun, Completed, Orphan, SMALL_OUTCOME, Terms};

pub(crate) struct Naive {
    /// What the clock shows, from the start.
    now: i64,
    start_us: u64,
    /// How much time has passed, whatever the clock shows. A server's TTLs go by it.
    passed: i64,
    /// In memory records end by the clock.
    ends_by_clock: bool,
    records: HashMap<u8, Line>,
    /// The last fence, and when it is forgotten.
    fences: HashMap<u8, (u64, i64)>,
    /// The highest fence that was given, and may be known.
    highest: HashMap<u8, u64>,
}

struct Line {
    holder: u8,
    print: u8,
    fence: u64,
    attempts: u32,
    lease_ends: i64,
    outcome: Option<u8>,
    ends: i64,
}

fn half_minutes(duration: Duration) -> i64 {
    (duration.as_secs() / 30) as i64
}

impl Naive {
    pub(crate) fn new(start_us: u64, ends_by_clock: bool) -> Self {
        Self {
            now: 0,
            start_us,
            passed: 0,
            ends_by_clock,
            records: HashMap::new(),
            fences: HashMap::new(),
            highest: HashMap::new(),
        }
    }

    /// What the step has to answer; `found` is what it did.
    pub(crate) fn ask(&mut self, op: &Op, found: &Reply) -> Reply {
        let now = self.now;
        let reply = match *op {
            Op::Advance { half_minutes } => {
                self.now += i64::from(half_minutes);
                self.passed += i64::from(half_minutes);
                Reply::Nothing
            }
            Op::SetBack { half_minutes } => {
                self.now -= i64::from(half_minutes);
                Reply::Nothing
            }
            Op::LoseCounter { id } => {
                self.fences.remove(&id);
                Reply::Nothing
            }
            Op::Begin { id, who, print, terms } => {
                let fence = match found {
                    Reply::Begun(Begun::Acquired { fence, .. }) => *fence,
                    _ => 0,
                };
                Reply::Begun(self.begin(id, who, print, terms, fence))
            }
            Op::Renew { id, who, terms } => {
                let ends = self.ends(terms.retain.max(terms.lease));
                Reply::Flag(match self.held(id, who) {
                    Some(line) => {
                        line.lease_ends = now + half_minutes(terms.lease);
                        line.ends = ends;
                        true
                    }
                    None => false,
                })
            }
            Op::Complete { id, who, outcome, terms } => {
                let ends = self.ends(terms.retain);
                if let Some(line) = self.held(id, who) {
                    line.outcome = Some(outcome);
                    line.ends = ends;
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
        };
        // What has ended stays gone, though the clock goes back later.
        let age = self.age();
        self.records.retain(|_, line| line.ends > age);
        self.fences.retain(|_, (_, ends)| *ends > age);
        reply
    }

    fn age(&self) -> i64 {
        if self.ends_by_clock { self.now } else { self.passed }
    }

    fn ends(&self, life: Duration) -> i64 {
        self.age() + half_minutes(life)
    }

    fn held(&mut self, id: u8, who: u8) -> Option<&mut Line> {
        self.records.get_mut(&id).filter(|line| line.holder == who && line.outcome.is_none())
    }

    fn begin(&mut self, id: u8, who: u8, print: u8, terms: Terms, found: u64) -> Begun {
        let now = self.now;
        let lease_ends = now + half_minutes(terms.lease);
        let life = terms.retain.max(terms.lease);
        let ends = self.ends(life);
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
                let left = Duration::from_secs(30) * (line.lease_ends - now) as u32;
                return Begun::Busy { left };
            }
            if terms.on_orphan == Orphan::Reject {
                return Begun::Orphan { attempts: line.attempts };
            }
            attempts = line.attempts;
            last = last.max(line.fence);
        }
        attempts += 1;
        let fence = self.fence(id, last, found);
        self.records.insert(
            id,
            Line { holder: who, print, fence, attempts, lease_ends, outcome: None, ends },
        );
        self.fences.insert(id, (fence, self.ends(life * 2)));
        Begun::Acquired { fence, attempts }
    }

    /// The fence that has to be given. In memory a counter is forgotten late or early, which does no
    /// harm where the fence rises all the same.
    fn fence(&mut self, id: u8, last: u64, found: u64) -> u64 {
        let now_us = (self.start_us as i64 + self.now * 30_000_000) as u64;
        let least = (last + 1).max(now_us);
        let highest = self.highest.entry(id).or_default();
        let fence = if self.ends_by_clock && found == *highest + 1 { found } else { least };
        // It falls only if the clock is behind the last one and nobody knows that one any more.
        assert!(fence > *highest || (last == 0 && now_us <= *highest), "{fence} after {highest}");
        *highest = fence;
        fence
    }
}

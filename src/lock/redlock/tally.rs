//! What the answers of some nodes come to, without the nodes and without a clock.

use crate::{lock::policy::Attempt, store::StoreError};
use std::time::Duration;

/// How many of `nodes` are a majority.
pub(super) fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// The votes so far.
#[derive(Debug)]
pub(super) struct Tally {
    nodes: usize,
    /// Granted it, or held it for us.
    ayes: usize,
    /// Refused it, or did not hold it for us; for how long they will refuse yet.
    noes: Vec<Duration>,
    failed: usize,
    first_error: Option<StoreError>,
}

impl Tally {
    pub(super) fn new(nodes: usize) -> Self {
        Self { nodes, ayes: 0, noes: Vec::new(), failed: 0, first_error: None }
    }

    pub(super) fn count(&mut self, answer: Result<Attempt, StoreError>) {
        match answer {
            Ok(Attempt::Acquired { .. }) => self.ayes += 1,
            Ok(Attempt::Held { left }) => self.noes.push(left),
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    /// The same of an answer that is yes or no.
    pub(super) fn count_ours(&mut self, answer: Result<bool, StoreError>) {
        self.count(answer.map(|ours| match ours {
            true => Attempt::Acquired { fence: 0 },
            false => Attempt::Held { left: Duration::ZERO },
        }));
    }

    /// More than half said yes.
    pub(super) fn is_won(&self) -> bool {
        self.ayes >= majority(self.nodes)
    }

    /// Whoever has not answered yet cannot change what an attempt comes to.
    pub(super) fn is_decided(&self) -> bool {
        let refused = self.is_lost() && !self.beyond_reach(self.without_answer());
        self.is_won() || refused || self.beyond_reach(self.failed)
    }

    /// So many said no that the others cannot be more than half, whatever those say that failed.
    pub(super) fn is_lost(&self) -> bool {
        self.beyond_reach(self.noes.len())
    }

    /// What the attempt to acquire came to; whoever has not answered has failed.
    pub(super) fn attempt(mut self, within: Duration) -> Result<Attempt, StoreError> {
        if self.is_won() {
            return Ok(Attempt::Acquired { fence: 0 });
        }
        if self.beyond_reach(self.without_answer()) {
            return Err(self.failure(within));
        }
        // Free when so many of those who refused have let go that they make the majority.
        self.noes.sort_unstable();
        let missing = majority(self.nodes) - self.ayes;
        let left = self.noes.get(missing - 1).or(self.noes.last());
        Ok(Attempt::Held { left: left.copied().unwrap_or_default() })
    }

    /// What a renewal or a release came to.
    pub(super) fn ours(self, within: Duration) -> Result<bool, StoreError> {
        match (self.is_won(), self.is_lost()) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(self.failure(within)),
        }
    }

    /// Failed, or has not answered.
    fn without_answer(&self) -> usize {
        self.nodes - self.ayes - self.noes.len()
    }

    fn beyond_reach(&self, against: usize) -> bool {
        against > self.nodes - majority(self.nodes)
    }

    fn failure(self, within: Duration) -> StoreError {
        let Self { nodes, ayes, .. } = self;
        let error = StoreError::unavailable(format!(
            "{ayes} of {nodes} nodes of the lock said yes within {within:?}, and {} are needed; the \
             source says what the first of the others failed with",
            majority(nodes),
        ));
        match self.first_error {
            Some(first) => error.with_source(first),
            None => error.with_source(StoreError::timeout("a node of the lock", within)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Vote {
        Yes,
        No(u64),
        Fails,
        Silent,
    }

    fn votes() -> impl Strategy<Value = Vec<Vote>> {
        let vote = prop_oneof![
            4 => Just(Vote::Yes),
            2 => (0..50u64).prop_map(Vote::No),
            1 => Just(Vote::Fails),
            1 => Just(Vote::Silent),
        ];
        vec(vote, 3..=15)
    }

    fn tally(votes: &[Vote]) -> Tally {
        let mut tally = Tally::new(votes.len());
        for vote in votes {
            match vote {
                Vote::Yes => tally.count(Ok(Attempt::Acquired { fence: 7 })),
                Vote::No(left) => {
                    tally.count(Ok(Attempt::Held { left: Duration::from_millis(*left) }));
                }
                Vote::Fails => tally.count(Err(StoreError::unavailable("down"))),
                Vote::Silent => {}
            }
        }
        tally
    }

    proptest! {
        /// Counted as one would on one's fingers: let time pass until a majority is free.
        #[test]
        fn an_attempt_is_what_a_count_by_hand_says(votes in votes()) {
            let more_than_half = |some: usize| 2 * some > votes.len();
            let free_after = |ms: u64| {
                let free = |vote: &&Vote| match vote {
                    Vote::Yes => true,
                    Vote::No(left) => *left <= ms,
                    Vote::Fails | Vote::Silent => false,
                };
                more_than_half(votes.iter().filter(free).count())
            };
            let granted = votes.iter().filter(|vote| **vote == Vote::Yes).count();
            let attempt = tally(&votes).attempt(Duration::from_millis(5));
            if more_than_half(granted) {
                prop_assert_eq!(attempt.unwrap(), Attempt::Acquired { fence: 0 });
            } else if let Some(ms) = (0..50).find(|ms| free_after(*ms)) {
                let left = Duration::from_millis(ms);
                prop_assert_eq!(attempt.unwrap(), Attempt::Held { left });
            } else {
                prop_assert!(attempt.unwrap_err().is_unavailable());
            }
        }

        /// Those who are silent may say what they will: what is decided is decided.
        #[test]
        fn what_is_decided_stays_so(votes in votes(), rest in votes()) {
            prop_assume!(tally(&votes).is_decided());
            let mut rest = rest.into_iter().cycle();
            let later = votes.iter().map(|vote| match vote {
                Vote::Silent => rest.next().unwrap_or(Vote::Silent),
                told => *told,
            });
            let kind = |votes: &[Vote]| match tally(votes).attempt(Duration::ZERO) {
                Ok(Attempt::Acquired { .. }) => "acquired",
                Ok(Attempt::Held { .. }) => "held",
                Err(_) => "failed",
            };
            prop_assert_eq!(kind(&votes), kind(&later.collect::<Vec<_>>()));
        }

        /// No two can each have more than half, and who is told that it is lost could not be.
        #[test]
        fn two_never_win_and_a_loss_is_certain(votes in votes()) {
            let mirrored = votes.iter().map(|vote| match vote {
                Vote::Yes => Vote::No(0),
                Vote::No(_) => Vote::Yes,
                _ => Vote::Yes,
            });
            let (ours, theirs) = (tally(&votes), tally(&mirrored.collect::<Vec<_>>()));
            prop_assert!(!(ours.is_won() && theirs.is_won()));
            let best = votes.iter().map(|vote| match vote {
                Vote::No(left) => Vote::No(*left),
                _ => Vote::Yes,
            });
            let best = tally(&best.collect::<Vec<_>>());
            prop_assert_eq!(ours.is_lost(), !best.is_won());
            let certain = ours.is_won() || ours.is_lost();
            prop_assert_eq!(ours.ours(Duration::ZERO).is_ok(), certain);
        }
    }

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!([3, 4, 5, 6, 7].map(majority), [2, 3, 3, 4, 4]);
    }

    #[test]
    fn it_is_decided_when_those_who_are_silent_do_not_matter() {
        use Vote::{Fails, No, Silent, Yes};
        assert!(!tally(&[No(1), Fails, Fails, No(1), Silent]).is_decided());
        assert!(tally(&[Fails, Fails, Fails, Silent, Silent]).is_decided());
        assert!(tally(&[No(1), No(1), No(1), Silent, Silent]).is_decided());
        assert!(!tally(&[No(1), No(1), Silent, Silent]).is_decided(), "both may fail yet");
        assert!(!tally(&[No(1), Fails, No(1), Yes, Yes]).is_lost());
        assert!(tally(&[No(1), No(1), No(1), Yes, Yes]).is_lost());
    }

    #[test]
    fn a_failure_says_how_many_were_there_and_why_the_others_were_not() {
        use std::error::Error as _;
        let error = tally(&[Vote::Yes, Vote::Fails, Vote::Fails]).ours(Duration::from_secs(1));
        let error = error.unwrap_err();
        assert!(error.to_string().contains("1 of 3 nodes"), "{error}");
        assert_eq!(error.source().unwrap().to_string(), "down");
    }
}

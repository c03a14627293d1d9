//! The sequence of purges, and what it says of a stored response: the Rust twin of `purge.lua`.
//!
//! Purges are numbered, not timed: times of the same microsecond hide one purge behind another, and a
//! clock that is set back revives what was purged. A response carries the number of the last purge that
//! was known *before* its making was begun, and a purge of one of its tags with a higher number is about
//! it.

use crate::{
    cache::tag::{Purge, Tag, Tags},
    store::StoreError,
};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// So many purged tags are remembered. Those purged longest ago are forgotten, and whatever was made
/// before that counts as purged.
pub(crate) const MAX_PURGED: usize = 10_000;

/// So many tags are purged at a time.
const MAX_AT_ONCE: usize = 1_000;

/// How a tag was purged: what is numbered.
pub(crate) type Mark = (Purge, Tag);

/// What is known of purges.
#[derive(Debug)]
pub(crate) struct Purges {
    numbers: HashMap<Mark, u64>,
    /// The same, the oldest first.
    order: BTreeSet<(u64, Mark)>,
    /// What was made before this one counts as purged: nobody knows any more by which tags.
    floor: u64,
    last: u64,
    limit: usize,
}

impl Default for Purges {
    fn default() -> Self {
        Self::with_limit(MAX_PURGED)
    }
}

/// # Errors
///
/// If there are too many for one purge, which a server does in one go.
pub(crate) fn within_limit(tags: &[Tag]) -> Result<(), StoreError> {
    match tags.len() {
        0..=MAX_AT_ONCE => Ok(()),
        many => Err(StoreError::refused(format!(
            "a purge of {many} tags at a time; purge at most {MAX_AT_ONCE}, or tag them by what they \
             have in common"
        ))),
    }
}

/// What purges say of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    /// It was purged softly, at that time in microseconds.
    Stale {
        since_us: u64,
    },
    Gone,
    /// It was made after a purge that is not known: the sequence has lost its end.
    Lost,
}

impl Purges {
    fn with_limit(limit: usize) -> Self {
        let (numbers, order, floor, last) = <_>::default();
        Self { numbers, order, floor, last, limit }
    }

    /// The number of the last purge that is known, 0 if none is.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Purges these tags. Mirrored by `purge.lua`, which keeps one more number behind each purge.
    pub(crate) fn purge(&mut self, tags: &[Tag], purge: Purge, now_us: u64) {
        let number = now_us.max(self.last + 2);
        tags.iter().for_each(|&tag| self.note((purge, tag), number));
        self.known_to(number);
    }

    /// Takes note of a purge.
    pub(crate) fn note(&mut self, mark: Mark, number: u64) {
        let held = self.numbers.get(&mark).copied().unwrap_or_default();
        if number <= held.max(self.floor) {
            return;
        }
        self.order.remove(&(held, mark));
        self.order.insert((number, mark));
        self.numbers.insert(mark, number);
        if self.numbers.len() > self.limit
            && let Some(&(oldest, _)) = self.order.first()
        {
            self.raise_floor(oldest);
        }
    }

    /// Takes note that all purges up to this one are known.
    pub(crate) fn known_to(&mut self, number: u64) {
        self.last = self.last.max(number);
    }

    /// Takes note that the purges up to this one are forgotten.
    pub(crate) fn raise_floor(&mut self, number: u64) {
        self.floor = self.floor.max(number);
        while let Some(&(oldest, mark)) = self.order.first() {
            if oldest > self.floor {
                return;
            }
            self.order.pop_first();
            self.numbers.remove(&mark);
        }
    }

    /// What they say of a response with these tags that was begun when `seen` was the last of them.
    pub(crate) fn standing(&self, seen: u64, tags: &Tags) -> Standing {
        // Most are newer than all purges: their tags need not be looked at.
        if seen >= self.last {
            return if seen == self.last { Standing::Good } else { Standing::Lost };
        }
        let newest = |purge| {
            let all = tags.iter().chain([Tag::ALL]);
            all.filter_map(|tag| self.numbers.get(&(purge, tag)).copied()).max().unwrap_or_default()
        };
        if newest(Purge::Hard).max(self.floor) > seen {
            return Standing::Gone;
        }
        match newest(Purge::Soft) {
            since_us if since_us > seen => Standing::Stale { since_us },
            _ => Standing::Good,
        }
    }
}

impl Standing {
    /// For how long it has been stale, if that is what it is.
    pub(crate) fn stale_for(self, now_ms: u64) -> Option<Duration> {
        match self {
            Self::Stale { since_us } => {
                Some(Duration::from_millis(now_ms.saturating_sub(since_us / 1_000)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_760_000_000_000_000;

    fn tag(name: &str) -> Tag {
        Tag::named(name).unwrap()
    }

    fn tags(names: &[&str]) -> Tags {
        names.iter().map(|name| tag(name)).collect()
    }

    #[test]
    fn a_purge_is_about_what_was_begun_before_it_and_has_the_tag() {
        let mut purges = Purges::default();
        let before = purges.last();
        purges.purge(&[tag("a")], Purge::Hard, NOW);
        assert_eq!(purges.standing(before, &tags(&["a", "b"])), Standing::Gone);
        assert_eq!(purges.standing(before, &tags(&["b"])), Standing::Good);
        assert_eq!(purges.standing(purges.last(), &tags(&["a"])), Standing::Good);
        purges.purge(&[Tag::ALL], Purge::Hard, NOW);
        assert_eq!(purges.standing(before, &tags(&[])), Standing::Gone);
    }

    #[test]
    fn a_soft_purge_makes_stale_and_never_undoes_a_hard_one() {
        let mut purges = Purges::default();
        purges.purge(&[tag("a")], Purge::Soft, NOW);
        let stale = purges.standing(0, &tags(&["a"]));
        assert_eq!(stale, Standing::Stale { since_us: NOW });
        assert_eq!(stale.stale_for(NOW / 1_000 + 7), Some(Duration::from_millis(7)));
        assert_eq!(stale.stale_for(0), Some(Duration::ZERO), "the clock went back");
        purges.purge(&[tag("a")], Purge::Hard, NOW);
        purges.purge(&[tag("a")], Purge::Soft, NOW);
        assert_eq!(purges.standing(0, &tags(&["a"])), Standing::Gone);
    }

    #[test]
    fn a_clock_that_went_back_does_not_hide_a_purge() {
        let mut purges = Purges::default();
        purges.purge(&[tag("a")], Purge::Hard, NOW);
        let seen = purges.last();
        purges.purge(&[tag("a")], Purge::Hard, NOW - 1_000_000);
        assert_eq!(purges.standing(seen, &tags(&["a"])), Standing::Gone);
    }

    #[test]
    fn what_is_from_a_future_that_is_not_known_is_told_apart() {
        let mut purges = Purges::default();
        assert_eq!(purges.standing(1, &tags(&[])), Standing::Lost);
        purges.purge(&[tag("a")], Purge::Hard, NOW);
        assert_eq!(purges.standing(NOW + 1, &tags(&[])), Standing::Lost);
    }

    #[test]
    fn beyond_the_limit_the_oldest_purge_is_about_everything_before_it() {
        let mut purges = Purges::with_limit(2);
        let mut seen = vec![purges.last()];
        for name in ["a", "b", "c"] {
            purges.purge(&[tag(name)], Purge::Soft, NOW);
            seen.push(purges.last());
        }
        assert_eq!((purges.numbers.len(), purges.order.len()), (2, 2));
        // The purge of "a" is forgotten.
        assert_eq!(purges.standing(seen[0], &tags(&["x"])), Standing::Gone);
        assert_eq!(purges.standing(seen[1], &tags(&["x"])), Standing::Good);
        assert!(matches!(purges.standing(seen[1], &tags(&["b"])), Standing::Stale { .. }));
    }

    /// One step of a history: purge these tags, or begin a response with these.
    #[derive(Clone, Debug)]
    enum Step {
        Purge(Vec<u8>, Purge, i64),
        Begin(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let names = || proptest::collection::vec(0u8..6, 0..3);
        let purge = prop_oneof![Just(Purge::Soft), Just(Purge::Hard)];
        prop_oneof![
            (names(), purge, -50i64..50)
                .prop_map(|(names, purge, by)| Step::Purge(names, purge, by)),
            names().prop_map(Step::Begin),
        ]
    }

    fn some(names: &[u8]) -> Vec<Tag> {
        // The last stands for all.
        let tag = |&name: &u8| if name == 5 { Tag::ALL } else { tag(&name.to_string()) };
        names.iter().map(tag).collect()
    }

    proptest! {
        /// The naive rule: what of a response's tags was purged after it was begun? With a limit, a
        /// response may count as purged that was not, and never the other way round.
        #[test]
        fn histories_agree_with_the_naive_rule(
            steps in proptest::collection::vec(step(), 0..40),
            limit in prop_oneof![Just(3usize), Just(1_000)],
        ) {
            let mut purges = Purges::with_limit(limit);
            let mut now = NOW;
            let mut responses: Vec<(u64, Vec<u8>, Standing)> = Vec::new();
            for step in steps {
                match step {
                    Step::Begin(names) => {
                        responses.push((purges.last(), names, Standing::Good));
                    }
                    Step::Purge(names, purge, by) => {
                        now = now.saturating_add_signed(by);
                        purges.purge(&some(&names), purge, now);
                        let since_us = purges.last();
                        for (_, held, standing) in &mut responses {
                            let hit = names.iter().any(|name| *name == 5 || held.contains(name));
                            *standing = match (hit, purge, *standing) {
                                (false, _, before) | (_, Purge::Soft, before @ Standing::Gone) => before,
                                (true, Purge::Hard, _) => Standing::Gone,
                                (true, Purge::Soft, _) => Standing::Stale { since_us },
                            };
                        }
                    }
                }
                prop_assert!(purges.numbers.len() <= limit && purges.order.len() == purges.numbers.len());
            }
            for (seen, names, expected) in responses {
                let held: Tags = some(&names).into_iter().filter(|tag| *tag != Tag::ALL).collect();
                let told = purges.standing(seen, &held);
                prop_assert!(
                    told == expected || (limit == 3 && told == Standing::Gone),
                    "{told:?}, not {expected:?}"
                );
            }
        }
    }
}

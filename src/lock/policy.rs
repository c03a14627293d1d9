//! What becomes of a lock, without a store and without a clock: the twin of the scripts.

use crate::{key::digest, store::StoreError, token::token};
use std::{ops::RangeInclusive, time::Duration};

/// Shortest TTL: below it, what is subtracted for drift would leave next to nothing.
pub(super) const MIN_TTL: Duration = Duration::from_millis(10);

/// Longest TTL. What takes longer renews; a lock whose holder died is not stuck for days.
pub(super) const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest wait.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a waiter looks by itself, unless told otherwise.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// How often a waiter may be told to look by itself.
pub(super) const MIN_POLL: Duration = Duration::from_millis(10);

/// A waiter looks this much after the holder's end, so that it does not come a moment too early, and
/// never looks in a tight loop.
const MARGIN: Duration = Duration::from_millis(2);

/// Longest name that stands in a key as it is.
const MAX_READABLE: usize = 128;

/// First pause of a waiter that asks several stores; it doubles.
const FIRST_BACKOFF: Duration = MIN_POLL;

/// How many stores may vote on a lock.
const NODES: RangeInclusive<usize> = 3..=15;

/// The bounds of what a verb waits for a node, unless told.
const NODE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(5)..=Duration::from_millis(250);

/// Longest description of an owner, in bytes.
const MAX_OWNER: usize = 128;

/// What separates the random part of a token from the owner.
const OWNER: char = '@';

/// What an attempt to take a lock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempt {
    /// It is ours, with this fencing token.
    Acquired {
        /// Higher than that of every earlier holder.
        fence: u64,
    },
    /// Another holds it.
    Held {
        /// How long yet, if nobody renews or releases it.
        left: Duration,
    },
}

/// Who holds a lock, as an operator may see it: not the token, with which it could be released.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// What the holder's [`Locks::owner`](crate::lock::Locks::owner) says, if it was told.
    pub owner: Option<String>,
    /// Its fencing token.
    pub fence: u64,
    /// How long it holds the lock yet, if it neither renews nor releases it.
    pub left: Duration,
}

impl Holder {
    /// Of a lock that `token` holds.
    pub(super) fn new(token: &str, fence: u64, left_us: u64) -> Self {
        let owner = token.split_once(OWNER).map(|(_, owner)| owner.to_owned());
        Self { owner, fence, left: Duration::from_micros(left_us) }
    }
}

/// A token that nobody guesses, with the owner behind it.
pub(super) fn token_of(owner: Option<&str>) -> String {
    let random = token();
    match owner {
        Some(owner) => format!("{random}{OWNER}{owner}"),
        None => random,
    }
}

/// As much of a description as is kept.
pub(super) fn owner(description: &str) -> &str {
    let fits = |end: &usize| description.is_char_boundary(*end);
    let end = (0..=MAX_OWNER.min(description.len())).rev().find(fits);
    &description[..end.unwrap_or_default()]
}

/// What is known of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// The fence given out last, zero if none.
    fence: u64,
    holder: Option<Hold>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    token: Box<str>,
    deadline_us: u64,
}

impl Record {
    /// Takes a lock that nobody holds. Asked again by its holder, whose reply was lost, it says the
    /// same again and counts the TTL anew.
    pub(super) fn acquire(&mut self, token: &str, ttl_us: u64, now_us: u64) -> Attempt {
        match self.holder(now_us) {
            Some(holder) if &*holder.token != token => {
                return Attempt::Held { left: Duration::from_micros(holder.deadline_us - now_us) };
            }
            Some(_) => {}
            // Higher than the last one, and higher than the time: so it rises even if the last one
            // is forgotten.
            None => self.fence = (self.fence + 1).max(now_us),
        }
        self.holder = Some(Hold { token: token.into(), deadline_us: now_us + ttl_us });
        Attempt::Acquired { fence: self.fence }
    }

    /// Counts the TTL anew; `false` if the token does not hold the lock.
    pub(super) fn renew(&mut self, token: &str, ttl_us: u64, now_us: u64) -> bool {
        match self.holder(now_us) {
            Some(holder) if &*holder.token == token => {
                holder.deadline_us = now_us + ttl_us;
                true
            }
            _ => false,
        }
    }

    /// Gives the lock up; `false` if the token does not hold it.
    pub(super) fn release(&mut self, token: &str, now_us: u64) -> bool {
        let ours = self.holder(now_us).is_some_and(|holder| &*holder.token == token);
        if ours {
            self.holder = None;
        }
        ours
    }

    /// Who holds it.
    pub(super) fn held_by(&mut self, now_us: u64) -> Option<Holder> {
        let fence = self.fence;
        self.holder(now_us).map(|hold| Holder::new(&hold.token, fence, hold.deadline_us - now_us))
    }

    /// Takes the lock from whoever holds it; `false` if nobody does.
    pub(super) fn force_release(&mut self, now_us: u64) -> bool {
        let held = self.holder(now_us).is_some();
        if held {
            self.holder = None;
        }
        held
    }

    /// From when on the record says no more than an empty one: nobody holds the lock, and the time
    /// alone gives a higher fence. Only for a clock that never goes back.
    pub(super) fn forgettable_us(&self) -> u64 {
        let held_until = self.holder.as_ref().map_or(0, |holder| holder.deadline_us);
        held_until.max(self.fence + 1)
    }

    /// Whoever holds it; past the deadline nobody does.
    fn holder(&mut self, now_us: u64) -> Option<&mut Hold> {
        self.holder.as_mut().filter(|holder| holder.deadline_us > now_us)
    }
}

/// The TTL as stores count it: in whole milliseconds. It is cut, not rounded, and the holder goes by
/// the cut one too.
pub(super) fn whole_ttl(ttl: Duration) -> Result<Duration, StoreError> {
    if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Err(StoreError::config(format!(
            "a lock's TTL of {ttl:?} is not between {MIN_TTL:?} and {MAX_TTL:?}; for work of \
             unknown length choose what a crash may cost, such as 30 s, and auto_renew()"
        )));
    }
    Ok(Duration::from_millis(ttl.as_millis() as u64))
}

/// Refuses a minimum validity that no acquisition can have.
pub(super) fn attainable(asked: Option<Duration>, certain: Duration) -> Result<(), StoreError> {
    match asked.filter(|least| *least >= certain) {
        None => Ok(()),
        Some(least) => Err(StoreError::config(format!(
            "a lock of which no more than {certain:?} are certain never has min_validity({least:?}); \
             choose a longer ttl() or less of it, such as half"
        ))),
    }
}

/// What stands for a name in the store: the name itself if it is short and legal in a key, else a
/// digest of it, behind a character that no legal name has.
pub(super) fn id(name: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@=+,".contains(&byte);
    if !name.is_empty() && name.len() <= MAX_READABLE && name.bytes().all(legal) {
        name.to_owned()
    } else {
        format!("#{}", digest([name.as_bytes()]))
    }
}

/// How long a waiter sleeps if no hint wakes it: until the holder's TTL has passed, at most `poll`.
/// `jitter` draws from `0..=max` and comes on top of the one or off the other, so that those who
/// wait in several processes do not all look at the same moment.
pub(super) fn pause(left: Duration, poll: Duration, jitter: impl Fn(u64) -> u64) -> Duration {
    let draw = |max: Duration| Duration::from_micros(jitter(max.as_micros() as u64));
    let expiry = left + MARGIN;
    if expiry < poll { expiry + draw(expiry / 10) } else { poll - draw(poll / 2) }
}

/// What a waiter knows when it has asked in vain.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How long the lock is held yet.
    pub(super) left: Duration,
    pub(super) poll: Duration,
    /// How often it has asked.
    pub(super) attempts: u32,
}

/// How long one that asks several stores sleeps: they have no hint to give that holds for all, and two
/// that ask at the same time may each get some of them. It doubles up to `poll`, less what `jitter`
/// draws of its half.
pub(super) fn backoff(attempts: u32, poll: Duration, jitter: impl Fn(u64) -> u64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << attempts.min(16).saturating_sub(1));
    let pause = doubled.min(poll);
    pause - Duration::from_micros(jitter(pause.as_micros() as u64 / 2))
}

/// How long a verb waits for a node, `asked` or not.
pub(super) fn node_timeout(asked: Option<Duration>, ttl: Duration) -> Duration {
    let usual = (ttl / 10).clamp(*NODE_TIMEOUT.start(), *NODE_TIMEOUT.end());
    asked.unwrap_or(usual).min(ttl / 4)
}

/// Refuses a number of nodes that makes no sense.
pub(super) fn node_count(nodes: usize) -> Result<(), StoreError> {
    if NODES.contains(&nodes) {
        return Ok(());
    }
    Err(StoreError::config(format!(
        "a lock by majority has 3 to 15 nodes, not {nodes}: with fewer, no majority is left when one \
         fails; use Locks over one store, or 5 nodes to tolerate two that fail"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = 1_000;
    const NOW: u64 = 1_760_000_000_000_123;

    fn fence(attempt: Attempt) -> u64 {
        match attempt {
            Attempt::Acquired { fence } => fence,
            Attempt::Held { left } => panic!("held for {left:?}"),
        }
    }

    #[test]
    fn a_lock_is_held_until_its_deadline_and_not_at_it() {
        let mut record = Record::default();
        record.acquire("a", TTL, NOW);
        let left = Duration::from_micros(1);
        assert_eq!(record.acquire("b", TTL, NOW + TTL - 1), Attempt::Held { left });
        assert!(!record.renew("a", TTL, NOW + TTL));
        assert!(!record.release("a", NOW + TTL));
        fence(record.acquire("b", TTL, NOW + TTL));
    }

    #[test]
    fn only_the_holder_renews_and_releases() {
        let mut record = Record::default();
        record.acquire("a", TTL, NOW);
        assert!(!record.renew("b", TTL, NOW) && !record.release("b", NOW));
        assert!(record.renew("a", TTL, NOW + 900));
        let left = Duration::from_micros(1_000);
        assert_eq!(record.acquire("b", TTL, NOW + 900), Attempt::Held { left });
        assert!(record.release("a", NOW + 900));
        assert!(!record.release("a", NOW + 900));
    }

    #[test]
    fn an_acquisition_whose_reply_was_lost_is_told_again() {
        let mut record = Record::default();
        let first = record.acquire("a", TTL, NOW);
        assert_eq!(record.acquire("a", TTL, NOW + 10), first);
        assert!(matches!(record.acquire("b", TTL, NOW + TTL + 9), Attempt::Held { .. }));
    }

    #[test]
    fn the_fence_rises_in_one_moment_and_when_the_clock_goes_back_or_the_counter_is_lost() {
        let mut record = Record::default();
        let first = fence(record.acquire("a", TTL, NOW));
        assert_eq!(first, NOW);
        record.release("a", NOW);
        let second = fence(record.acquire("b", TTL, NOW));
        record.release("b", NOW);
        let third = fence(record.acquire("c", TTL, NOW - 500));
        assert!(first < second && second < third);
        assert!(fence(Record::default().acquire("d", TTL, NOW + 1_000)) > third);
    }

    #[test]
    fn a_record_is_kept_for_as_long_as_it_says_anything() {
        let mut record = Record::default();
        record.acquire("a", TTL, NOW);
        assert_eq!(record.forgettable_us(), NOW + TTL);
        record.release("a", NOW);
        let later = record.forgettable_us();
        let (kept, forgotten) =
            (record.acquire("b", TTL, later), { Record::default().acquire("b", TTL, later) });
        assert_eq!(kept, forgotten);
    }

    #[test]
    fn a_readable_name_stays_and_any_other_is_hashed_out_of_its_way() {
        assert_eq!(id("job:7"), "job:7");
        let longest = "x".repeat(128);
        assert_eq!(id(&longest), longest);
        for odd in ["", "a{b}c", "a b", "ü", "#x", &"x".repeat(129)] {
            let id = id(odd);
            assert!(id.starts_with('#') && id.len() == 23, "{odd:?}: {id}");
        }
        assert_ne!(id("a b"), id("a  b"));
    }

    #[test]
    fn a_ttl_is_cut_to_whole_milliseconds_and_refused_beyond_its_bounds() {
        assert_eq!(whole_ttl(Duration::from_micros(30_999)).unwrap(), Duration::from_millis(30));
        for bad in [Duration::ZERO, Duration::from_millis(9), MAX_TTL + Duration::from_nanos(1)] {
            let error = whole_ttl(bad).unwrap_err();
            assert!(error.is_config() && error.to_string().contains("auto_renew"), "{error}");
        }
    }

    #[test]
    fn a_waiter_never_spins_and_never_sleeps_long_past_its_poll() {
        let (least, most) = (|_| 0, |max| max);
        let ms = Duration::from_millis;
        for left in [ms(0), ms(30), ms(999), ms(3_600_000)] {
            for jitter in [least as fn(u64) -> u64, most] {
                let pause = pause(left, POLL, jitter);
                assert!(pause >= MARGIN && pause <= POLL * 11 / 10, "{left:?}: {pause:?}");
            }
        }
        assert_eq!(pause(ms(30), POLL, least), ms(32));
        assert_eq!(pause(ms(9_000), POLL, least), POLL);
        assert_eq!(pause(ms(9_000), POLL, most), POLL / 2);
        assert_eq!(pause(ms(9_000), ms(10), most), ms(5));
    }

    #[test]
    fn a_backoff_doubles_up_to_the_poll_and_keeps_half_of_it_at_least() {
        let (least, most) = (|max| max, |_| 0);
        let ms = Duration::from_millis;
        let poll = ms(250);
        assert_eq!(
            [1, 2, 5, 6, 99].map(|at| backoff(at, poll, most)),
            [10, 20, 160, 250, 250].map(ms)
        );
        assert_eq!([1, 2, 99].map(|at| backoff(at, poll, least)), [5, 10, 125].map(ms));
    }

    #[test]
    fn a_node_is_waited_for_far_shorter_than_the_ttl() {
        let ms = Duration::from_millis;
        assert_eq!(node_timeout(None, ms(30_000)), ms(250));
        assert_eq!(node_timeout(None, ms(1_000)), ms(100));
        assert_eq!(node_timeout(None, ms(30)), ms(5));
        assert_eq!(node_timeout(None, ms(10)), Duration::from_micros(2_500));
        assert_eq!(node_timeout(Some(ms(900)), ms(1_000)), ms(250));
        assert_eq!(node_timeout(Some(ms(1)), ms(1_000)), ms(1));
    }

    #[test]
    fn three_to_fifteen_may_vote() {
        let refused = |nodes: &usize| node_count(*nodes).is_err();
        assert_eq!((0..=17).filter(refused).collect::<Vec<_>>(), [0, 1, 2, 16, 17]);
        assert!(node_count(2).unwrap_err().is_config());
    }

    #[test]
    fn an_operator_sees_the_owner_and_not_the_token() {
        let token = token_of(Some("web-3@eu"));
        let holder = Holder::new(&token, 7, 1_000);
        assert_eq!(holder.owner.as_deref(), Some("web-3@eu"));
        assert!(!format!("{holder:?}").contains(&token[..22]));
        assert_eq!(Holder::new(&token_of(None), 7, 1_000).owner, None);
        assert_eq!(owner(&"ü".repeat(65)).len(), 128);
        assert_eq!(owner(&format!("x{}", "ü".repeat(65))).len(), 127);
    }
}

//! What may be asked for: names, TTLs, nodes.

use crate::{key::digest, store::StoreError};
use std::{ops::RangeInclusive, time::Duration};

/// Shortest TTL: below it, what is subtracted for drift would leave next to nothing.
const MIN_TTL: Duration = Duration::from_millis(10);

/// Longest TTL. What takes longer renews; a lock whose holder died is not stuck for days.
pub(super) const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest wait.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest name that stands in a key as it is.
const MAX_READABLE: usize = 128;

/// How many stores may vote on a lock.
const NODES: RangeInclusive<usize> = 3..=15;

/// The bounds of what a verb waits for a node, unless told.
const NODE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(5)..=Duration::from_millis(250);

/// Nobody answers in less.
const MIN_NODE_TIMEOUT: Duration = Duration::from_millis(1);

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

/// A TTL that a store was asked for past [`whole_ttl`], as it counts it.
pub(super) fn at_most(ttl: Duration) -> Duration {
    ttl.min(MAX_TTL)
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

/// How long a verb waits for a node, `asked` or not.
pub(super) fn node_timeout(asked: Option<Duration>, ttl: Duration) -> Duration {
    let usual = (ttl / 10).clamp(*NODE_TIMEOUT.start(), *NODE_TIMEOUT.end());
    asked.unwrap_or(usual).clamp(MIN_NODE_TIMEOUT, ttl / 4)
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
    fn a_node_is_waited_for_far_shorter_than_the_ttl() {
        let ms = Duration::from_millis;
        assert_eq!(node_timeout(None, ms(30_000)), ms(250));
        assert_eq!(node_timeout(None, ms(1_000)), ms(100));
        assert_eq!(node_timeout(None, ms(30)), ms(5));
        assert_eq!(node_timeout(None, ms(10)), Duration::from_micros(2_500));
        assert_eq!(node_timeout(Some(ms(900)), ms(1_000)), ms(250));
        assert_eq!(node_timeout(Some(ms(1)), ms(1_000)), ms(1));
        assert_eq!(node_timeout(Some(ms(0)), ms(1_000)), ms(1), "nobody answers in no time");
    }

    #[test]
    fn three_to_fifteen_may_vote() {
        let refused = |nodes: &usize| node_count(*nodes).is_err();
        assert_eq!((0..=17).filter(refused).collect::<Vec<_>>(), [0, 1, 2, 16, 17]);
        assert!(node_count(2).unwrap_err().is_config());
    }
}

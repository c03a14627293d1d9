//! How long a waiter sleeps before it asks again.

use std::time::Duration;

/// How often a waiter looks by itself, unless told otherwise.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// How often a waiter may be told to look by itself.
pub(super) const MIN_POLL: Duration = Duration::from_millis(10);

/// A waiter looks this much after the holder's end, so that it does not come a moment too early, and
/// never looks in a tight loop.
const MARGIN: Duration = Duration::from_millis(2);

/// First pause of a waiter that asks several stores; it doubles.
const FIRST_BACKOFF: Duration = MIN_POLL;

/// How long a waiter sleeps if no hint wakes it: until the holder's TTL has passed, at most `poll`.
/// `jitter` draws from `0..=max` and comes on top of the one or off the other, so that those who
/// wait in several processes do not all look at the same moment.
pub(super) fn pause(left: Duration, poll: Duration, jitter: impl Fn(u64) -> u64) -> Duration {
    let draw = |max: Duration| Duration::from_micros(jitter(max.as_micros() as u64));
    let expiry = left.saturating_add(MARGIN);
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

/// How long one that asks several stores sleeps if no hint wakes it: not all of them need to give hints,
/// and two that ask at the same time may each get some of them. It doubles up to `poll`, less what
/// `jitter` draws of its half.
pub(super) fn backoff(attempts: u32, poll: Duration, jitter: impl Fn(u64) -> u64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << attempts.min(16).saturating_sub(1));
    let pause = doubled.min(poll);
    pause - Duration::from_micros(jitter(pause.as_micros() as u64 / 2))
}

/// What one that asks several stores waits after a hint, which others get at the same moment.
pub(super) fn stagger(jitter: impl Fn(u64) -> u64) -> Duration {
    Duration::from_micros(jitter(FIRST_BACKOFF.as_micros() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::limits::MAX_WAIT;

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
        assert_eq!(pause(Duration::MAX, MAX_WAIT, least), MAX_WAIT);
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
}

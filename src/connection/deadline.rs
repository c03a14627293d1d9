//! When something is given up that may take so long.

use std::time::{Duration, Instant};

/// Nobody waits for longer, and a moment that is further away may have no name.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// The end of a limit that begins now. One of more than a day is one of a day.
pub(crate) fn end_of(limit: Duration) -> Instant {
    Instant::now() + limit.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_ends_in_its_time_and_the_longest_is_no_overflow() {
        let hour = Duration::from_secs(3_600);
        let (before, end, after) = (Instant::now(), end_of(hour), Instant::now());
        assert!((before + hour..=after + hour).contains(&end));
        assert!(end_of(Duration::MAX) <= Instant::now() + LONGEST);
    }
}

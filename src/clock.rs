//! The time that the in-memory stores decide by: the system's, or one that a test moves.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Notify;

/// Where a backend takes the time from.
///
/// [`Clock::system`] is the default: the wall clock as it was when the process first asked, moved on
/// by a monotonic clock, so it never jumps back. A Redis backend under it decides by the server's
/// own `TIME`. [`Clock::manual`] stands still until [`advance`](Clock::advance) is called; both
/// backends then decide by it, which is for tests only.
///
/// ```
/// use std::time::Duration;
/// use towerkeep::Clock;
///
/// let clock = Clock::manual();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now() - before, Duration::from_secs(60));
/// ```
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<Hands>),
}

/// What a test moves.
struct Hands {
    now_us: AtomicU64,
    moved: Notify,
}

impl Clock {
    /// The system's clock. The default.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that starts at the present and moves only by [`advance`](Clock::advance). Clones
    /// share the same time.
    #[must_use]
    pub fn manual() -> Self {
        let now_us = AtomicU64::new(system_us());
        Self(Source::Manual(Arc::new(Hands { now_us, moved: Notify::new() })))
    }

    /// Moves a manual clock forward.
    ///
    /// # Panics
    ///
    /// On the system's clock, which nobody moves.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Source::System => panic!("the system clock cannot be advanced; use Clock::manual()"),
            Source::Manual(hands) => {
                hands.now_us.fetch_add(by.as_micros() as u64, SeqCst);
                hands.moved.notify_waiters();
            }
        }
    }

    /// Moves a manual clock back, as a server's clock is that is set: for tests of what happens then.
    ///
    /// # Panics
    ///
    /// On the system's clock, which nobody moves.
    pub fn set_back(&self, by: Duration) {
        match &self.0 {
            Source::System => panic!("the system clock cannot be set back; use Clock::manual()"),
            Source::Manual(hands) => hands.now_us.fetch_sub(by.as_micros() as u64, SeqCst),
        };
    }

    /// The time since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now_us())
    }

    pub(crate) fn now_us(&self) -> u64 {
        match &self.0 {
            Source::System => system_us(),
            Source::Manual(hands) => hands.now_us.load(SeqCst),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    /// What a script is told instead of asking its server for the time; nothing in production.
    pub(crate) fn override_us(&self) -> Option<u64> {
        match &self.0 {
            Source::System => None,
            Source::Manual(hands) => Some(hands.now_us.load(SeqCst)),
        }
    }

    /// Waits until a test has moved it there. The system's clock has timers.
    pub(crate) async fn moved_to(&self, when_us: u64) {
        let Source::Manual(hands) = &self.0 else { return };
        loop {
            let mut moved = pin!(hands.moved.notified());
            // From here on no move is missed.
            moved.as_mut().enable();
            if hands.now_us.load(SeqCst) >= when_us {
                return;
            }
            moved.await;
        }
    }
}

fn system_us() -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (start, epoch_us) = START.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), since_epoch.as_micros() as u64)
    });
    epoch_us + start.elapsed().as_micros() as u64
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System => f.write_str("Clock::system()"),
            Source::Manual(hands) => {
                write!(f, "Clock::manual() at {} µs", hands.now_us.load(SeqCst))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_move_together() {
        let clock = Clock::manual();
        let start = clock.now_us();
        clock.clone().advance(Duration::from_millis(3));
        assert_eq!(clock.now_us(), start + 3_000);
        assert_eq!(clock.override_us(), Some(start + 3_000));
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_whom_it_has_reached() {
        let clock = Clock::manual();
        let then = clock.now_us() + 3_000;
        let mut waits = tokio_test::task::spawn(clock.moved_to(then));
        tokio_test::assert_pending!(waits.poll());
        clock.advance(Duration::from_micros(2_999));
        tokio_test::assert_pending!(waits.poll());
        clock.advance(Duration::from_micros(1));
        tokio_test::assert_ready!(waits.poll());
        clock.moved_to(then).await;
    }

    #[test]
    fn the_system_clock_is_not_an_override_and_never_goes_back() {
        let clock = Clock::system();
        assert_eq!(clock.override_us(), None);
        let times: Vec<u64> = (0..1_000).map(|_| clock.now_us()).collect();
        assert!(times.is_sorted());
    }
}

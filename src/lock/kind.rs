//! What tells a lock of one store from one of a majority of stores, in types.

use crate::lock::pause::{self, Retry};
use std::{fmt, time::Duration};

/// A lock with a fencing token: one store counts them.
#[derive(Clone, Copy)]
pub struct Fenced(pub(super) u64);

/// A lock without a fencing token: no store of a [`Redlock`](crate::lock::Redlock) knows what the
/// others have counted.
#[derive(Clone, Copy)]
pub struct Unfenced(());

/// [`Fenced`] or [`Unfenced`].
pub trait Kind: Send + Sync + 'static {
    #[doc(hidden)]
    fn of(fence: u64) -> Self;

    /// How long a waiter sleeps before it asks again.
    #[doc(hidden)]
    fn pause(retry: Retry, jitter: impl Fn(u64) -> u64) -> Duration;

    /// How long one sleeps yet who was woken.
    #[doc(hidden)]
    fn stagger(jitter: impl Fn(u64) -> u64) -> Option<Duration>;

    /// What an acquisition must have left of its TTL, unless told.
    #[doc(hidden)]
    fn min_validity(ttl: Duration) -> Duration;
}

impl Kind for Fenced {
    fn of(fence: u64) -> Self {
        Self(fence)
    }

    fn pause(retry: Retry, jitter: impl Fn(u64) -> u64) -> Duration {
        pause::pause(retry.left, retry.poll, jitter)
    }

    fn stagger(_: impl Fn(u64) -> u64) -> Option<Duration> {
        None
    }

    fn min_validity(_: Duration) -> Duration {
        Duration::ZERO
    }
}

impl Kind for Unfenced {
    fn of(_: u64) -> Self {
        Self(())
    }

    fn pause(retry: Retry, jitter: impl Fn(u64) -> u64) -> Duration {
        let free = pause::pause(retry.left, retry.poll, &jitter);
        pause::backoff(retry.attempts, retry.poll, jitter).min(free)
    }

    fn stagger(jitter: impl Fn(u64) -> u64) -> Option<Duration> {
        Some(pause::stagger(jitter))
    }

    fn min_validity(ttl: Duration) -> Duration {
        ttl / 2
    }
}

impl fmt::Debug for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Unfenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none")
    }
}

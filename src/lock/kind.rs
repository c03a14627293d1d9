//! What tells a lock of one store from one of a majority of stores, in types.

use crate::lock::policy::{self, Retry};
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

    /// What an acquisition must have left of its TTL, unless told.
    #[doc(hidden)]
    fn min_validity(ttl: Duration) -> Duration;
}

impl Kind for Fenced {
    fn of(fence: u64) -> Self {
        Self(fence)
    }

    fn pause(retry: Retry, jitter: impl Fn(u64) -> u64) -> Duration {
        policy::pause(retry.left, retry.poll, jitter)
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
        policy::backoff(retry.attempts, retry.poll, jitter)
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

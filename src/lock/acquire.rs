//! Acquiring a lock: the settings of one acquisition, and the wait for it.

use crate::{
    lease::Lease,
    lock::{
        claim::{Claim, MIDDLEWARE},
        error::Error,
        guard::Guard,
        locks::Locks,
        policy::{self, Attempt},
    },
    pubsub::Subscription,
    telemetry::{self, LOCK_TOTAL},
    token::{jitter, token},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// TTL of a lock that is not told another.
const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// How long a waiter waits for its subscription to be in force before it looks by itself.
const SUBSCRIBE_WITHIN: Duration = Duration::from_millis(250);

/// The settings of one acquisition, made by [`Locks::lock`].
#[derive(Clone, Debug)]
#[must_use = "nothing is locked before acquire().await"]
pub struct Acquire {
    locks: Locks,
    name: Box<str>,
    ttl: Duration,
    wait: Duration,
    auto_renew: bool,
}

impl Acquire {
    pub(super) fn new(locks: Locks, name: &str) -> Self {
        Self { locks, name: name.into(), ttl: DEFAULT_TTL, wait: Duration::ZERO, auto_renew: false }
    }

    /// How long the lock is held without a renewal: what a crash of its holder costs the others.
    /// 10 ms to 24 h, counted in whole milliseconds; else [`acquire`](Acquire::acquire) fails with
    /// [`StoreError::is_config`](crate::StoreError::is_config). Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait while somebody else holds the lock, at most 24 h. What the store takes to
    /// answer the last question comes on top. Default: not at all.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait.min(policy::MAX_WAIT);
        self
    }

    /// Renews the lock in a task of its own at every third of the TTL, for as long as the guard
    /// lives. Default: the lock is lost when its TTL has passed.
    pub fn auto_renew(mut self) -> Self {
        self.auto_renew = true;
        self
    }

    /// Acquires the lock. Dropping the future gives up: what it may have acquired is released in the
    /// background.
    ///
    /// # Errors
    ///
    /// [`Error::is_contended`] if somebody else holds the lock and no [`wait`](Acquire::wait) was
    /// asked for, or as many wait for it as [`Locks::max_waiters`] lets;
    /// [`Error::is_timed_out`] if the wait is over;
    /// [`Error::is_store`] if the store fails, at once, wait or not;
    /// [`Error::is_lost`] if the store granted the lock so late that its TTL had passed.
    pub async fn acquire(self) -> Result<Guard, Error> {
        let ttl = policy::whole_ttl(self.ttl).map_err(|error| Error::store(&self.name, error))?;
        let claim = Arc::new(Claim {
            store: self.locks.store.clone(),
            id: policy::id(&self.name),
            token: token(),
            ttl,
        });
        if self.wait.is_zero() { self.at_once(&claim).await } else { self.in_line(&claim).await }
    }

    async fn at_once(&self, claim: &Arc<Claim>) -> Result<Guard, Error> {
        match self.attempt(claim).await? {
            Outcome::Acquired(guard) => Ok(guard),
            Outcome::Held(left) => {
                telemetry::count(LOCK_TOTAL, "contended");
                Err(Error::contended(&self.name, left))
            }
        }
    }

    async fn in_line(&self, claim: &Arc<Claim>) -> Result<Guard, Error> {
        let end = Instant::now() + self.wait;
        let Some(place) = self.locks.queues.join(&claim.id, self.locks.max_waiters) else {
            telemetry::count(LOCK_TOTAL, "contended");
            return Err(Error::crowded(&self.name, self.locks.max_waiters));
        };
        let Ok(mut hints) = time::timeout_at(end.into(), place.turn()).await else {
            return Err(self.timed_out(None));
        };
        loop {
            let left = match self.attempt(claim).await? {
                Outcome::Acquired(guard) => return Ok(guard),
                Outcome::Held(left) => left,
            };
            let now = Instant::now();
            if now >= end {
                return Err(self.timed_out(Some(left)));
            }
            let until = (now + policy::pause(left, self.locks.poll, jitter)).min(end);
            self.sleep(&mut hints, claim, until).await;
        }
    }

    /// Sleeps until a hint or until `until`. Returns at once after it has subscribed: the lock may
    /// have been released before that.
    async fn sleep(&self, hints: &mut Option<Subscription>, claim: &Claim, until: Instant) {
        let Some(hints) = hints else {
            *hints = self.locks.store.watch(&claim.id);
            match hints {
                Some(hints) => {
                    let left = until.saturating_duration_since(Instant::now());
                    hints.ready(left.min(SUBSCRIBE_WITHIN)).await;
                }
                None => time::sleep_until(until.into()).await,
            }
            return;
        };
        let _ = time::timeout_at(until.into(), hints.recv()).await;
    }

    async fn attempt(&self, claim: &Arc<Claim>) -> Result<Outcome, Error> {
        let asked_at = Instant::now();
        let attempt = claim.ask().await.map_err(|error| Error::store(&self.name, error))?;
        let fence = match attempt {
            Attempt::Acquired { fence } => fence,
            Attempt::Held { left } => return Ok(Outcome::Held(left)),
        };
        let tasks = self.locks.store.tasks();
        let mut lease = Lease::new(claim.clone(), MIDDLEWARE, asked_at, claim.ttl, tasks);
        if lease.is_lost() {
            return Err(Error::lost(&self.name));
        }
        if self.auto_renew {
            lease.auto_renew();
        }
        telemetry::count(LOCK_TOTAL, "acquired");
        Ok(Outcome::Acquired(Guard::new(lease, self.name.clone(), fence)))
    }

    fn timed_out(&self, left: Option<Duration>) -> Error {
        telemetry::count(LOCK_TOTAL, "timed_out");
        Error::timed_out(&self.name, self.wait, left)
    }
}

enum Outcome {
    Acquired(Guard),
    Held(Duration),
}

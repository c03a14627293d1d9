//! Acquiring a lock: the settings of one acquisition, and the wait for it.

use crate::{
    lease::{Lease, Timer, certain},
    lock::{
        claim::{Claim, MIDDLEWARE},
        error::Error,
        guard::Guard,
        kind::{Fenced, Kind, Unfenced},
        limits,
        locks::Locks,
        pause::Retry,
        policy::Attempt,
        watch::Watch,
    },
    telemetry::{self, LOCK_TOTAL},
    token::jitter,
};
use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};
use tokio::time::{self, Instant};

/// TTL of a lock that is not told another.
const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// How long a waiter waits for its subscription to be in force before it looks by itself.
const SUBSCRIBE_WITHIN: Duration = Duration::from_millis(250);

/// The settings of one acquisition, made by [`Locks::lock`], or by
/// [`Redlock::lock`](crate::lock::Redlock::lock) as `Acquire<Unfenced>`.
#[must_use = "nothing is locked before acquire().await"]
pub struct Acquire<K = Fenced> {
    locks: Locks,
    name: Box<str>,
    ttl: Duration,
    wait: Duration,
    auto_renew: bool,
    min_validity: Option<Duration>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Acquire<K> {
    pub(super) fn new(locks: Locks, name: &str) -> Self {
        Self {
            locks,
            name: name.into(),
            ttl: DEFAULT_TTL,
            wait: Duration::ZERO,
            auto_renew: false,
            min_validity: None,
            kind: PhantomData,
        }
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
        self.wait = wait.min(limits::MAX_WAIT);
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
    /// [`Error::is_lost`] if the store granted the lock so late that its TTL had passed, or less than
    /// the minimum validity was left.
    pub async fn acquire(mut self) -> Result<Guard<K>, Error> {
        let refused = |error| Error::store(&self.name, error);
        self.ttl = limits::whole_ttl(self.ttl).map_err(refused)?;
        limits::attainable(self.min_validity, certain(self.ttl)).map_err(refused)?;
        if self.wait.is_zero() { self.at_once().await } else { self.in_line().await }
    }

    async fn at_once(&self) -> Result<Guard<K>, Error> {
        match self.attempt(&limits::id(&self.name)).await? {
            Outcome::Acquired(guard) => Ok(guard),
            Outcome::Held(left) => {
                telemetry::count(LOCK_TOTAL, "contended");
                Err(Error::contended(&self.name, left))
            }
        }
    }

    async fn in_line(&self) -> Result<Guard<K>, Error> {
        let (end, id) = (Instant::now() + self.wait, limits::id(&self.name));
        let Some(place) = self.locks.queues.join(&id, self.locks.max_waiters) else {
            telemetry::count(LOCK_TOTAL, "contended");
            return Err(Error::crowded(&self.name, self.locks.max_waiters));
        };
        let Ok(mut watch) = time::timeout_at(end, place.turn()).await else {
            return Err(self.timed_out(None));
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            if let Some(watch) = &mut *watch {
                watch.forget();
            }
            let left = match self.attempt(&id).await? {
                Outcome::Acquired(guard) => return Ok(guard),
                Outcome::Held(left) => left,
            };
            let now = Instant::now();
            if now >= end {
                return Err(self.timed_out(Some(left)));
            }
            let retry = Retry { left, poll: self.locks.poll, attempts };
            self.sleep(&mut watch, &id, (now + K::pause(retry, jitter)).min(end)).await;
        }
    }

    /// Sleeps until a hint or until `until`. Returns at once after it has subscribed: the lock may
    /// have been released before that.
    async fn sleep(&self, watch: &mut Option<Watch>, id: &str, until: Instant) {
        let Some(watch) = watch else {
            *watch = self.locks.watch(id);
            match watch {
                Some(watch) => {
                    let left = until.saturating_duration_since(Instant::now());
                    watch.ready(left.min(SUBSCRIBE_WITHIN)).await;
                }
                None => time::sleep_until(until).await,
            }
            return;
        };
        let woken = async {
            watch.recv().await;
            if let Some(moment) = K::stagger(jitter) {
                time::sleep(moment).await;
            }
        };
        let _ = time::timeout_at(until, woken).await;
    }

    /// Asks once, with a token of its own: so a release of what it may have acquired cannot hit what
    /// a later attempt has.
    async fn attempt(&self, id: &str) -> Result<Outcome<K>, Error> {
        let (store, token) = (self.locks.store(), self.locks.token());
        let (tasks, timer) = (store.tasks(), Timer::start(store.clock()));
        let claim = Arc::new(Claim::new(store, id, token, self.ttl));
        let attempt = claim.ask().await.map_err(|error| Error::store(&self.name, error))?;
        let fence = match attempt {
            Attempt::Acquired { fence } => K::of(fence),
            Attempt::Held { left } => return Ok(Outcome::Held(left)),
        };
        let mut lease = Lease::timed(claim, MIDDLEWARE, timer, self.ttl, tasks);
        let least = self.min_validity.unwrap_or_else(|| K::min_validity(self.ttl));
        if lease.is_lost() || lease.valid_for() < least {
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

impl Acquire<Unfenced> {
    /// What must be left of the TTL when the lock is acquired, less the share for drift; else it is
    /// given back, with [`Error::is_lost`]. A process that was paused while it asked has less. One that
    /// no acquisition could have is refused as a [TTL](Acquire::ttl) is. Default: half of the TTL.
    pub fn min_validity(mut self, validity: Duration) -> Self {
        self.min_validity = Some(validity);
        self
    }
}

impl<K> Clone for Acquire<K> {
    fn clone(&self) -> Self {
        Self { locks: self.locks.clone(), name: self.name.clone(), ..*self }
    }
}

impl<K> fmt::Debug for Acquire<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("name", &self.name)
            .field("ttl", &self.ttl)
            .field("wait", &self.wait)
            .field("auto_renew", &self.auto_renew)
            .finish_non_exhaustive()
    }
}

enum Outcome<K> {
    Acquired(Guard<K>),
    Held(Duration),
}

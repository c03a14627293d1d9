//! Who of those that ask for the same goes to the handler.

use crate::{
    coalesce::{
        layer::Config,
        store::{CoalesceStore, Flight, Joined},
    },
    flight::{Leader, Role},
    lease::{Lease, LeaseOps},
    pubsub::Subscription,
    snapshot::Snapshot,
    store::{StoreError, StoreFuture},
    telemetry::{self, COALESCE_TOTAL},
    token,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep, timeout, timeout_at},
};

/// How long an outcome is kept for the servers that wait for it: longer than their looks are apart.
const LINGER: Duration = Duration::from_secs(2);

/// How often one who waits looks by itself, in case a hint was lost.
const LOOKS: Duration = Duration::from_millis(400);

/// How often without hints.
const LOOKS_ALONE: Duration = Duration::from_millis(50);

/// How long one who waits for hints waits for the subscription.
const SUBSCRIBED_WITHIN: Duration = Duration::from_millis(100);

/// What a flight has come to.
#[derive(Clone, Debug)]
pub(crate) enum Landed {
    Answer(Arc<Snapshot>),
    /// The answer is for one alone: everybody to the handler.
    Unshared,
}

impl Landed {
    /// The stored form.
    fn encode(&self) -> Bytes {
        match self {
            Self::Answer(snapshot) => snapshot.encode().unwrap_or_default(),
            Self::Unshared => Bytes::new(),
        }
    }

    /// What cannot be read, as by another version of the crate, is not shared.
    fn decode(blob: Bytes) -> Self {
        Snapshot::decode(blob).map_or(Self::Unshared, |read| Self::Answer(Arc::new(read)))
    }
}

/// What a request is to do.
pub(crate) enum Seat {
    /// Go to the handler, and land.
    Lead(Lead),
    /// Answer with what another has brought.
    Answer(Arc<Snapshot>),
    /// Go to the handler, and nobody cares.
    Alone,
}

/// The one who goes. Dropped without landing, another takes its place.
pub(crate) struct Lead {
    here: Leader<Landed>,
    /// The lease in the store, if there is one and it works.
    there: Option<(Lease, Arc<Held>)>,
}

impl Lead {
    /// Tells those who wait: those of this process at once, the other servers in the background.
    pub(crate) fn land(self, config: &Config, landed: Landed) {
        if let Some((mut lease, held)) = self.there {
            let outcome = landed.encode();
            config.tasks.spawn_if_possible(async move {
                lease.stop_renewal().await;
                match held.store.land(&held.flight, outcome, LINGER).await {
                    Ok(_) => lease.disarm(),
                    // What may not have landed is left, so that nobody waits for the lease to end.
                    Err(error) => telemetry::store_failed("coalesce", &error),
                }
            });
        }
        self.here.land(landed);
    }
}

/// Finds a seat, waiting for others until `deadline`.
pub(crate) async fn seat(config: &Config, id: &str, deadline: Instant) -> Seat {
    while Instant::now() < deadline {
        let follower = match config.flights.join(id) {
            Role::Lead(here) => return lead(config, id, here, deadline).await,
            Role::Follow(follower) => follower,
        };
        let Ok(_place) = config.waiters.try_acquire() else { break };
        match timeout_at(deadline, follower.outcome()).await {
            Ok(Some(landed)) => return follow(landed),
            // The one who led is gone without a word: somebody else has to go.
            Ok(None) => {}
            Err(_) => break,
        }
    }
    telemetry::count(COALESCE_TOTAL, "gave_up");
    Seat::Alone
}

fn follow(landed: Landed) -> Seat {
    match landed {
        Landed::Answer(snapshot) => {
            telemetry::count(COALESCE_TOTAL, "shared");
            Seat::Answer(snapshot)
        }
        Landed::Unshared => {
            telemetry::count(COALESCE_TOTAL, "unshared");
            Seat::Alone
        }
    }
}

/// The one of this process asks the others. Without a store that answers, this process is all there is.
async fn lead(config: &Config, id: &str, here: Leader<Landed>, deadline: Instant) -> Seat {
    let Some(store) = &config.store else {
        telemetry::count(COALESCE_TOTAL, "led");
        return Seat::Lead(Lead { here, there: None });
    };
    let flight = Flight::new(id, token::token());
    let held = Arc::new(Held { store: store.clone(), flight, length: config.lease });
    let mut wait = Wait { following: None, hints: None, deadline, place: None };
    loop {
        let (joined, lease) = held.join(config, wait.following.as_deref()).await;
        let left = match joined {
            Ok(Joined::Lead) => {
                telemetry::count(COALESCE_TOTAL, "led");
                return Seat::Lead(Lead { here, there: Some((lease, held)) });
            }
            Ok(Joined::Landed(outcome)) => {
                let landed = Landed::decode(outcome);
                here.land(landed.clone());
                return follow(landed);
            }
            Err(error) => {
                telemetry::store_failed("coalesce", &error);
                return Seat::Lead(Lead { here, there: None });
            }
            Ok(Joined::Follow { leader, left }) => {
                wait.following = Some(leader);
                left
            }
        };
        if !wait.once(config, &**store, id, left).await {
            telemetry::count(COALESCE_TOTAL, "gave_up");
            return Seat::Alone;
        }
    }
}

/// The wait for another server's answer. Waking means: look again.
struct Wait<'a> {
    following: Option<String>,
    hints: Option<Subscription>,
    deadline: Instant,
    place: Option<SemaphorePermit<'a>>,
}

impl<'a> Wait<'a> {
    /// Waits until it is worth looking again; `false` once the wait is over, or if too many wait. `left`
    /// is what the other's lease has.
    async fn once(
        &mut self,
        config: &'a Config,
        store: &dyn CoalesceStore,
        id: &str,
        left: Duration,
    ) -> bool {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        if self.place.is_none() {
            self.place = config.waiters.try_acquire().ok();
        }
        if rest.is_zero() || self.place.is_none() {
            return false;
        }
        match &mut self.hints {
            Some(hints) => {
                let pause = LOOKS.min(left.saturating_add(Duration::from_millis(1))).min(rest);
                // Either end means the same: look again.
                drop(timeout(pause, hints.recv()).await);
            }
            None => match store.watch(id) {
                Some(mut hints) => {
                    // What comes before the subscription is seen by the look that follows.
                    hints.ready(SUBSCRIBED_WITHIN.min(rest)).await;
                    self.hints = Some(hints);
                }
                None => sleep(LOOKS_ALONE.min(rest)).await,
            },
        }
        true
    }
}

/// A flight that this request leads, or may lead.
struct Held {
    store: Arc<dyn CoalesceStore>,
    flight: Flight,
    length: Duration,
}

impl Held {
    /// Asks once. The lease is made first: if the caller leaves, or no answer comes, dropping it gives
    /// back what the store may have granted.
    async fn join(
        self: &Arc<Self>,
        config: &Config,
        following: Option<&str>,
    ) -> (Result<Joined, StoreError>, Lease) {
        let (asked_at, tasks) = (Instant::now().into_std(), config.tasks.clone());
        let mut lease = Lease::new(self.clone(), "coalesce", asked_at, self.length, tasks);
        let joined = self.store.join(&self.flight, following, self.length).await;
        match &joined {
            Ok(Joined::Lead) => lease.auto_renew(),
            Err(error) if error.is_timeout() => {}
            _ => lease.disarm(),
        }
        (joined, lease)
    }
}

impl LeaseOps for Held {
    fn renew(&self) -> StoreFuture<bool> {
        self.store.renew(&self.flight, self.length)
    }

    fn release(&self) -> StoreFuture<bool> {
        self.store.leave(&self.flight)
    }
}

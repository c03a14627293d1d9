//! Who makes a missing response: one request of the whole fleet.

use crate::{
    cache::{
        http::vary,
        layer::Shared,
        policy::{Reason, UNCACHEABLE_FOR},
        store::{Address, CacheStore, Fill, FillReply, Found, LeaseReply, Verdict},
        visit::{Judgement, Visit},
    },
    flight::Leader,
    lease::{Lease, LeaseOps},
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    telemetry, token,
};
use http::HeaderMap;
use std::{cmp::min, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// The first and the longest pause between two looks at a lease that somebody else holds.
const POLL: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(400)];

/// The pause before an answer that led nowhere is asked for again.
const AGAIN: Duration = Duration::from_millis(1);

/// What the requests of this process that wait for the same response are told.
///
/// A leader that is gone without a word failed: one of them takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The store has given its verdict on the fill: look it up. It is not handed over here, since a
    /// request that came after a purge must not be given what was read before.
    Settled,
    /// Such a response cannot be stored. Nobody needs to wait for another.
    Uncacheable,
    /// The store does not work. Nobody needs to wait for it.
    Unavailable,
    /// The handler failed, and the leader answered with what was stored. Those who may do the same do.
    Failed,
}

/// How it ended.
pub(crate) enum Contended {
    /// The response is to be made here.
    Granted(Claim),
    /// It was made elsewhere.
    Found(Found),
    /// The request goes to the handler, and its response is not stored.
    Forward(Reason, Option<Outcome>),
    /// Nobody is left who wants it.
    Deserted,
}

/// Takes the lease, or waits for the one who holds it. `deserted` tells whether the client is gone.
pub(crate) async fn contend(
    shared: &Arc<Shared>,
    visit: &mut Visit,
    request: &HeaderMap,
    leader: &Leader<Outcome>,
    deserted: impl Fn() -> bool,
) -> Contended {
    let mut grant = Arc::new(Grant::new(shared, visit));
    let mut hints = Hints::default();
    loop {
        if deserted() && !leader.has_followers() {
            return Contended::Deserted;
        }
        let asked_at = Instant::now();
        match grant.ask(visit.seen.as_deref()).await {
            Ok(LeaseReply::Granted) => {
                return Contended::Granted(Claim::new(shared, grant, asked_at));
            }
            Ok(LeaseReply::Held { .. }) if Instant::now() >= visit.deadline => {
                return Contended::Forward(Reason::WaitedTooLong, None);
            }
            Ok(LeaseReply::Held { left }) => {
                visit.collapsed = true;
                hints.pause(shared, visit, left).await;
            }
            Ok(LeaseReply::Filled) => match shared.store.lookup(&visit.address).await {
                Ok(lookup) => match visit.judge(shared, lookup, request) {
                    Judgement::Hit(found) | Judgement::Refresh(found) => {
                        return Contended::Found(found);
                    }
                    Judgement::Moved => return Contended::Forward(Reason::Vary, None),
                    Judgement::NotForYou => {
                        return Contended::Forward(Reason::Authorization, Some(Outcome::Settled));
                    }
                    // Purged in between, or nothing that we can use: ask again, knowing that.
                    Judgement::Miss if Instant::now() < visit.deadline => {
                        sleep(AGAIN).await;
                    }
                    Judgement::Miss => return Contended::Forward(Reason::WaitedTooLong, None),
                },
                Err(error) => return unavailable(&error),
            },
            // A proxy's next response may be storable all the same: it is made beside the others.
            Ok(LeaseReply::Uncacheable { .. }) if shared.policy.is_proxy() => {
                grant = Arc::new(grant.alone());
            }
            Ok(LeaseReply::Uncacheable { .. }) => {
                return Contended::Forward(Reason::Uncacheable, Some(Outcome::Uncacheable));
            }
            Err(error) => {
                if error.is_timeout() {
                    // It may have been granted all the same.
                    let grant = grant.clone();
                    shared.tasks.spawn(async move { drop(grant.release().await) });
                }
                return unavailable(&error);
            }
        }
    }
}

pub(crate) fn unavailable(error: &StoreError) -> Contended {
    telemetry::store_failed("cache", error);
    Contended::Forward(Reason::StoreUnavailable, Some(Outcome::Unavailable))
}

/// What wakes one who waits: a hint, or the time.
#[derive(Default)]
struct Hints {
    subscription: Option<Subscription>,
    pauses: u32,
}

impl Hints {
    /// Waits for a hint, at most until the next look is due.
    async fn pause(&mut self, shared: &Shared, visit: &Visit, left: Duration) {
        if self.pauses == 0 {
            self.subscription = shared.store.watch(visit.address.entry());
        }
        let longest = min(POLL[0] * 2u32.saturating_pow(self.pauses), POLL[1]);
        self.pauses = self.pauses.saturating_add(1);
        // At least half of it, so that waiters spread without a stampede of looks.
        let half = longest / 2;
        let jittered = half + Duration::from_micros(token::jitter(half.as_micros() as u64));
        // A holder that does not renew is replaced as soon as its time is up.
        let rest = visit.deadline.saturating_duration_since(Instant::now());
        let pause = min(jittered, min(left, rest)).max(Duration::from_millis(1));
        match &mut self.subscription {
            // The first time, look again as soon as no hint can be missed any more.
            Some(subscription) if self.pauses == 1 => {
                subscription.ready(pause).await;
            }
            Some(subscription) => {
                let _ = tokio::time::timeout(pause, subscription.recv()).await;
            }
            None => sleep(pause).await,
        }
    }
}

/// The right to fill one address, in the name of one token.
struct Grant {
    store: Arc<dyn CacheStore>,
    address: Address,
    token: String,
    length: Duration,
    /// Nobody else asks for this lease.
    alone: bool,
}

impl Grant {
    fn new(shared: &Shared, visit: &Visit) -> Self {
        let (store, address) = (shared.store.clone(), visit.address.clone());
        Self { store, address, token: token::token(), length: shared.lease, alone: false }
    }

    /// The same right, under a lease that nobody else asks for.
    fn alone(&self) -> Self {
        Self {
            store: self.store.clone(),
            address: self.address.alone(&self.token),
            token: self.token.clone(),
            length: self.length,
            alone: true,
        }
    }

    fn ask(&self, seen: Option<&str>) -> StoreFuture<LeaseReply> {
        self.store.lease(&self.address, &self.token, self.length, seen)
    }

    fn end(&self, verdict: Verdict) -> StoreFuture<bool> {
        self.store.release(&self.address, &self.token, verdict)
    }
}

impl LeaseOps for Grant {
    fn renew(&self) -> StoreFuture<bool> {
        self.store.renew(&self.address, &self.token, self.length)
    }

    fn release(&self) -> StoreFuture<bool> {
        self.end(Verdict::Failed)
    }
}

/// A lease that is held. Dropped, it is given back, so that somebody else may try.
pub(crate) struct Claim {
    grant: Arc<Grant>,
    lease: Lease,
    seen: u64,
}

impl Claim {
    fn new(shared: &Shared, grant: Arc<Grant>, asked_at: Instant) -> Self {
        let (length, tasks) = (shared.lease, shared.tasks.clone());
        let mut lease = Lease::new(grant.clone(), "cache", asked_at.into_std(), length, tasks);
        lease.auto_renew();
        let seen = shared.store.last_purge();
        Self { grant, lease, seen }
    }

    /// The last purge that was known before the response was begun.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// A right that nobody waits for, to store what is learnt beside.
    pub(crate) async fn alone(shared: &Arc<Shared>, visit: &Visit) -> Result<Self, StoreError> {
        let grant = Arc::new(Grant::new(shared, visit).alone());
        let asked_at = Instant::now();
        // Whatever the answer: a fill without the lease is refused.
        grant.ask(visit.seen.as_deref()).await?;
        Ok(Self::new(shared, grant, asked_at))
    }

    /// The same, for a response that was begun when this was the last purge that was known.
    pub(crate) fn since(self, seen: u64) -> Self {
        Self { seen, ..self }
    }

    /// Whether others may wait for the end of it.
    pub(crate) fn is_alone(&self) -> bool {
        self.grant.alone
    }

    /// Stores the response, if the lease is held still: as the `variant` by what all responses of the
    /// entry vary by, this one by `vary`. The answer is [`Varies`](FillReply::Varies) if that is too much.
    pub(crate) async fn fill(
        mut self,
        fill: Fill,
        vary: &str,
        variant: impl Fn(&str) -> String,
    ) -> Result<(FillReply, Arc<str>), StoreError> {
        self.lease.stop_renewal().await;
        let mut names: Arc<str> = self.grant.address.vary().into();
        let mut more: Arc<str> = vary.into();
        // Once with what is known, and once with what the store says.
        let reply = loop {
            let Some(all) = vary::union(&names, &more) else {
                break FillReply::Varies { names: more };
            };
            let address = match *all == *self.grant.address.vary() {
                true => self.grant.address.clone(),
                false => self.grant.address.moved(all.clone(), variant(&all)),
            };
            let reply = self.grant.store.fill(&address, &self.grant.token, fill.clone()).await?;
            match reply {
                FillReply::Varies { names: held }
                    if *vary::union(&all, &held).as_deref().unwrap_or(&all) != *all =>
                {
                    (names, more) = (all.into(), held);
                }
                reply => {
                    names = all.into();
                    break reply;
                }
            }
        };
        match reply {
            FillReply::Stored => self.lease.disarm(),
            // It may be held still: by a response that was too old on its arrival.
            FillReply::Refused => self.fail().await,
            FillReply::Varies { .. } => self.uncacheable(UNCACHEABLE_FOR).await,
        }
        Ok((reply, names))
    }

    /// Says that for a while nobody needs to wait for such a response.
    pub(crate) async fn uncacheable(mut self, length: Duration) {
        if self.grant.alone {
            return self.fail().await;
        }
        self.lease.stop_renewal().await;
        match self.grant.end(Verdict::Uncacheable(length)).await {
            Ok(_) => self.lease.disarm(),
            Err(error) => telemetry::store_failed("cache", &error),
        }
    }

    /// Lets somebody else try.
    pub(crate) async fn fail(self) {
        if let Err(error) = self.lease.release().await {
            telemetry::store_failed("cache", &error);
        }
    }
}

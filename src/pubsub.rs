//! Hints: short messages that tell waiters, here and in other processes, to look again.
//!
//! A hint may be lost: across a reconnection, or by a subscriber that is too slow. So whoever waits
//! for one also looks by itself from time to time, and correctness never depends on a hint.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use std::time::Duration;
//! use towerkeep::pubsub::{Hint, Hints};
//!
//! let hints = Hints::memory();
//! let mut released = hints.subscribe("shop:lock:42");
//! released.ready(Duration::from_millis(100)).await;
//! // Look at the lock now: a release from here on sends a hint.
//! hints.publish("shop:lock:42", "released".into()).await.unwrap();
//! assert_eq!(released.recv().await, Hint::Message("released".into()));
//! # }
//! ```

use crate::store::{StoreError, StoreFuture};
use bytes::Bytes;
use std::{
    collections::HashMap,
    fmt,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
#[cfg(feature = "lock")]
use tokio::sync::broadcast::error::TryRecvError;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::timeout,
};

/// Hints that a subscriber may be behind before it is told to resynchronise. One more look replaces
/// any number of hints, so a short queue is enough.
const QUEUE: usize = 16;

/// What a subscriber receives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Somebody published this.
    Message(Bytes),
    /// Messages may have been lost: look at the state itself.
    Resync,
}

/// Where hints are published and received. A cheap clone.
#[derive(Clone)]
pub struct Hints {
    channels: Arc<Channels>,
    /// Carries hints between processes; none in memory.
    relay: Option<Arc<dyn Relay>>,
}

/// What carries hints between processes.
pub(crate) trait Relay: Send + Sync {
    /// Called when a channel has its first subscriber, or has lost its last.
    fn changed(&self, channel: &Arc<str>);

    /// Publishes to every process, this one included.
    fn publish(&self, channel: &str, payload: Bytes) -> StoreFuture<()>;
}

impl Hints {
    /// Hints within this process.
    #[must_use]
    pub fn memory() -> Self {
        Self { channels: Arc::new(Channels::new(true)), relay: None }
    }

    /// Hints that `relay` carries: it delivers to the channels that it is made with.
    #[cfg(feature = "redis")]
    pub(crate) fn relayed(relay: impl FnOnce(Arc<Channels>) -> Arc<dyn Relay>) -> Self {
        let channels = Arc::new(Channels::new(false));
        Self { relay: Some(relay(channels.clone())), channels }
    }

    /// Subscribes to a channel, whose full name this is: on Redis, channels are shared by all
    /// databases. Returns at once; [`Subscription::ready`] waits until nothing is missed any more.
    #[must_use = "dropping a subscription unsubscribes"]
    pub fn subscribe(&self, channel: &str) -> Subscription {
        let (name, hints, confirmed, first) = self.channels.join(channel);
        if let (true, Some(relay)) = (first, &self.relay) {
            relay.changed(&name);
        }
        Subscription { name, hints, confirmed, late: false, owner: self.clone() }
    }

    /// Publishes to every subscriber of `channel`. In memory that has happened when this returns;
    /// on Redis it is a round trip, made when the future is awaited.
    pub fn publish(&self, channel: &str, payload: Bytes) -> StoreFuture<()> {
        match &self.relay {
            Some(relay) => relay.publish(channel, payload),
            None => {
                self.channels.deliver(channel, Hint::Message(payload));
                StoreFuture::ready(Ok::<_, StoreError>(()))
            }
        }
    }
}

impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hints")
            .field("channels", &self.channels.lock().len())
            .field("relayed", &self.relay.is_some())
            .finish()
    }
}

/// A subscription to one channel. Dropping it unsubscribes.
pub struct Subscription {
    name: Arc<str>,
    hints: broadcast::Receiver<Hint>,
    confirmed: watch::Receiver<bool>,
    /// It was waited for in vain until it is in force, which is to be told then.
    late: bool,
    owner: Hints,
}

impl Subscription {
    /// Waits until every later message arrives here, at most `deadline`, and returns whether that is
    /// so. If not, go on looking by yourself: a later [`Hint::Resync`] tells when it becomes so.
    ///
    /// Look at the state **after** this, and then wait for hints: so no change falls in between.
    pub async fn ready(&mut self, deadline: Duration) -> bool {
        self.late = true;
        self.late = !matches!(timeout(deadline, self.in_force()).await, Ok(true));
        !self.late
    }

    /// The next hint. Waits for ever if there is none, so always use it under a timeout. Safe to
    /// cancel: no hint is lost.
    pub async fn recv(&mut self) -> Hint {
        let hint = tokio::select! {
            biased;
            hint = self.hints.recv() => hint,
            Ok(_) = self.confirmed.wait_for(|yes| *yes), if self.late => Ok(Hint::Resync),
        };
        self.late &= !*self.confirmed.borrow();
        match hint {
            Ok(hint) => hint,
            Err(RecvError::Lagged(_)) => Hint::Resync,
            // The sender lives as long as its subscribers.
            Err(RecvError::Closed) => pending().await,
        }
    }

    /// Drops the hints that have come so far: for one who is about to look anyway.
    #[cfg(feature = "lock")]
    pub(crate) fn forget(&mut self) {
        while !matches!(self.hints.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
        self.late &= !*self.confirmed.borrow();
    }

    async fn in_force(&mut self) -> bool {
        self.confirmed.wait_for(|yes| *yes).await.is_ok()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let last = self.owner.channels.leave(&self.name);
        if let (true, Some(relay)) = (last, &self.owner.relay) {
            relay.changed(&self.name);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("channel", &self.name)
            .field("ready", &*self.confirmed.borrow())
            .finish()
    }
}

/// The channels that have subscribers here.
pub(crate) struct Channels {
    map: Mutex<HashMap<Arc<str>, Channel>>,
    /// Whether a subscription is in force as soon as it is made.
    confirmed: bool,
}

struct Channel {
    hints: broadcast::Sender<Hint>,
    confirmed: watch::Sender<bool>,
    subscribers: usize,
}

type Joined = (Arc<str>, broadcast::Receiver<Hint>, watch::Receiver<bool>, bool);

impl Channels {
    fn new(confirmed: bool) -> Self {
        Self { map: Mutex::default(), confirmed }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Channel>> {
        // No code that can panic runs under the lock half-way through a change.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, name: &str) -> Joined {
        let mut map = self.lock();
        if let Some((name, channel)) = map.get_key_value(name) {
            let (name, hints) = (name.clone(), channel.hints.subscribe());
            let confirmed = channel.confirmed.subscribe();
            if let Some(channel) = map.get_mut(&name) {
                channel.subscribers += 1;
            }
            return (name, hints, confirmed, false);
        }
        let (sender, hints) = broadcast::channel(QUEUE);
        let (confirm, confirmed) = watch::channel(self.confirmed);
        let name: Arc<str> = name.into();
        let channel = Channel { hints: sender, confirmed: confirm, subscribers: 1 };
        map.insert(name.clone(), channel);
        (name, hints, confirmed, true)
    }

    /// Returns whether it was the last subscriber.
    fn leave(&self, name: &str) -> bool {
        let mut map = self.lock();
        let Some(channel) = map.get_mut(name) else { return false };
        channel.subscribers -= 1;
        let last = channel.subscribers == 0;
        if last {
            map.remove(name);
        }
        last
    }

    pub(crate) fn deliver(&self, name: &str, hint: Hint) {
        if let Some(channel) = self.lock().get(name) {
            // Fails without receivers, who are then about to leave.
            let _ = channel.hints.send(hint);
        }
    }
}

/// What a relay asks and tells.
#[cfg(feature = "redis")]
impl Channels {
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    /// From here on, what is published to `name` arrives.
    pub(crate) fn confirm(&self, name: &str) {
        if let Some(channel) = self.lock().get(name) {
            channel.confirmed.send_replace(true);
        }
    }

    /// Nothing arrives any more, and something may have been lost.
    pub(crate) fn disconnected(&self) {
        for channel in self.lock().values() {
            if channel.confirmed.send_replace(false) {
                let _ = channel.hints.send(Hint::Resync);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str) -> Hint {
        Hint::Message(text.into())
    }

    #[tokio::test]
    async fn every_subscriber_of_the_channel_receives_and_no_other() {
        let hints = Hints::memory();
        let mut first = hints.subscribe("a");
        let mut second = hints.clone().subscribe("a");
        let mut other = hints.subscribe("b");
        assert!(first.ready(Duration::ZERO).await);
        hints.publish("a", "1".into()).await.unwrap();
        hints.publish("b", "2".into()).await.unwrap();
        assert_eq!(first.recv().await, message("1"));
        assert_eq!(second.recv().await, message("1"));
        assert_eq!(other.recv().await, message("2"));
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_to_resynchronise_and_then_goes_on() {
        let hints = Hints::memory();
        let mut slow = hints.subscribe("a");
        for _ in 0..QUEUE + 1 {
            hints.publish("a", "x".into()).await.unwrap();
        }
        assert_eq!(slow.recv().await, Hint::Resync);
        assert_eq!(slow.recv().await, message("x"));
    }

    /// Carries nothing: the test says itself what has come into force.
    #[cfg(feature = "redis")]
    struct Silent;

    #[cfg(feature = "redis")]
    impl Relay for Silent {
        fn changed(&self, _: &Arc<str>) {}

        fn publish(&self, _: &str, _: Bytes) -> StoreFuture<()> {
            StoreFuture::ready(Ok(()))
        }
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_subscription_that_comes_into_force_late_says_so_once() {
        let hints = Hints::relayed(|_| Arc::new(Silent));
        let [mut late, mut early] = [(); 2].map(|()| hints.subscribe("a"));
        assert!(!late.ready(Duration::ZERO).await);
        {
            let mut told = tokio_test::task::spawn(late.recv());
            tokio_test::assert_pending!(told.poll());
            hints.channels.confirm("a");
            assert_eq!(tokio_test::assert_ready!(told.poll()), Hint::Resync);
        }
        assert!(early.ready(Duration::ZERO).await);
        for subscription in [&mut late, &mut early] {
            tokio_test::assert_pending!(tokio_test::task::spawn(subscription.recv()).poll());
        }
    }

    #[tokio::test]
    async fn the_last_subscriber_takes_the_channel_with_it() {
        let hints = Hints::memory();
        let first = hints.subscribe("a");
        let second = hints.subscribe("a");
        drop(first);
        assert_eq!(hints.channels.lock().len(), 1);
        drop(second);
        assert_eq!(hints.channels.lock().len(), 0);
        hints.publish("a", "nobody".into()).await.unwrap();
    }
}

//! Single-flight in one process: of those that want the same thing, one goes, the others wait.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The flights under way, by key. A cheap clone.
pub(crate) struct Flights<T>(Arc<Mutex<Waiting<T>>>);

type Waiting<T> = HashMap<Box<str>, watch::Receiver<Option<T>>>;

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// What a caller is to do.
pub(crate) enum Role<T> {
    /// Go, and [`land`](Leader::land).
    Lead(Leader<T>),
    /// Wait for the one who goes.
    Follow(Follower<T>),
}

impl<T> Flights<T> {
    /// Joins the flight at `key`, as its leader if there is none.
    pub(crate) fn join(&self, key: &str) -> Role<T> {
        let mut flights = self.lock();
        if let Some(outcome) = flights.get(key) {
            return Role::Follow(Follower(outcome.clone()));
        }
        let (outcome, waiting) = watch::channel(None);
        flights.insert(key.into(), waiting);
        Role::Lead(Leader { flights: self.clone(), key: key.into(), outcome })
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.len())
    }
}

/// The one who goes. Dropped without landing, its followers learn that it vanished.
pub(crate) struct Leader<T> {
    flights: Flights<T>,
    key: Box<str>,
    outcome: watch::Sender<Option<T>>,
}

impl<T> Leader<T> {
    /// Tells the followers the outcome. Whoever joins from now on leads a new flight.
    pub(crate) fn land(self, outcome: T) {
        // Removed first: a caller that comes after the outcome must not be given an older one.
        self.flights.lock().remove(&self.key);
        self.outcome.send_replace(Some(outcome));
    }

    /// One who waits for it.
    #[cfg(feature = "rate-limit")]
    pub(crate) fn follower(&self) -> Follower<T> {
        Follower(self.outcome.subscribe())
    }

    /// Whether anyone waits.
    pub(crate) fn has_followers(&self) -> bool {
        self.outcome.receiver_count() > 1
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let ours = |held: &watch::Receiver<Option<T>>| held.same_channel(&self.outcome.subscribe());
        if flights.get(&self.key).is_some_and(ours) {
            flights.remove(&self.key);
        }
    }
}

/// One who waits.
pub(crate) struct Follower<T>(watch::Receiver<Option<T>>);

impl<T: Clone> Follower<T> {
    /// The leader's outcome, or `None` if it vanished.
    pub(crate) async fn outcome(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(flights: &Flights<u32>) -> Leader<u32> {
        match flights.join("key") {
            Role::Lead(leader) => leader,
            Role::Follow(_) => panic!("somebody leads already"),
        }
    }

    fn follow(flights: &Flights<u32>) -> Follower<u32> {
        match flights.join("key") {
            Role::Follow(follower) => follower,
            Role::Lead(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn one_leads_and_the_others_get_its_outcome() {
        let flights = Flights::default();
        let leader = lead(&flights);
        let followers = [follow(&flights), follow(&flights)];
        assert!(leader.has_followers());
        leader.land(7);
        for follower in followers {
            assert_eq!(follower.outcome().await, Some(7));
        }
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_leader_that_vanishes_frees_the_key_and_tells() {
        let flights = Flights::default();
        let leader = lead(&flights);
        let follower = follow(&flights);
        drop(leader);
        assert_eq!(follower.outcome().await, None);
        lead(&flights);
    }

    #[tokio::test]
    async fn a_landed_leader_does_not_take_the_next_flight_down_with_it() {
        let flights = Flights::default();
        lead(&flights).land(1);
        let next = lead(&flights);
        let follower = follow(&flights);
        next.land(2);
        assert_eq!(follower.outcome().await, Some(2));
    }
}

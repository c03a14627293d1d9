//! Those who wait for the same lock in this process, in line: only the first of them asks the store.

use crate::lock::watch::Watch;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync;

/// The lines, by lock. A cheap clone.
#[derive(Clone, Default)]
pub(super) struct Queues(Arc<Mutex<HashMap<Box<str>, Line>>>);

struct Line {
    waiters: usize,
    turn: Arc<Turn>,
}

/// Whoever locks it is first in line; the line is served in the order of arrival. The subscription
/// to the lock's hints is handed on from one to the next, so that none is missed in between.
type Turn = sync::Mutex<Option<Watch>>;

impl Queues {
    /// Goes to the end of a lock's line, unless `limit` are in it.
    pub(super) fn join(&self, id: &str, limit: usize) -> Option<Place> {
        let mut lines = self.lock();
        if let Some(line) = lines.get_mut(id) {
            if line.waiters >= limit {
                return None;
            }
            line.waiters += 1;
            return Some(Place { queues: self.clone(), id: id.into(), turn: line.turn.clone() });
        }
        let turn = Arc::new(Turn::default());
        lines.insert(id.into(), Line { waiters: 1, turn: turn.clone() });
        Some(Place { queues: self.clone(), id: id.into(), turn })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Line>> {
        // No code that can panic runs under the lock half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").field("locks", &self.lock().len()).finish()
    }
}

/// A place in a line. Dropping it leaves the line; the last one out takes the line with it.
pub(super) struct Place {
    queues: Queues,
    id: Box<str>,
    turn: Arc<Turn>,
}

impl Place {
    /// Waits to be first, and stays so until what it returns is dropped.
    pub(super) async fn turn(&self) -> sync::MutexGuard<'_, Option<Watch>> {
        self.turn.lock().await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.queues.lock();
        if let Some(line) = lines.get_mut(&self.id) {
            line.waiters -= 1;
            if line.waiters == 0 {
                lines.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_test::{assert_pending, assert_ready, task};

    #[test]
    fn a_line_is_served_in_the_order_of_arrival_and_each_lock_has_its_own() {
        let queues = Queues::default();
        let places: Vec<_> = (0..3).map(|_| queues.join("a", 9).unwrap()).collect();
        let mut turns: Vec<_> = places.iter().map(|place| task::spawn(place.turn())).collect();
        let first = assert_ready!(turns[0].poll());
        assert_pending!(turns[1].poll());
        assert_pending!(turns[2].poll());
        drop(assert_ready!(task::spawn(queues.join("b", 9).unwrap().turn()).poll()));
        drop(first);
        assert_pending!(turns[2].poll());
        drop(assert_ready!(turns[1].poll()));
    }

    #[test]
    fn one_who_leaves_the_line_is_passed_over() {
        let queues = Queues::default();
        let places: Vec<_> = (0..3).map(|_| queues.join("a", 9).unwrap()).collect();
        let mut turns: Vec<_> = places.iter().map(|place| task::spawn(place.turn())).collect();
        let first = assert_ready!(turns[0].poll());
        assert_pending!(turns[1].poll());
        assert_pending!(turns[2].poll());
        drop(turns.remove(1));
        drop(first);
        drop(assert_ready!(turns[1].poll()));
    }

    #[test]
    fn a_full_line_takes_nobody_and_an_empty_one_is_forgotten() {
        let queues = Queues::default();
        let first = queues.join("a", 1).unwrap();
        assert!(queues.join("a", 1).is_none());
        assert!(queues.join("b", 1).is_some());
        drop(first);
        assert_eq!(queues.lock().len(), 0);
        assert!(queues.join("a", 1).is_some());
    }
}

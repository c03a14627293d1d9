//! The wait for another's answer.

use crate::{
    idempotency::layer::{Config, InFlight},
    pubsub::Subscription,
    token,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

/// How soon one who waits without hints looks by itself, as most handlers are quick; each further
/// pause is twice as long, up to the last one.
const FIRST_LOOK: Duration = Duration::from_millis(25);

/// How often one who waits for hints looks by itself, in case one was lost.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// How long one who waits for hints waits for the subscription. Without it, it only looks.
const SUBSCRIBED_WITHIN: Duration = Duration::from_millis(100);

/// Those who wait. Of all in this process who wait for the same record one looks, and the next when it
/// has an answer: many duplicates cost the store no more than one, and are answered one by one.
pub(crate) struct Waiters {
    places: Arc<Semaphore>,
    /// By the record's id; only those that somebody waits for.
    turns: Mutex<HashMap<Arc<str>, Arc<Turn<()>>>>,
}

impl Waiters {
    pub(crate) fn new(places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { places, turns: Mutex::default() }
    }

    fn turn(&self, id: &Arc<str>) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(id.clone()).or_default().clone()
    }

    /// Forgets the record if the one who leaves is the last.
    fn leave(&self, id: &Arc<str>) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.get(id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(id);
        }
    }
}

/// One who waits. Waking means: look again.
pub(crate) struct Wait<'a> {
    config: &'a Config,
    id: Arc<str>,
    until: Instant,
    /// None while others look.
    turn: Option<OwnedMutexGuard<()>>,
    /// None from a store that sends no hints, and before the turn.
    hints: Option<Subscription>,
    /// Between two looks; `None` before the first.
    pause: Option<Duration>,
    _place: OwnedSemaphorePermit,
}

impl<'a> Wait<'a> {
    /// `None` if requests do not wait here, or too many do.
    pub(crate) fn begin(config: &'a Config, id: &str) -> Option<Self> {
        let InFlight::Wait { max } = config.in_flight else { return None };
        let place = config.waiters.places.clone().try_acquire_owned().ok()?;
        let (until, id) = (Instant::now() + max, id.into());
        Some(Self { config, id, until, turn: None, hints: None, pause: None, _place: place })
    }

    /// Waits until it is worth looking again; `false` once the wait is over. `left` is what the
    /// other's lease has.
    pub(crate) async fn once(&mut self, left: Duration) -> bool {
        let rest = self.until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return false;
        }
        if self.turn.is_none() {
            let turn = self.config.waiters.turn(&self.id);
            self.turn = turn.clone().try_lock_owned().ok();
            if self.turn.is_none() {
                // Whoever had the turn before has its answer, so this one looks at once.
                self.turn = timeout(rest, turn.lock_owned()).await.ok();
                return true;
            }
        }
        let Some(pause) = self.pause else {
            self.pause = Some(if self.subscribe(rest).await { LAST_LOOKS } else { FIRST_LOOK });
            return true;
        };
        self.pause = Some((pause * 2).min(LAST_LOOKS));
        let pause = jittered(pause).min(left).min(rest);
        match &mut self.hints {
            // Either end means the same: look again.
            Some(hints) => drop(timeout(pause, hints.recv()).await),
            None => sleep(pause).await,
        }
        true
    }

    /// What came before the subscription is seen by the look that follows; what comes after it is
    /// told, if the answer is `true`.
    async fn subscribe(&mut self, rest: Duration) -> bool {
        self.hints = self.config.store.watch(&self.id);
        match &mut self.hints {
            Some(hints) => hints.ready(SUBSCRIBED_WITHIN.min(rest)).await,
            None => false,
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.turn.take();
        self.config.waiters.leave(&self.id);
    }
}

/// Half of it to one and a half, so that those who wait together do not look together.
fn jittered(pause: Duration) -> Duration {
    let spread = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
    pause / 2 + Duration::from_micros(token::jitter(spread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        context::Context,
        idempotency::{layer::IdempotencyLayer, memory::MemoryStore},
        pubsub::Hints,
    };
    use bytes::Bytes;

    const LONG: Duration = Duration::from_secs(3_600);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn config(hints: &Hints, max: Duration) -> Arc<Config> {
        let context = Context { hints: hints.clone(), ..Context::default() };
        let store = MemoryStore::new(&context, 1_000);
        IdempotencyLayer::new(store).in_flight(InFlight::Wait { max }).config()
    }

    #[tokio::test]
    async fn a_hint_ends_a_pause_long_before_the_next_look() {
        let hints = Hints::memory();
        let config = config(&hints, LONG);
        let mut wait = Wait::begin(&config, "id").unwrap();
        assert!(wait.once(LONG).await);
        assert_eq!(wait.pause, Some(LAST_LOOKS), "whoever is told need not look often");
        wait.pause = Some(LONG);
        hints.publish("idempotency:id", Bytes::new()).await.unwrap();
        assert!(timeout(PATIENCE, wait.once(LONG)).await.unwrap());
    }

    #[tokio::test]
    async fn of_a_store_without_hints_a_wait_looks_by_itself() {
        let config = config(&Hints::memory(), LONG);
        let mut wait = Wait::begin(&config, "id").unwrap();
        assert!(wait.once(LONG).await);
        (wait.hints, wait.pause) = (None, Some(FIRST_LOOK));
        assert!(timeout(PATIENCE, wait.once(LONG)).await.unwrap());
        assert_eq!(
            wait.pause,
            Some(FIRST_LOOK * 2),
            "nobody tells, so it looks soon and less often"
        );
    }

    #[tokio::test]
    async fn a_pause_ends_with_the_lease_and_with_the_wait_when_no_hint_comes() {
        let hints = Hints::memory();
        let brief = Duration::from_millis(5);
        let long = config(&hints, LONG);
        let mut wait = Wait::begin(&long, "id").unwrap();
        assert!(wait.once(LONG).await);
        wait.pause = Some(LONG);
        assert!(timeout(PATIENCE, wait.once(brief)).await.unwrap());
        wait.until = Instant::now() + brief;
        assert!(timeout(PATIENCE, wait.once(LONG)).await.unwrap(), "there is one last look");
        assert!(!wait.once(LONG).await);
    }

    #[tokio::test]
    async fn one_looks_and_the_next_when_it_leaves_and_nothing_is_left_of_them() {
        let config = config(&Hints::memory(), LONG);
        let mut waits = [(); 3].map(|()| Wait::begin(&config, "id").unwrap());
        let mut other = Wait::begin(&config, "other").unwrap();
        let [first, second, third] = &mut waits;
        assert!(first.once(LONG).await && other.once(LONG).await);
        {
            let mut waiting = std::pin::pin!(second.once(LONG));
            assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
            assert!(first.turn.is_some());
            first.turn.take();
            assert!(timeout(PATIENCE, waiting).await.unwrap());
        }
        assert!(second.hints.is_none(), "the next looks before it waits for hints");
        third.until = Instant::now() + Duration::from_millis(5);
        assert!(timeout(PATIENCE, third.once(LONG)).await.unwrap(), "one last look without a turn");
        assert!(!third.once(LONG).await);
        drop((waits, other));
        assert!(config.waiters.turns.lock().unwrap().is_empty());
    }
}

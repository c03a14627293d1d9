//! Quotas that are looked up, in a database say: once for each id and time, and never twice at once.

use crate::{
    clock::Clock,
    expiring::{Expiring, WhenFull},
    flight::{Flights, Follower, Role},
    rate_limit::{by::KeyBuilder, quota::Quota},
    tasks::Tasks,
    telemetry,
};
use http::request::Parts;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::timeout;

/// How many ids' quotas are remembered: about 2 MB.
const CAPACITY: usize = 10_000;

/// How many lookups may be under way at a time: ids that nobody has seen before are no way to flood a
/// database.
const MOST_AT_ONCE: usize = 64;

/// When a lookup is given up that nobody waits for any more.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

/// For how long nobody waits again for what failed or was slow.
const PAUSE: Duration = Duration::from_secs(1);

/// The lookups of one policy.
pub(crate) struct Quotas {
    id: Box<IdOf>,
    lookup: Box<Lookup>,
    valid_us: u64,
    /// By the clock of the first layer's store.
    known: OnceLock<Expiring<Known>>,
    flights: Flights<Option<Quota>>,
}

type IdOf = dyn Fn(&Parts) -> Option<String> + Send + Sync;
type Lookup = dyn Fn(String) -> Pin<Box<dyn Future<Output = Found> + Send>> + Send + Sync;
type Found = Result<Option<Quota>, String>;

/// What was found last; `None` is that the policy's own holds.
#[derive(Clone, Copy)]
struct Known {
    quota: Option<Quota>,
    fresh_until: u64,
}

/// What is known of a request's quota.
pub(crate) enum Answer {
    Known(Option<Quota>),
    Pending(Pending),
}

/// A lookup that is under way.
pub(crate) struct Pending {
    quotas: Arc<Quotas>,
    key: String,
    flight: Follower<Option<Quota>>,
}

impl Quotas {
    pub(crate) fn new<F, E>(
        id: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
        lookup: impl Fn(String) -> F + Send + Sync + 'static,
        valid_for: Duration,
    ) -> Self
    where
        F: Future<Output = Result<Option<Quota>, E>> + Send + 'static,
        E: fmt::Display,
    {
        let lookup = move |id| -> Pin<Box<dyn Future<Output = Found> + Send>> {
            let found = lookup(id);
            Box::pin(async move { found.await.map_err(|error| error.to_string()) })
        };
        Self {
            id: Box::new(id),
            lookup: Box::new(lookup),
            valid_us: u64::try_from(valid_for.as_micros()).unwrap_or(u64::MAX),
            known: OnceLock::new(),
            flights: Flights::default(),
        }
    }

    /// Decides by this clock how long a quota is valid, unless it does so by another already.
    pub(crate) fn go_by(&self, clock: Clock) {
        self.known_by(|| clock);
    }

    /// The quota of the request, if that is known; else its lookup, in a task of its own.
    pub(crate) fn of(self: &Arc<Self>, request: &Parts) -> Answer {
        let Some(id) = (self.id)(request) else { return Answer::Known(None) };
        let mut key = KeyBuilder::default();
        key.push(&id);
        // A long one is no way to grow the memory.
        let key = key.finish();
        if let Some(quota) = self.fresh(&key) {
            return Answer::Known(quota);
        }
        let flight = match self.flights.join(&key) {
            Role::Follow(flight) => flight,
            Role::Lead(leader) => {
                // Another may have landed between the look and the start.
                if let Some(quota) = self.fresh(&key) {
                    return Answer::Known(quota);
                }
                if self.flights.len() > MOST_AT_ONCE {
                    let why = format_args!("{MOST_AT_ONCE} others are under way");
                    return Answer::Known(self.postpone(&key, why));
                }
                let (this, key, flight) = (self.clone(), key.to_string(), leader.follower());
                // Of tasks that no shutdown waits for.
                Tasks::default().spawn(async move {
                    let found = timeout(GIVEN_UP_AFTER, (this.lookup)(id)).await;
                    leader.land(match found {
                        Ok(Ok(quota)) => this.learn(&key, quota),
                        Ok(Err(error)) => this.postpone(&key, format_args!("{error}")),
                        Err(_) => this.postpone(&key, format_args!("it took {GIVEN_UP_AFTER:?}")),
                    });
                });
                flight
            }
        };
        Answer::Pending(Pending { quotas: self.clone(), key: key.into_owned(), flight })
    }

    fn known(&self) -> &Expiring<Known> {
        self.known_by(Clock::system)
    }

    fn known_by(&self, clock: impl FnOnce() -> Clock) -> &Expiring<Known> {
        let when_full = WhenFull::EvictLeastRecentlyUsed;
        self.known.get_or_init(|| Expiring::new(clock(), CAPACITY, when_full))
    }

    fn fresh(&self, key: &str) -> Option<Option<Quota>> {
        self.known().with(key, |entry| {
            let now = entry.now_us();
            entry.get().filter(|known| known.fresh_until > now).map(|known| known.quota)
        })
    }

    fn learn(&self, key: &str, quota: Option<Quota>) -> Option<Quota> {
        self.keep(key, |_| quota, self.valid_us)
    }

    /// Goes on with what was known last, for a moment, and says so.
    fn postpone(&self, key: &str, why: fmt::Arguments<'_>) -> Option<Quota> {
        if let Some(quota) = self.fresh(key) {
            return quota;
        }
        telemetry::warn(format_args!("a quota was not looked up: {why}; the last known one holds"));
        self.keep(key, |last| last, PAUSE.as_micros() as u64)
    }

    fn keep(
        &self,
        key: &str,
        quota: impl FnOnce(Option<Quota>) -> Option<Quota>,
        for_us: u64,
    ) -> Option<Quota> {
        self.known().with(key, |entry| {
            let fresh_until = entry.now_us().saturating_add(for_us);
            let quota = quota(entry.get().and_then(|known| known.quota));
            // Where there is no room, it is looked up again.
            let _ = entry.insert(Known { quota, fresh_until }, u64::MAX, 1);
            quota
        })
    }
}

impl Pending {
    /// What is found within so long, or else what was known last.
    pub(crate) async fn within(self, deadline: Duration) -> Option<Quota> {
        match timeout(deadline, self.flight.outcome()).await {
            Ok(Some(quota)) => quota,
            Ok(None) => self.quotas.postpone(&self.key, format_args!("the lookup panicked")),
            Err(_) => self.quotas.postpone(&self.key, format_args!("the lookup takes too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    const MINUTE: Duration = Duration::from_secs(60);

    /// A database of one answer to all, which counts the questions.
    struct Database {
        quotas: Arc<Quotas>,
        answer: Arc<Mutex<Found>>,
        asked: Arc<AtomicUsize>,
        clock: Clock,
    }

    impl Database {
        fn new() -> Self {
            let (answer, asked) = (Arc::new(Mutex::new(Ok(None))), Arc::new(AtomicUsize::new(0)));
            let clock = Clock::manual();
            let id = |request: &Parts| Some(request.uri.path().to_owned());
            let lookup = {
                let (answer, asked) = (answer.clone(), asked.clone());
                move |_: String| {
                    asked.fetch_add(1, SeqCst);
                    std::future::ready(answer.lock().unwrap().clone())
                }
            };
            let quotas = Arc::new(Quotas::new(id, lookup, MINUTE));
            quotas.go_by(clock.clone());
            Self { quotas, answer, asked, clock }
        }

        fn says(&self, answer: Found) {
            *self.answer.lock().unwrap() = answer;
        }

        async fn quota(&self, path: &str) -> Option<Quota> {
            resolved(self.quotas.of(&parts(path))).await
        }
    }

    async fn resolved(answer: Answer) -> Option<Quota> {
        match answer {
            Answer::Known(quota) => quota,
            Answer::Pending(pending) => pending.within(MINUTE).await,
        }
    }

    fn parts(path: &str) -> Parts {
        Request::get(path).body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn a_quota_is_looked_up_once_in_its_time_and_the_last_one_holds_while_lookups_fail() {
        let (database, gold) = (Database::new(), Quota::per_second(100));
        database.says(Ok(Some(gold)));
        for _ in 0..3 {
            assert_eq!(database.quota("/a").await, Some(gold));
        }
        assert_eq!(database.asked.load(SeqCst), 1);
        assert_eq!(database.quota("/b").await, Some(gold));
        assert_eq!(database.asked.load(SeqCst), 2, "each id has its own");

        database.clock.advance(MINUTE);
        database.says(Err("no route to host".into()));
        for _ in 0..3 {
            assert_eq!(database.quota("/a").await, Some(gold));
            assert_eq!(database.quota("/c").await, None, "nothing is known: the policy's own");
        }
        assert_eq!(database.asked.load(SeqCst), 4, "it is not asked again at once");
        database.clock.advance(PAUSE);
        database.says(Ok(None));
        assert_eq!(database.quota("/a").await, None);
        assert_eq!(database.asked.load(SeqCst), 5);
    }

    #[tokio::test]
    async fn a_flood_of_ids_grows_neither_the_memory_nor_the_load_on_the_database() {
        let database = Database::new();
        for n in 0..CAPACITY + 2_000 {
            database.quota(&format!("/{n}")).await;
        }
        assert!(database.quotas.known().len() <= CAPACITY);
        let before = database.asked.load(SeqCst);
        let mut answers = Vec::new();
        for n in 0..1_000 {
            answers.push(database.quotas.of(&parts(&format!("/new/{n}"))));
        }
        // The tasks have not begun: there is one thread, and nobody has waited yet.
        let pending = answers.iter().filter(|answer| matches!(answer, Answer::Pending(_)));
        assert_eq!(pending.count(), MOST_AT_ONCE);
        for answer in answers {
            resolved(answer).await;
        }
        assert_eq!(database.asked.load(SeqCst) - before, MOST_AT_ONCE);
        assert_eq!(database.quotas.flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_lookup_is_waited_for_once_and_its_answer_holds_when_it_comes() {
        let gold = Quota::per_second(100);
        let asked = Arc::new(AtomicUsize::new(0));
        let lookup = {
            let asked = asked.clone();
            move |_| {
                asked.fetch_add(1, SeqCst);
                async move {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    Ok::<_, String>(Some(gold))
                }
            }
        };
        let quotas = Arc::new(Quotas::new(|_| Some("id".into()), lookup, MINUTE));
        quotas.go_by(Clock::manual());
        let wait = Duration::from_millis(100);
        let [Answer::Pending(first), Answer::Pending(second)] =
            [(); 2].map(|()| quotas.of(&parts("/")))
        else {
            panic!("both wait for one lookup")
        };
        assert_eq!(first.within(wait).await, None);
        assert_eq!(second.within(wait).await, None);
        assert!(matches!(quotas.of(&parts("/")), Answer::Known(None)), "nobody waits again");
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(matches!(quotas.of(&parts("/")), Answer::Known(Some(quota)) if quota == gold));
        assert_eq!(asked.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_lookup_that_panics_is_one_that_failed() {
        let lookup = |_| async { if true { panic!("boom") } else { Ok::<_, String>(None) } };
        let quotas = Arc::new(Quotas::new(|_| Some("id".into()), lookup, MINUTE));
        assert_eq!(resolved(quotas.of(&parts("/"))).await, None);
        assert_eq!(quotas.flights.len(), 0);
    }
}

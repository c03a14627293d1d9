//! Calls that go on while something happens to the servers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use towerkeep::{
    StoreError,
    connection::{Connection, Script, redis},
};

/// Two keys of one slot in one step: what the layers do.
static BOTH: Script = Script::new(
    "redis.call('INCR', KEYS[1]) redis.call('PEXPIRE', KEYS[1], ARGV[1])
     return redis.call('INCR', KEYS[2])",
)
.named("both");

/// What the calls on one key came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Increments that were confirmed.
    pub(super) done: u64,
    pub(super) errors: Vec<(Instant, StoreError)>,
    pub(super) longest: Duration,
    /// When calls succeeded again after one had failed.
    pub(super) recovered: Option<Instant>,
}

impl Tally {
    fn note(&mut self, started: Instant, outcome: Result<(), StoreError>) {
        self.longest = self.longest.max(started.elapsed());
        match outcome {
            Ok(()) => {
                self.done += 1;
                if !self.errors.is_empty() && self.recovered.is_none() {
                    self.recovered = Some(Instant::now());
                }
            }
            Err(error) => {
                self.recovered = None;
                self.errors.push((Instant::now(), error));
            }
        }
    }
}

/// Runs until it is told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    tasks: BTreeMap<String, JoinHandle<Tally>>,
}

impl Load {
    /// Increments each of `keys`, over and over, by a command and by a script in turn.
    pub(super) fn on(connection: &Connection, keys: impl IntoIterator<Item = String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |key: String| {
            let (connection, stop) = (connection.clone(), stop.clone());
            let task = tokio::spawn(increment(connection, key.clone(), stop));
            (key, task)
        };
        let tasks = keys.into_iter().map(start).collect();
        Self { stop, tasks }
    }

    /// What became of each key.
    pub(super) async fn stop(self) -> BTreeMap<String, Tally> {
        self.stop.store(true, SeqCst);
        let mut tallies = BTreeMap::new();
        for (key, task) in self.tasks {
            tallies.insert(key, task.await.unwrap());
        }
        tallies
    }
}

async fn increment(connection: Connection, key: String, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    let second = format!("{key}:second");
    for turn in 0_u64.. {
        if stop.load(SeqCst) {
            break;
        }
        let started = Instant::now();
        let outcome = match turn % 2 {
            0 => {
                let incr = redis::cmd("INCR").arg(&key).take();
                connection.cmd(incr, connection.deadline()).await.map(drop)
            }
            _ => {
                let both = BOTH.keys([&key, &second]).arg(600_000);
                connection.script(both, connection.deadline()).await.map(drop)
            }
        };
        tally.note(started, outcome);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tally
}

/// What a key counts to.
pub(super) async fn count(connection: &Connection, key: &str) -> u64 {
    connection.query(redis::cmd("GET").arg(key)).await.unwrap()
}

/// Waits until `done`, at most a minute: a loaded machine never decides a test.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done().await {
        assert!(Instant::now() < end, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! No interleaving of processes admits more than the bound of its algorithm, by the server's time.

use super::{
    admissions::{breach, count},
    app::{self, ALGORITHMS, AT_ONCE, LIMIT, PERIOD},
};
use crate::{
    harness::PREFIX,
    support::{http::client::HttpClient, process::ChildApp, server::RedisServer},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// How many requests each route of each process has at a time.
const AT_A_TIME: usize = 2;

/// How long a slow machine may take to do what a test is about.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_never_admit_more_than_the_bound_of_each_algorithm() {
    let redis = RedisServer::start();
    // Half of them believe what they were denied, as they do by default, and half ask every time.
    let envs = (0..8).map(|n| if n % 2 == 0 { vec![("DENY_CACHE", "on")] } else { vec![] });
    let apps = app::spawn_all(&redis, &envs.collect::<Vec<_>>());
    let load = Load::on(&apps);

    let end = time(&redis) + 2 * PERIOD.as_micros() as u64 + PERIOD.as_micros() as u64 / 2;
    let admits = |algorithm| {
        let least = if algorithm == "concurrency" { AT_ONCE } else { LIMIT };
        count(&redis, algorithm) >= least as usize && load.denied(algorithm) >= LIMIT as usize
    };
    let full = until(|| time(&redis) >= end && ALGORITHMS.into_iter().all(admits));
    full.await.expect("every limit admits what it may, and denies");
    load.stop().await;

    for algorithm in ALGORITHMS {
        assert_eq!(breach(&redis, algorithm), None, "{algorithm}");
    }
    for key in redis.command(&["KEYS", &format!("{PREFIX}:*")]).texts() {
        let ttl = redis.command(&["PTTL", &key]).int();
        assert_ne!(ttl, -1, "{key} is never forgotten");
    }
}

/// That the test above can fail: limits that are each process's own are exceeded together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_share_nothing_are_seen_to_exceed_the_bound_of_each_algorithm() {
    let redis = RedisServer::start();
    let envs = [".a", ".b", ".c"].map(|name| vec![("OWN_NAME", name)]);
    let apps = app::spawn_all(&redis, &envs);
    let load = Load::on(&apps);
    let seen = until(|| ALGORITHMS.into_iter().all(|name| breach(&redis, name).is_some()));
    seen.await.expect("three limits are more than one");
    load.stop().await;
}

/// Requests to every route of every process, again and again.
struct Load {
    tasks: JoinSet<()>,
    denied: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    go_on: Arc<()>,
}

impl Load {
    fn on(apps: &[ChildApp]) -> Self {
        let (denied, go_on) = (Arc::<Mutex<BTreeMap<_, _>>>::default(), Arc::new(()));
        let (client, mut tasks) = (HttpClient::http1(), JoinSet::new());
        for (app, algorithm) in apps.iter().flat_map(|app| ALGORITHMS.map(|name| (app, name))) {
            for _ in 0..AT_A_TIME {
                let url = app.url(&format!("/{algorithm}"));
                let (client, denied) = (client.clone(), denied.clone());
                let go_on = Arc::downgrade(&go_on);
                tasks.spawn(async move {
                    while go_on.upgrade().is_some() {
                        match app::status(&client, &url).await {
                            200 => {}
                            429 => {
                                *denied.lock().unwrap().entry(algorithm).or_default() += 1;
                                // What is denied leaves the machine to what is not.
                                sleep(Duration::from_millis(1)).await;
                            }
                            other => panic!("{url}: {other}"),
                        }
                    }
                });
            }
        }
        Self { tasks, denied, go_on }
    }

    fn denied(&self, algorithm: &str) -> usize {
        self.denied.lock().unwrap().get(algorithm).copied().unwrap_or(0)
    }

    /// Ends when every request has its answer; panics if one was neither admitted nor denied.
    async fn stop(self) {
        drop(self.go_on);
        self.tasks.join_all().await;
    }
}

async fn until(mut done: impl FnMut() -> bool) -> Result<(), tokio::time::error::Elapsed> {
    let done = async {
        while !done() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, done).await
}

fn time(redis: &RedisServer) -> u64 {
    let time = redis.command(&["TIME"]).texts();
    time[0].parse::<u64>().unwrap() * 1_000_000 + time[1].parse::<u64>().unwrap()
}

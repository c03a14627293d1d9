//! 32 clients in three processes, who all want one lock: whoever has it writes so down elsewhere.

use super::{
    redlock::{backends, over},
    spy::redis_at,
};
use crate::support::{
    cluster::RedisCluster,
    process::{self, ChildApp},
    server::RedisServer,
};
use std::{
    env,
    future::pending,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};
use towerkeep::{
    Backend,
    connection::redis,
    lock::{Guard, Locks, Redlock},
};

const WORKER: &str = "tests::fleet::worker";

/// Clients of each process.
const CLIENTS: [usize; 3] = [11, 11, 10];

/// Longer than a client ever waits for its turn on a machine that does its work.
const LONG: Duration = Duration::from_secs(600);

/// Without an acquisition for so long, something hangs.
const STALLED: Duration = Duration::from_secs(60);

/// How many acquisitions the tests make; `TOWERKEEP_LOCK_ACQUISITIONS=10000` for a long run.
fn acquisitions(usually: usize) -> usize {
    let asked = env::var("TOWERKEEP_LOCK_ACQUISITIONS").ok().and_then(|asked| asked.parse().ok());
    asked.unwrap_or(usually)
}

/// Not a test of its own: one process of the fleet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker() {
    if !process::is_child(WORKER) {
        return;
    }
    let setting = |name: &str| env::var(name).unwrap();
    let arbiter = Arbiter(redis_at(&setting("ARBITER")).await);
    let (clients, total) = (setting("CLIENTS"), setting("TOTAL").parse::<u64>().unwrap());
    let urls: Vec<_> = setting("URLS").split(' ').map(str::to_owned).collect();
    let contender = match urls.as_slice() {
        [url] => Contender::One(Locks::new(redis_at(url).await)),
        urls => Contender::Majority(over(&backends(urls).await)),
    };
    process::announce(([127, 0, 0, 1], 1).into()); // it serves nobody, and is ready
    let mut tasks = JoinSet::new();
    for _ in 0..clients.parse::<usize>().unwrap() {
        let (arbiter, contender) = (arbiter.clone(), contender.clone());
        tasks.spawn(async move {
            while arbiter.call::<u64>(&["INCR", "begun"]).await <= total {
                contender.once(&arbiter).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    pending::<()>().await;
}

#[derive(Clone)]
enum Contender {
    One(Locks),
    Majority(Redlock),
}

impl Contender {
    async fn once(&self, arbiter: &Arbiter) {
        match self {
            Self::One(locks) => {
                let guard = locks.lock("job").ttl(LONG).wait(LONG).acquire().await.unwrap();
                arbiter.holds(guard.fence()).await;
                leave(arbiter, guard).await;
            }
            Self::Majority(locks) => {
                let guard = locks.lock("job").ttl(LONG).wait(LONG).acquire().await.unwrap();
                arbiter.holds(0).await;
                leave(arbiter, guard).await;
            }
        }
    }
}

async fn leave<K>(arbiter: &Arbiter, guard: Guard<K>) {
    guard.check().unwrap();
    arbiter.leaves().await;
    guard.release().await.unwrap();
}

/// A server that has nothing to do with the lock, where holders write down that they hold it.
#[derive(Clone)]
struct Arbiter(Backend);

impl Arbiter {
    async fn call<T: redis::FromRedisValue + Send + 'static>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.0.connection().unwrap().query(&command).await.unwrap()
    }

    async fn holds(&self, fence: u64) {
        if self.call::<u64>(&["INCR", "holding"]).await != 1 {
            self.call::<u64>(&["INCR", "violations"]).await;
        }
        self.call::<u64>(&["RPUSH", "fences", &fence.to_string()]).await;
    }

    async fn leaves(&self) {
        self.call::<i64>(&["DECR", "holding"]).await;
    }
}

/// Lets three processes contend, and returns the fences in the order in which they were held.
async fn contend(urls: &[String], total: usize) -> Vec<u64> {
    let arbiter = RedisServer::start();
    let started = Instant::now();
    let (url, total_text, urls) = (arbiter.url(), total.to_string(), urls.join(" "));
    let _fleet = CLIENTS.map(|clients| {
        let clients = clients.to_string();
        let envs =
            [("ARBITER", &*url), ("CLIENTS", &clients), ("TOTAL", &total_text), ("URLS", &urls)];
        ChildApp::spawn(WORKER, &envs)
    });
    let (mut held, mut since) = (0, Instant::now());
    loop {
        let now = arbiter.command(&["LLEN", "fences"]).int() as usize;
        let holding = arbiter.command(&["GET", "holding"]);
        if now >= total && holding.text() == "0" {
            break;
        }
        if now > held {
            (held, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < STALLED, "{held} of {total} acquisitions, and no more");
        sleep(Duration::from_millis(20)).await;
    }
    println!("{total} acquisitions by 32 clients in 3 processes took {:?}", started.elapsed());
    assert_eq!(arbiter.command(&["EXISTS", "violations"]).int(), 0, "two held the lock");
    let fences = arbiter.command(&["LRANGE", "fences", "0", "-1"]).texts();
    assert_eq!(fences.len(), total);
    fences.iter().map(|fence| fence.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_32_clients_in_three_processes_holds_the_lock_and_the_fences_rise() {
    let server = RedisServer::start();
    let fences = contend(&[server.url()], acquisitions(1_000)).await;
    assert!(fences.is_sorted_by(|a, b| a < b), "in the order of holding: {fences:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_32_clients_holds_the_lock_on_a_cluster_and_the_fences_rise() {
    let cluster = RedisCluster::start();
    let fences = contend(&[cluster.url()], acquisitions(300)).await;
    assert!(fences.is_sorted_by(|a, b| a < b), "in the order of holding: {fences:?}");
}

/// Fewer, since those who are refused draw a pause and are not woken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_32_clients_holds_the_lock_of_a_majority() {
    let servers: Vec<_> = (0..5).map(|_| RedisServer::start()).collect();
    let urls: Vec<_> = servers.iter().map(RedisServer::url).collect();
    contend(&urls, acquisitions(1_000) / 10).await;
}

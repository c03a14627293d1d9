//! One test over every backend: `#[macro_use] mod harness;` beside `mod support;`.

// Every test binary compiles this module anew and uses its own part of it.
#![allow(dead_code)]

use crate::support::{
    cluster::RedisCluster,
    resp::{RespClient, Value},
    server::RedisServer,
};
use std::{ops::Deref, time::Duration};
use towerkeep::{Backend, Clock};

/// Expands each `async fn name(harness: Harness)` into one test per backend: memory, a server and a
/// Cluster.
#[allow(unused_macros)]
macro_rules! on_every_backend {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::harness::Harness::memory()).await;
            })+
        }

        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::harness::Harness::redis().await).await;
            })+
        }

        mod cluster {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::harness::Harness::cluster().await).await;
            })+
        }
    };
}

/// The same without memory, for tests that look at what is stored.
#[allow(unused_macros)]
macro_rules! on_every_server {
    ($($name:ident),+ $(,)?) => {
        mod on {
            mod redis {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::super::$name($crate::harness::Harness::redis().await).await;
                })+
            }

            mod cluster {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::super::$name($crate::harness::Harness::cluster().await).await;
                })+
            }
        }
    };
}

pub(crate) const PREFIX: &str = "test";

/// Most tests ask what a store answers, not how fast it does on a small machine under load.
const PATIENCE: Duration = Duration::from_secs(5);

/// The documented rights, which everything here has to do with.
const RIGHTS: &str = include_str!("../../src/connection/acl.md");

/// A backend under test, whose time the test moves.
pub(crate) struct Harness {
    pub(crate) backend: Backend,
    pub(crate) clock: Clock,
    home: Home,
}

/// Where the state is.
enum Home {
    Memory,
    Server(RedisServer),
    Cluster(RedisCluster),
}

impl Harness {
    /// State in memory.
    pub(crate) fn memory() -> Self {
        let clock = Clock::manual();
        let backend = Backend::builder().clock(clock.clone()).memory();
        Self { backend, clock, home: Home::Memory }
    }

    /// State in a Redis server of its own.
    pub(crate) async fn redis() -> Self {
        let server = RedisServer::start();
        allow_user(&server);
        Self::over(Home::Server(server)).await
    }

    /// State in a Redis Cluster that nobody else uses meanwhile.
    pub(crate) async fn cluster() -> Self {
        let cluster = RedisCluster::start();
        allow_user_of(&cluster);
        Self::over(Home::Cluster(cluster)).await
    }

    async fn over(home: Home) -> Self {
        let clock = Clock::manual();
        let url = home.url().expect("the state is not in memory");
        Self { backend: connect(&url, clock.clone()).await, clock, home }
    }

    /// The same, with a store of rate limits that asks Redis every time, whatever it knows.
    pub(crate) async fn without_deny_cache(mut self) -> Self {
        if let Some(url) = self.home.url() {
            let builder = Backend::builder().prefix(PREFIX).clock(self.clock.clone());
            let builder = builder.deadline(PATIENCE).rate_limit_deny_cache(Duration::ZERO);
            self.backend = builder.redis(url).await.expect("the server runs");
        }
        self
    }

    /// Whether another process could have the same state, and a test look at it with
    /// [`command`](Self::command) and [`keys`](Self::keys): everywhere but in memory.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self.home, Home::Memory)
    }

    /// Runs a command of its first argument's key, on the server that has it; panics on an error reply.
    pub(crate) fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Value {
        match &self.home {
            Home::Memory => panic!("nobody looks into the memory"),
            Home::Server(server) => server.command(args),
            Home::Cluster(cluster) => {
                let key = String::from_utf8_lossy(args[1].as_ref());
                cluster.command_for(&key, args)
            }
        }
    }

    /// The keys that match, on all servers together; panics in memory.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        match &self.home {
            Home::Memory => panic!("nobody looks into the memory"),
            Home::Server(server) => server.command(&["KEYS", pattern]).texts(),
            Home::Cluster(cluster) => cluster.keys(pattern),
        }
    }

    /// A backend over the same state as another process has it: with a connection of its own. In
    /// memory there is no other process, so it is the same one.
    pub(crate) async fn another(&self) -> Backend {
        match self.home.url() {
            Some(url) => connect(&url, self.clock.clone()).await,
            None => self.backend.clone(),
        }
    }

    /// A fresh backend over an empty store that decides by the real time: the system's clock in
    /// memory, the server's `TIME` in Redis.
    pub(crate) async fn live(&self) -> Backend {
        match self.home.url() {
            Some(url) => connect(&url, Clock::system()).await,
            None => Backend::memory(),
        }
    }

    /// Two of them over one state, as two processes have it; in memory they are the same one.
    pub(crate) async fn two_live(&self) -> [Backend; 2] {
        let first = self.live().await;
        let second = if self.is_shared() { self.live().await } else { first.clone() };
        [first, second]
    }

    /// Lets time pass: the clock moves, and every TTL in Redis shrinks by as much.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
        match &self.home {
            Home::Memory => {}
            Home::Server(server) => age(&mut server.client(), by),
            Home::Cluster(cluster) => cluster.each_master(|client| age(client, by)),
        }
    }
}

impl Home {
    /// Where the documented user logs in.
    fn url(&self) -> Option<String> {
        match self {
            Self::Memory => None,
            Self::Server(server) => Some(user_url(server)),
            Self::Cluster(cluster) => Some(cluster.url_as("shop", cluster.password())),
        }
    }
}

/// Every TTL on one server shrinks.
fn age(client: &mut RespClient, by: Duration) {
    for key in client.command(&["KEYS", &format!("{PREFIX}:*")]).texts() {
        let Value::Int(left) = client.command(&["PTTL", &key]) else {
            panic!("PTTL answers with a number");
        };
        if left >= 0 {
            let left = left - by.as_millis() as i64;
            client.command(&["PEXPIRE", &key, &left.to_string()]);
        }
    }
}

impl Deref for Harness {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

/// Makes the ACL user that the documentation shows, and returns the commands that it may run.
pub(crate) fn allow_user(server: &RedisServer) -> Vec<&'static str> {
    let documented = RIGHTS
        .lines()
        .find(|line| line.starts_with("ACL SETUSER"))
        .expect("the documentation shows the command");
    let own = documented.replace("shop:", &format!("{PREFIX}:"));
    server.command(&own.split_whitespace().collect::<Vec<_>>());
    documented.split_whitespace().filter_map(|word| word.strip_prefix('+')).collect()
}

/// Makes that user on all servers of a Cluster, with the Cluster's password: a test that has its
/// servers later knows another one, so that nobody from here gets in there.
fn allow_user_of(cluster: &RedisCluster) {
    for line in rights().into_iter().take(2) {
        let own = |word: &String| match word.strip_prefix('>') {
            Some(_) => format!(">{}", cluster.password()),
            None => word.clone(),
        };
        let line: Vec<_> = line.iter().map(own).collect();
        cluster.command_on_all(&line.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// All commands that the documentation shows for that user, those for a cluster, Sentinel and replicas
/// included.
pub(crate) fn rights() -> Vec<Vec<String>> {
    let shown = RIGHTS.lines().filter(|line| line.starts_with("ACL SETUSER"));
    shown
        .map(|line| line.replace("shop:", &format!("{PREFIX}:")))
        .map(|line| line.split_whitespace().map(Into::into).collect())
        .collect()
}

/// Where that user logs in.
pub(crate) fn user_url(server: &RedisServer) -> String {
    format!("redis://shop:password@127.0.0.1:{}", server.port())
}

async fn connect(url: &str, clock: Clock) -> Backend {
    let builder = Backend::builder().prefix(PREFIX).clock(clock).deadline(PATIENCE);
    let builder = builder.ping(Duration::from_millis(250), PATIENCE);
    builder.redis(url).await.expect("the test's own server accepts connections")
}

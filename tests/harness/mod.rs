//! One test over every backend: `#[macro_use] mod harness;` beside `mod support;`.

// Every test binary compiles this module anew and uses its own part of it.
#![allow(dead_code)]

use crate::support::{resp::Value, server::RedisServer};
use std::{ops::Deref, time::Duration};
use towerkeep::{Backend, Clock};

/// Expands each `async fn name(harness: Harness)` into one test per backend.
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
    server: Option<RedisServer>,
}

impl Harness {
    /// State in memory.
    pub(crate) fn memory() -> Self {
        let clock = Clock::manual();
        let backend = Backend::builder().clock(clock.clone()).memory();
        Self { backend, clock, server: None }
    }

    /// State in a Redis server of its own.
    pub(crate) async fn redis() -> Self {
        let clock = Clock::manual();
        let server = RedisServer::start();
        allow_user(&server);
        let backend = connect(&user_url(&server), clock.clone()).await;
        Self { backend, clock, server: Some(server) }
    }

    /// The server, for those tests that look at it; `None` in memory.
    pub(crate) fn server(&self) -> Option<&RedisServer> {
        self.server.as_ref()
    }

    /// A backend over the same state as another process has it: with a connection of its own. In
    /// memory there is no other process, so it is the same one.
    pub(crate) async fn another(&self) -> Backend {
        match &self.server {
            Some(server) => connect(&user_url(server), self.clock.clone()).await,
            None => self.backend.clone(),
        }
    }

    /// A fresh backend over an empty store that decides by the real time: the system's clock in
    /// memory, the server's `TIME` in Redis.
    pub(crate) async fn live(&self) -> Backend {
        match &self.server {
            Some(server) => connect(&user_url(server), Clock::system()).await,
            None => Backend::memory(),
        }
    }

    /// Lets time pass: the clock moves, and every TTL in Redis shrinks by as much.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
        let Some(server) = &self.server else { return };
        let mut client = server.client();
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

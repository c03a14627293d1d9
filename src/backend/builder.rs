//! Every setting of a backend, in one place.

use super::{
    Backend, Inner,
    stores::{Settings, Stores},
};
#[cfg(feature = "redis")]
use crate::connection::{Config, Connection, RedisContext};
use crate::{clock::Clock, context::Context, key::Keys, store::StoreError, telemetry};
#[cfg(feature = "redis")]
use std::time::Duration;
use std::{env, sync::Arc};

/// The environment variable that names the server.
const URL_VARIABLE: &str = "REDIS_URL";

/// The settings of a [`Backend`], each with its default.
///
/// Those of the connection have no effect in memory, those of the memory none with Redis, so the same
/// code serves both.
///
/// ```
/// use towerkeep::Backend;
///
/// let backend = Backend::builder().prefix("shop").memory();
/// ```
///
#[doc = include_str!("settings.md")]
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    prefix: String,
    clock: Clock,
    settings: Settings,
    #[cfg(feature = "redis")]
    config: Config,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            prefix: "towerkeep".into(),
            clock: Clock::system(),
            settings: Settings::default(),
            #[cfg(feature = "redis")]
            config: Config::new(""),
        }
    }
}

impl Builder {
    /// What every key begins with: 1 to 64 characters of `A-Z a-z 0-9 - _ . : /`. Applications that
    /// share a server have one each. Default: `towerkeep`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The clock to decide by. A [manual](Clock::manual) one is for tests: a Redis backend then
    /// decides by it too, instead of the server's time. Default: [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// State in this process's memory.
    #[must_use]
    pub fn memory(self) -> Backend {
        let context = self.context();
        let stores = Stores::memory(&context, &self.settings);
        Backend {
            inner: Arc::new(Inner {
                context,
                #[cfg(feature = "redis")]
                connection: None,
                #[cfg(feature = "redis")]
                keys: None,
                stores,
            }),
        }
    }

    /// State in the server that `REDIS_URL` names, or in memory if it is unset or empty.
    ///
    /// # Errors
    ///
    /// As [`redis`](Builder::redis).
    pub async fn from_env(self) -> Result<Backend, StoreError> {
        let backend = match env::var(URL_VARIABLE) {
            Ok(url) if !url.is_empty() => self.at(url).await?,
            Err(env::VarError::NotUnicode(_)) => {
                return Err(StoreError::config(format!("{URL_VARIABLE} is not valid UTF-8")));
            }
            Ok(_) | Err(env::VarError::NotPresent) => self.memory(),
        };
        telemetry::notice(format_args!("state lives in {backend}"));
        Ok(backend)
    }

    #[cfg(not(feature = "redis"))]
    async fn at(self, _url: String) -> Result<Backend, StoreError> {
        Err(StoreError::config(format!(
            "{URL_VARIABLE} is set, but towerkeep was built without its feature `redis`; enable it, \
             or unset {URL_VARIABLE} to keep state in memory"
        )))
    }

    fn context(&self) -> Context {
        Context { clock: self.clock.clone(), ..Context::default() }
    }
}

/// The connection to Redis.
#[cfg(feature = "redis")]
impl Builder {
    /// State in the Redis or Valkey deployment at `url`: one server, Sentinel or Cluster. The forms
    /// that it takes are listed at [`connection::Config::url`](Config::url).
    ///
    /// # Errors
    ///
    /// [`StoreError::is_config`] if the URL, the login, the database or the prefix is wrong,
    /// [`StoreError::is_unavailable`] if the server cannot be reached within the connect timeout. The
    /// message names the cause and the fix, and no password.
    pub async fn redis(self, url: impl Into<String>) -> Result<Backend, StoreError> {
        self.at(url.into()).await
    }

    /// State in the server that a pool of the application's own leads to. Every layer works through
    /// it; what that costs is said at
    /// [`Connection::through`](crate::connection::Connection::through).
    ///
    /// # Errors
    ///
    /// [`StoreError::is_config`] if the prefix or a setting is wrong. Nothing is dialled.
    pub fn pool(mut self, pool: deadpool_redis::Pool) -> Result<Backend, StoreError> {
        let keys = Keys::new(&self.prefix)?;
        let config = std::mem::replace(&mut self.config, Config::new(""));
        Ok(self.over(Connection::through(pool, config)?, keys))
    }

    async fn at(mut self, url: String) -> Result<Backend, StoreError> {
        let keys = Keys::new(&self.prefix)?;
        let mut config = std::mem::replace(&mut self.config, Config::new(""));
        config.url = url;
        Ok(self.over(Connection::connect(config).await?, keys))
    }

    fn over(self, connection: Connection, keys: Keys) -> Backend {
        let mut context = self.context();
        context.hints = connection.hints();
        let redis = RedisContext::new(context.clone(), connection.clone(), keys.clone());
        let stores = Stores::redis(&redis, &self.settings);
        let (connection, keys) = (Some(connection), Some(keys));
        Backend { inner: Arc::new(Inner { context, connection, keys, stores }) }
    }

    /// The ACL user. Default: the one in the URL, else the server's default user.
    pub fn username(self, username: impl Into<String>) -> Self {
        self.with(|config| config.username = Some(username.into()))
    }

    /// The password. Default: the one in the URL, else none.
    pub fn password(self, password: impl Into<String>) -> Self {
        self.with(|config| config.password = Some(password.into()))
    }

    /// Whom a `rediss://` server must be, and who this client is. Default: a server with a certificate
    /// from one of the system's roots, and no client certificate.
    #[cfg(feature = "redis-tls")]
    pub fn tls(self, tls: crate::connection::Tls) -> Self {
        self.with(|config| config.tls = Some(tls))
    }

    /// The number of the database. Default: the one in the URL, else 0.
    pub fn database(self, database: u32) -> Self {
        self.with(|config| config.database = Some(database))
    }

    /// Limits one attempt to connect. Default: 2 s.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.connect_timeout = timeout)
    }

    /// How long a call waits for its answer at most; layers may wait less. Default: 250 ms.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|config| config.deadline = deadline)
    }

    /// How long a call waits for a link while there is none, within its deadline. Default: 0, so that
    /// each layer's policy decides at once.
    pub fn down_wait(self, wait: Duration) -> Self {
        self.with(|config| config.down_wait = wait)
    }

    /// How often a call is sent again within its deadline: a read after its link broke, a write only
    /// when the server turned it away undone. 0 turns it off. Default: 3.
    pub fn retries(self, retries: u32) -> Self {
        self.with(|config| config.retries = retries)
    }

    /// Whether small calls are sent at once (`TCP_NODELAY`). Default: on.
    pub fn nodelay(self, nodelay: bool) -> Self {
        self.with(|config| config.nodelay = nodelay)
    }

    /// How long sent data may stay without the other side's acknowledgement before the connection counts
    /// as dead (`TCP_USER_TIMEOUT`, on Linux and Android). Default: 10 s.
    pub fn user_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.user_timeout = timeout)
    }

    /// TCP keepalive: the silence before the first probe, the time between two, and how many may go
    /// unanswered. Default: 15 s, 5 s, 3.
    pub fn keepalive(self, idle: Duration, interval: Duration, count: u32) -> Self {
        self.with(|config| {
            config.keepalive_idle = idle;
            config.keepalive_interval = interval;
            config.keepalive_count = count;
        })
    }

    /// How often the supervisor looks whether a call is without an answer, and how long its own PING
    /// may take before the link is replaced. Default: 250 ms, 500 ms.
    pub fn ping(self, interval: Duration, timeout: Duration) -> Self {
        self.with(|config| {
            config.ping_interval = interval;
            config.ping_timeout = timeout;
        })
    }

    /// Shortest and longest pause between two attempts to connect, or of a call. Default: 20 ms, 500 ms.
    pub fn backoff(self, min: Duration, max: Duration) -> Self {
        self.with(|config| {
            config.backoff_min = min;
            config.backoff_max = max;
        })
    }

    /// Whether to start without the server: calls fail until it is there, and the connection is made
    /// in the background. What is wrong with it is then seen in [`Backend::health`] only. Default: off.
    pub fn lazy(self, lazy: bool) -> Self {
        self.with(|config| config.lazy = lazy)
    }

    /// How often Sentinel, and a cluster with a server down, is asked which server has taken over.
    /// Default: 500 ms.
    pub fn discovery_interval(self, interval: Duration) -> Self {
        self.with(|config| config.discovery_interval = interval)
    }

    /// Whether reads that tolerate lag go to replicas: the application's own through
    /// [`Connection::query_replica`](crate::connection::Connection::query_replica). Default: off.
    pub fn read_replicas(self, read: bool) -> Self {
        self.with(|config| config.read_replicas = read)
    }

    /// Timeouts in a row after which calls fail at once until the server answers a PING. Default: 5.
    pub fn breaker_threshold(self, timeouts: u32) -> Self {
        self.with(|config| config.breaker_threshold = timeouts)
    }

    /// The sizes of the pools for transactions and for commands that block; both are made only when
    /// they are used. Default: 16, 16.
    pub fn pool_sizes(self, bounded: usize, blocking: usize) -> Self {
        self.with(|config| {
            config.pool_size = bounded;
            config.blocking_pool_size = blocking;
        })
    }

    /// How long a command on a connection of the pool for transactions waits for its answer. Default: 1 s.
    pub fn pool_deadline(self, deadline: Duration) -> Self {
        self.with(|config| config.pool_deadline = deadline)
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }
}

/// What single stores are told.
#[cfg(feature = "redis")]
impl Builder {
    /// Where the counts of the rate limits lie in a cluster. Default:
    /// [`Slots::PerKey`](crate::rate_limit::Slots::PerKey).
    #[cfg(feature = "rate-limit")]
    pub fn rate_limit_slots(mut self, slots: crate::rate_limit::Slots) -> Self {
        self.settings.rate_limit_slots = slots;
        self
    }

    /// How long a rate limit's denial is believed at most, without asking Redis again: see
    /// [`RedisStore::deny_cache`](crate::rate_limit::RedisStore::deny_cache). Default: 5 s.
    #[cfg(feature = "rate-limit")]
    pub fn rate_limit_deny_cache(mut self, at_most: Duration) -> Self {
        self.settings.rate_limit_deny_cache = at_most;
        self
    }
}

/// The bounds of the memory.
impl Builder {
    /// About how many bytes the cached responses in memory may take; beyond it, those used least
    /// recently are forgotten. Default: 64 MiB.
    #[cfg(feature = "cache")]
    pub fn max_cache_bytes(mut self, bytes: usize) -> Self {
        self.settings.cache_bytes = bytes;
        self
    }

    /// How many counts the rate limits keep in memory; beyond it, those nearest to empty are
    /// forgotten. Default: 262,144.
    #[cfg(feature = "rate-limit")]
    pub fn max_rate_limits(mut self, counts: usize) -> Self {
        self.settings.rate_limits = counts;
        self
    }

    /// How many bytes of idempotency records are kept in memory, their stored responses included;
    /// beyond it, a new key is refused ([`StoreError::is_full`]), and none is evicted. Default: 64 MiB.
    #[cfg(feature = "idempotency")]
    pub fn max_idempotency_bytes(mut self, bytes: usize) -> Self {
        self.settings.idempotency_bytes = bytes;
        self
    }

    /// How many locks are held in memory at a time; beyond it, a new one is refused
    /// ([`StoreError::is_full`]). Default: 100,000.
    #[cfg(feature = "lock")]
    pub fn max_locks(mut self, locks: usize) -> Self {
        self.settings.locks = locks;
        self
    }

    /// About how many bytes the sessions in memory may take; beyond it, new ones are refused with
    /// 503 and none is dropped. The records of tower-sessions may take as many again. Default: 64
    /// MiB.
    #[cfg(any(feature = "session", feature = "tower-sessions", feature = "tower-sessions-0-14"))]
    pub fn max_session_bytes(mut self, bytes: usize) -> Self {
        #[cfg(feature = "session")]
        {
            self.settings.session_bytes = bytes;
        }
        #[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
        {
            self.settings.tower_session_bytes = bytes;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_wrong_prefix_is_refused_before_anything_is_dialled() {
        let error = Backend::builder().prefix("a b").redis("redis://127.0.0.1:1").await;
        assert!(error.unwrap_err().to_string().contains("\"a b\""));
    }

    /// The rows of the table of settings: method, field, default, why, in memory.
    fn table() -> Vec<Vec<&'static str>> {
        let rows = include_str!("settings.md").lines().filter(|line| line.starts_with("| "));
        rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    #[test]
    fn every_method_of_the_builder_is_in_the_table_and_no_other() {
        let code = include_str!("builder.rs").split("#[cfg(test)]\nmod tests").next().unwrap();
        let methods: std::collections::BTreeSet<_> = code
            .lines()
            .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once("fn "))
            .filter_map(|(_, signature)| signature.split('(').next())
            // These end the building, and set nothing.
            .filter(|method| !["memory", "from_env", "pool"].contains(method))
            .collect();
        let listed = table().into_iter().map(|row| row[0].trim_matches('`')).collect();
        assert_eq!(methods, listed);
        assert!(table().iter().all(|row| row.len() == 5 && row[3].len() > 5));
    }

    #[cfg(feature = "full")]
    #[test]
    fn every_setting_of_the_connection_is_in_the_table_with_its_default() {
        let code = include_str!("../connection/config.rs");
        let code = code.split("pub struct Config {").nth(1).unwrap().split("\n}").next().unwrap();
        let fields = code.lines().filter_map(|line| line.trim().strip_prefix("pub "));
        let mut fields: Vec<_> = fields.filter_map(|line| line.split(':').next()).collect();
        let shown = format!("{:#?}", Config::new(""));
        let mut listed = Vec::new();
        for row in table() {
            let (name, default) = (row[1].trim_matches('`'), row[2]);
            if name == "–" {
                continue;
            }
            listed.push(name);
            let value =
                shown.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
            let value = value.unwrap_or_else(|| panic!("no setting {name}")).trim_end_matches(',');
            let unit = value.find(|of: char| !of.is_ascii_digit()).unwrap_or(value.len());
            let expected = match value {
                "None" | "\"\"" => "none".into(),
                "true" => "on".into(),
                "false" => "off".into(),
                "0ns" => "0".into(),
                // `250ms` is written `250 ms`.
                _ => format!("{} {}", &value[..unit], &value[unit..]).trim_end().to_owned(),
            };
            assert_eq!(default, expected, "the default of {name}");
        }
        listed.sort_unstable();
        fields.sort_unstable();
        assert_eq!(fields, listed);
    }

    #[test]
    fn a_backend_in_memory_needs_no_runtime() {
        let backend = Backend::memory();
        assert!(backend.health().is_up());
        assert_eq!(backend.to_string(), "this process's memory");
    }
}

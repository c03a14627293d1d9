//! Every setting of the connection, with its default and the reason for it.

#[cfg(feature = "redis-tls")]
use crate::connection::tls::Tls;
use crate::{connection::url, store::StoreError};
use std::{fmt, time::Duration};

/// The settings of a [`Connection`](crate::connection::Connection).
///
/// The defaults, with a reason each, stand in the table of [every setting](crate::backend::Builder#every-setting).
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where the state lives:
    ///
    /// | deployment | URL |
    /// | --- | --- |
    /// | one server | `redis://[user[:password]@]host[:6379][/database]` |
    /// | one server, unix socket | `unix:///path/to/socket[?db=1&user=…&pass=…]`, also `redis+unix://` |
    /// | Sentinel | `redis+sentinel://[user[:password]@]host[:26379][,host2…]/master-name[/database]`, with `sentinel_user` and `sentinel_pass` as settings if the sentinels ask for a login |
    /// | Cluster | `redis+cluster://[user[:password]@]host[:6379][,host2…]`: some servers, which know the others |
    ///
    /// With `rediss` in place of `redis` it is TLS (feature `redis-tls`), and `valkey` and `valkeys`
    /// mean the same as those; `-` may stand for the `+`. Every form takes `?protocol=resp3`. Special
    /// characters in a user name and a password are percent-encoded.
    pub url: String,
    /// The ACL user. Stands before the one in the URL.
    pub username: Option<String>,
    /// The password. Stands before the one in the URL. Never shown.
    pub password: Option<String>,
    /// The number of the database. Stands before the one in the URL.
    pub database: Option<u32>,
    /// Whom a `rediss://` server must be, and who this client is.
    #[cfg(feature = "redis-tls")]
    pub tls: Option<Tls>,
    /// Limits one attempt to connect: name lookup, TCP, TLS, authentication and a first PING together.
    pub connect_timeout: Duration,
    /// How long a call waits for its answer if it does not say otherwise.
    pub deadline: Duration,
    /// How long a call waits for a link while there is none; counts towards its deadline.
    pub down_wait: Duration,
    /// Whether to start without the server: the connection is made in the background, calls wait for
    /// the first attempt within their deadline, and after it fail at once until there is a link. What
    /// is wrong with the server is then seen in the [health](crate::connection::Health) only.
    pub lazy: bool,
    /// How often a call is sent again, within its deadline and after pauses that begin with
    /// `backoff_min` and double. A read goes again after the link broke under it; a write only when
    /// the server turned it away undone (`LOADING`, `TRYAGAIN`, `MASTERDOWN`, `READONLY`,
    /// `CLUSTERDOWN`). A call that finds no link is not sent at all: see `down_wait`. 0 turns it off.
    pub retries: u32,
    /// `TCP_NODELAY`: send small calls at once.
    pub nodelay: bool,
    /// Silence after which the kernel begins to probe an idle TCP connection.
    pub keepalive_idle: Duration,
    /// Time between two such probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the connection counts as dead.
    pub keepalive_count: u32,
    /// `TCP_USER_TIMEOUT`, on Linux and Android; elsewhere it has no effect.
    pub user_timeout: Duration,
    /// How often the supervisor looks whether a call is still without an answer.
    pub ping_interval: Duration,
    /// How long the supervisor's own PING may take before the link counts as half-open.
    pub ping_timeout: Duration,
    /// First pause between two attempts to connect, and between two of a call; it doubles, with
    /// jitter.
    pub backoff_min: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// How often the sentinels are asked which server takes the writes, and a cluster, while one of
    /// its servers is down, who holds which slots; with `read_replicas` also how often a primary is
    /// asked who follows it. While all are up a cluster is asked every 30 of these. When calls meet a
    /// server that moved or is down it is asked at once, and then after pauses that begin with
    /// `backoff_min` and double, up to this one.
    pub discovery_interval: Duration,
    /// Whether reads that tolerate lag go to replicas: those through
    /// [`Connection::query_replica`](crate::connection::Connection::query_replica), never what this
    /// crate keeps of sessions, limits, idempotency keys and locks.
    pub read_replicas: bool,
    /// Timeouts in a row, without one answer between them, after which calls fail at once.
    pub breaker_threshold: u32,
    /// Connections of [`Connection::pool`](crate::connection::Connection::pool), at most.
    pub pool_size: usize,
    /// Connections of [`Connection::blocking_pool`](crate::connection::Connection::blocking_pool),
    /// at most.
    pub blocking_pool_size: usize,
    /// How long a command on a connection of the pool waits for its answer.
    pub pool_deadline: Duration,
}

impl Config {
    /// The defaults, for the server at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let ms = Duration::from_millis;
        Self {
            url: url.into(),
            username: None,
            password: None,
            database: None,
            #[cfg(feature = "redis-tls")]
            tls: None,
            connect_timeout: ms(2000),
            deadline: ms(250),
            down_wait: Duration::ZERO,
            lazy: false,
            retries: 3,
            nodelay: true,
            keepalive_idle: Duration::from_secs(15),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 3,
            user_timeout: Duration::from_secs(10),
            ping_interval: ms(250),
            ping_timeout: ms(500),
            backoff_min: ms(20),
            backoff_max: ms(500),
            discovery_interval: ms(500),
            read_replicas: false,
            breaker_threshold: 5,
            pool_size: 16,
            blocking_pool_size: 16,
            pool_deadline: Duration::from_secs(1),
        }
    }

    /// Refuses what could only fail later, or never end.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        let positive = [
            ("connect_timeout", self.connect_timeout),
            ("deadline", self.deadline),
            ("keepalive_idle", self.keepalive_idle),
            ("keepalive_interval", self.keepalive_interval),
            ("user_timeout", self.user_timeout),
            ("ping_interval", self.ping_interval),
            ("ping_timeout", self.ping_timeout),
            ("backoff_min", self.backoff_min),
            ("discovery_interval", self.discovery_interval),
            ("pool_deadline", self.pool_deadline),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| value.is_zero()) {
            return Err(StoreError::config(format!("{name} is zero; it must be longer")));
        }
        if self.backoff_max < self.backoff_min {
            return Err(StoreError::config(format!(
                "backoff_max ({:?}) is shorter than backoff_min ({:?})",
                self.backoff_max, self.backoff_min
            )));
        }
        let counts = [
            ("keepalive_count", self.keepalive_count as usize),
            ("breaker_threshold", self.breaker_threshold as usize),
            ("pool_size", self.pool_size),
            ("blocking_pool_size", self.blocking_pool_size),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => {
                Err(StoreError::config(format!("{name} is 0; it must be 1 or more")))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Config");
        #[cfg(feature = "redis-tls")]
        shown.field("tls", &self.tls);
        shown
            .field("url", &url::redacted(&self.url))
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("connect_timeout", &self.connect_timeout)
            .field("deadline", &self.deadline)
            .field("down_wait", &self.down_wait)
            .field("lazy", &self.lazy)
            .field("retries", &self.retries)
            .field("nodelay", &self.nodelay)
            .field("keepalive_idle", &self.keepalive_idle)
            .field("keepalive_interval", &self.keepalive_interval)
            .field("keepalive_count", &self.keepalive_count)
            .field("user_timeout", &self.user_timeout)
            .field("ping_interval", &self.ping_interval)
            .field("ping_timeout", &self.ping_timeout)
            .field("backoff_min", &self.backoff_min)
            .field("backoff_max", &self.backoff_max)
            .field("discovery_interval", &self.discovery_interval)
            .field("read_replicas", &self.read_replicas)
            .field("breaker_threshold", &self.breaker_threshold)
            .field("pool_size", &self.pool_size)
            .field("blocking_pool_size", &self.blocking_pool_size)
            .field("pool_deadline", &self.pool_deadline)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_every_setting_and_no_password() {
        let mut config = Config::new("redis://user:hunter2@db.example/1");
        config.password = Some("hunter3".into());
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("redis://user:***@db.example/1"), "{shown}");
        let shown = format!("{:?}", Config::new("unix:///run/redis.sock?pass=a@hunter2"));
        assert!(!shown.contains("hunter") && shown.contains("/run/redis.sock"), "{shown}");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 3] = [
            ("deadline", |config| config.deadline = Duration::ZERO),
            ("backoff_max", |config| config.backoff_max = Duration::from_millis(1)),
            ("pool_size", |config| config.pool_size = 0),
        ];
        for (name, spoil) in cases {
            let mut config = Config::new("redis://localhost");
            assert!(config.validate().is_ok());
            spoil(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.is_config() && error.to_string().contains(name), "{error}");
        }
    }
}

//! The one handle that most applications hold: where all state lives.
//!
//! ```
//! use std::time::Duration;
//! use towerkeep::Backend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), towerkeep::StoreError> {
//! let backend = Backend::from_env().await?; // Redis if REDIS_URL is set, else memory
//! println!("state lives in {backend}");
//! assert!(backend.health().is_up());
//!
//! // … hand a clone to each layer, serve, and at the end let every task finish:
//! let unfinished = backend.shutdown(Duration::from_secs(5)).await;
//! assert_eq!(unfinished, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Operating it
//!
//! [`Backend::health`] is for probes, [`Backend::info`] and [`Backend::slow_log`] for dashboards, and
//! [`Backend::doctor`] for the day before: it examines the server and reports what would hurt, with a
//! fix each. So does, from a shell, `REDIS_URL=… cargo run --example doctor`.
//!
//! A backend lives on the tokio runtime that made it; make one per runtime.

mod builder;
#[cfg(feature = "cache")]
mod cache;
#[cfg(feature = "coalesce")]
mod coalesce;
mod doctor;
mod health;
#[cfg(feature = "idempotency")]
mod idempotency;
mod info;
#[cfg(feature = "redis")]
mod info_text;
#[cfg(feature = "lock")]
mod lock;
#[cfg(feature = "rate-limit")]
mod rate_limit;
#[cfg(feature = "redis")]
mod scripts;
#[cfg(feature = "session")]
mod session;
mod slow_log;
mod stores;
#[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14"))]
mod tower_sessions;
mod version;

pub use self::{
    builder::Builder,
    doctor::{Finding, NotChecked, Report, Severity},
    health::Health,
    info::{Info, Memory, Mode, Replication, Role, Server, ServerKind, Stats},
    slow_log::SlowCall,
    version::Version,
};

use self::stores::Stores;
#[cfg(feature = "redis")]
use crate::{connection::Connection, key::Keys};
use crate::{context::Context, store::StoreError, tasks::Tasks};
use std::{fmt, sync::Arc, time::Duration};

/// Where sessions, cached responses, counts, idempotency records and locks are kept. A cheap clone;
/// one serves every layer.
///
/// See the [module](crate::backend) for an example, and [`Builder`] for every setting.
#[derive(Clone)]
pub struct Backend {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    #[cfg(feature = "redis")]
    connection: Option<Connection>,
    #[cfg(feature = "redis")]
    keys: Option<Keys>,
    stores: Stores,
}

impl Backend {
    /// State in this process's memory: nothing to install, gone with the process, not shared.
    #[must_use]
    pub fn memory() -> Self {
        Self::builder().memory()
    }

    /// State in the Redis or Valkey server at `url`, such as `redis://user:password@host:6379/0`.
    ///
    /// # Errors
    ///
    /// If the URL, the login or the database is wrong, or the server cannot be reached within 2 s.
    /// The error names the cause and the fix.
    #[cfg(feature = "redis")]
    pub async fn redis(url: impl Into<String>) -> Result<Self, StoreError> {
        Self::builder().redis(url).await
    }

    /// State in the server that a `deadpool_redis::Pool` of the application's own leads to; see
    /// [`Builder::pool`].
    ///
    /// # Errors
    ///
    /// None with the defaults, which [`Builder`] changes.
    #[cfg(feature = "redis")]
    pub fn pool(pool: crate::connection::deadpool_redis::Pool) -> Result<Self, StoreError> {
        Self::builder().pool(pool)
    }

    /// State in the server that the environment variable `REDIS_URL` names, or in memory if it is
    /// unset or empty. Which of them is logged once (feature `tracing`) and shown by `Display`.
    ///
    /// # Errors
    ///
    /// As [`Backend::redis`]. A server that was named and does not work is never replaced by memory.
    pub async fn from_env() -> Result<Self, StoreError> {
        Self::builder().from_env().await
    }

    /// Begins with the defaults of every setting.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// How it is doing. Costs no round trip.
    #[must_use]
    pub fn health(&self) -> Health {
        #[cfg(feature = "redis")]
        if let Some(connection) = &self.inner.connection {
            return Health::redis(connection.health());
        }
        Health::memory()
    }

    /// What the server says about itself: version, memory, counts, replication. One round trip. Of a
    /// cluster, one of its servers answers; [`infos`](Backend::infos) asks all.
    ///
    /// ```
    /// use towerkeep::{Backend, backend::ServerKind};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), towerkeep::StoreError> {
    /// let info = Backend::memory().info().await?;
    /// assert_eq!(info.server.kind, ServerKind::Memory); // and every other field is `None`
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or the ACL user may not run `INFO`.
    pub async fn info(&self) -> Result<Info, StoreError> {
        #[cfg(feature = "redis")]
        if let Some(connection) = &self.inner.connection {
            return info_of(connection).await;
        }
        Ok(Info::memory())
    }

    /// The same of every server that holds keys, with its address: those of a cluster, else one.
    ///
    /// # Errors
    ///
    /// As [`info`](Backend::info), of the first server that fails.
    pub async fn infos(&self) -> Result<Vec<(String, Info)>, StoreError> {
        #[cfg(feature = "redis")]
        if let Some(connection) = &self.inner.connection {
            let mut infos = Vec::new();
            for server in connection.servers() {
                infos.push((server.health().address.to_string(), info_of(&server).await?));
            }
            return Ok(infos);
        }
        Ok(vec![(self.to_string(), Info::memory())])
    }

    /// The latest `limit` calls that the server found slow, its `slowlog-log-slower-than` (10 ms unless
    /// told), the newest first; at most `slowlog-max-len` are kept there. Calls of every application on
    /// that server are among them; of a cluster, all servers are asked. Empty in memory.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or the ACL user may not run `SLOWLOG`, as on some managed
    /// servers.
    pub async fn slow_log(&self, limit: u32) -> Result<Vec<SlowCall>, StoreError> {
        #[cfg(feature = "redis")]
        if let (Some(connection), Some(keys)) = (&self.inner.connection, &self.inner.keys) {
            let mut get = redis::cmd("SLOWLOG");
            get.arg("GET").arg(limit);
            let mut calls = Vec::new();
            for server in connection.servers() {
                let reply = server.cmd(get.clone(), server.deadline()).await?;
                calls.extend(slow_log::parse(reply, keys.prefix()));
            }
            calls.sort_by_key(|call| std::cmp::Reverse(call.at));
            calls.truncate(limit.try_into().unwrap_or(usize::MAX));
            return Ok(calls);
        }
        let _ = limit;
        Ok(Vec::new())
    }

    /// The connection to Redis, for data of the application's own; `None` in memory.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        self.inner.connection.as_ref()
    }

    /// The background tasks of every layer: cache fills, idempotent handlers, releases.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.inner.context.tasks
    }

    /// Waits until every background task of every layer has ended, at most `deadline`, and returns
    /// how many were still running then. Call it after the server has stopped to accept requests.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        self.inner.context.tasks.drain(deadline).await
    }
}

#[cfg(feature = "redis")]
async fn info_of(connection: &Connection) -> Result<Info, StoreError> {
    let reply = connection.cmd(redis::cmd("INFO"), connection.deadline()).await?;
    Ok(info_text::Fields::parse(&info_text::text(reply)?).info())
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "redis")]
        if let Some(connection) = &self.inner.connection {
            return write!(f, "Redis at {}", connection.health().address);
        }
        f.write_str("this process's memory")
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("health", &self.health())
            .field("tasks", &self.inner.context.tasks.len())
            .finish_non_exhaustive()
    }
}

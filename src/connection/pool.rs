//! Pools of connections for what needs one of its own.

use crate::{
    connection::{dial::Dialer, link::Driver},
    store::StoreError,
};
use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, RecycleError, RecycleResult},
};
use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A pool of connections that are made as the link is: the same server, TLS, login and errors.
pub type Pool = managed::Pool<Manager, Own>;

/// Both are made at once, but neither opens a connection before it is asked for one.
pub(super) struct Pools {
    pub(super) bounded: Pool,
    pub(super) blocking: Pool,
}

impl Pools {
    pub(super) fn new(dialer: &Dialer) -> Result<Self, StoreError> {
        let config = &dialer.config;
        Ok(Self {
            bounded: pool(dialer, config.pool_size, Some(config.pool_deadline))?,
            blocking: pool(dialer, config.blocking_pool_size, None)?,
        })
    }
}

fn pool(dialer: &Dialer, size: usize, response: Option<Duration>) -> Result<Pool, StoreError> {
    let config = &dialer.config;
    let limit = Some(config.connect_timeout);
    Pool::builder(Manager { dialer: dialer.clone(), response, pings: AtomicU64::new(0) })
        .max_size(size)
        // Nothing waits without end: not for a free connection, not for a new one, and not for the
        // PING that tells whether an old one still works.
        .wait_timeout(limit)
        .create_timeout(limit)
        .recycle_timeout(Some(config.ping_timeout))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::config(format!("the pool: {error}")))
}

/// Makes the connections of a [`Pool`], and sees whether they can be used again.
pub struct Manager {
    dialer: Dialer,
    response: Option<Duration>,
    pings: AtomicU64,
}

impl managed::Manager for Manager {
    type Type = Pooled;
    type Error = StoreError;

    async fn create(&self) -> Result<Pooled, StoreError> {
        let (mut connection, driver) = self.dialer.connect().await?;
        if let Some(limit) = self.response {
            connection.set_response_timeout(limit);
        }
        Ok(Pooled { connection, _driver: driver })
    }

    /// A connection with an answer on the way, or within `MULTI`, gives another answer than its own.
    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<StoreError> {
        let number = self.pings.fetch_add(1, Relaxed).to_string();
        let mut check = Pipeline::with_capacity(2);
        check.cmd("UNWATCH").ignore().cmd("PING").arg(&number);
        match check.query_async::<(String,)>(&mut pooled.connection).await {
            Ok((answer,)) if answer == number => Ok(()),
            _ => Err(RecycleError::message("the connection does not answer as it should")),
        }
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.dialer.topology.address();
        f.debug_struct("Manager").field("address", &address).finish_non_exhaustive()
    }
}

/// What a [`Pool`] keeps; see [`Own`].
pub struct Pooled {
    connection: MultiplexedConnection,
    _driver: Driver,
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").finish_non_exhaustive()
    }
}

/// A connection out of a [`Pool`], yours alone until you drop it, which gives it back.
pub struct Own(Object<Manager>);

impl Own {
    /// Closes the connection instead of giving it back: its state is unknown, as after a timeout.
    pub fn discard(self) {
        drop(Object::take(self.0));
    }
}

impl From<Object<Manager>> for Own {
    fn from(object: Object<Manager>) -> Self {
        Self(object)
    }
}

impl Deref for Own {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.0.connection
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.0.connection
    }
}

impl ConnectionLike for Own {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.connection.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.connection.req_packed_commands(cmd, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.connection.get_db()
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

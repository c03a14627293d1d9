//! Pools of connections for what needs one of its own.

use crate::{
    connection::{config::Config, standalone::Standalone, topology::Topology as _},
    store::StoreError,
};
use deadpool_redis::{Manager, Pool, Runtime};
use redis::AsyncConnectionConfig;
use std::{sync::Arc, time::Duration};

/// The pools of one server. Neither opens a connection before it is asked for one.
pub(super) struct Pools {
    address: Arc<str>,
    bounded: Pool,
    blocking: Pool,
}

impl Pools {
    pub(super) fn new(server: &Standalone, config: &Config) -> Result<Self, StoreError> {
        Ok(Self {
            address: server.address(),
            bounded: pool(server, config, config.pool_size, Some(config.pool_deadline))?,
            blocking: pool(server, config, config.blocking_pool_size, None)?,
        })
    }

    pub(super) fn address(&self) -> Arc<str> {
        self.address.clone()
    }

    pub(super) fn bounded(&self) -> Pool {
        usable(&self.bounded)
    }

    pub(super) fn blocking(&self) -> Pool {
        usable(&self.blocking)
    }
}

/// An application that chooses a TLS provider does so before it asks for a pool.
fn usable(pool: &Pool) -> Pool {
    #[cfg(feature = "redis-tls")]
    crate::connection::tls::choose_provider();
    pool.clone()
}

fn pool(
    server: &Standalone,
    config: &Config,
    size: usize,
    response: Option<Duration>,
) -> Result<Pool, StoreError> {
    let wrong = |error: &dyn std::error::Error| StoreError::config(format!("the pool: {error}"));
    let limit = Some(config.connect_timeout);
    let connections =
        AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(response);
    let manager = Manager::new_with_config(server.connection_info()?, connections)
        .map_err(|error| wrong(&error))?;
    Pool::builder(manager)
        .max_size(size)
        // Nothing waits without end: not for a free connection, not for a new one, and not for the
        // PING that tells whether an old one still works.
        .wait_timeout(limit)
        .create_timeout(limit)
        .recycle_timeout(Some(config.ping_timeout))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| wrong(&error))
}

//! A pool of the application's own in place of a link.
//!
//! Everything works through it that works through a link, at the price of a checkout: one more round
//! trip for each call. What watches over a link is missing: the pool finds out by itself.

use crate::{
    connection::{
        error,
        health::{Health, State},
        request::Request,
    },
    store::StoreError,
};
use deadpool_redis::{Connection, Pool, PoolError, TimeoutType};
use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::watch, time::timeout};

/// The application's pool, and how its last checkout went.
pub(super) struct Borrowed {
    pool: Pool,
    health: watch::Sender<Health>,
}

impl Borrowed {
    pub(super) fn new(pool: Pool) -> Self {
        let health = Health::up("the application's own pool".into());
        Self { pool, health: watch::Sender::new(health) }
    }

    pub(super) fn pool(&self) -> Pool {
        self.pool.clone()
    }

    pub(super) fn health(&self) -> Health {
        let mut health = self.health.borrow().clone();
        health.links = self.pool.status().size as u64;
        health
    }

    /// Sends `request` on a connection of the pool.
    pub(super) async fn call<R: Request>(
        &self,
        request: &R,
        end: Instant,
    ) -> Result<R::Reply, StoreError> {
        let left = || end.saturating_duration_since(Instant::now());
        let mut connection = self.check_out(left()).await?;
        let limit = left();
        match timeout(limit, request.send(&mut connection, false)).await {
            Ok(Ok(reply)) => Ok(reply),
            // Its answer may still come: nobody else may read it.
            Ok(Err(lost)) if lost.is_unrecoverable_error() || lost.is_timeout() => {
                drop(Connection::take(connection));
                Err(error::interrupted(&request.name(), lost))
            }
            Ok(Err(error)) => Err(error::refused(&request.name(), error)),
            Err(_) => {
                drop(Connection::take(connection));
                Err(StoreError::timeout(&request.name(), limit))
            }
        }
    }

    async fn check_out(&self, limit: Duration) -> Result<Connection, StoreError> {
        let checked_out = match timeout(limit, self.pool.get()).await {
            // All are in use: that says nothing about the server.
            Ok(Err(error @ PoolError::Timeout(TimeoutType::Wait))) => return Err(refused(&error)),
            Ok(connection) => connection.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {limit:?}")),
        };
        let reason: Option<Arc<str>> = checked_out.as_ref().err().map(|why| why.as_str().into());
        let state = if reason.is_none() { State::Up } else { State::Down };
        self.health.send_if_modified(|health| {
            let changed = health.state != state;
            if changed {
                (health.state, health.since) = (state, SystemTime::now());
            }
            if reason.is_some() {
                health.last_error = reason;
            }
            changed
        });
        checked_out.map_err(|why| refused(&why))
    }
}

fn refused(why: &dyn Display) -> StoreError {
    StoreError::unavailable(format!("the application's pool gave no connection: {why}"))
}

//! What every store in Redis is made of.

use crate::{
    connection::{Batch, Call, Connection},
    context::Context,
    key::Keys,
    store::StoreError,
};
use redis::{Cmd, Value};
use std::{future::Future, time::Duration};

/// A connection, the names of the keys behind it, and the clock to decide by. A cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct RedisContext {
    pub(crate) context: Context,
    pub(crate) keys: Keys,
    pub(crate) deadline: Duration,
    connection: Connection,
}

impl RedisContext {
    pub(crate) fn new(context: Context, connection: Connection, keys: Keys) -> Self {
        Self { context, keys, deadline: connection.deadline(), connection }
    }

    /// For a store that has no backend around it: its tasks are its own, and its hints the
    /// connection's.
    pub(crate) fn alone(connection: Connection, prefix: &str) -> Result<Self, StoreError> {
        let context = Context { hints: connection.hints(), ..Context::default() };
        Ok(Self::new(context, connection, Keys::new(prefix)?))
    }

    /// What a script is told of the time, in microseconds: nothing, so that it asks the server, but
    /// in tests.
    pub(crate) fn now_us(&self) -> String {
        self.context.clock.override_us().map_or_else(String::new, |now| now.to_string())
    }

    /// The same in milliseconds.
    pub(crate) fn now_ms(&self) -> String {
        self.context.clock.override_us().map_or_else(String::new, |now| (now / 1_000).to_string())
    }

    /// Calls a script under the deadline.
    pub(crate) fn script(
        &self,
        call: Call,
    ) -> impl Future<Output = Result<Value, StoreError>> + Send + use<> {
        self.script_within(call, self.deadline)
    }

    /// Calls a script under what is left of the deadline.
    pub(crate) fn script_within(
        &self,
        call: Call,
        left: Duration,
    ) -> impl Future<Output = Result<Value, StoreError>> + Send + use<> {
        self.connection.script(call, left)
    }

    /// Whether keys with different hash tags may be on different servers.
    pub(crate) fn is_cluster(&self) -> bool {
        self.connection.is_cluster()
    }

    /// Runs a command under the deadline.
    pub(crate) fn cmd(
        &self,
        cmd: Cmd,
    ) -> impl Future<Output = Result<Value, StoreError>> + Send + use<> {
        self.connection.cmd(cmd, self.deadline)
    }

    pub(crate) fn batch(&self) -> Batch {
        self.connection.batch()
    }
}

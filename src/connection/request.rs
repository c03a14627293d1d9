//! What a link can send: a command, a script call or a batch.

use crate::connection::{error, script::Call};
use redis::{Cmd, RedisResult, Value, aio::MultiplexedConnection};
use std::{borrow::Cow, future::Future};

/// Something that goes out in one piece and is answered in one piece.
pub(super) trait Request: Send + Sync {
    type Reply: Send;

    fn send(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> impl Future<Output = RedisResult<Self::Reply>> + Send;

    /// What errors call it: never an argument.
    fn name(&self) -> Cow<'static, str>;

    /// Whether the answer says that the server takes no writes.
    fn says_read_only(reply: &Self::Reply) -> bool;
}

impl Request for Cmd {
    type Reply = Value;

    async fn send(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        connection.send_packed_command(self).await
    }

    fn name(&self) -> Cow<'static, str> {
        error::command_name(self)
    }

    fn says_read_only(reply: &Value) -> bool {
        error::is_read_only(reply)
    }
}

impl Request for Call {
    type Reply = Value;

    async fn send(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        connection.send_packed_command(&self.cmd).await
    }

    fn name(&self) -> Cow<'static, str> {
        Call::name(self).into()
    }

    fn says_read_only(reply: &Value) -> bool {
        error::is_read_only(reply)
    }
}

//! What a link can send: a command, a script call or a batch.

use crate::connection::{
    cluster::{Redirect, slot_of},
    error,
    script::Call,
};
use redis::{Cmd, Pipeline, RedisResult, Value, aio::MultiplexedConnection};
use std::{borrow::Cow, future::Future};

/// Something that goes out in one piece and is answered in one piece.
pub(super) trait Request: Send + Sync {
    type Reply: Send;

    /// `asking` says that the server was named by an `ASK`: it takes the request only with a word
    /// before it.
    fn send(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> impl Future<Output = RedisResult<Self::Reply>> + Send;

    /// The slot of its keys in a cluster; `None` if any server can answer it.
    fn slot(&self) -> Option<u16>;

    /// The server that the answer names in place of an answer.
    fn redirect(reply: &Self::Reply) -> Option<Redirect>;

    /// What errors call it: never an argument.
    fn name(&self) -> Cow<'static, str>;

    /// Whether the answer says that the server takes no writes.
    fn says_read_only(reply: &Self::Reply) -> bool;

    /// Whether it changes nothing, so that doing it twice is doing it once.
    fn is_read(&self) -> bool;

    /// Whether the answer says "not now", and sending everything again repeats no change.
    fn may_go_again(&self, reply: &Self::Reply) -> bool;
}

/// Commands that only read and take their keys as arguments, sorted. What is missing here counts as
/// a write, which costs a retry and never harms.
const READS: &[&str] = &[
    "BITCOUNT",
    "EXISTS",
    "GET",
    "GETRANGE",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HSTRLEN",
    "HVALS",
    "LINDEX",
    "LLEN",
    "LRANGE",
    "MGET",
    "PING",
    "PTTL",
    "SCARD",
    "SISMEMBER",
    "SMEMBERS",
    "SMISMEMBER",
    "STRLEN",
    "TIME",
    "TTL",
    "TYPE",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANK",
    "ZSCORE",
];

pub(super) fn reads(cmd: &Cmd) -> bool {
    READS.binary_search(&&*error::command_name(cmd)).is_ok()
}

impl Request for Cmd {
    type Reply = Value;

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<Value> {
        match asking {
            false => connection.send_packed_command(self).await,
            true => ask(connection, self).await,
        }
    }

    fn slot(&self) -> Option<u16> {
        slot_of(self)
    }

    fn redirect(reply: &Value) -> Option<Redirect> {
        Redirect::read(reply)
    }

    fn name(&self) -> Cow<'static, str> {
        error::command_name(self)
    }

    fn says_read_only(reply: &Value) -> bool {
        error::is_read_only(reply)
    }

    fn is_read(&self) -> bool {
        reads(self)
    }

    fn may_go_again(&self, reply: &Value) -> bool {
        error::is_not_now(reply)
    }
}

impl Request for Call {
    type Reply = Value;

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<Value> {
        self.cmd.send(connection, asking).await
    }

    fn slot(&self) -> Option<u16> {
        self.cmd.slot()
    }

    fn redirect(reply: &Value) -> Option<Redirect> {
        Redirect::read(reply)
    }

    fn name(&self) -> Cow<'static, str> {
        Call::name(self).into()
    }

    fn says_read_only(reply: &Value) -> bool {
        error::is_read_only(reply)
    }

    /// Only its author knows what a script does.
    fn is_read(&self) -> bool {
        false
    }

    fn may_go_again(&self, reply: &Value) -> bool {
        error::is_not_now(reply)
    }
}

/// In one piece, so that no other request comes between the word and the one that it is for.
async fn ask(connection: &mut MultiplexedConnection, cmd: &Cmd) -> RedisResult<Value> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("ASKING").add_command(cmd.clone());
    let mut replies = connection.send_packed_commands(&pipeline, 0, 2).await?;
    let reply = replies.pop();
    match replies.pop() {
        // A right that the user lacks.
        Some(refusal @ Value::ServerError(_)) => Ok(refusal),
        _ => Ok(reply.unwrap_or(Value::Nil)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_known_by_their_name_and_everything_else_is_a_write() {
        assert!(READS.is_sorted(), "they are searched by halves");
        assert!(reads(redis::cmd("hgetall").arg("k")));
        for write in ["SET", "GETDEL", "GETEX", "EVALSHA", "EVAL", "PUBLISH", "NEW-COMMAND"] {
            assert!(!reads(redis::cmd(write).arg("k")), "{write}");
        }
    }
}

//! Who makes an answer, in Redis or Valkey.

use crate::{
    coalesce::store::{CoalesceStore, Flight, Joined, unexpected, whole_ms},
    connection::{Call, Connection, RedisContext, Script, parse},
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use std::time::Duration;

const KIND: &str = "coalesce";

static JOIN: Script = Script::new(include_str!("join.lua")).named("coalesce join");
static RENEW: Script = Script::new(include_str!("renew.lua")).named("coalesce renew");
static LAND: Script = Script::new(include_str!("land.lua")).named("coalesce land");
static LEAVE: Script = Script::new(include_str!("leave.lua")).named("coalesce leave");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&JOIN, &RENEW, &LAND, &LEAVE];

/// Who makes an answer in a fleet of servers that share a Redis or Valkey.
///
/// `<prefix>:coalesce:{<id>}` is the token of who does, `<prefix>:coalesce:{<id>}:<token>` what it left
/// to those who follow it. Both end by themselves. Each step is one script, in one round trip.
#[derive(Clone, Debug)]
pub struct RedisStore {
    redis: RedisContext,
}

impl RedisStore {
    /// Over a connection of the application's own, under a prefix that begins every key. A
    /// [`Backend`](crate::Backend) makes all stores at once.
    ///
    /// # Errors
    ///
    /// If the prefix is not 1 to 64 characters of `A-Z a-z 0-9 - _ . : /`.
    pub fn new(connection: Connection, prefix: &str) -> Result<Self, StoreError> {
        RedisContext::alone(connection, prefix).map(Self::over)
    }

    pub(crate) fn over(redis: RedisContext) -> Self {
        Self { redis }
    }

    fn leader(&self, id: &str) -> String {
        self.redis.keys.tagged(KIND, id, "")
    }

    fn landed(&self, id: &str, leader: &str) -> String {
        self.redis.keys.tagged(KIND, id, &format!(":{leader}"))
    }

    fn channel(&self, id: &str) -> String {
        self.redis.keys.tagged(KIND, id, ":end")
    }

    fn step(&self, call: Call) -> StoreFuture<bool> {
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { parse(reply.await?, KIND) })
    }
}

impl CoalesceStore for RedisStore {
    fn join(
        &self,
        flight: &Flight,
        following: Option<&str>,
        lease: Duration,
    ) -> StoreFuture<Joined> {
        let leader = self.leader(flight.id());
        let landed = following.map(|leader| self.landed(flight.id(), leader));
        let call = JOIN
            .keys([&leader, landed.as_ref().unwrap_or(&leader)])
            .arg(flight.token())
            .arg(whole_ms(lease))
            .arg(if landed.is_some() { "1" } else { "" });
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { joined(parse(reply.await?, KIND)?) })
    }

    fn renew(&self, flight: &Flight, lease: Duration) -> StoreFuture<bool> {
        let call = RENEW.keys([self.leader(flight.id())]).arg(flight.token());
        self.step(call.arg(whole_ms(lease)))
    }

    fn land(&self, flight: &Flight, outcome: Bytes, linger: Duration) -> StoreFuture<bool> {
        let call = LAND
            .keys([self.leader(flight.id()), self.landed(flight.id(), flight.token())])
            .arg(flight.token())
            .arg(&outcome[..])
            .arg(whole_ms(linger))
            .arg(self.channel(flight.id()));
        self.step(call)
    }

    fn leave(&self, flight: &Flight) -> StoreFuture<bool> {
        let call = LEAVE.keys([self.leader(flight.id())]).arg(flight.token());
        self.step(call.arg(self.channel(flight.id())))
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        Some(self.redis.context.hints.subscribe(&self.channel(id)))
    }

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
    }
}

fn joined(mut answer: Vec<Vec<u8>>) -> Result<Joined, StoreError> {
    let Some((verdict, rest)) = answer.split_first_mut() else { return Err(unexpected(b"")) };
    match (&verdict[..], rest) {
        (b"lead", []) => Ok(Joined::Lead),
        (b"landed", [outcome]) => Ok(Joined::Landed(std::mem::take(outcome).into())),
        (b"follow", [leader, left]) => {
            let left = str::from_utf8(left).ok().and_then(|left| left.parse().ok());
            let left = Duration::from_millis(left.ok_or_else(|| unexpected(b"follow"))?);
            let leader = String::from_utf8(std::mem::take(leader));
            Ok(Joined::Follow { leader: leader.map_err(|_| unexpected(b"follow"))?, left })
        }
        _ => Err(unexpected(verdict)),
    }
}

//! Locks in Redis or Valkey: arguments in, one script, its answer out.

use crate::{
    connection::{Call, Connection, Script, parse},
    context::Context,
    key::Keys,
    lock::{policy::Attempt, store::LockStore},
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use std::time::Duration;

/// How long the fence given out last is remembered after its lock's TTL. The fence is never lower
/// than the server's time either; this is for a clock that was set back.
const FENCE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

static ACQUIRE: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("acquire.lua")))
        .named("lock acquire");
static RENEW: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("renew.lua")))
        .named("lock renew");
static RELEASE: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("release.lua")))
        .named("lock release");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&ACQUIRE, &RENEW, &RELEASE];

/// Locks that a fleet shares through Redis. See [the module](crate::lock#redis) for the keys.
#[derive(Debug)]
pub struct RedisStore {
    context: Context,
    connection: Connection,
    keys: Keys,
    deadline: Duration,
}

impl RedisStore {
    pub(crate) fn new(
        context: Context,
        connection: Connection,
        keys: Keys,
        deadline: Duration,
    ) -> Self {
        Self { context, connection, keys, deadline }
    }

    /// The lock, whose name is also that of the channel of its waiters.
    fn lock_key(&self, name: &str) -> String {
        self.keys.tagged("lock", name, "")
    }

    fn fence_key(&self, name: &str) -> String {
        self.keys.tagged("lock", name, ":f")
    }

    /// The time that a script is to go by: '' for the server's.
    fn now(&self) -> String {
        self.context.clock.override_us().map_or_else(String::new, |now| now.to_string())
    }

    fn call<T: redis::FromRedisValue + Send + 'static>(
        &self,
        call: Call,
        what: &'static str,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let reply = self.connection.script(call, self.deadline);
        async move { parse(reply.await?, what) }
    }
}

impl LockStore for RedisStore {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        let call = ACQUIRE
            .keys([self.lock_key(name), self.fence_key(name)])
            .arg(token)
            .arg(ttl.as_millis() as u64)
            .arg(FENCE_KEPT.as_millis() as u64)
            .arg(self.now());
        let reply = self.call::<(bool, u64)>(call, "lock acquire");
        StoreFuture::boxed(async move {
            Ok(match reply.await? {
                (true, fence) => Attempt::Acquired { fence },
                (false, left_us) => Attempt::Held { left: Duration::from_micros(left_us) },
            })
        })
    }

    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        let call = RENEW
            .keys([self.lock_key(name), self.fence_key(name)])
            .arg(token)
            .arg(ttl.as_millis() as u64)
            .arg(FENCE_KEPT.as_millis() as u64)
            .arg(self.now());
        StoreFuture::boxed(self.call(call, "lock renew"))
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        let lock = self.lock_key(name);
        let call = RELEASE.keys([&lock]).arg(token).arg(lock.as_str()).arg(self.now());
        StoreFuture::boxed(self.call(call, "lock release"))
    }

    fn subscribe(&self, name: &str) -> Option<Subscription> {
        Some(self.context.hints.subscribe(&self.lock_key(name)))
    }

    fn tasks(&self) -> Tasks {
        self.context.tasks.clone()
    }
}

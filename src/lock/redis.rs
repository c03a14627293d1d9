//! Locks in Redis or Valkey: arguments in, one script, its answer out.

use crate::{
    clock::Clock,
    connection::{Call, Connection, RedisContext, Script, parse},
    lock::{
        limits::at_most,
        policy::{Attempt, Holder},
        store::LockStore,
    },
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
static HOLDER: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("holder.lua")))
        .named("lock holder");
static FORCE_RELEASE: Script = Script::new(concat!(
    include_str!("../connection/prelude.lua"),
    include_str!("force_release.lua")
))
.named("lock force release");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&ACQUIRE, &RENEW, &RELEASE, &HOLDER, &FORCE_RELEASE];

/// Locks that a fleet shares through Redis. See [the module](crate::lock#redis) for the keys.
#[derive(Debug)]
pub struct RedisStore {
    redis: RedisContext,
}

impl RedisStore {
    /// Over a connection of the application's own, under a prefix that begins every key. A
    /// [`Backend`](crate::Backend) makes all stores at once, and waits for their tasks when it is shut
    /// down.
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

    /// The lock, whose name is also that of the channel of its waiters.
    fn lock_key(&self, name: &str) -> String {
        self.redis.keys.tagged("lock", name, "")
    }

    fn fence_key(&self, name: &str) -> String {
        self.redis.keys.tagged("lock", name, ":f")
    }

    fn call<T: redis::FromRedisValue + Send + 'static>(
        &self,
        call: Call,
        what: &'static str,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let reply = self.redis.script(call);
        async move { parse(reply.await?, what) }
    }
}

impl LockStore for RedisStore {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        let call = ACQUIRE
            .keys([self.lock_key(name), self.fence_key(name)])
            .arg(token)
            .arg(at_most(ttl).as_millis() as u64)
            .arg(FENCE_KEPT.as_millis() as u64)
            .arg(self.redis.now_us());
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
            .arg(at_most(ttl).as_millis() as u64)
            .arg(FENCE_KEPT.as_millis() as u64)
            .arg(self.redis.now_us());
        StoreFuture::boxed(self.call(call, "lock renew"))
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        let lock = self.lock_key(name);
        let call = RELEASE.keys([&lock]).arg(token).arg(lock.as_str()).arg(self.redis.now_us());
        StoreFuture::boxed(self.call(call, "lock release"))
    }

    fn watch(&self, name: &str) -> Option<Subscription> {
        Some(self.redis.context.hints.subscribe(&self.lock_key(name)))
    }

    fn holder(&self, name: &str) -> StoreFuture<Option<Holder>> {
        let call = HOLDER.keys([self.lock_key(name)]).arg(self.redis.now_us());
        let reply = self.call::<Option<(String, u64, u64)>>(call, "lock holder");
        StoreFuture::boxed(async move {
            Ok(reply.await?.map(|(token, fence, left_us)| Holder::new(&token, fence, left_us)))
        })
    }

    fn force_release(&self, name: &str) -> StoreFuture<bool> {
        let lock = self.lock_key(name);
        let call = FORCE_RELEASE.keys([&lock]).arg(lock.as_str()).arg(self.redis.now_us());
        StoreFuture::boxed(self.call(call, "lock force release"))
    }

    fn clock(&self) -> Clock {
        self.redis.context.clock.clone()
    }

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
    }
}

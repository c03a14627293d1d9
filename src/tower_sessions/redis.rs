//! Records in Redis: a string for each.

use crate::{
    connection::{Connection, RedisContext, parse, redis},
    store::{StoreError, StoreFuture},
    tower_sessions::store::RecordStore,
};
use bytes::Bytes;
use redis::{Cmd, Value};

/// Keeps records in Redis or Valkey, for any number of processes. A cheap clone.
#[derive(Clone, Debug)]
pub struct RedisStore {
    redis: RedisContext,
}

impl RedisStore {
    /// Over a connection of the application's own, under a prefix that begins every key. A
    /// [`Backend`](crate::Backend) is such a store, too.
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

    fn cmd(&self, name: &str, hash: &str) -> Cmd {
        let mut cmd = redis::cmd(name);
        cmd.arg(self.redis.keys.key("tower-session", hash));
        cmd
    }

    /// `SET` under a condition; `None` if the record is over already.
    fn set(&self, hash: &str, record: &Bytes, condition: &str, expires_ms: u64) -> Option<Cmd> {
        let ttl_ms = expires_ms.checked_sub(self.redis.context.clock.now_ms())?;
        if ttl_ms == 0 {
            return None;
        }
        let mut set = self.cmd("SET", hash);
        set.arg(&record[..]).arg(condition).arg("PX").arg(ttl_ms);
        Some(set)
    }

    fn was_set(&self, set: Cmd) -> StoreFuture<bool> {
        let reply = self.redis.cmd(set);
        // Nil is how SET says that its condition did not hold.
        StoreFuture::boxed(async move { Ok(reply.await? != Value::Nil) })
    }
}

impl RecordStore for RedisStore {
    fn create(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool> {
        match self.set(hash, &record, "NX", expires_ms) {
            Some(set) => self.was_set(set),
            None => StoreFuture::ready(Ok(true)),
        }
    }

    fn save(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool> {
        match self.set(hash, &record, "XX", expires_ms) {
            Some(set) => self.was_set(set),
            None => {
                let delete = self.delete(hash);
                StoreFuture::boxed(async move { delete.await.map(|()| true) })
            }
        }
    }

    fn load(&self, hash: &str) -> StoreFuture<Option<Bytes>> {
        let reply = self.redis.cmd(self.cmd("GET", hash));
        StoreFuture::boxed(async move {
            let record: Option<Vec<u8>> = parse(reply.await?, "GET")?;
            Ok(record.map(Bytes::from))
        })
    }

    fn delete(&self, hash: &str) -> StoreFuture<()> {
        let reply = self.redis.cmd(self.cmd("UNLINK", hash));
        StoreFuture::boxed(async move { reply.await.map(drop) })
    }
}

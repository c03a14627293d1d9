//! Cached responses in Redis: native commands for a hit, scripts for everything that decides.
//!
//! | key | is |
//! | --- | --- |
//! | `<prefix>:cache:{<hash>}` | a hash: `m:<variant>` about a response, `b:<variant>` the response, `v` what they vary by, `x` when the key expires |
//! | `<prefix>:cache:tags` | a sorted set: which tags were purged, by number |
//! | `<prefix>:cache-lease:{<hash>}` | a hash: `<lane>:<variant>` who makes it, and an empty name for when to sweep |
//! | `<prefix>:cache-hint:{<hash>}` | a channel: a lease has ended |
//!
//! Leases lie in a key of their own, under a name that does not begin with `<prefix>:cache:`, so that
//! whoever tracks the entries by that prefix does not hear of every lease.

use crate::{
    cache::{
        record::{MAX_VARIANTS, Meta, ms},
        redis_tags::{PURGE, RedisTags},
        store::{Address, CacheStore, Fill, FillReply, LeaseReply, Lookup, Verdict},
        stored::StoredResponse,
        tag::{Purge, Tag},
    },
    connection::{Connection, RedisContext, Script, parse},
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use redis::Value;
use std::{sync::Arc, time::Duration};

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("../connection/prelude.lua"),
            include_str!("state.lua"),
            include_str!($file),
        ))
        .named(concat!("cache/", $file))
    };
}

static LEASE: Script = script!("lease.lua");
static RENEW: Script = script!("renew.lua");
static RELEASE: Script = script!("release.lua");
static FILL: Script = script!("fill.lua");

/// What a slow log is searched for.
pub(crate) static SCRIPTS: &[&Script] = &[&LEASE, &RENEW, &RELEASE, &FILL, &PURGE];

/// Responses in Redis, shared by every process with the same prefix.
#[derive(Debug)]
pub struct RedisStore {
    redis: RedisContext,
    tags: Arc<RedisTags>,
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
        Self { tags: Arc::new(RedisTags::new(redis.clone())), redis }
    }

    fn entry(&self, hash: &str) -> String {
        self.redis.keys.tagged("cache", hash, "")
    }

    fn leases(&self, hash: &str) -> String {
        self.redis.keys.tagged("cache-lease", hash, "")
    }

    fn channel(&self, hash: &str) -> String {
        self.redis.keys.tagged("cache-hint", hash, "")
    }

    fn now_ms(&self) -> Option<u64> {
        self.redis.context.clock.override_us().map(|now| now / 1_000)
    }
}

impl CacheStore for RedisStore {
    fn lookup(&self, address: &Address) -> StoreFuture<Lookup> {
        let key = self.entry(address.entry());
        let mut pttl = redis::cmd("PTTL");
        pttl.arg(&key);
        let mut read = redis::cmd("HMGET");
        read.arg(&key).arg("x").arg("v");
        read.arg(format!("m:{}", address.variant())).arg(format!("b:{}", address.variant()));
        // PTTL first: should a fill come between the two, the response seems older, never younger.
        let batch = self.redis.batch().cmd(pttl).cmd(read);
        let (told, deadline) = (self.now_ms(), self.redis.deadline);
        let vary = address.vary().to_owned();
        let tags = self.tags.clone();
        StoreFuture::boxed(async move {
            let reading = tags.reading().await?;
            let replies = batch.cmd(reading.command()).run(deadline).await?;
            let [ttl, fields, purged] = <[_; 3]>::try_from(replies).map_err(|_| {
                StoreError::corrupt("PTTL, HMGET, ZRANGEBYSCORE: not three answers")
            })?;
            reading.heard(purged?).await?;
            let ttl: i64 = parse(ttl?, "PTTL")?;
            let [ends, names, meta, blob] = four(parse(fields?, "HMGET")?)?;
            match text(names).filter(|names| !names.is_empty()) {
                Some(names) if names != vary => {
                    return Ok(Lookup::Varies { names: names.into() });
                }
                Some(_) if meta.is_none() => return Ok(Lookup::NoVariant),
                _ => {}
            }
            let ttl = u64::try_from(ttl).ok();
            let ends = text(ends).and_then(|ends| ends.parse::<u64>().ok());
            let now = told.or_else(|| ends?.checked_sub(ttl?));
            let meta = text(meta).unwrap_or_default();
            let Some(meta) = Meta::parse(&meta) else {
                return Ok(Lookup::Absent { stamp: Meta::stamp_of(&meta) });
            };
            let standing = tags.standing(meta.seen, &meta.tags).await?;
            // What cannot be read, be it damaged or another version's, is absent.
            Ok(match (blob.and_then(StoredResponse::decode), now) {
                (Some(response), Some(now)) => meta.found(Arc::new(response), standing, now),
                _ => Lookup::Absent { stamp: Some(meta.stamp) },
            })
        })
    }

    fn lease(
        &self,
        address: &Address,
        token: &str,
        length: Duration,
        seen: Option<&str>,
    ) -> StoreFuture<LeaseReply> {
        let call = LEASE
            .keys([self.leases(address.entry()), self.entry(address.entry())])
            .args([&self.redis.now_ms(), &address.lease(), address.variant(), token])
            .arg(ms(length))
            .arg(seen.unwrap_or_default());
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move {
            let (code, left): (u8, u64) = parse(reply.await?, "cache/lease.lua")?;
            let left = Duration::from_millis(left);
            match code {
                0 => Ok(LeaseReply::Granted),
                1 => Ok(LeaseReply::Held { left }),
                2 => Ok(LeaseReply::Filled),
                3 => Ok(LeaseReply::Uncacheable { left }),
                _ => Err(StoreError::corrupt(format!("cache/lease.lua: unknown answer {code}"))),
            }
        })
    }

    fn renew(&self, address: &Address, token: &str, length: Duration) -> StoreFuture<bool> {
        let call = RENEW
            .keys([self.leases(address.entry())])
            .args([&self.redis.now_ms(), &address.lease(), token])
            .arg(ms(length));
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { parse(reply.await?, "cache/renew.lua") })
    }

    fn fill(&self, address: &Address, token: &str, fill: Fill) -> StoreFuture<FillReply> {
        let blob = match fill.compress_above {
            Some(above) => fill.response.encode_compressed(above),
            None => fill.response.encode(),
        };
        let Some(blob) = blob else {
            return StoreFuture::ready(Err(StoreError::refused("a response of over 4 GiB")));
        };
        let call = FILL
            .keys([self.leases(address.entry()), self.entry(address.entry())])
            .args([&self.redis.now_ms(), &address.lease(), address.variant(), token])
            .args([ms(fill.age), ms(fill.lifetime), ms(fill.stale), ms(fill.cost)])
            .arg(&blob[..])
            .arg(self.channel(address.entry()))
            .arg(address.vary())
            .arg(MAX_VARIANTS)
            .arg(fill.seen)
            .arg(fill.tags.as_str());
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move {
            let (code, names): (u8, String) = parse(reply.await?, "cache/fill.lua")?;
            match code {
                0 => Ok(FillReply::Refused),
                1 => Ok(FillReply::Stored),
                2 => Ok(FillReply::Varies { names: names.into() }),
                _ => Err(StoreError::corrupt(format!("cache/fill.lua: unknown answer {code}"))),
            }
        })
    }

    fn release(&self, address: &Address, token: &str, verdict: Verdict) -> StoreFuture<bool> {
        let mark = match verdict {
            Verdict::Failed => 0,
            Verdict::Uncacheable(length) => ms(length),
        };
        let call = RELEASE
            .keys([self.leases(address.entry())])
            .args([&self.redis.now_ms(), &address.lease(), token])
            .arg(mark)
            .arg(self.channel(address.entry()));
        let reply = self.redis.script(call);
        StoreFuture::boxed(async move { parse(reply.await?, "cache/release.lua") })
    }

    fn purge(&self, entries: &[String]) -> StoreFuture<u64> {
        let mut batch = self.redis.batch();
        for hash in entries {
            let (mut exists, mut unlink) = (redis::cmd("EXISTS"), redis::cmd("UNLINK"));
            exists.arg(self.entry(hash));
            unlink.arg(self.entry(hash)).arg(self.leases(hash));
            batch = batch.cmd(exists).cmd(unlink);
        }
        let deadline = self.redis.deadline;
        StoreFuture::boxed(async move {
            let mut purged = 0;
            for (at, reply) in batch.run(deadline).await?.into_iter().enumerate() {
                let count: u64 = parse(reply?, "EXISTS, UNLINK")?;
                purged += if at % 2 == 0 { count } else { 0 };
            }
            Ok(purged)
        })
    }

    fn purge_tags(&self, tags: &[Tag], purge: Purge) -> StoreFuture<()> {
        self.tags.purge(tags, purge)
    }

    fn last_purge(&self) -> u64 {
        self.tags.last()
    }

    fn watch(&self, entry: &str) -> Option<Subscription> {
        Some(self.redis.context.hints.subscribe(&self.channel(entry)))
    }

    fn tasks(&self) -> Tasks {
        self.redis.context.tasks.clone()
    }
}

fn four(values: Vec<Value>) -> Result<[Option<Bytes>; 4], StoreError> {
    // The response is taken as it came, not copied.
    let fields: Vec<_> = values
        .into_iter()
        .map(|value| match value {
            Value::BulkString(bytes) => Some(Bytes::from(bytes)),
            _ => None,
        })
        .collect();
    fields.try_into().map_err(|_| StoreError::corrupt("HMGET: not four fields"))
}

fn text(field: Option<Bytes>) -> Option<String> {
    String::from_utf8(field?.to_vec()).ok()
}

//! Purged tags in Redis, and what this process knows of them.
//!
//! `<prefix>:cache:tags` is a sorted set: what was purged, by the number of its purge. Every lookup asks
//! for what is above the last number that this process knows, in the same turn.

use crate::{
    cache::{
        purges::{self, MAX_PURGED, Mark, Purges, Standing},
        tag::{Purge, Tag, Tags},
    },
    connection::{Call, RedisContext, Script, parse},
    store::{StoreError, StoreFuture},
    telemetry,
};
use redis::{Cmd, Value};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use tokio::time::timeout;

pub(super) static PURGE: Script =
    Script::new(concat!(include_str!("../connection/prelude.lua"), include_str!("purge.lua")))
        .named("cache/purge.lua");

/// Where the sequence ends.
const END: &str = ".";

/// The script's answer if it has found that the sequence has lost a purge.
const LOST: u8 = 2;

/// What this process knows of purges.
#[derive(Debug)]
pub(super) struct RedisTags {
    redis: RedisContext,
    key: String,
    purges: Mutex<Purges>,
    /// Whether it has been read at all.
    read: AtomicBool,
    /// Held by the one that reads all of it.
    first: tokio::sync::Mutex<()>,
}

/// A look at what was purged meanwhile.
pub(super) struct Reading<'a> {
    tags: &'a RedisTags,
    above: u64,
    _first: Option<tokio::sync::MutexGuard<'a, ()>>,
}

impl RedisTags {
    pub(super) fn new(redis: RedisContext) -> Self {
        // Under the prefix of the entries, so that whoever tracks those hears of purges, too.
        let key = redis.keys.key("cache", "tags");
        let (purges, read, first) = <_>::default();
        Self { redis, key, purges, read, first }
    }

    pub(super) fn last(&self) -> u64 {
        self.purges().last()
    }

    /// Begins a look. The first one may be long, so the others wait for it.
    pub(super) async fn reading(&self) -> Result<Reading<'_>, StoreError> {
        let mut first = None;
        if !self.read.load(SeqCst) {
            let deadline = self.redis.deadline;
            let turn = timeout(deadline, self.first.lock()).await;
            let turn =
                turn.map_err(|_| StoreError::timeout("the first look at purged tags", deadline))?;
            first = Some(turn).filter(|_| !self.read.load(SeqCst));
        }
        Ok(Reading { tags: self, above: self.last(), _first: first })
    }

    /// What purges say of a response.
    pub(super) async fn standing(&self, seen: u64, tags: &Tags) -> Result<Standing, StoreError> {
        match self.told(seen, tags) {
            Standing::Lost => {
                self.restore(seen).await?;
                Ok(self.told(seen, tags))
            }
            standing => Ok(standing),
        }
    }

    pub(super) fn purge(self: &Arc<Self>, tags: &[Tag], purge: Purge) -> StoreFuture<()> {
        if let Err(error) = purges::within_limit(tags) {
            return StoreFuture::ready(Err(error));
        }
        let call = self.call(self.last(), "").args(tags.iter().map(|&tag| member((purge, tag))));
        let (tags, reply) = (self.clone(), self.redis.script(call));
        StoreFuture::boxed(async move { tags.tell(reply.await?) })
    }

    fn told(&self, seen: u64, tags: &Tags) -> Standing {
        self.purges().standing(seen, tags)
    }

    fn call(&self, seen: u64, only_if_lost: &str) -> Call {
        let call = PURGE.keys([&self.key]).arg(self.redis.now_us());
        call.arg(seen).arg(MAX_PURGED).arg(only_if_lost)
    }

    /// The sequence has lost this purge: it was deleted, or a server took over that had not heard of
    /// it. Nobody knows what else is lost, so everything counts as purged.
    async fn restore(&self, lost: u64) -> Result<(), StoreError> {
        self.tell(self.redis.script(self.call(lost, "1")).await?)?;
        let above = self.last();
        let reply = self.redis.cmd(command(&self.key, above)).await?;
        self.note(reply).map(drop)
    }

    /// Says what a purge has found, if that is a loss.
    fn tell(&self, reply: Value) -> Result<(), StoreError> {
        let lost = parse::<u8>(reply, "cache/purge.lua")? == LOST;
        if lost {
            telemetry::warn(format_args!(
                "the purges of cached responses have lost their end, so everything that is stored \
                 counts as purged; after a failover that is to be expected, and `{}` must not be \
                 deleted or evicted",
                self.key,
            ));
        }
        Ok(())
    }

    /// Takes note of an answer, and returns whether it has the end of the sequence.
    fn note(&self, reply: Value) -> Result<bool, StoreError> {
        let members: Vec<(String, f64)> = parse(reply, "ZRANGEBYSCORE")?;
        let mut purges = self.purges();
        let mut ended = false;
        for (name, number) in members {
            // Whole numbers below 2^53, which a score holds exactly.
            let number = number as u64;
            match name.as_str() {
                "" => purges.raise_floor(number),
                END => {
                    ended = true;
                    purges.known_to(number.saturating_sub(1));
                }
                name => {
                    if let Some(mark) = mark(name) {
                        purges.note(mark, number);
                    }
                }
            }
        }
        Ok(ended)
    }

    fn purges(&self) -> MutexGuard<'_, Purges> {
        self.purges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading<'_> {
    pub(super) fn command(&self) -> Cmd {
        command(&self.tags.key, self.above)
    }

    /// Takes note of the answer.
    pub(super) async fn heard(self, reply: Value) -> Result<(), StoreError> {
        let ended = self.tags.note(reply)?;
        self.tags.read.store(true, SeqCst);
        if !ended && self.above > 0 {
            self.tags.restore(self.above).await?;
        }
        Ok(())
    }
}

fn command(key: &str, above: u64) -> Cmd {
    let mut read = redis::cmd("ZRANGEBYSCORE");
    read.arg(key).arg(format!("({above}")).arg("+inf").arg("WITHSCORES");
    read
}

fn member((purge, tag): Mark) -> String {
    let kind = match purge {
        Purge::Soft => 's',
        Purge::Hard => 'h',
    };
    format!("{kind}{}", tag.as_str())
}

fn mark(member: &str) -> Option<Mark> {
    let (purge, tag) = match member.split_at_checked(1)? {
        ("s", tag) => (Purge::Soft, tag),
        ("h", tag) => (Purge::Hard, tag),
        _ => return None,
    };
    Some((purge, Tag::parse(tag)?))
}

//! Cached responses in this process's memory.

use crate::{
    cache::{
        purges::{self, Purges},
        record::{self, Held, MAX_VARIANTS, Meta},
        store::{Address, CacheStore, Fill, FillReply, LeaseReply, Lookup, Verdict},
        stored::StoredResponse,
        tag::{Purge, Tag},
    },
    context::Context,
    expiring::{ENTRY_OVERHEAD, Entry, Expiring, WhenFull},
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How many bytes of responses are kept by default.
pub(crate) const DEFAULT_CAPACITY: usize = 64 << 20;

/// How many leases there may be at a time, which is how many different responses are being made.
const MAX_LEASES: usize = 65_536;

/// Responses in memory. When there is no room for another, the one used least recently is forgotten.
#[derive(Debug)]
pub struct MemoryStore {
    context: Context,
    /// Locked before `leases` wherever both are.
    entries: Expiring<Variants>,
    leases: Expiring<Leases>,
    /// Locked last.
    purges: Mutex<Purges>,
}

/// The responses of one entry, and what they vary by.
#[derive(Debug, Default)]
struct Variants {
    vary: Arc<str>,
    stored: Vec<(Box<str>, Stored)>,
}

/// The leases of one entry, by name.
type Leases = Vec<(Box<str>, Held)>;

#[derive(Debug)]
struct Stored {
    meta: Meta,
    response: Arc<StoredResponse>,
}

impl MemoryStore {
    /// A store of `capacity` bytes of responses.
    pub(crate) fn new(context: &Context, capacity: usize) -> Self {
        let clock = || context.clock.clone();
        let soonest = WhenFull::EvictSoonestToExpire { may_evict: |_| true };
        Self {
            context: context.clone(),
            entries: Expiring::new(clock(), capacity, WhenFull::EvictLeastRecentlyUsed),
            leases: Expiring::new(clock(), MAX_LEASES, soonest),
            purges: Mutex::default(),
        }
    }

    /// One step over an entry and its leases.
    fn with<T>(
        &self,
        address: &Address,
        step: impl FnOnce(&mut Entry<'_, Variants>, &mut Entry<'_, Leases>) -> T,
    ) -> T {
        let entry = address.entry();
        self.entries
            .with(entry, |variants| self.leases.with(entry, |leases| step(variants, leases)))
    }

    fn purges(&self) -> MutexGuard<'_, Purges> {
        self.purges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, entry: &str) {
        // In memory, this has happened when the future is made.
        drop(self.context.hints.publish(&channel(entry), Bytes::new()));
    }
}

impl Default for MemoryStore {
    /// A store on the system's clock that keeps up to 64 MiB.
    fn default() -> Self {
        Self::new(&Context::default(), DEFAULT_CAPACITY)
    }
}

impl CacheStore for MemoryStore {
    fn lookup(&self, address: &Address) -> StoreFuture<Lookup> {
        let lookup = self.entries.with(address.entry(), |entry| {
            let now = entry.now_ms();
            let Some(variants) = entry.get() else { return Lookup::Absent { stamp: None } };
            if !variants.vary.is_empty() && *variants.vary != *address.vary() {
                return Lookup::Varies { names: variants.vary.clone() };
            }
            match named(&variants.stored, address.variant()) {
                Some(Stored { meta, response }) => {
                    let standing = self.purges().standing(meta.seen, &meta.tags);
                    meta.found(response.clone(), standing, now)
                }
                None if !variants.vary.is_empty() => Lookup::NoVariant,
                None => Lookup::Absent { stamp: None },
            }
        });
        StoreFuture::ready(Ok(lookup))
    }

    fn lease(
        &self,
        address: &Address,
        token: &str,
        length: Duration,
        seen: Option<&str>,
    ) -> StoreFuture<LeaseReply> {
        StoreFuture::ready(self.with(address, |entry, leases| {
            let now = leases.now_ms();
            let variants = entry.get();
            let stored = variants.and_then(|variants| named(&variants.stored, address.variant()));
            let name = address.lease();
            let held = leases.get().and_then(|leases| named(leases, &name));
            let meta = stored.map(|stored| &stored.meta);
            let reply = record::contend(held, meta, token, seen, now);
            if reply == LeaseReply::Granted {
                hold(leases, &name, Held::lease(token, length, now))?;
            }
            Ok(reply)
        }))
    }

    fn renew(&self, address: &Address, token: &str, length: Duration) -> StoreFuture<bool> {
        StoreFuture::ready(self.leases.with(address.entry(), |leases| {
            let now = leases.now_ms();
            let name = address.lease();
            let ours = holds(leases, &name, token);
            if ours {
                hold(leases, &name, Held::lease(token, length, now))?;
            }
            Ok(ours)
        }))
    }

    fn fill(&self, address: &Address, token: &str, fill: Fill) -> StoreFuture<FillReply> {
        let reply = self.with(address, |entry, leases| {
            let name = address.lease();
            let meta = Meta::new(token, &fill, leases.now_ms());
            let Some(meta) = meta.filter(|_| holds(leases, &name, token)) else {
                return Ok(FillReply::Refused);
            };
            let held = entry.get().map(|variants| variants.vary.clone()).unwrap_or_default();
            if !record::covers(address.vary(), &held) {
                return Ok(FillReply::Varies { names: held });
            }
            store(entry, address, Stored { meta, response: fill.response })?;
            end(leases, &name);
            Ok(FillReply::Stored)
        });
        if matches!(reply, Ok(FillReply::Stored)) {
            self.tell(address.entry());
        }
        StoreFuture::ready(reply)
    }

    fn release(&self, address: &Address, token: &str, verdict: Verdict) -> StoreFuture<bool> {
        let released = self.leases.with(address.entry(), |leases| {
            let name = address.lease();
            let ours = holds(leases, &name, token);
            match verdict {
                _ if !ours => {}
                Verdict::Failed => end(leases, &name),
                Verdict::Uncacheable(length) => {
                    hold(leases, &name, Held::uncacheable(length, leases.now_ms()))?;
                }
            }
            Ok(ours)
        });
        if matches!(released, Ok(true)) {
            self.tell(address.entry());
        }
        StoreFuture::ready(released)
    }

    fn purge(&self, entries: &[String]) -> StoreFuture<u64> {
        let purged = entries.iter().filter(|entry| {
            self.entries.with(entry, |variants| {
                self.leases.with(entry, |leases| leases.remove());
                variants.remove().is_some()
            })
        });
        StoreFuture::ready(Ok(purged.count() as u64))
    }

    fn purge_tags(&self, tags: &[Tag], purge: Purge) -> StoreFuture<()> {
        let allowed = purges::within_limit(tags);
        if allowed.is_ok() {
            self.purges().purge(tags, purge, self.context.clock.now_us());
        }
        StoreFuture::ready(allowed)
    }

    fn last_purge(&self) -> u64 {
        self.purges().last()
    }

    fn watch(&self, entry: &str) -> Option<Subscription> {
        Some(self.context.hints.subscribe(&channel(entry)))
    }

    fn tasks(&self) -> Tasks {
        self.context.tasks.clone()
    }
}

fn channel(entry: &str) -> String {
    format!("cache-hint:{entry}")
}

fn named<'a, T>(list: &'a [(Box<str>, T)], name: &str) -> Option<&'a T> {
    list.iter().find(|(held, _)| **held == *name).map(|(_, value)| value)
}

fn holds(leases: &mut Entry<'_, Leases>, name: &str, token: &str) -> bool {
    let now = leases.now_ms();
    record::holds(leases.get().and_then(|leases| named(leases, name)), token, now)
}

/// Writes a lease; the entry lives as long as the longest of its leases.
fn hold(leases: &mut Entry<'_, Leases>, name: &str, held: Held) -> Result<(), StoreError> {
    let now = leases.now_ms();
    let mut others = leases.get().map(std::mem::take).unwrap_or_default();
    others.retain(|(other, held)| **other != *name && held.until() > now);
    others.push((name.into(), held));
    let until = others.iter().map(|(_, held)| held.until()).max().unwrap_or(now);
    leases.insert(others, until.saturating_mul(1_000), 1)
}

fn end(leases: &mut Entry<'_, Leases>, name: &str) {
    if let Some(held) = leases.get() {
        held.retain(|(other, _)| **other != *name);
        if held.is_empty() {
            leases.remove();
        }
    }
}

fn store(
    entry: &mut Entry<'_, Variants>,
    address: &Address,
    stored: Stored,
) -> Result<(), StoreError> {
    let mut variants = entry.get().map(std::mem::take).unwrap_or_default();
    let name = address.variant();
    let full = variants.stored.len() >= MAX_VARIANTS && named(&variants.stored, name).is_none();
    if *variants.vary != *address.vary() || full {
        entry.remove();
        variants = Variants { vary: address.vary().into(), stored: Vec::new() };
    }
    // As in Redis, an entry's end is only ever put off.
    let ends = entry.expires_us().max(Some(stored.meta.keep.saturating_mul(1_000)));
    variants.stored.retain(|(other, _)| **other != *name);
    variants.stored.push((name.into(), stored));
    let weight = |(name, stored): &(Box<str>, Stored)| {
        name.len() + stored.meta.tags.as_str().len() + stored.response.weight()
    };
    let weight = ENTRY_OVERHEAD + variants.stored.iter().map(weight).sum::<usize>();
    entry.insert(variants, ends.unwrap_or(u64::MAX), weight).inspect_err(|_| {
        entry.remove();
    })
}

//! Who makes an answer, in this process.

use crate::{
    coalesce::{
        policy,
        store::{CoalesceStore, Flight, Joined, whole_ms},
    },
    context::Context,
    expiring::{ENTRY_OVERHEAD, Entry, Expiring, WhenFull},
    pubsub::Subscription,
    store::StoreFuture,
    tasks::Tasks,
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// How many answers may be in the making.
const LEADERS: usize = 65_536;

/// Bytes of answers that wait for those who follow. One that went early is made again.
const LANDED: usize = 16 << 20;

/// Who makes an answer in this process, for one server or for tests: 65,536 answers in the making and
/// 16 MiB of those that wait to be fetched. Clones share them.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    leaders: Expiring<Arc<str>>,
    /// Locked while its leader is.
    landed: Expiring<Bytes>,
    context: Context,
}

impl MemoryStore {
    pub(crate) fn new(context: &Context) -> Self {
        let refuse = WhenFull::Refuse { what: "request in the making" };
        let clock = &context.clock;
        Self(Arc::new(Inner {
            leaders: Expiring::new(clock.clone(), LEADERS, refuse),
            landed: Expiring::new(clock.clone(), LANDED, WhenFull::EvictLeastRecentlyUsed),
            context: context.clone(),
        }))
    }

    /// One step over the flight's leader, if that is this one.
    fn led(&self, flight: &Flight, step: impl FnOnce(&mut Entry<'_, Arc<str>>)) -> bool {
        self.0.leaders.with(flight.id(), |entry| {
            let leads = policy::leads(flight, entry.get().map(|leader| &**leader));
            if leads {
                step(entry);
            }
            leads
        })
    }

    /// The end of a flight, if this one leads it.
    fn end(&self, flight: &Flight, step: impl FnOnce()) -> StoreFuture<bool> {
        let ended = self.led(flight, |entry| {
            entry.remove();
            step();
        });
        if ended {
            // In memory it is delivered by the call; the future has nothing left to do.
            drop(self.0.context.hints.publish(&channel(flight.id()), Bytes::new()));
        }
        StoreFuture::ready(Ok(ended))
    }
}

impl CoalesceStore for MemoryStore {
    fn join(
        &self,
        flight: &Flight,
        following: Option<&str>,
        lease: Duration,
    ) -> StoreFuture<Joined> {
        StoreFuture::ready(self.0.leaders.with(flight.id(), |entry| {
            let left = Duration::from_micros(entry.ttl_us().unwrap_or(0));
            let leader = entry.get().cloned();
            let landed = following.and_then(|leader| {
                self.0.landed.with(left_by(flight.id(), leader), |entry| entry.get().cloned())
            });
            let joined =
                policy::join(flight, leader.as_deref().map(|leader| (leader, left)), landed);
            if joined == Joined::Lead {
                let until_us = entry.now_us() + us(lease);
                entry.insert(flight.token().into(), until_us, 1)?;
            }
            Ok(joined)
        }))
    }

    fn renew(&self, flight: &Flight, lease: Duration) -> StoreFuture<bool> {
        StoreFuture::ready(Ok(self.led(flight, |entry| {
            let until_us = entry.now_us() + us(lease);
            entry.expire_at(until_us);
        })))
    }

    fn land(&self, flight: &Flight, outcome: Bytes, linger: Duration) -> StoreFuture<bool> {
        self.end(flight, || {
            let key = left_by(flight.id(), flight.token());
            self.0.landed.with(&key, |entry| {
                let until_us = entry.now_us() + us(linger);
                let weight = ENTRY_OVERHEAD + key.len() + outcome.len();
                // Without room for it, one of those who follow makes it again.
                let _ = entry.insert(outcome, until_us, weight);
            });
        })
    }

    fn leave(&self, flight: &Flight) -> StoreFuture<bool> {
        self.end(flight, || {})
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        Some(self.0.context.hints.subscribe(&channel(id)))
    }

    fn tasks(&self) -> Tasks {
        self.0.context.tasks.clone()
    }
}

fn left_by(id: &str, leader: &str) -> String {
    format!("{id}:{leader}")
}

fn channel(id: &str) -> String {
    format!("coalesce:{id}")
}

fn us(duration: Duration) -> u64 {
    whole_ms(duration) * 1_000
}

impl Default for MemoryStore {
    /// By the system's clock.
    fn default() -> Self {
        Self::new(&Context::default())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("coalesce::MemoryStore").field("leaders", &self.0.leaders).finish()
    }
}

//! Idempotency records in this process.

use crate::{
    context::Context,
    expiring::{ENTRY_OVERHEAD, Entry, Expiring, WhenFull},
    idempotency::{
        policy::{self, Begin, Record, State},
        store::{
            Begun, Claim, Completed, Fingerprint, IdempotencyStore, Look, SMALL_OUTCOME, Settled,
            Terms,
        },
    },
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// Bytes of records that a store holds if nothing else is said.
pub(crate) const DEFAULT_CAPACITY: usize = 64 << 20;

/// How many fences are remembered beyond their records. Losing one is harmless while the clock
/// moves on.
const FENCES: usize = 65_536;

/// Idempotency records in the memory of this process, for one server or for tests.
///
/// Nothing is ever evicted: a record that went early would let a request run twice. A store that is
/// full refuses new keys, which the layer answers with 503, until old records end. They are lost
/// with the process.
///
/// Clones share the same records.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    records: Expiring<Record>,
    /// The last fence of each record, kept beyond it. Locked while its record is.
    fences: Expiring<u64>,
    context: Context,
}

impl MemoryStore {
    /// At most `capacity` bytes of records.
    pub(crate) fn new(context: &Context, capacity: usize) -> Self {
        let refuse = WhenFull::Refuse { what: "idempotency key" };
        let oldest = WhenFull::EvictSoonestToExpire { may_evict: |_| true };
        Self(Arc::new(Inner {
            records: Expiring::new(context.clock.clone(), capacity, refuse),
            fences: Expiring::new(context.clock.clone(), FENCES, oldest),
            context: context.clone(),
        }))
    }

    fn step<R>(
        &self,
        claim: &Claim,
        step: impl FnOnce(&mut Entry<'_, Record>) -> Result<R, StoreError>,
    ) -> StoreFuture<R> {
        StoreFuture::ready(self.0.records.with(claim.id(), step))
    }

    /// A fence above the last one of this record.
    fn next_fence(&self, id: &str, record: Option<&Record>, terms: Terms) -> u64 {
        self.0.fences.with(id, |entry| {
            let now_us = entry.now_us();
            let fence = policy::fence(entry.get().copied(), record, now_us);
            // It is only a second line behind the clock, so one without room does no harm.
            let _ = entry.insert(fence, now_us + 2 * terms.pending_ms() * 1_000, 1);
            fence
        })
    }

    fn hint(&self, id: &str) {
        // In memory it is delivered by the call; the future has nothing left to do.
        drop(self.0.context.hints.publish(&channel(id), Bytes::new()));
    }
}

impl IdempotencyStore for MemoryStore {
    fn begin(&self, claim: &Claim, fingerprint: &Fingerprint, terms: Terms) -> StoreFuture<Begun> {
        self.step(claim, |entry| {
            let now_us = entry.now_us();
            let record = entry.get().cloned();
            let record = record.as_ref();
            let (fence, attempts) =
                match policy::begin(record, claim, fingerprint, terms.on_orphan, now_us) {
                    Begin::Answer(answer) => return Ok(answer),
                    Begin::Again { fence, attempts } => (fence, attempts),
                    Begin::Take { attempts } => {
                        (self.next_fence(claim.id(), record, terms), attempts)
                    }
                };
            let record = Record {
                fingerprint: *fingerprint,
                token: claim.token().into(),
                fence,
                attempts,
                state: State::Pending { deadline_us: now_us + terms.lease_us() },
            };
            put(entry, claim, record, terms.pending_ms())?;
            Ok(Begun::Acquired { fence, attempts })
        })
    }

    fn renew(&self, claim: &Claim, terms: Terms) -> StoreFuture<bool> {
        self.step(claim, |entry| {
            let now_us = entry.now_us();
            let held = match entry.get() {
                Some(record) if policy::holds(Some(record), claim) => record,
                _ => return Ok(false),
            };
            held.state = State::Pending { deadline_us: now_us + terms.lease_us() };
            entry.expire_at(now_us + terms.pending_ms() * 1_000);
            Ok(true)
        })
    }

    fn complete(&self, claim: &Claim, outcome: Bytes, terms: Terms) -> StoreFuture<Completed> {
        let completed = self.0.records.with(claim.id(), |entry| {
            let record = entry.get().cloned();
            let completed = policy::complete(record.as_ref(), claim);
            if let (Completed::Stored, Some(record)) = (completed, record) {
                let record = Record { state: State::Complete { outcome }, ..record };
                put(entry, claim, record, terms.retain_ms())?;
            }
            Ok(completed)
        });
        if let Ok(Completed::Stored) = completed {
            self.hint(claim.id());
        }
        StoreFuture::ready(completed)
    }

    fn abandon(&self, claim: &Claim) -> StoreFuture<bool> {
        let abandoned = self.0.records.with(claim.id(), |entry| {
            let held = policy::holds(entry.get().as_deref(), claim);
            held && entry.remove().is_some()
        });
        if abandoned {
            self.hint(claim.id());
        }
        StoreFuture::ready(Ok(abandoned))
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        Some(self.0.context.hints.subscribe(&channel(id)))
    }

    fn look(&self, id: &str, with_outcome: bool) -> StoreFuture<Option<Look>> {
        StoreFuture::ready(Ok(self.0.records.with(id, |entry| {
            let now_us = entry.now_us();
            let left = Duration::from_micros(entry.ttl_us()?);
            let record = entry.get()?;
            let outcome = match &record.state {
                State::Complete { outcome } if with_outcome => Some(outcome.clone()),
                _ => None,
            };
            Some(policy::look(record, left, now_us).outcome(outcome))
        })))
    }

    fn forget(&self, id: &str) -> StoreFuture<bool> {
        let forgotten = self.0.records.with(id, |entry| entry.remove().is_some());
        if forgotten {
            self.hint(id);
        }
        StoreFuture::ready(Ok(forgotten))
    }

    fn settle(&self, id: &str, outcome: Bytes, terms: Terms) -> StoreFuture<Settled> {
        let nobody = Claim::new(id, "");
        let settled = self.0.records.with(id, |entry| {
            let now_us = entry.now_us();
            let record = entry.get().cloned();
            let settled = policy::settle(record.as_ref(), now_us);
            if let (Settled::Settled, Some(record)) = (settled, record) {
                let token = nobody.token().into();
                let record = Record { token, state: State::Complete { outcome }, ..record };
                put(entry, &nobody, record, terms.retain_ms())?;
            }
            Ok(settled)
        });
        if let Ok(Settled::Settled) = settled {
            self.hint(id);
        }
        StoreFuture::ready(settled)
    }

    fn tasks(&self) -> Tasks {
        self.0.context.tasks.clone()
    }
}

fn channel(id: &str) -> String {
    format!("idempotency:{id}")
}

/// Stores a record that ends after `ttl_ms`. A pending one already has room for a small outcome, so
/// that the note that it was handled always fits.
fn put(
    entry: &mut Entry<'_, Record>,
    claim: &Claim,
    record: Record,
    ttl_ms: u64,
) -> Result<(), StoreError> {
    let outcome = match &record.state {
        State::Pending { .. } => 0,
        State::Complete { outcome } => outcome.len(),
    };
    let fixed = ENTRY_OVERHEAD + size_of::<Record>() + claim.id().len() + claim.token().len();
    let expires_us = entry.now_us() + ttl_ms * 1_000;
    entry.insert(record, expires_us, fixed + outcome.max(SMALL_OUTCOME))
}

impl Default for MemoryStore {
    /// At most 64 MiB of records, by the system's clock.
    fn default() -> Self {
        Self::new(&Context::default(), DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("idempotency::MemoryStore").field("records", &self.0.records).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const PRINT: Fingerprint = Fingerprint::new([1; 32]);

    fn store(capacity: usize) -> (Clock, MemoryStore) {
        let context = Context { clock: Clock::manual(), ..Context::default() };
        (context.clock.clone(), MemoryStore::new(&context, capacity))
    }

    fn terms() -> Terms {
        Terms::new(Duration::from_secs(30), Duration::from_secs(3600))
    }

    async fn begin(store: &MemoryStore, id: &str) -> Result<Begun, StoreError> {
        store.begin(&Claim::new(id, "token"), &PRINT, terms()).await
    }

    /// How many pending records fit before the first refusal.
    async fn fill(store: &MemoryStore) -> usize {
        let mut held = 0;
        while begin(store, &format!("{held:04}")).await.is_ok() {
            held += 1;
        }
        held
    }

    #[tokio::test]
    async fn a_full_store_refuses_new_keys_and_keeps_every_old_one() {
        let (_, store) = store(2_000);
        let held = fill(&store).await;
        assert!(held > 2);
        assert!(begin(&store, "one more").await.unwrap_err().is_full());
        for n in 0..held {
            let claim = Claim::new(format!("{n:04}"), "other");
            let begun = store.begin(&claim, &PRINT, terms()).await.unwrap();
            assert!(matches!(begun, Begun::Busy { .. }), "{n}: {begun:?}");
        }
    }

    #[tokio::test]
    async fn a_full_store_has_no_room_for_a_large_outcome_and_always_for_a_small_one() {
        let (_, store) = store(2_000);
        for n in 0..fill(&store).await {
            let claim = Claim::new(format!("{n:04}"), "token");
            let large = Bytes::from(vec![0; SMALL_OUTCOME + 2_000]);
            assert!(store.complete(&claim, large, terms()).await.unwrap_err().is_full());
            let small = Bytes::from(vec![0; SMALL_OUTCOME]);
            assert_eq!(store.complete(&claim, small, terms()).await.unwrap(), Completed::Stored);
        }
    }

    #[tokio::test]
    async fn a_full_store_has_room_again_when_its_records_end() {
        let (clock, store) = store(2_000);
        fill(&store).await;
        clock.advance(Duration::from_secs(3600));
        assert!(begin(&store, "one more").await.is_ok());
    }
}

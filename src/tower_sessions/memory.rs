//! Records in the memory of this process.

use crate::{
    context::Context,
    expiring::{ENTRY_OVERHEAD, Entry, Expiring, WhenFull},
    store::{StoreError, StoreFuture},
    tower_sessions::store::RecordStore,
};
use bytes::Bytes;
use std::{fmt, sync::Arc};

/// Bytes that records take at most if nobody says otherwise: 64 MiB.
pub(crate) const DEFAULT_CAPACITY: usize = 64 * 1024 * 1024;

/// Keeps records in this process. A cheap clone; clones share them.
///
/// It holds at most 64 MiB (the default) and never drops a live record: one more is refused.
#[derive(Clone)]
pub struct MemoryStore(Arc<Expiring<Bytes>>);

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(&Context::default(), DEFAULT_CAPACITY)
    }
}

impl MemoryStore {
    /// At most about `capacity` bytes.
    pub(crate) fn new(context: &Context, capacity: usize) -> Self {
        let when_full = WhenFull::Refuse { what: "session" };
        Self(Arc::new(Expiring::new(context.clock.clone(), capacity, when_full)))
    }

    fn put_if(
        &self,
        hash: &str,
        record: Bytes,
        expires_ms: u64,
        wanted: impl FnOnce(bool) -> bool,
    ) -> StoreFuture<bool> {
        StoreFuture::ready(self.0.with(hash, |entry| {
            let held = entry.get().is_some();
            if wanted(held) { put(entry, record, expires_ms).map(|()| true) } else { Ok(false) }
        }))
    }
}

fn put(entry: &mut Entry<'_, Bytes>, record: Bytes, expires_ms: u64) -> Result<(), StoreError> {
    let weight = ENTRY_OVERHEAD + record.len();
    entry.insert(record, expires_ms.saturating_mul(1_000), weight)
}

impl RecordStore for MemoryStore {
    fn create(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool> {
        self.put_if(hash, record, expires_ms, |held| !held)
    }

    fn save(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool> {
        self.put_if(hash, record, expires_ms, |held| held)
    }

    fn load(&self, hash: &str) -> StoreFuture<Option<Bytes>> {
        StoreFuture::ready(Ok(self.0.with(hash, |entry| entry.get().cloned())))
    }

    fn delete(&self, hash: &str) -> StoreFuture<()> {
        self.0.with(hash, |entry| entry.remove());
        StoreFuture::ready(Ok(()))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryStore").field(&self.0).finish()
    }
}

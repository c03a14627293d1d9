//! The records of tower-sessions, kept by the backend's store.

use super::Backend;
use crate::{store::StoreFuture, tower_sessions::RecordStore};
use bytes::Bytes;

impl RecordStore for Backend {
    fn create(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool> {
        self.inner.stores.tower_sessions.create(hash, record, expires_ms)
    }

    fn save(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool> {
        self.inner.stores.tower_sessions.save(hash, record, expires_ms)
    }

    fn load(&self, hash: &str) -> StoreFuture<Option<Bytes>> {
        self.inner.stores.tower_sessions.load(hash)
    }

    fn delete(&self, hash: &str) -> StoreFuture<()> {
        self.inner.stores.tower_sessions.delete(hash)
    }
}

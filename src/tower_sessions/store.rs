//! What the adapter asks of a store: one verb, one round trip.

use crate::store::StoreFuture;
use bytes::Bytes;
use std::fmt;

/// Keeps encoded records by the hash of their id, each until a moment in milliseconds since the Unix
/// epoch.
pub(crate) trait RecordStore: fmt::Debug + Send + Sync + 'static {
    /// Puts a record where there is none: `false` if there is one.
    fn create(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool>;

    /// Puts a record in place of another: `false` if there is none.
    fn save(&self, hash: &str, record: Bytes, expires_ms: u64) -> StoreFuture<bool>;

    /// The record.
    fn load(&self, hash: &str) -> StoreFuture<Option<Bytes>>;

    /// Ends it; nothing happens if there is none.
    fn delete(&self, hash: &str) -> StoreFuture<()>;
}

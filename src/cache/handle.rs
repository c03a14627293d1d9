//! What an application does with the cache from outside of a request.

use crate::{
    cache::{key::CacheKey, store::CacheStore},
    store::StoreError,
};
use http::Uri;
use std::{fmt, sync::Arc};

/// Forgets stored responses. From [`CacheLayer::handle`](crate::cache::CacheLayer::handle); a cheap
/// clone.
#[derive(Clone)]
pub struct CacheHandle {
    store: Arc<dyn CacheStore>,
    key: CacheKey,
}

impl CacheHandle {
    pub(crate) fn new(store: Arc<dyn CacheStore>, key: CacheKey) -> Self {
        Self { store, key }
    }

    /// Forgets the responses to this URI, such as `http://shop.example/p/7?full=1`, and returns
    /// whether there was any. The host and the query are those that clients send; the scheme makes no
    /// difference. Entries whose key has a declared [header](CacheKey::header), a
    /// [cookie](CacheKey::cookie) or something [custom](CacheKey::custom) stay.
    ///
    /// What is being made now is not stored: it may have been read before the change that this purge
    /// is about. Whoever asks after this has returned gets a response that was begun after it.
    ///
    /// # Errors
    ///
    /// If the store fails. After a [timeout](StoreError::is_timeout), it may have been purged or not.
    pub async fn purge(&self, uri: &Uri) -> Result<bool, StoreError> {
        let entries: Vec<_> = self.key.all_of(uri).flat_map(|key| key.hashes()).collect();
        Ok(self.store.purge(&entries).await? > 0)
    }
}

impl fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheHandle")
    }
}

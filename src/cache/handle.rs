//! What an application does with the cache from outside of a request.

use crate::{
    cache::{
        key::CacheKey,
        store::CacheStore,
        tag::{Purge, Tag},
    },
    store::StoreError,
    telemetry::{self, CACHE_TOTAL},
};
use http::Uri;
use std::{fmt, sync::Arc};

/// Forgets stored responses. From [`CacheLayer::handle`](crate::cache::CacheLayer::handle); a cheap
/// clone.
///
/// Each purge is one round trip, however many responses it is about. Once it has returned, nobody is
/// answered with one of them who asks from then on, on any server; nor with one that was being made
/// meanwhile, which may have been read before the change that the purge is about. Change first, then
/// purge.
///
/// The tags that were purged last are remembered, 10,000 of them. Whatever was made before the purges
/// that are forgotten counts as purged.
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
    /// [cookie](CacheKey::cookie) or something [custom](CacheKey::custom) stay:
    /// [`purge_key`](CacheHandle::purge_key) has them, too. This one gives its memory back at once.
    ///
    /// # Errors
    ///
    /// If the store fails. After a [timeout](StoreError::is_timeout), it may have been purged or not.
    pub async fn purge(&self, uri: &Uri) -> Result<bool, StoreError> {
        let entries: Vec<_> = self.key.all_of(uri).flat_map(|key| key.hashes()).collect();
        Ok(self.store.purge(&entries).await? > 0)
    }

    /// Purges all responses to this URI: every variant, whatever else the key has. The host and the
    /// query are those that clients send, of which this layer's [key](CacheKey::query) may have a part;
    /// the scheme makes no difference.
    ///
    /// # Errors
    ///
    /// If the store fails. After a [timeout](StoreError::is_timeout), it may have been purged or not.
    pub async fn purge_key(&self, uri: &Uri, purge: Purge) -> Result<(), StoreError> {
        let tags: Vec<_> = self.key.all_of(uri).take(1).map(|key| key.tag()).collect();
        self.purge_all_of(&tags, purge).await
    }

    /// Purges all responses that a handler has [tagged](crate::cache::CacheControl::tag) with this
    /// name. That none has is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_refused`] if the name is empty or longer than 256 bytes. If the store fails;
    /// after a [timeout](StoreError::is_timeout), they may have been purged or not.
    pub async fn purge_tag(&self, name: impl AsRef<str>, purge: Purge) -> Result<(), StoreError> {
        self.purge_tags([name], purge).await
    }

    /// Purges all responses with one of these tags, in one step: at most 1,000.
    ///
    /// # Errors
    ///
    /// As [`purge_tag`](CacheHandle::purge_tag), or if there are more.
    pub async fn purge_tags(
        &self,
        names: impl IntoIterator<Item = impl AsRef<str>>,
        purge: Purge,
    ) -> Result<(), StoreError> {
        let tags = names.into_iter().map(|name| Tag::named(name.as_ref()));
        self.purge_all_of(&tags.collect::<Result<Vec<_>, _>>()?, purge).await
    }

    /// Purges the responses to all paths that begin with these parts, on every host and with any
    /// query: `/posts/7` has `/posts/7`, `/posts/7/`, `/posts/7?full=1` and `/posts/7/comments`, and not
    /// `/posts/70`. Paths are compared as clients send them, byte for byte.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_refused`] if the prefix does not begin with a `/`, has a query, or more than
    /// eight parts. Otherwise as [`purge_tag`](CacheHandle::purge_tag).
    pub async fn purge_prefix(&self, prefix: &str, purge: Purge) -> Result<(), StoreError> {
        self.purge_all_of(&[Tag::prefix(prefix)?], purge).await
    }

    /// Purges every response of this cache: of all that have the same store and prefix.
    ///
    /// # Errors
    ///
    /// If the store fails. After a [timeout](StoreError::is_timeout), they may have been purged or not.
    pub async fn purge_all(&self, purge: Purge) -> Result<(), StoreError> {
        self.purge_all_of(&[Tag::ALL], purge).await
    }

    async fn purge_all_of(&self, tags: &[Tag], purge: Purge) -> Result<(), StoreError> {
        if tags.is_empty() {
            return Ok(());
        }
        let purged = self.store.purge_tags(tags, purge).await;
        match &purged {
            Ok(()) => telemetry::count(CACHE_TOTAL, "purge"),
            Err(error) => telemetry::store_failed("cache", error),
        }
        purged
    }
}

impl fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheHandle")
    }
}

//! The store's verbs, as a cache calls them.

use bytes::Bytes;
use http::Response;
use std::{sync::Arc, time::Duration};
use towerkeep::cache::{
    Address, CacheStore, Fill, FillReply, Found, Lane, LeaseReply, Lookup, StoredResponse, Tag,
};

pub(crate) fn tag(name: &str) -> Tag {
    Tag::named(name).unwrap()
}

fn at(entry: &str) -> Address {
    Address::new(entry, Lane::Open)
}

/// A response that is being made.
pub(crate) struct Begun {
    at: Address,
    token: String,
    seen: u64,
}

/// Begins a response, as one that sees what is stored and cannot use it.
pub(crate) async fn begin(store: &impl CacheStore, entry: &str, token: &str) -> Begun {
    let at = at(entry);
    let seen = match store.lookup(&at).await.unwrap() {
        Lookup::Found(found) => Some(found.stamp),
        Lookup::Absent { stamp } => stamp,
        other => panic!("{other:?}"),
    };
    let length = Duration::from_secs(10);
    let reply = store.lease(&at, token, length, seen.as_deref()).await.unwrap();
    assert_eq!(reply, LeaseReply::Granted);
    Begun { at, token: token.to_owned(), seen: store.last_purge() }
}

impl Begun {
    /// Stores it for a minute.
    pub(crate) async fn end(self, store: &impl CacheStore, tags: &[&str]) {
        let body = Bytes::from(self.token.clone());
        let response = Arc::new(StoredResponse::new("key", Response::new(body)));
        let mut fill = Fill::new(response, Duration::from_secs(60));
        fill.stale = Duration::from_secs(60);
        fill.seen = self.seen;
        fill.tags = tags.iter().map(|name| tag(name)).collect();
        let reply = store.fill(&self.at, &self.token, fill).await.unwrap();
        assert_eq!(reply, FillReply::Stored);
    }
}

/// Makes a response with these tags.
pub(crate) async fn make(store: &impl CacheStore, entry: &str, token: &str, tags: &[&str]) {
    begin(store, entry, token).await.end(store, tags).await;
}

/// What is found there, if anything is.
pub(crate) async fn look(store: &impl CacheStore, entry: &str) -> Option<Found> {
    match store.lookup(&at(entry)).await.unwrap() {
        Lookup::Found(found) => Some(found),
        Lookup::Absent { .. } => None,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn is_fresh(store: &impl CacheStore, entry: &str) -> bool {
    look(store, entry).await.is_some_and(|found| !found.fresh_for.is_zero())
}

pub(crate) async fn is_gone(store: &impl CacheStore, entry: &str) -> bool {
    look(store, entry).await.is_none()
}

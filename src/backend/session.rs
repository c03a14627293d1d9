//! Sessions, kept by the backend's store.

use super::Backend;
use crate::{
    clock::Clock,
    marks::UserId,
    session::{
        Committed, Created, Delta, Destroyed, Limits, NewSession, Record, Selector, SessionStore,
        Swap, Swapped, Trail, UserStore, VerifierHash,
    },
    store::StoreFuture,
    tasks::Tasks,
};
use bytes::Bytes;
use std::time::Duration;

impl SessionStore for Backend {
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>> {
        self.inner.stores.session.load(selector)
    }

    fn load_field(&self, selector: &Selector, field: &str) -> StoreFuture<Option<Record>> {
        self.inner.stores.session.load_field(selector, field)
    }

    fn create(&self, selector: &Selector, new: NewSession, limits: Limits) -> StoreFuture<Created> {
        self.inner.stores.session.create(selector, new, limits)
    }

    fn commit(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        delta: Delta,
        limits: Limits,
    ) -> StoreFuture<Committed> {
        self.inner.stores.session.commit(selector, presented, delta, limits)
    }

    fn destroy(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        user: Option<&UserId>,
    ) -> StoreFuture<Destroyed> {
        self.inner.stores.session.destroy(selector, presented, user)
    }

    fn swap(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        swap: Swap,
        limits: Limits,
    ) -> StoreFuture<Swapped> {
        self.inner.stores.session.swap(selector, presented, swap, limits)
    }

    fn revoke(&self, selector: &Selector, user: &UserId) -> StoreFuture<Destroyed> {
        self.inner.stores.session.revoke(selector, user)
    }

    fn tasks(&self) -> Tasks {
        self.inner.stores.session.tasks()
    }

    fn clock(&self) -> Clock {
        self.inner.stores.session.clock()
    }
}

impl UserStore for Backend {
    fn enlist(&self, user: &UserId, selector: &Selector, idle: Duration) -> StoreFuture<usize> {
        self.inner.stores.session.enlist(user, selector, idle)
    }

    fn unlist(&self, user: &UserId, selectors: &[Selector], spared: Duration) -> StoreFuture<()> {
        self.inner.stores.session.unlist(user, selectors, spared)
    }

    fn listed(&self, user: &UserId) -> StoreFuture<Vec<(Selector, Duration)>> {
        self.inner.stores.session.listed(user)
    }

    fn append(&self, user: &UserId, events: Vec<Bytes>, trail: Trail) -> StoreFuture<()> {
        self.inner.stores.session.append(user, events, trail)
    }

    fn recent(&self, user: &UserId, count: usize) -> StoreFuture<Vec<Bytes>> {
        self.inner.stores.session.recent(user, count)
    }
}

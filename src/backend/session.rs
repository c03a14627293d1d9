//! Sessions, kept by the backend's store.

use super::Backend;
use crate::{
    marks::UserId,
    session::{
        Committed, Created, Delta, Destroyed, Limits, NewSession, Record, Selector, SessionStore,
        VerifierHash,
    },
    store::StoreFuture,
    tasks::Tasks,
};

impl SessionStore for Backend {
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>> {
        self.inner.stores.session.load(selector)
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

    fn tasks(&self) -> Tasks {
        self.inner.stores.session.tasks()
    }
}

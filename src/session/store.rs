//! What a session store does: a handful of verbs, each one atomic step and one round trip.

mod answer;
mod change;
mod entry;

pub use self::{
    answer::{Committed, Created, Destroyed, Note, Swapped},
    change::{Absolute, Change, Delta, Swap},
    entry::{Fields, Limit, Limits, NewSession, Record},
};

use crate::{
    clock::Clock,
    marks::UserId,
    session::{
        token::{Selector, VerifierHash},
        user_store::UserStore,
    },
    store::StoreFuture,
    tasks::Tasks,
};
use std::sync::Arc;

/// Keeps sessions: in memory or in Redis.
///
/// The life of a session is the life of its entry. Every verb that writes also sets how long the
/// entry lives yet: the session's idle timeout, or what is left of its absolute lifetime if that is
/// less. A store never evicts a session to make room for another; it refuses the new one. Every call
/// ends in a bounded time, with [`StoreError::timeout`](crate::StoreError::timeout) if need be.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a session store",
    note = "use a `Backend`, a `session::MemoryStore`, or an `Arc` of one of them"
)]
pub trait SessionStore: UserStore {
    /// Reads a session, whoever asks: the caller compares [`Record::verifier`].
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>>;

    /// Reads one field of a session, whoever asks: as [`load`](SessionStore::load), with no other
    /// field in [`Record::fields`], and without the user, the device and what is about its list.
    fn load_field(&self, selector: &Selector, field: &str) -> StoreFuture<Option<Record>>;

    /// Makes a session at a selector that nobody has.
    fn create(&self, selector: &Selector, new: NewSession, limits: Limits) -> StoreFuture<Created>;

    /// Applies the changes of one request to the session that `presented` proves, all or none, and
    /// restarts its idle timeout. An empty delta does only the latter.
    ///
    /// A session that is not there, or is proved by something else by now, is not touched: what was
    /// destroyed never comes back.
    fn commit(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        delta: Delta,
        limits: Limits,
    ) -> StoreFuture<Committed>;

    /// Replaces the value of one field if it is the one that was seen, and restarts the idle timeout.
    fn swap(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        swap: Swap,
        limits: Limits,
    ) -> StoreFuture<Swapped>;

    /// Ends the session if `presented` proves it, or if it is bound to `user`: a logout holds even
    /// when the session was rotated since the request loaded it.
    fn destroy(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        user: Option<&UserId>,
    ) -> StoreFuture<Destroyed>;

    /// Ends the session if it is bound to `user`, who revokes it from elsewhere.
    fn revoke(&self, selector: &Selector, user: &UserId) -> StoreFuture<Destroyed>;

    /// The tasks to run in what the response does not wait for. Default: tasks that nobody waits for
    /// at a shutdown.
    fn tasks(&self) -> Tasks {
        Tasks::default()
    }

    /// The clock that fields with a time to live go by. Default: the system's.
    fn clock(&self) -> Clock {
        Clock::system()
    }
}

impl<T: SessionStore + ?Sized> SessionStore for Arc<T> {
    fn load(&self, selector: &Selector) -> StoreFuture<Option<Record>> {
        (**self).load(selector)
    }

    fn load_field(&self, selector: &Selector, field: &str) -> StoreFuture<Option<Record>> {
        (**self).load_field(selector, field)
    }

    fn create(&self, selector: &Selector, new: NewSession, limits: Limits) -> StoreFuture<Created> {
        (**self).create(selector, new, limits)
    }

    fn commit(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        delta: Delta,
        limits: Limits,
    ) -> StoreFuture<Committed> {
        (**self).commit(selector, presented, delta, limits)
    }

    fn destroy(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        user: Option<&UserId>,
    ) -> StoreFuture<Destroyed> {
        (**self).destroy(selector, presented, user)
    }

    fn swap(
        &self,
        selector: &Selector,
        presented: &VerifierHash,
        swap: Swap,
        limits: Limits,
    ) -> StoreFuture<Swapped> {
        (**self).swap(selector, presented, swap, limits)
    }

    fn revoke(&self, selector: &Selector, user: &UserId) -> StoreFuture<Destroyed> {
        (**self).revoke(selector, user)
    }

    fn tasks(&self) -> Tasks {
        (**self).tasks()
    }

    fn clock(&self) -> Clock {
        (**self).clock()
    }
}

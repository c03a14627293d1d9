//! What the cache knows of one request.

use crate::{
    cache::{
        key::Key,
        layer::Shared,
        policy::Reason,
        status::{CacheStatus, Forward},
        store::{Address, Found, Lane, Lookup},
        validate::Conditions,
    },
    marks::SessionTouched,
};
use http::{Extensions, Method, Request, header::AUTHORIZATION};
use http_body::Body;
use std::sync::Arc;
use tokio::time::Instant;

/// A request that may be answered from the cache.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) key: Key,
    pub(crate) address: Address,
    pub(crate) head: bool,
    pub(crate) authorized: bool,
    pub(crate) conditions: Conditions,
    /// Why the store's answer would not do.
    pub(crate) forward: Forward,
    /// The stamp of what is stored and would not do.
    pub(crate) seen: Option<Arc<str>>,
    /// It waited for the response to another request.
    pub(crate) collapsed: bool,
    /// Until when it waits.
    pub(crate) deadline: Instant,
    session: Option<SessionTouched>,
}

/// What is to be done with a request on its arrival.
pub(crate) enum Admission {
    /// Look it up.
    Visit(Box<Visit>),
    /// Hand it on. Nothing is stored.
    Bypass(Reason),
    /// A cache further out has done all that this one could do.
    Nested,
}

/// What a lookup means for a request.
pub(crate) enum Judgement {
    Hit(Found),
    Miss,
    /// It is stored, and not for this client.
    NotForYou,
}

/// In the extensions of a request that a cache hands on: a second cache with the same key would wait
/// for the first one's lease, and so for itself.
#[derive(Clone)]
struct HandedOn(Arc<str>);

impl Visit {
    pub(crate) fn of<B: Body>(shared: &Shared, request: &Request<B>) -> Admission {
        if let Err(reason) = shared.policy.admit(request) {
            return Admission::Bypass(reason);
        }
        let key = match shared.key.of(request) {
            Ok(key) => key,
            Err(error) => return Admission::Bypass(error.into()),
        };
        let authorized = request.headers().contains_key(AUTHORIZATION);
        let lane = if authorized { Lane::Authorized } else { Lane::Open };
        let address = Address::new(key.hash(), lane);
        let extensions = request.extensions();
        if extensions.get::<HandedOn>().is_some_and(|other| *other.0 == *address.entry()) {
            return Admission::Nested;
        }
        Admission::Visit(Box::new(Self {
            key,
            address,
            head: request.method() == Method::HEAD,
            authorized,
            conditions: Conditions::of(request.headers()),
            forward: Forward::UriMiss,
            seen: None,
            collapsed: false,
            deadline: Instant::now() + shared.wait,
            session: extensions.get::<SessionTouched>().cloned(),
        }))
    }

    /// Whether what was found will do, and if not, why.
    pub(crate) fn judge(&mut self, shared: &Shared, lookup: Lookup) -> Judgement {
        let found = match lookup {
            Lookup::Found(found) => found,
            Lookup::Absent { stamp } => return self.miss(Forward::UriMiss, stamp),
        };
        if *found.response.key != *self.key.as_bytes() {
            return self.miss(Forward::UriMiss, Some(found.stamp));
        }
        if found.fresh_for.is_zero() {
            return self.miss(Forward::Stale, Some(found.stamp));
        }
        let headers = &found.response.snapshot.headers;
        if self.authorized && !shared.policy.may_answer_authorized(headers) {
            self.forward = Forward::Request;
            return Judgement::NotForYou;
        }
        Judgement::Hit(found)
    }

    fn miss(&mut self, forward: Forward, seen: Option<Arc<str>>) -> Judgement {
        self.forward = forward;
        self.seen = seen;
        Judgement::Miss
    }

    /// The status of a response that did not come from the store.
    pub(crate) fn status(&self) -> CacheStatus {
        CacheStatus::forward(self.forward)
    }

    /// What waiters for the same response have in common.
    pub(crate) fn flight(&self) -> String {
        format!("{}{}", self.address.entry(), self.address.lease())
    }

    /// Whether a session was touched, as far as the request tells.
    pub(crate) fn touched(&self) -> bool {
        self.session.as_ref().is_some_and(SessionTouched::get)
    }

    /// Notes that the request is handed on by this cache.
    pub(crate) fn mark(&self, extensions: &mut Extensions) {
        extensions.insert(HandedOn(self.address.entry().into()));
    }
}

//! What a handler knows of its own run.

use crate::{idempotency::outcome::Outcome, key, lease::LeaseWatch};
use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// The run of a request with an idempotency key, for its handler: in the request's extensions, and
/// an axum extractor.
///
/// A handler runs once for each key as long as the server that runs it lives and reaches the store.
/// A run that vanishes is [followed] by another, and one that was only paused may go
/// on beside it. What a handler does elsewhere is safe against that only with the means here: it
/// reconciles on a later [`attempt`](Idempotent::attempt), hands the
/// [`fence`](Idempotent::fence) to a store that refuses lower ones, and its own key to services
/// that know idempotency keys ([`downstream_key`](Idempotent::downstream_key)).
///
/// A cheap clone.
///
/// [followed]: crate::idempotency::Orphan::Retry
#[derive(Clone)]
pub struct Idempotent(Arc<Inner>);

struct Inner {
    key: String,
    id: Arc<str>,
    fence: u64,
    attempt: u32,
    lease: LeaseWatch,
    decided: Mutex<Option<Outcome>>,
}

/// The mark of a request that the layer let through because it has no key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unkeyed;

/// The lease of a run was lost: another run of the same request may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseLost;

impl Idempotent {
    pub(crate) fn new(
        key: String,
        id: Arc<str>,
        fence: u64,
        attempt: u32,
        lease: LeaseWatch,
    ) -> Self {
        let decided = Mutex::new(None);
        Self(Arc::new(Inner { key, id, fence, attempt, lease, decided }))
    }

    /// The key that the client sent. Of a request that is told by its
    /// [content](crate::idempotency::IdempotencyLayer::dedup_by_content), `≡` and a hash of that, which
    /// no client can send.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// 1, and one more for each earlier run that vanished without an outcome. Above 1, an earlier run
    /// may have had its effect: look before doing it again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// A number that is higher for every later run of the request, below 2⁶³. A store that takes a
    /// write only with a fence at least as high as the last one it saw is safe from a run that was
    /// paused and goes on beside its successor.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.0.fence
    }

    /// Fails once the lease is lost. For use before each effect.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`] if another run may be under way.
    pub fn check(&self) -> Result<(), LeaseLost> {
        if self.0.lease.is_lost() { Err(LeaseLost) } else { Ok(()) }
    }

    /// Ends once the lease is lost.
    pub async fn lost(&self) {
        self.0.lease.clone().lost().await;
    }

    /// An idempotency key for a service that this handler calls: the same in every run of the
    /// request, another for each `purpose`, caller and key. 22 characters of base64url.
    #[must_use]
    pub fn downstream_key(&self, purpose: &str) -> String {
        key::digest([b"downstream".as_slice(), self.0.id.as_bytes(), purpose.as_bytes()])
    }

    /// Says what becomes of the answer, whatever its status. An [`Outcome`] in the response's own
    /// extensions comes before it; the last call counts.
    pub fn decide(&self, outcome: Outcome) {
        *self.0.decided.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    pub(crate) fn decided(&self) -> Option<Outcome> {
        *self.0.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Idempotent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotent")
            .field("attempt", &self.0.attempt)
            .field("fence", &self.0.fence)
            .field("lost", &self.0.lease.is_lost())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for LeaseLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lease on this request was lost; another run of it may be under way")
    }
}

impl Error for LeaseLost {}

//! What the layer asks of a store.

use crate::{
    pubsub::Subscription,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// Longest time that a store is asked to keep anything: what is longer is cut to it.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A store of idempotency records.
///
/// Each method is one atomic step and, on a server, one round trip. A record is absent, pending or
/// complete:
///
/// ```text
/// absent   --begin-->    pending(token, fence, fingerprint, deadline, attempts)
/// pending  --complete--> complete(outcome)
/// pending  --abandon-->  absent
/// pending past its deadline --begin--> pending, one attempt more, a higher fence
///                                      or unchanged, if orphans are rejected
/// ```
///
/// Every step but `begin` changes a record only for the token that holds it. Each may be sent again
/// when its answer was lost: `begin` by the holder is [`Begun::Acquired`] again, and a second
/// `complete` is [`Completed::Already`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store for idempotency records",
    note = "pass a `Backend`, an `idempotency::MemoryStore`, or an `Arc` of your own `IdempotencyStore`"
)]
pub trait IdempotencyStore: Send + Sync + 'static {
    /// Asks for the right to run the request. What comes of a pending record past its deadline is
    /// said by [`Terms::on_orphan`].
    ///
    /// # Errors
    ///
    /// [`StoreError::is_corrupt`] if the record was written by another version of the crate;
    /// [`StoreError::is_full`] if there is no room for a new one.
    fn begin(&self, claim: &Claim, fingerprint: &Fingerprint, terms: Terms) -> StoreFuture<Begun>;

    /// Moves the deadline to [`Terms::lease`] from now, and the record's end to at least
    /// [`Terms::retain`] from now. `false` if the claim is not the holder of a pending record.
    fn renew(&self, claim: &Claim, terms: Terms) -> StoreFuture<bool>;

    /// Records the outcome, which every later `begin` is told for [`Terms::retain`] from now, and
    /// sends a hint to those who [watch](IdempotencyStore::watch).
    ///
    /// # Errors
    ///
    /// [`StoreError::is_full`] if there is no room for an outcome of this size. There is always room
    /// for one of [`SMALL_OUTCOME`] bytes.
    fn complete(&self, claim: &Claim, outcome: Bytes, terms: Terms) -> StoreFuture<Completed>;

    /// Removes a pending record, so that the next `begin` is a first one, and sends a hint. `false`
    /// if the claim is not its holder.
    fn abandon(&self, claim: &Claim) -> StoreFuture<bool>;

    /// Hints that a record was completed or removed, for those who wait for it. Default: none, so they
    /// only look from time to time.
    fn watch(&self, id: &str) -> Option<Subscription> {
        let _ = id;
        None
    }

    /// What is known of a record, for an operator; with the outcome only if it is asked for. `None`
    /// if there is none. Changes nothing. Default: an error, [`StoreError::is_refused`].
    ///
    /// # Errors
    ///
    /// [`StoreError::is_corrupt`] if the record was written by another version of the crate.
    fn look(&self, id: &str, with_outcome: bool) -> StoreFuture<Option<Look>> {
        let _ = (id, with_outcome);
        StoreFuture::ready(Err(no_administration()))
    }

    /// Removes a record in whatever state, but not the memory of its last fence, and sends a hint.
    /// `false` if there is none. Default: an error, [`StoreError::is_refused`].
    fn forget(&self, id: &str) -> StoreFuture<bool> {
        let _ = id;
        StoreFuture::ready(Err(no_administration()))
    }

    /// Records the outcome of a run that vanished, for [`Terms::retain`] from now, and sends a hint. A
    /// record that is held, complete or absent is left as it is. If the holder was only paused, its
    /// `complete` is [`Completed::Lost`]. Default: an error, [`StoreError::is_refused`].
    ///
    /// # Errors
    ///
    /// As [`complete`](IdempotencyStore::complete), and [`StoreError::is_corrupt`] as
    /// [`look`](IdempotencyStore::look).
    fn settle(&self, id: &str, outcome: Bytes, terms: Terms) -> StoreFuture<Settled> {
        let _ = (id, outcome, terms);
        StoreFuture::ready(Err(no_administration()))
    }

    /// The tasks to run handlers in. Default: tasks that nobody waits for at a shutdown.
    fn tasks(&self) -> Tasks {
        Tasks::default()
    }
}

impl<T: IdempotencyStore + ?Sized> IdempotencyStore for Arc<T> {
    fn begin(&self, claim: &Claim, fingerprint: &Fingerprint, terms: Terms) -> StoreFuture<Begun> {
        (**self).begin(claim, fingerprint, terms)
    }

    fn renew(&self, claim: &Claim, terms: Terms) -> StoreFuture<bool> {
        (**self).renew(claim, terms)
    }

    fn complete(&self, claim: &Claim, outcome: Bytes, terms: Terms) -> StoreFuture<Completed> {
        (**self).complete(claim, outcome, terms)
    }

    fn abandon(&self, claim: &Claim) -> StoreFuture<bool> {
        (**self).abandon(claim)
    }

    fn watch(&self, id: &str) -> Option<Subscription> {
        (**self).watch(id)
    }

    fn look(&self, id: &str, with_outcome: bool) -> StoreFuture<Option<Look>> {
        (**self).look(id, with_outcome)
    }

    fn forget(&self, id: &str) -> StoreFuture<bool> {
        (**self).forget(id)
    }

    fn settle(&self, id: &str, outcome: Bytes, terms: Terms) -> StoreFuture<Settled> {
        (**self).settle(id, outcome, terms)
    }

    fn tasks(&self) -> Tasks {
        (**self).tasks()
    }
}

/// The size of outcome, in bytes, that a store which has taken a record always has room for: a note
/// that the request was handled, without the response's body.
pub const SMALL_OUTCOME: usize = 16;

/// A record's id, and the token of the one who asks for it. A cheap clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    id: Arc<str>,
    token: Arc<str>,
}

impl Claim {
    /// `id` names the record and goes into a key as it is; `token` is unguessable and new for each
    /// request.
    pub fn new(id: impl Into<Arc<str>>, token: impl Into<Arc<str>>) -> Self {
        Self { id: id.into(), token: token.into() }
    }

    /// The record's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What makes two requests the same: 256 bits of a hash over their parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// From the bits of a hash.
    #[must_use]
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The bits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// For how long a record is held and kept, and what becomes of one that was left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Terms {
    /// How long a claim holds a pending record without renewing it.
    pub lease: Duration,
    /// How long a record is kept after the last step on it.
    pub retain: Duration,
    /// What `begin` does with a pending record past its deadline.
    pub on_orphan: Orphan,
}

impl Terms {
    /// Both in whole milliseconds, rounded up; [`Orphan::Retry`].
    #[must_use]
    pub fn new(lease: Duration, retain: Duration) -> Self {
        Self { lease, retain, on_orphan: Orphan::Retry }
    }

    /// The same with another rule for orphans.
    #[must_use]
    pub fn on_orphan(mut self, orphan: Orphan) -> Self {
        self.on_orphan = orphan;
        self
    }

    pub(crate) fn lease_us(self) -> u64 {
        whole_ms(self.lease) * 1_000
    }

    /// How long a pending record is kept: it must not end before its lease.
    pub(crate) fn pending_ms(self) -> u64 {
        whole_ms(self.retain.max(self.lease))
    }

    pub(crate) fn retain_ms(self) -> u64 {
        whole_ms(self.retain)
    }
}

fn whole_ms(duration: Duration) -> u64 {
    let ms = duration.min(LONGEST).as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).unwrap_or(u64::MAX).max(1)
}

/// What becomes of a request whose handler vanished: its process was killed, it panicked, or it lost
/// its lease. Whether it had an effect is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Orphan {
    /// The next request with the key runs the handler again and tells it that it is not the first:
    /// [`Idempotent::attempt`](crate::idempotency::Idempotent::attempt) is above 1.
    #[default]
    Retry,
    /// It never runs again: every request with the key is answered with 409 until the record ends.
    Reject,
}

/// The answer to [`IdempotencyStore::begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Begun {
    /// Run it: the claim holds the record until its lease ends.
    Acquired {
        /// Higher than that of every earlier attempt at this record.
        fence: u64,
        /// 1, and one more for each earlier holder that vanished.
        attempts: u32,
    },
    /// It was run: the outcome.
    Replay(Bytes),
    /// Somebody runs it.
    Busy {
        /// How long their lease lasts if it is not renewed.
        left: Duration,
    },
    /// Another request has used the record.
    Mismatch,
    /// Somebody ran it and vanished, and orphans are rejected.
    Orphan {
        /// How many have.
        attempts: u32,
    },
}

/// The answer to [`IdempotencyStore::complete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completed {
    /// The outcome is recorded.
    Stored,
    /// The same claim recorded its outcome before; this one was ignored.
    Already,
    /// The claim does not hold the record any more; nothing was changed.
    Lost,
}

/// What an operator may know of a record: neither the token, with which it could be taken over, nor,
/// unless it is asked for, what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Look {
    /// Where it stands.
    pub state: Standing,
    /// The fence of the last attempt.
    pub fence: u64,
    /// How many attempts there were, the last one included.
    pub attempts: u32,
    /// How long ago the last attempt began, in whole microseconds. It is told from the fence, so it is
    /// too low, by as much, after a clock that went back.
    pub age: Duration,
    /// How long the record is kept yet.
    pub left: Duration,
    /// What was recorded, in the stored form of whoever recorded it.
    pub outcome: Option<Bytes>,
}

impl Look {
    /// Without an outcome; for a store of your own.
    #[must_use]
    pub fn new(state: Standing, fence: u64, attempts: u32, age: Duration, left: Duration) -> Self {
        Self { state, fence, attempts, age, left, outcome: None }
    }

    /// The same with an outcome.
    #[must_use]
    pub fn outcome(mut self, outcome: Option<Bytes>) -> Self {
        self.outcome = outcome;
        self
    }
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// A handler holds it.
    Running {
        /// How long its lease lasts if it is not renewed.
        left: Duration,
    },
    /// Its handler vanished, and whether it had its effect is unknown.
    Orphan,
    /// It has an outcome.
    Complete,
}

/// The answer to [`IdempotencyStore::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// The outcome is recorded.
    Settled,
    /// A handler holds the record; nothing was changed.
    Running {
        /// How long its lease lasts if it is not renewed.
        left: Duration,
    },
    /// It has an outcome already, which stays.
    Complete,
    /// There is no record.
    Absent,
}

fn no_administration() -> StoreError {
    StoreError::refused("this store of idempotency records has no verbs for operators")
}

/// A record that this version of the crate did not write.
pub(crate) fn unknown_version(found: &str) -> StoreError {
    StoreError::corrupt(format!(
        "an idempotency record of format version {found:?}, which this version of the crate does \
         not read; it is left alone until it ends"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_whole_milliseconds_rounded_up_and_within_what_a_script_can_count() {
        let terms = Terms::new(Duration::from_micros(1_001), Duration::ZERO);
        assert_eq!((terms.lease_us(), terms.retain_ms(), terms.pending_ms()), (2_000, 1, 2));
        let forever = Terms::new(Duration::MAX, Duration::MAX);
        // Added to a time of today it must still be a whole number in a double.
        assert!(forever.lease_us() + 4_000_000_000_000_000 < 1 << 53);
    }

    #[test]
    fn debug_output_holds_no_token() {
        assert!(!format!("{:?}", Claim::new("id", "secret")).contains("secret"));
    }
}

//! What a session store does: a handful of verbs, each one atomic step and one round trip.

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
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

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

/// The data of a session: JSON by the field's name. No name starts with a dot; those are the
/// store's own.
pub type Fields = BTreeMap<Box<str>, Bytes>;

/// A session as it was loaded.
#[derive(Clone)]
#[non_exhaustive]
pub struct Record {
    /// What proves it.
    pub verifier: VerifierHash,
    /// The user it is bound to.
    pub user: Option<UserId>,
    /// When it was created, since the Unix epoch.
    pub created: Duration,
    /// How long it lives without a request.
    pub idle: Duration,
    /// Whether its cookie outlives the browser by its own wish.
    pub persistent: bool,
    /// What the application says about the device: JSON.
    pub device: Option<Bytes>,
    /// When it was last noted in its user's list, since the Unix epoch; zero if it never was.
    pub noted: Duration,
    /// What proved it before the last rotation.
    pub previous: Option<VerifierHash>,
    /// How long it lives if nothing restarts its idle timeout. `None` if its entry never expires,
    /// which only a foreign hand can have done.
    pub ttl: Option<Duration>,
    /// How long it would live if the idle timeout were restarted now.
    pub longest_ttl: Duration,
    /// The data.
    pub fields: Arc<Fields>,
}

impl Record {
    /// A record without a user, created now, with all of its idle timeout left.
    #[must_use]
    pub fn new(verifier: VerifierHash, idle: Duration, fields: impl Into<Arc<Fields>>) -> Self {
        Self {
            verifier,
            user: None,
            created: Duration::ZERO,
            idle,
            persistent: false,
            device: None,
            noted: Duration::ZERO,
            previous: None,
            ttl: Some(idle),
            longest_ttl: idle,
            fields: fields.into(),
        }
    }
}

impl fmt::Debug for Record {
    /// Names the fields; their values are the client's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("user", &self.user)
            .field("created", &self.created)
            .field("idle", &self.idle)
            .field("ttl", &self.ttl)
            .field("fields", &self.fields.keys())
            .finish_non_exhaustive()
    }
}

/// A session to make.
#[derive(Clone)]
#[non_exhaustive]
pub struct NewSession {
    /// What proves it.
    pub verifier: VerifierHash,
    /// The user it is bound to.
    pub user: Option<UserId>,
    /// How long it lives without a request.
    pub idle: Duration,
    /// How long it lives at most.
    pub absolute: Option<Duration>,
    /// Whether its cookie outlives the browser by its own wish.
    pub persistent: bool,
    /// What the application says about the device: JSON.
    pub device: Option<Bytes>,
    /// The data.
    pub fields: Fields,
}

impl NewSession {
    /// An empty session without a user and without an absolute timeout.
    #[must_use]
    pub fn new(verifier: VerifierHash, idle: Duration) -> Self {
        Self {
            verifier,
            user: None,
            idle,
            absolute: None,
            persistent: false,
            device: None,
            fields: Fields::new(),
        }
    }
}

impl fmt::Debug for NewSession {
    /// Names the fields; their values are the client's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession")
            .field("user", &self.user)
            .field("idle", &self.idle)
            .field("absolute", &self.absolute)
            .field("fields", &self.fields.keys())
            .finish_non_exhaustive()
    }
}

/// What one request changes in a session.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Delta {
    /// A new proof; the old one holds no more. For 60 s a commit that presents it is told
    /// [`Committed::Rotated`].
    pub verifier: Option<VerifierHash>,
    /// The user it is bound to from now on.
    pub user: Option<UserId>,
    /// A new idle timeout.
    pub idle: Option<Duration>,
    /// What becomes of the absolute lifetime.
    pub absolute: Absolute,
    /// Whether its cookie outlives the browser from now on.
    pub persistent: Option<bool>,
    /// What the application says about the device: JSON.
    pub device: Option<Bytes>,
    /// Whether all data goes before the changes are made.
    pub clear: bool,
    /// The changes of single fields.
    pub changes: BTreeMap<Box<str>, Change>,
}

impl fmt::Debug for Delta {
    /// Names the fields; their values are the client's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delta")
            .field("rotates", &self.verifier.is_some())
            .field("user", &self.user)
            .field("idle", &self.idle)
            .field("absolute", &self.absolute)
            .field("persistent", &self.persistent)
            .field("device", &self.device.is_some())
            .field("clear", &self.clear)
            .field("changes", &self.changes.keys())
            .finish()
    }
}

/// What one request does to one field.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The field holds this JSON. The last writer wins.
    Set(Bytes),
    /// The field goes.
    Remove,
    /// The field goes if this is what it holds.
    RemoveIf(Bytes),
    /// The field, an integer or not there yet, grows by this. Increments of several requests add up.
    Increment(i64),
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(value) => write!(f, "Set({} bytes)", value.len()),
            Self::Remove => f.write_str("Remove"),
            Self::RemoveIf(value) => write!(f, "RemoveIf({} bytes)", value.len()),
            Self::Increment(by) => write!(f, "Increment({by})"),
        }
    }
}

/// What a commit does to the absolute lifetime of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Absolute {
    /// It goes on as it is.
    #[default]
    Keep,
    /// It ends: only the idle timeout counts.
    Never,
    /// It starts again, and ends this long from now.
    In(Duration),
}

impl From<Option<Duration>> for Absolute {
    fn from(lifetime: Option<Duration>) -> Self {
        lifetime.map_or(Self::Never, Self::In)
    }
}

/// How large a session may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Fields, at most.
    pub fields: usize,
    /// Bytes of names and values together, at most.
    pub bytes: usize,
}

impl Limits {
    /// These limits.
    #[must_use]
    pub const fn new(fields: usize, bytes: usize) -> Self {
        Self { fields, bytes }
    }
}

impl Default for Limits {
    /// 64 fields and 64 KiB.
    fn default() -> Self {
        Self::new(64, 64 * 1024)
    }
}

/// The limit that a session would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The number of fields.
    Fields,
    /// The bytes of names and values.
    Bytes,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fields => "fields",
            Self::Bytes => "bytes",
        })
    }
}

/// What became of a [`create`](SessionStore::create).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Created {
    /// It is there, and lives this long without a request.
    Done {
        /// How long it lives yet.
        ttl: Duration,
    },
    /// The selector has a session already.
    Taken,
    /// It would be larger than a session may be.
    TooLarge(Limit),
}

/// What became of a [`commit`](SessionStore::commit).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Committed {
    /// It is done.
    Done {
        /// How long it lives yet.
        ttl: Duration,
        /// Whether its cookie outlives the browser by its own wish.
        persistent: bool,
        /// What the incremented fields hold now, in the order of their names.
        sums: Vec<i64>,
        /// What the caller is to [note](super::UserStore::enlist), because it was not noted for a
        /// while; `None` also for a session that this commit has bound, which is noted in any case.
        note: Option<Note>,
    },
    /// There is no session that the presented proof proves. Nothing was changed.
    Gone,
    /// What was presented proved the session until less than 60 s ago. Nothing was changed.
    Rotated,
    /// It would be larger than a session may be. Nothing was changed.
    TooLarge(Limit),
    /// This field is to be incremented and does not hold an integer, or one too large: beyond
    /// 2⁵³ − 1, a number is not exact in every language. Nothing was changed.
    NotAnInteger(Box<str>),
    /// It is bound to another user than the one in the delta. Nothing was changed.
    OtherUser,
}

/// That a session is to be noted in its user's list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// Whose list.
    pub user: UserId,
    /// How long the session lives without a request.
    pub idle: Duration,
}

impl Note {
    /// That a session with this idle timeout is to be noted in this user's list.
    #[must_use]
    pub fn new(user: UserId, idle: Duration) -> Self {
        Self { user, idle }
    }
}

/// A field's value, to be replaced if it is still the one that was seen.
#[derive(Clone)]
#[non_exhaustive]
pub struct Swap {
    /// The field's name.
    pub field: Box<str>,
    /// The JSON that was seen there; `None` if there was none.
    pub seen: Option<Bytes>,
    /// The JSON to take its place.
    pub value: Bytes,
}

impl Swap {
    /// This value in the place of the one that was seen.
    #[must_use]
    pub fn new(field: impl Into<Box<str>>, seen: Option<Bytes>, value: Bytes) -> Self {
        Self { field: field.into(), seen, value }
    }
}

impl fmt::Debug for Swap {
    /// Names the field; its values are the client's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swap").field("field", &self.field).finish_non_exhaustive()
    }
}

/// What became of a [`swap`](SessionStore::swap).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Swapped {
    /// It is done.
    Done {
        /// How long the session lives yet.
        ttl: Duration,
        /// As in [`Committed::Done`].
        note: Option<Note>,
    },
    /// The field holds this by now, or nothing. Nothing was changed.
    Changed(Option<Bytes>),
    /// As in [`Committed`].
    Gone,
    /// As in [`Committed`].
    Rotated,
    /// As in [`Committed`].
    TooLarge(Limit),
}

impl fmt::Debug for Swapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { ttl, note } => {
                f.debug_struct("Done").field("ttl", ttl).field("note", note).finish()
            }
            Self::Changed(_) => f.write_str("Changed(..)"),
            Self::Gone => f.write_str("Gone"),
            Self::Rotated => f.write_str("Rotated"),
            Self::TooLarge(limit) => f.debug_tuple("TooLarge").field(limit).finish(),
        }
    }
}

/// What became of a [`destroy`](SessionStore::destroy).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destroyed {
    /// It is gone, and was bound to this user.
    Done {
        /// The user it was bound to.
        user: Option<UserId>,
    },
    /// There was nothing that the caller may destroy.
    Nothing,
}

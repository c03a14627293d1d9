//! What a store is asked to change.

use crate::{marks::UserId, session::token::VerifierHash};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, time::Duration};

/// What one request changes in a session.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Delta {
    /// A new proof; the old one holds no more. For 60 s a commit that presents it is told
    /// [`Committed::Rotated`](super::Committed::Rotated).
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

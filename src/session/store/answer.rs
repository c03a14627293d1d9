//! What a store answers.

use crate::{marks::UserId, session::store::Limit};
use bytes::Bytes;
use std::{fmt, time::Duration};

/// What became of a [`create`](super::SessionStore::create).
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

/// What became of a [`commit`](super::SessionStore::commit).
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
        /// What the caller is to [note](crate::session::UserStore::enlist), because it was not noted for a
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

/// What became of a [`swap`](super::SessionStore::swap).
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

/// What became of a [`destroy`](super::SessionStore::destroy).
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

//! One step in the store: what is to be done, and how it went.

use crate::{
    marks::UserId,
    session::{
        error::Error,
        pending::Fresh,
        store::{Delta, Fields},
        token::Token,
    },
};

/// One step to take in the store.
pub(crate) enum Work {
    Create(Fresh),
    Commit { token: Token, rotated: Option<Token>, delta: Delta, or_else: Option<Fresh> },
    End { token: Token, user: Option<UserId>, then: Option<Fresh> },
}

/// How a step went.
pub(crate) enum Outcome {
    Created {
        token: Token,
        user: Option<UserId>,
    },
    /// The session was gone, and a login made this one in its place.
    Replaced {
        token: Token,
        user: Option<UserId>,
        fields: Fields,
    },
    /// `user` is the one it was bound to by this step.
    Committed {
        token: Token,
        user: Option<UserId>,
        sums: Vec<(Box<str>, i64)>,
    },
    Ended,
    Gone,
    Failed(Error),
}

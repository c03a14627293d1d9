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
use bytes::Bytes;
use std::time::Duration;

/// One step to take in the store, and what is noted of its users besides.
pub(crate) struct Step {
    pub(crate) work: Work,
    pub(crate) events: Vec<(UserId, Bytes)>,
}

pub(crate) enum Work {
    Nothing,
    /// `stale` is the cookie that the request brought, if it proved a session until lately.
    Create {
        fresh: Fresh,
        stale: Option<Token>,
    },
    Commit {
        token: Token,
        rotated: Option<Token>,
        delta: Delta,
        or_else: Option<Fresh>,
    },
    End {
        token: Token,
        user: Option<UserId>,
        then: Option<Fresh>,
    },
}

/// How a step went.
pub(crate) enum Outcome {
    Nothing,
    Created(Made),
    /// The session was gone, and a login made this one in its place.
    Replaced(Made, Fields),
    Committed(Done),
    Ended,
    Gone,
    Failed(Error),
}

/// A session that was made.
pub(crate) struct Made {
    pub(crate) token: Token,
    pub(crate) user: Option<UserId>,
    /// How long its cookie lasts if it outlives the browser by its own wish.
    pub(crate) lasts: Option<Duration>,
}

/// A commit that was done.
pub(crate) struct Done {
    pub(crate) token: Token,
    /// Whom it was bound to by this.
    pub(crate) user: Option<UserId>,
    /// Whether it is this that lets its cookie outlive the browser.
    pub(crate) remembers: bool,
    /// As in [`Made`].
    pub(crate) lasts: Option<Duration>,
    pub(crate) sums: Vec<(Box<str>, i64)>,
}

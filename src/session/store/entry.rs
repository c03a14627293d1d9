//! A session as a store has it.

use crate::{marks::UserId, session::token::VerifierHash};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

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

//! How the link is doing, for people and probes.

use std::{fmt, sync::Arc, time::SystemTime};

/// A snapshot of the link's health.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// What calls can expect now.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// Why the link was last lost or could not be made; it stays after a recovery.
    pub last_error: Option<Arc<str>>,
    /// The server: host and port, or the path of its socket. No user, no password.
    pub address: Arc<str>,
    /// How many links have been made, the first one included.
    pub links: u64,
}

/// What calls can expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The link works.
    Up,
    /// There is no link: calls fail at once, and a new one is being made.
    Down,
    /// There is a link, but calls timed out in a row: calls fail at once until a PING is answered.
    Open,
}

impl State {
    /// `up`, `down` or `open`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Health {
    pub(super) fn new(address: Arc<str>) -> Self {
        Self { state: State::Up, since: SystemTime::now(), last_error: None, address, links: 1 }
    }

    /// Whether calls go out to the server.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis at {} is {}", self.address, self.state)?;
        match &self.last_error {
            Some(error) if !self.is_up() => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}

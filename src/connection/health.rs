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
    /// In a cluster, the health of each server that holds keys; else empty.
    pub nodes: Vec<Health>,
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
    /// Some servers of a cluster have no link: calls for their keys fail at once, all others work.
    Partial,
}

impl State {
    /// `up`, `down`, `open` or `partial`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Open => "open",
            Self::Partial => "partial",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Health {
    /// The first link is there.
    pub(super) fn up(address: Arc<str>) -> Self {
        Self { state: State::Up, links: 1, ..Self::connecting(address) }
    }

    /// The first link is being made.
    pub(super) fn connecting(address: Arc<str>) -> Self {
        Self {
            state: State::Down,
            since: SystemTime::now(),
            last_error: None,
            address,
            links: 0,
            nodes: Vec::new(),
        }
    }

    /// Of a cluster, from its nodes.
    pub(super) fn of_cluster(address: Arc<str>, nodes: Vec<Health>) -> Self {
        let up = nodes.iter().filter(|node| node.is_up()).count();
        let state = match up {
            0 => State::Down,
            _ if up == nodes.len() => State::Up,
            _ => State::Partial,
        };
        let mut health = Self { state, ..Self::connecting(address) };
        // Of what is the case now; of the last thing that was, if all is well.
        let telling = nodes.iter().filter(|node| state == State::Up || !node.is_up());
        if let Some(latest) = telling.max_by_key(|node| node.since) {
            health.since = latest.since;
            health.last_error = latest
                .last_error
                .as_ref()
                .map(|error| format!("{}: {error}", latest.address).into());
        }
        health.links = nodes.iter().map(|node| node.links).sum();
        health.nodes = nodes;
        health
    }

    /// Whether calls go out to the server; in a cluster, to some of its servers at least.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up | State::Partial)
    }

    /// Whether the very first attempt to connect is still under way.
    pub(super) fn is_connecting(&self) -> bool {
        self.links == 0 && self.last_error.is_none()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis at {} is {}", self.address, self.state)?;
        match &self.last_error {
            Some(error) if self.state != State::Up => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}

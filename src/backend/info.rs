//! What the server says about itself, typed.

use super::version::Version;
use std::{fmt, time::Duration};

/// What a backend knows about the place where its state lives; see
/// [`Backend::info`](super::Backend::info).
///
/// Managed servers hide some of it, and older ones lack some: what the server did not say is `None`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Info {
    /// Which program it is, in which version, and since when.
    pub server: Server,
    /// How much memory it takes.
    pub memory: Memory,
    /// Connections that are open now.
    pub clients: Option<u64>,
    /// Counts since its start.
    pub stats: Stats,
    /// The server's part in replication.
    pub replication: Replication,
}

/// The program that keeps the state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// Its name.
    pub kind: ServerKind,
    /// Its version. A Valkey server says its own here, not that of the Redis it is compatible with.
    pub version: Option<Version>,
    /// One server, or a node of a cluster.
    pub mode: Option<Mode>,
    /// How long it has been running, to the second.
    pub uptime: Option<Duration>,
}

/// What keeps the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerKind {
    /// This process: there is no server, and nothing else below `server` is known.
    Memory,
    /// Redis, or something that calls itself so.
    Redis,
    /// Valkey.
    Valkey,
}

/// How a server is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// One server, with or without replicas.
    Standalone,
    /// A node of a cluster.
    Cluster,
    /// A sentinel, which keeps no data.
    Sentinel,
}

/// The memory of a server.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Memory {
    /// Bytes that its data and buffers take.
    pub used: Option<u64>,
    /// The most that `used` has been since the start.
    pub peak: Option<u64>,
    /// `maxmemory`, in bytes; 0 is no limit.
    pub max: Option<u64>,
    /// `maxmemory-policy`: what it does when `max` is reached.
    pub policy: Option<String>,
    /// Bytes that it takes from the system, divided by `used`. Far above 1 memory is lost to
    /// fragmentation, below 1 it is swapped out. Means little while `used` is a few megabytes.
    pub fragmentation: Option<f64>,
}

/// What a server counts since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: Option<u64>,
    /// Commands that were processed; those inside scripts count, too.
    pub commands: Option<u64>,
    /// Commands a second, over the last second or two.
    pub ops_per_second: Option<u64>,
    /// Reads of keys that were there.
    pub hits: Option<u64>,
    /// Reads of keys that were not.
    pub misses: Option<u64>,
}

impl Stats {
    /// The share of reads that found their key, from 0 to 1; `None` before the first one. It counts
    /// every key of every application on that server, so it is not the hit rate of the cache.
    #[must_use]
    pub fn hit_rate(&self) -> Option<f64> {
        let (hits, misses) = (self.hits? as f64, self.misses? as f64);
        (hits + misses > 0.0).then(|| hits / (hits + misses))
    }
}

/// A server's part in replication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replication {
    /// Whether it takes the writes.
    pub role: Option<Role>,
    /// Of a primary: how many replicas are connected.
    pub replicas: Option<u64>,
    /// Of a primary: how long ago the replica that is furthest behind reported; they report every
    /// second, so up to a second is none. Of a replica: how long ago it heard its primary.
    pub lag: Option<Duration>,
    /// Of a primary: how many bytes of changes the replica that is furthest behind has not reported
    /// as received.
    pub behind: Option<u64>,
    /// Of a replica: whether its primary is connected.
    pub link_up: Option<bool>,
}

/// Whether a server takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// It does. `INFO` calls it `master`.
    Primary,
    /// It follows a primary. `INFO` calls it `slave`.
    Replica,
}

impl Info {
    pub(super) fn memory() -> Self {
        let server = Server { kind: ServerKind::Memory, version: None, mode: None, uptime: None };
        Self {
            server,
            memory: Memory::default(),
            clients: None,
            stats: Stats::default(),
            replication: Replication::default(),
        }
    }
}

impl fmt::Display for Server {
    /// `Valkey 9.0.1, standalone`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ServerKind::Memory => "memory",
            ServerKind::Redis => "Redis",
            ServerKind::Valkey => "Valkey",
        })?;
        if let Some(version) = self.version {
            write!(f, " {version}")?;
        }
        match self.mode {
            Some(mode) => write!(f, ", {mode}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standalone => "standalone",
            Self::Cluster => "cluster",
            Self::Sentinel => "sentinel",
        })
    }
}

//! How a backend is doing, for people and probes.

#[cfg(feature = "redis")]
use crate::connection;
use std::fmt;

/// How a backend is doing: what a readiness probe answers.
#[derive(Clone, Debug)]
pub struct Health(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Memory,
    #[cfg(feature = "redis")]
    Redis(connection::Health),
}

impl Health {
    pub(super) fn memory() -> Self {
        Self(Kind::Memory)
    }

    #[cfg(feature = "redis")]
    pub(super) fn redis(link: connection::Health) -> Self {
        Self(Kind::Redis(link))
    }

    /// Whether calls to the store can succeed now. Memory always is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match &self.0 {
            Kind::Memory => true,
            #[cfg(feature = "redis")]
            Kind::Redis(link) => link.is_up(),
        }
    }

    /// The state of the link to Redis; `None` in memory.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn link(&self) -> Option<&connection::Health> {
        match &self.0 {
            Kind::Memory => None,
            Kind::Redis(link) => Some(link),
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Memory => f.write_str("memory is up"),
            #[cfg(feature = "redis")]
            Kind::Redis(link) => link.fmt(f),
        }
    }
}

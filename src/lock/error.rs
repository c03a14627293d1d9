//! Why a lock was not acquired, or is not held any more.

use crate::store::StoreError;
use http::StatusCode;
use std::{error, fmt, sync::Arc, time::Duration};

/// Why a lock was not acquired, or is not held any more.
///
/// | predicate | means | what to do |
/// | --- | --- | --- |
/// | [`is_contended`](Error::is_contended) | somebody else holds it, and no wait was asked for | skip the work, or answer 409 or 503 |
/// | [`is_timed_out`](Error::is_timed_out) | somebody else held it for the whole wait | the same |
/// | [`is_lost`](Error::is_lost) | it was held, and somebody else may hold it now | stop, undo or reconcile |
/// | [`is_store`](Error::is_store) | the store could not be asked | retry later; the source says more |
///
/// A cheap clone. With the feature `axum` a handler can return it: it becomes a problem document (RFC
/// 9457) with [`status`](Error::status), a `Retry-After` where another try may succeed, and nothing of
/// the lock's name or the store; the error itself is in the response's extensions.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Box<str>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Contended { left: Duration },
    TimedOut { waited: Duration, left: Option<Duration> },
    Crowded { waiters: usize },
    Lost,
    Store(StoreError),
}

impl Error {
    fn new(name: &str, kind: Kind) -> Self {
        Self(Arc::new(Inner { name: name.into(), kind }))
    }

    pub(super) fn contended(name: &str, left: Duration) -> Self {
        Self::new(name, Kind::Contended { left })
    }

    pub(super) fn timed_out(name: &str, waited: Duration, left: Option<Duration>) -> Self {
        Self::new(name, Kind::TimedOut { waited, left })
    }

    pub(super) fn crowded(name: &str, waiters: usize) -> Self {
        Self::new(name, Kind::Crowded { waiters })
    }

    pub(super) fn lost(name: &str) -> Self {
        Self::new(name, Kind::Lost)
    }

    pub(super) fn store(name: &str, error: StoreError) -> Self {
        Self::new(name, Kind::Store(error))
    }

    /// The name of the lock.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Somebody else holds the lock, and this attempt was not to wait, or could not because too many
    /// wait already.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        matches!(self.0.kind, Kind::Contended { .. } | Kind::Crowded { .. })
    }

    /// Somebody else held the lock until the wait was over.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        matches!(self.0.kind, Kind::TimedOut { .. })
    }

    /// The lock was held and is not any more, or not for certain: its TTL passed without a renewal,
    /// or the store says that it is somebody else's.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self.0.kind, Kind::Lost)
    }

    /// The store failed; [`source`](error::Error::source) is its [`StoreError`]. Also for a setting
    /// that cannot be, such as a TTL of zero ([`StoreError::is_config`]).
    #[must_use]
    pub fn is_store(&self) -> bool {
        self.store_error().is_some()
    }

    /// What the store said, if it was the store that failed.
    #[must_use]
    pub fn store_error(&self) -> Option<&StoreError> {
        match &self.0.kind {
            Kind::Store(error) => Some(error),
            _ => None,
        }
    }

    /// How long the present holder holds the lock yet, if it neither renews nor releases it: what a
    /// `Retry-After` may say. `None` unless somebody else was seen to hold it.
    #[must_use]
    pub fn held_for(&self) -> Option<Duration> {
        match self.0.kind {
            Kind::Contended { left } => Some(left),
            Kind::TimedOut { left, .. } => left,
            Kind::Crowded { .. } | Kind::Lost | Kind::Store(_) => None,
        }
    }
}

impl Error {
    /// What it means to an HTTP client. 409 Conflict if another holds the lock, as for a request that
    /// is in flight under an idempotency key (423 Locked is WebDAV's, about a resource that the client
    /// itself can unlock); 503 Service Unavailable if too many wait already, if the lock was lost, or
    /// if the store failed; 500 for a setting that cannot be.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match &self.0.kind {
            Kind::Contended { .. } | Kind::TimedOut { .. } => StatusCode::CONFLICT,
            Kind::Store(error) if error.is_config() => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Crowded { .. } | Kind::Lost | Kind::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What a client may read: no name, which may be somebody's, and no server.
    #[cfg(feature = "axum")]
    pub(super) fn for_clients(&self) -> &'static str {
        match &self.0.kind {
            Kind::Contended { .. } | Kind::TimedOut { .. } => {
                "another request works on the same thing; try again when it is done"
            }
            Kind::Crowded { .. } => "too many requests wait to work on the same thing",
            Kind::Lost => "the work took too long or was cut off, and may have been done in part",
            Kind::Store(error) if error.is_config() => "a lock is set up wrongly",
            Kind::Store(_) => "what keeps requests apart cannot be reached",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.0.name;
        match &self.0.kind {
            Kind::Contended { left } => {
                write!(f, "the lock {name:?} is held by another for up to {left:?}")
            }
            Kind::TimedOut { waited, .. } => {
                write!(f, "the lock {name:?} was held by others for the whole wait of {waited:?}")
            }
            Kind::Crowded { waiters } => {
                write!(f, "{waiters} already wait for the lock {name:?}, which is the limit")
            }
            Kind::Lost => write!(f, "the lock {name:?} was lost: another may hold it"),
            Kind::Store(_) => write!(f, "the store of the lock {name:?} failed"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("name", &self.0.name).field("kind", &self.0.kind).finish()
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.store_error().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn each_kind_answers_to_one_predicate_and_names_the_lock() {
        let second = Duration::from_secs(1);
        let down = || StoreError::unavailable("no link");
        let cases = [
            (Error::contended("job:7", second), [true, false, false, false]),
            (Error::crowded("job:7", 9), [true, false, false, false]),
            (Error::timed_out("job:7", second, None), [false, true, false, false]),
            (Error::lost("job:7"), [false, false, true, false]),
            (Error::store("job:7", down()), [false, false, false, true]),
        ];
        for (error, expected) in cases {
            let said =
                [error.is_contended(), error.is_timed_out(), error.is_lost(), error.is_store()];
            assert_eq!(said, expected, "{error}");
            assert!(error.to_string().contains("\"job:7\""), "{error}");
        }
        let error = Error::store("job:7", down());
        assert_eq!(error.source().unwrap().to_string(), "no link");
    }

    #[test]
    fn the_status_is_a_conflict_an_outage_or_a_fault_of_ours() {
        let second = Duration::from_secs(1);
        let cases = [
            (Error::contended("a", second), 409),
            (Error::timed_out("a", second, None), 409),
            (Error::crowded("a", 9), 503),
            (Error::lost("a"), 503),
            (Error::store("a", StoreError::full("no room")), 503),
            (Error::store("a", StoreError::config("ttl")), 500),
        ];
        for (error, status) in cases {
            assert_eq!(error.status(), status, "{error}");
        }
    }
}

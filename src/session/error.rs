//! What can go wrong with a session.

use crate::{problem::Problem, session::store::Limit, store::StoreError};
use http::StatusCode;
use std::{fmt, sync::Arc, time::Duration};

/// Why something could not be done with a session. A cheap clone.
///
/// Its text says nothing that a client may not read; [`source`](std::error::Error::source) has the
/// details for the log. With the feature `axum` a handler can return it: it becomes a problem
/// document (RFC 9457) with [`status`](Error::status).
#[derive(Clone, Debug)]
pub struct Error(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Store(StoreError),
    ReadOnly,
    Decode { field: Box<str>, source: Mismatch },
    Encode { field: Box<str>, source: serde_json::Error },
    NotAnInteger(Box<str>),
    TooLarge(Limit, usize),
    Name(Box<str>),
    User,
    Nobody,
    TooManySessions(usize),
    TooManyEvents(usize),
    TooLong(&'static str, usize),
    Contended(Box<str>),
    Gone,
    MissingLayer,
}

/// Why a value is not what it was read as. The words of serde quote the value, which is the visitor's.
#[derive(Debug)]
struct Mismatch {
    wanted: &'static str,
    category: serde_json::error::Category,
    line: usize,
    column: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, category, line, column } = self;
        write!(f, "its JSON is no {wanted} ({category:?}, line {line}, column {column})")
    }
}

impl std::error::Error for Mismatch {}

impl Error {
    fn new(kind: Kind) -> Self {
        Self(Arc::new(kind))
    }

    pub(crate) fn read_only() -> Self {
        Self::new(Kind::ReadOnly)
    }

    /// It is not a `T`.
    pub(crate) fn decode<T>(field: &str, source: &serde_json::Error) -> Self {
        let source = Mismatch {
            wanted: std::any::type_name::<T>(),
            category: source.classify(),
            line: source.line(),
            column: source.column(),
        };
        Self::new(Kind::Decode { field: field.into(), source })
    }

    pub(crate) fn encode(field: &str, source: serde_json::Error) -> Self {
        Self::new(Kind::Encode { field: field.into(), source })
    }

    pub(crate) fn not_an_integer(field: &str) -> Self {
        Self::new(Kind::NotAnInteger(field.into()))
    }

    /// It would have more than `most`.
    pub(crate) fn too_large(limit: Limit, most: usize) -> Self {
        Self::new(Kind::TooLarge(limit, most))
    }

    pub(crate) fn illegal_name(field: &str) -> Self {
        Self::new(Kind::Name(field.into()))
    }

    pub(crate) fn illegal_user() -> Self {
        Self::new(Kind::User)
    }

    pub(crate) fn nobody() -> Self {
        Self::new(Kind::Nobody)
    }

    pub(crate) fn too_many_sessions(most: usize) -> Self {
        Self::new(Kind::TooManySessions(most))
    }

    pub(crate) fn too_many_events(most: usize) -> Self {
        Self::new(Kind::TooManyEvents(most))
    }

    /// What is longer than `most` bytes.
    pub(crate) fn too_long(what: &'static str, most: usize) -> Self {
        Self::new(Kind::TooLong(what, most))
    }

    pub(crate) fn contended(field: &str) -> Self {
        Self::new(Kind::Contended(field.into()))
    }

    pub(crate) fn gone() -> Self {
        Self::new(Kind::Gone)
    }

    pub(crate) fn missing_layer() -> Self {
        Self::new(Kind::MissingLayer)
    }

    /// What the store said, if it was the store that failed.
    #[must_use]
    pub fn store_error(&self) -> Option<&StoreError> {
        match &*self.0 {
            Kind::Store(error) => Some(error),
            _ => None,
        }
    }

    /// The store could not be asked, or has no room: another try may succeed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(&*self.0, Kind::Store(_) | Kind::ReadOnly | Kind::Contended(_))
    }

    /// A field holds something other than what it was read as. The rest of the session is fine.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        matches!(&*self.0, Kind::Decode { .. })
    }

    /// A field to be incremented does not hold an integer of at most 2⁵³ − 1 in size, before or
    /// after.
    #[must_use]
    pub fn is_not_an_integer(&self) -> bool {
        matches!(&*self.0, Kind::NotAnInteger(_))
    }

    /// The session would be larger than its limits, or something in it than its own.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(&*self.0, Kind::TooLarge(..) | Kind::TooLong(..) | Kind::TooManyEvents(_))
    }

    /// The user has as many sessions as there may be
    /// ([`OnMaxSessions::Reject`](super::OnMaxSessions::Reject)).
    #[must_use]
    pub fn is_too_many_sessions(&self) -> bool {
        matches!(&*self.0, Kind::TooManySessions(_))
    }

    /// So many requests change the field at the same time that this one's turn did not come. It is
    /// [unavailable](Error::is_unavailable), too.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        matches!(&*self.0, Kind::Contended(_))
    }

    /// The session ended while the request was handled, by a logout or by expiry; its changes are
    /// dropped.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(&*self.0, Kind::Gone)
    }

    /// There is no session layer around the handler.
    #[must_use]
    pub fn is_missing_layer(&self) -> bool {
        matches!(&*self.0, Kind::MissingLayer)
    }

    /// The status of the default response: 503 if the store could not be asked, 409 if the session
    /// is gone or the user has too many, else 500.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match &*self.0 {
            Kind::Store(_) | Kind::ReadOnly | Kind::Contended(_) => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Gone | Kind::TooManySessions(_) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::new(Kind::Store(error))
    }
}

impl From<Error> for StoreError {
    /// For those who only know stores: what the store said, or why it was not asked.
    fn from(error: Error) -> Self {
        match &*error.0 {
            Kind::Store(error) => error.clone(),
            _ => StoreError::refused(error.to_string()).with_source(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Store(_) | Kind::ReadOnly => {
                f.write_str("sessions cannot be read or saved right now")
            }
            Kind::Decode { field, .. } => {
                write!(f, "the session field {field:?} holds something else than what is expected")
            }
            Kind::Encode { field, .. } => {
                write!(f, "the value for the session field {field:?} cannot be written as JSON")
            }
            Kind::NotAnInteger(field) => write!(
                f,
                "the session field {field:?} cannot be incremented: it is not an integer of at most \
                 9007199254740991 in size, or would be none"
            ),
            Kind::TooLarge(limit, most) => {
                write!(f, "the session would have more than {most} {limit}")
            }
            Kind::Name(field) => write!(
                f,
                "{field:?} cannot be the name of a session field: a name is not empty and does not \
                 begin with a dot"
            ),
            Kind::User => f.write_str("a session is bound to a user of 1 to 255 bytes"),
            Kind::Nobody => {
                f.write_str("nobody is logged in whose doings could be recorded; call `login` first")
            }
            Kind::TooManySessions(most) => {
                write!(f, "the user has {most} sessions already; one has to end first")
            }
            Kind::TooManyEvents(most) => {
                write!(f, "one request cannot record more than {most} events")
            }
            Kind::TooLong(what, most) => write!(f, "{what} is longer than {most} bytes"),
            Kind::Contended(field) => {
                write!(f, "too many requests change the session field {field:?} at the same time")
            }
            Kind::Gone => f.write_str("the session has ended; what was changed in it is not saved"),
            Kind::MissingLayer => f.write_str(
                "there is no SessionLayer around this handler; add `.layer(SessionLayer::new(store))`",
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Store(error) => Some(error),
            Kind::Decode { source, .. } => Some(source),
            Kind::Encode { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Problem for Error {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn retry_after(&self) -> Option<Duration> {
        self.is_unavailable().then_some(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn what_a_client_reads_names_no_server_and_no_value() {
        let store = StoreError::unavailable("redis at 10.0.0.7:6379 is down");
        let error = Error::from(store);
        assert!(!error.to_string().contains("10.0.0.7"), "{error}");
        assert!(error.source().unwrap().to_string().contains("10.0.0.7"));
        let source = serde_json::from_str::<u8>("\"hunter2\"").unwrap_err();
        let error = Error::decode::<u8>("age", &source);
        let cause = error.source().unwrap().to_string();
        assert!(error.to_string().contains("age") && cause.contains("u8"), "{error}: {cause}");
        assert!(!format!("{error} {error:?} {cause}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn an_outage_is_503_and_says_when_to_try_again() {
        let error = Error::from(StoreError::full("no room"));
        assert_eq!(error.status(), 503);
        assert!(Problem::retry_after(&error).is_some());
        assert_eq!(Error::missing_layer().status(), 500);
        assert!(Problem::retry_after(&Error::missing_layer()).is_none());
    }

    #[test]
    fn a_store_error_passes_through_unchanged() {
        let error = StoreError::from(Error::from(StoreError::full("no room")));
        assert!(error.is_full());
        assert!(StoreError::from(Error::gone()).is_refused());
    }
}

//! What every store shares: the future that a verb returns, and the error that it can end in.

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// The future of one store verb.
///
/// It has a name, so a response future that waits for it can be a plain state machine. A store that
/// knows its answer at once returns [`StoreFuture::ready`], which allocates nothing; a store that
/// has to ask a server returns [`StoreFuture::boxed`].
#[must_use = "futures do nothing unless polled"]
pub struct StoreFuture<T>(State<T>);

enum State<T> {
    Ready(Option<Result<T, StoreError>>),
    Boxed(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>),
}

// The value of `Ready` is moved out, never polled in place.
impl<T> Unpin for StoreFuture<T> {}

impl<T> StoreFuture<T> {
    /// A future that is complete already.
    pub fn ready(result: Result<T, StoreError>) -> Self {
        Self(State::Ready(Some(result)))
    }

    /// A future that has to wait for something.
    pub fn boxed(future: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Self {
        Self(State::Boxed(Box::pin(future)))
    }
}

impl<T: Send + 'static> StoreFuture<T> {
    /// The same, with a [`timeout`](StoreError::timeout) after `deadline`. `what` names the call.
    ///
    /// A store keeps its own deadline; this one is for a layer that cannot wait as long.
    pub fn within(self, what: &'static str, deadline: Duration) -> Self {
        match self.0 {
            State::Ready(_) => self,
            State::Boxed(future) => Self::boxed(async move {
                let result = tokio::time::timeout(deadline, future).await;
                result.unwrap_or_else(|_| Err(StoreError::timeout(what, deadline)))
            }),
        }
    }
}

impl<T> Future for StoreFuture<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => {
                Poll::Ready(result.take().expect("a StoreFuture is polled to its end once"))
            }
            State::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for StoreFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Ready(_) => "StoreFuture::Ready",
            State::Boxed(_) => "StoreFuture::Boxed",
        })
    }
}

/// Why a store could not do what it was asked.
///
/// The message names what is wrong, the value, and the fix. It never holds a password, a token or
/// anything that a client sent in confidence.
///
/// A cheap clone: those that waited for one call share its failure.
#[derive(Clone)]
pub struct StoreError(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    message: Cow<'static, str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unavailable,
    Timeout,
    Full,
    Refused,
    Config,
    Corrupt,
}

impl StoreError {
    fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), source: None }))
    }

    /// The server cannot be reached, or the link to it is down. What was asked was **not** done.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// No answer came within `deadline`. Whether what was asked was done is **unknown**.
    pub fn timeout(what: &str, deadline: Duration) -> Self {
        Self::new(
            Kind::Timeout,
            format!("{what} had no answer within {deadline:?}; it may or may not have been done"),
        )
    }

    /// The link broke while an answer was awaited. Whether what was asked was done is **unknown**,
    /// exactly as after a timeout, so [`is_timeout`](StoreError::is_timeout) holds.
    pub fn interrupted(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Timeout, message)
    }

    /// A bounded store has no room for a new entry and never evicts one of this kind.
    pub fn full(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Full, message)
    }

    /// The server understood, and said no: a missing permission, a wrong type, out of memory.
    pub fn refused(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// A setting is wrong: the URL, the credentials, the database.
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// What is stored is not what this version of the crate can read.
    pub fn corrupt(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// The same error with the one that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Arc::make_mut(&mut self.0).source = Some(source.into().into());
        self
    }

    /// The server could not be reached; nothing was done.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.0.kind == Kind::Unavailable
    }

    /// The deadline passed; it is unknown whether anything was done.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0.kind == Kind::Timeout
    }

    /// The store has no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.kind == Kind::Full
    }

    /// The server answered with an error.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.0.kind == Kind::Refused
    }

    /// A setting is wrong. Retrying does not help.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.0.kind == Kind::Config
    }

    /// What is stored cannot be read.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.0.kind == Kind::Corrupt
    }

    /// One word for logs and metrics: `unavailable`, `timeout`, `full`, `refused`, `config` or
    /// `corrupt`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self.0.kind {
            Kind::Unavailable => "unavailable",
            Kind::Timeout => "timeout",
            Kind::Full => "full",
            Kind::Refused => "refused",
            Kind::Config => "config",
            Kind::Corrupt => "corrupt",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for StoreError {
    /// Reads like the message: it is what a `main` that returns the error prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.reason())
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ready_future_yields_its_value_and_a_boxed_one_waits_for_it() {
        assert_eq!(StoreFuture::ready(Ok(1)).await.unwrap(), 1);
        let boxed = StoreFuture::boxed(async {
            tokio::task::yield_now().await;
            Ok(2)
        });
        assert_eq!(boxed.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_store_that_never_answers_is_a_timeout() {
        let never = StoreFuture::<()>::boxed(std::future::pending());
        let error = never.within("a check", Duration::from_millis(5)).await.unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("a check"), "{error}");
    }

    #[test]
    fn an_error_says_its_kind_its_cause_and_nothing_else() {
        let error =
            StoreError::timeout("EVALSHA", Duration::from_millis(250)).with_source("broken pipe");
        assert!(error.is_timeout() && !error.is_unavailable());
        assert_eq!(error.reason(), "timeout");
        assert!(error.to_string().contains("250ms"));
        assert_eq!(error.source().unwrap().to_string(), "broken pipe");
    }
}

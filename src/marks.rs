//! What the middleware tell each other through the extensions of a request and its response.
//!
//! No middleware imports another; these marks are all they share. An application may set and read
//! them too: its own authentication sets a [`UserId`], a test server sets a [`PeerAddr`].

use crate::store::{StoreError, StoreFuture};
use http::{Extensions, StatusCode};
use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

/// The user a request acts for, in the request's extensions.
///
/// The session layer sets it once it has loaded a session that is bound to a user. Without a
/// session, the application's own authentication inserts it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// A user by the application's own identifier.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The identifier.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user of a request: a [`UserId`] that is there already, else what the session says, which
    /// loads it.
    pub fn of(extensions: &Extensions) -> StoreFuture<Option<UserId>> {
        if let Some(user) = extensions.get::<UserId>() {
            return StoreFuture::ready(Ok(Some(user.clone())));
        }
        match extensions.get::<UserLookup>() {
            Some(lookup) => (lookup.0)(),
            None => StoreFuture::ready(Ok(None)),
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a layer further in finds out the user when nobody has loaded the session yet.
#[derive(Clone)]
pub struct UserLookup(Arc<dyn Fn() -> StoreFuture<Option<UserId>> + Send + Sync>);

impl UserLookup {
    /// A lookup by this function.
    pub fn new(lookup: impl Fn() -> StoreFuture<Option<UserId>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }
}

impl fmt::Debug for UserLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserLookup")
    }
}

/// The address of the peer of a connection, in the request's extensions, for servers that are not
/// axum's (axum's `ConnectInfo<SocketAddr>` is understood as well).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(SocketAddr);

impl PeerAddr {
    /// The peer at this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        self.0
    }

    /// The peer of a request, if the server has told.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<SocketAddr> {
        if let Some(peer) = extensions.get::<PeerAddr>() {
            return Some(peer.0);
        }
        #[cfg(feature = "axum")]
        if let Some(info) = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>() {
            return Some(info.0);
        }
        None
    }
}

/// Whether a session was read or written while a request was handled. The cache never stores such a
/// response.
///
/// The session layer puts it into the request's extensions, for layers further in, and, once the
/// session was touched, into the response's, for layers further out.
#[derive(Clone, Debug, Default)]
pub struct SessionTouched(Arc<AtomicBool>);

impl SessionTouched {
    /// Says that it was.
    pub fn set(&self) {
        self.0.store(true, SeqCst);
    }

    /// Whether it was.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(SeqCst)
    }

    /// Whether the mark in these extensions, if there is one, says so.
    #[must_use]
    pub fn in_extensions(extensions: &Extensions) -> bool {
        extensions.get::<SessionTouched>().is_some_and(SessionTouched::get)
    }
}

/// What has to be finished before a response may be recorded as given, in the request's extensions.
///
/// An idempotent handler goes on when its client leaves, and then nobody polls the session layer any
/// more. So the session registers its commit here, and the idempotency layer
/// [runs](Finish::run) it before it records the response: a stored checkout never goes with a lost
/// cart.
#[derive(Clone, Default)]
pub struct Finish(Arc<Mutex<Vec<Hook>>>);

type Hook = Arc<dyn Fn(StatusCode) -> StoreFuture<()> + Send + Sync>;

impl Finish {
    /// The request's own, made if it has none.
    pub fn of(extensions: &mut Extensions) -> Self {
        extensions.get_or_insert_default::<Finish>().clone()
    }

    /// Registers a step. It is told the status of the response, may be run more than once and by
    /// several callers at a time, and does its work only the first time.
    pub fn register(&self, step: impl Fn(StatusCode) -> StoreFuture<()> + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(step));
    }

    /// Runs every step, in the order of their registration.
    ///
    /// # Errors
    ///
    /// The first failure; the steps after it have run all the same.
    pub async fn run(&self, status: StatusCode) -> Result<(), StoreError> {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut result = Ok(());
        for step in steps {
            let outcome = step(status).await;
            result = result.and(outcome);
        }
        result
    }
}

impl fmt::Debug for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("Finish").field("steps", &steps).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test]
    async fn the_user_is_the_one_set_else_the_one_looked_up() {
        let mut extensions = Extensions::new();
        assert_eq!(UserId::of(&extensions).await.unwrap(), None);
        extensions
            .insert(UserLookup::new(|| StoreFuture::ready(Ok(Some(UserId::new("looked-up"))))));
        assert_eq!(UserId::of(&extensions).await.unwrap().unwrap().as_str(), "looked-up");
        extensions.insert(UserId::new("set"));
        assert_eq!(UserId::of(&extensions).await.unwrap().unwrap().as_str(), "set");
    }

    #[tokio::test]
    async fn every_step_runs_and_the_first_failure_is_told() {
        let mut extensions = Extensions::new();
        let ran = Arc::new(AtomicUsize::new(0));
        for name in ["first", "second"] {
            let ran = ran.clone();
            Finish::of(&mut extensions).register(move |_| {
                ran.fetch_add(1, SeqCst);
                StoreFuture::ready(Err(StoreError::refused(name)))
            });
        }
        let error = Finish::of(&mut extensions).run(StatusCode::OK).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), ran.load(SeqCst)), ("first", 2));
    }
}

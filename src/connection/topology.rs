//! Where a link leads: which server takes the writes now, and how to reach it.

use crate::{
    connection::{
        standalone::{Site, Standalone},
        url::Address,
    },
    store::StoreError,
};
use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a server.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
pub(super) type Stream = Box<dyn Io>;

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Finds the server and opens streams to it. Asked anew at each dial, so a server that moves is
/// followed.
pub(super) trait Topology: Send + Sync + 'static {
    /// Opens a stream to the server, within `limit`.
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>>;

    /// The server's name for people: no user, no password.
    fn address(&self) -> Arc<str>;

    /// How to log in there.
    fn site(&self) -> &Site;

    /// The server that was opened last: where the pools open their connections.
    fn server(&self) -> Result<Standalone, StoreError>;

    /// Whether the server at `place` is still one to listen to.
    fn is_current(&self, place: &Address) -> bool {
        self.server().is_ok_and(|server| server.place() == place)
    }

    /// Resolves when the server that was opened last is no longer the one to use. Never, where there
    /// is only one.
    fn moved(&self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
    }
}

/// What the handshake says, and what it wants to hear.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) resp3: bool,
    /// What the server must say that it is; nobody asks a single server.
    pub(super) role: Option<Role>,
    /// Where the login stands in the URL, for errors.
    pub(super) in_url: &'static str,
    /// Whether it is a node of a cluster, which answers reads as a replica only when it is told to.
    pub(super) cluster: bool,
}

/// What a server is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary, and has caught up with it.
    Replica,
}

impl Role {
    /// As the command `ROLE` says it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "master",
            Self::Replica => "slave",
        }
    }
}

impl Login {
    pub(super) fn redis_settings(&self) -> redis::RedisConnectionInfo {
        let mut settings = redis::RedisConnectionInfo::default()
            .set_db(self.database.into())
            .set_lib_name(LIBRARY, VERSION);
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        // A user without a password logs in with an empty one; the client crate would leave it out.
        if let (Some(password), _) | (None, Some(password)) =
            (self.password.as_deref(), self.username.as_ref().map(|_| ""))
        {
            settings = settings.set_password(password);
        }
        settings
    }
}

/// What `CLIENT LIST` shows on the server.
pub(super) const LIBRARY: &str = env!("CARGO_PKG_NAME");
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

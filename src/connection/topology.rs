//! Where a link leads: which server takes the writes now, and how to reach it.

#[cfg(feature = "redis-tls")]
use crate::connection::tls::{Connector, Tls};
use crate::{
    connection::{
        config::Config,
        url::{Address, Target},
    },
    store::StoreError,
};
use redis::io::tcp::{
    TcpSettings,
    socket2::{SockRef, TcpKeepalive},
};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// A byte stream to a server.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
pub(super) type Stream = Box<dyn Io>;

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Finds the server and opens streams to it. Asked anew at each dial, so a server that moves is
/// followed.
pub(super) trait Topology: Send + Sync + 'static {
    /// Opens a stream to the server that takes writes, within `limit`.
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>>;

    /// The server's name for people: no user, no password.
    fn address(&self) -> Arc<str>;

    /// How to log in there.
    fn login(&self) -> &Login;

    /// The same, for connections that the pools open.
    fn connection_info(&self) -> Result<redis::ConnectionInfo, StoreError>;
}

/// What the handshake says.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) resp3: bool,
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

/// One server at one address.
pub(super) struct Standalone {
    address: Address,
    name: Arc<str>,
    login: Login,
    socket: Socket,
    #[cfg(feature = "redis-tls")]
    tls: Option<Connector>,
    #[cfg(feature = "redis-tls")]
    tls_settings: Tls,
}

impl Standalone {
    pub(super) fn new(target: Target, config: &Config) -> Result<Self, StoreError> {
        Ok(Self {
            #[cfg(feature = "redis-tls")]
            tls: connector(&target, config.tls.as_ref())?,
            #[cfg(feature = "redis-tls")]
            tls_settings: config.tls.clone().unwrap_or_default(),
            name: target.address.to_string().into(),
            address: target.address,
            login: Login {
                username: config.username.clone().or(target.username),
                password: config.password.clone().or(target.password),
                database: config.database.unwrap_or(target.database),
                resp3: target.resp3,
            },
            socket: Socket::new(config),
        })
    }

    async fn stream(&self, limit: Duration) -> io::Result<Stream> {
        match &self.address {
            Address::Tcp { host, port } => {
                let stream = self.socket.connect(host, *port, limit).await?;
                #[cfg(feature = "redis-tls")]
                if let Some(tls) = &self.tls {
                    return Ok(Box::new(tls.connect(stream).await?));
                }
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Address::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Topology for Standalone {
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>> {
        Box::pin(async move {
            let name = &self.name;
            match timeout(limit, self.stream(limit)).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(match tls_refusal(&error) {
                    Some(why) => {
                        StoreError::config(format!("cannot connect to Redis at {name}: {why}"))
                    }
                    None => StoreError::unavailable(format!(
                        "cannot connect to Redis at {name}: {error}; check that the server runs \
                         there and that the address is right"
                    )),
                }
                .with_source(error)),
                Err(_) => Err(StoreError::unavailable(format!(
                    "cannot connect to Redis at {name}: no connection within {limit:?}; check the \
                     address, the firewall between here and there, and whether both ends mean TLS"
                ))),
            }
        })
    }

    fn address(&self) -> Arc<str> {
        self.name.clone()
    }

    fn login(&self) -> &Login {
        &self.login
    }

    fn connection_info(&self) -> Result<redis::ConnectionInfo, StoreError> {
        let address = match &self.address {
            #[cfg(feature = "redis-tls")]
            Address::Tcp { host, port } if self.tls.is_some() => redis::ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: self.tls_settings.accepts_any_certificate(),
                tls_params: None,
            },
            Address::Tcp { host, port } => redis::ConnectionAddr::Tcp(host.clone(), *port),
            Address::Unix(path) => redis::ConnectionAddr::Unix(path.clone()),
        };
        let protocol = match self.login.resp3 {
            true => redis::ProtocolVersion::RESP3,
            false => redis::ProtocolVersion::RESP2,
        };
        let info = redis::IntoConnectionInfo::into_connection_info(address)
            .map_err(|error| StoreError::config(error.to_string()))?
            .set_redis_settings(self.login.redis_settings().set_protocol(protocol))
            .set_tcp_settings(self.socket.settings());
        #[cfg(feature = "redis-tls")]
        if self.tls.is_some() {
            return self.tls_settings.certify(info);
        }
        Ok(info)
    }
}

#[cfg(feature = "redis-tls")]
fn connector(target: &Target, tls: Option<&Tls>) -> Result<Option<Connector>, StoreError> {
    match (&target.address, target.tls) {
        (Address::Tcp { host, .. }, true) => {
            Connector::new(tls.unwrap_or(&Tls::new()), host).map(Some)
        }
        // Never in the clear what was meant to be encrypted.
        _ if tls.is_some() => Err(StoreError::config(
            "TLS is configured, and the URL does not ask for it: write rediss://host:port",
        )),
        _ => Ok(None),
    }
}

/// What was wrong, if it was TLS.
fn tls_refusal(error: &io::Error) -> Option<String> {
    #[cfg(feature = "redis-tls")]
    return crate::connection::tls::refusal(error);
    #[cfg(not(feature = "redis-tls"))]
    {
        let _ = error;
        None
    }
}

/// The options of a TCP socket.
struct Socket {
    nodelay: bool,
    keepalive: TcpKeepalive,
    user_timeout: Duration,
}

impl Socket {
    fn new(config: &Config) -> Self {
        let keepalive = TcpKeepalive::new().with_time(config.keepalive_idle);
        #[cfg(any(
            target_os = "android",
            target_os = "freebsd",
            target_os = "ios",
            target_os = "linux",
            target_os = "macos",
            target_os = "netbsd",
            target_os = "windows",
        ))]
        let keepalive =
            keepalive.with_interval(config.keepalive_interval).with_retries(config.keepalive_count);
        Self { nodelay: config.nodelay, keepalive, user_timeout: config.user_timeout }
    }

    /// Tries the addresses of `host` in turn. Each gets its share of the time that is left, so that
    /// a first one that swallows packets does not starve the second.
    async fn connect(&self, host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
        let end = Instant::now() + limit;
        let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for (index, address) in addresses.iter().enumerate() {
            let rest = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = end.saturating_duration_since(Instant::now()) / rest;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    self.apply(&stream)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(elapsed) => last = elapsed.into(),
            }
        }
        Err(last)
    }

    fn settings(&self) -> TcpSettings {
        let settings =
            TcpSettings::default().set_nodelay(self.nodelay).set_keepalive(self.keepalive.clone());
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let settings = settings.set_user_timeout(self.user_timeout);
        settings
    }

    fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(self.nodelay)?;
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&self.keepalive)?;
        #[cfg(any(target_os = "android", target_os = "linux"))]
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        Ok(())
    }
}

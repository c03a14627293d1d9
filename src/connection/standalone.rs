//! One server at one address, and what all servers of a deployment have in common.

#[cfg(feature = "redis-tls")]
use crate::connection::tls::{Connector, Tls};
use crate::{
    connection::{
        config::Config,
        deadline::end_of,
        topology::{BoxFuture, Login, Stream, Topology},
        url::{Address, Place, Target},
    },
    store::StoreError,
};
use redis::io::tcp::{
    TcpSettings,
    socket2::{SockRef, TcpKeepalive},
};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// How to reach and to log in at any server of a deployment. A cheap clone.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) login: Login,
    socket: Arc<Socket>,
    #[cfg(feature = "redis-tls")]
    tls: Option<Arc<Connector>>,
    #[cfg(feature = "redis-tls")]
    tls_settings: Tls,
}

impl Site {
    pub(super) fn new(target: &Target, config: &Config) -> Result<Self, StoreError> {
        Ok(Self {
            login: Login {
                username: config.username.clone().or(target.username.clone()),
                password: config.password.clone().or(target.password.clone()),
                database: config.database.unwrap_or(target.database),
                resp3: target.resp3,
                role: None,
                in_url: "redis://user:password@host:port",
                cluster: matches!(target.place, Place::Cluster(_)),
            },
            socket: Arc::new(Socket::new(config)),
            #[cfg(feature = "redis-tls")]
            tls: connector(target, config.tls.as_ref())?,
            #[cfg(feature = "redis-tls")]
            tls_settings: config.tls.clone().unwrap_or_default(),
        })
    }
}

/// One server at one address. A cheap clone.
#[derive(Clone)]
pub(super) struct Standalone {
    address: Address,
    name: Arc<str>,
    site: Site,
}

impl Standalone {
    pub(super) fn new(address: Address, site: Site) -> Result<Self, StoreError> {
        #[cfg(feature = "redis-tls")]
        if let (Some(tls), Address::Tcp { host, .. }) = (&site.tls, &address) {
            tls.name(host)?;
        }
        Ok(Self { name: address.to_string().into(), address, site })
    }

    pub(super) fn place(&self) -> &Address {
        &self.address
    }

    /// How the client crate connects there, for the pools.
    pub(super) fn connection_info(&self) -> Result<redis::ConnectionInfo, StoreError> {
        let address = match &self.address {
            #[cfg(feature = "redis-tls")]
            Address::Tcp { host, port } if self.site.tls.is_some() => {
                redis::ConnectionAddr::TcpTls {
                    host: host.clone(),
                    port: *port,
                    insecure: self.site.tls_settings.accepts_any_certificate(),
                    tls_params: None,
                }
            }
            Address::Tcp { host, port } => redis::ConnectionAddr::Tcp(host.clone(), *port),
            Address::Unix(path) => redis::ConnectionAddr::Unix(path.clone()),
        };
        let protocol = match self.site.login.resp3 {
            true => redis::ProtocolVersion::RESP3,
            false => redis::ProtocolVersion::RESP2,
        };
        let info = redis::IntoConnectionInfo::into_connection_info(address)
            .map_err(|error| StoreError::config(error.to_string()))?
            .set_redis_settings(self.site.login.redis_settings().set_protocol(protocol))
            .set_tcp_settings(self.site.socket.settings());
        #[cfg(feature = "redis-tls")]
        if self.site.tls.is_some() {
            return self.site.tls_settings.certify(info);
        }
        Ok(info)
    }

    async fn stream(&self, limit: Duration) -> io::Result<Stream> {
        match &self.address {
            Address::Tcp { host, port } => {
                let stream = self.site.socket.connect(host, *port, limit).await?;
                #[cfg(feature = "redis-tls")]
                if let Some(tls) = &self.site.tls {
                    let name = tls.name(host).map_err(io::Error::other)?;
                    return Ok(Box::new(tls.connect(name, stream).await?));
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

    fn site(&self) -> &Site {
        &self.site
    }

    fn server(&self) -> Result<Standalone, StoreError> {
        Ok(self.clone())
    }
}

#[cfg(feature = "redis-tls")]
fn connector(target: &Target, tls: Option<&Tls>) -> Result<Option<Arc<Connector>>, StoreError> {
    match target.tls {
        true => Connector::new(tls.unwrap_or(&Tls::new())).map(|tls| Some(Arc::new(tls))),
        // Never in the clear what was meant to be encrypted.
        false if tls.is_some() => Err(StoreError::config(
            "TLS is configured, and the URL does not ask for it: write rediss://host:port",
        )),
        false => Ok(None),
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

/// Linux refuses a longer one (`tcp(7)`), and so many probes at the most.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MOST_KEEPALIVES: u32 = 127;

/// In milliseconds it is a positive `int`.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The options of a TCP socket.
struct Socket {
    nodelay: bool,
    keepalive: TcpKeepalive,
    user_timeout: Duration,
}

impl Socket {
    fn new(config: &Config) -> Self {
        let keepalive = TcpKeepalive::new().with_time(config.keepalive_idle.min(LONGEST_KEEPALIVE));
        #[cfg(any(
            target_os = "android",
            target_os = "freebsd",
            target_os = "ios",
            target_os = "linux",
            target_os = "macos",
            target_os = "netbsd",
            target_os = "windows",
        ))]
        let keepalive = keepalive
            .with_interval(config.keepalive_interval.min(LONGEST_KEEPALIVE))
            .with_retries(config.keepalive_count.min(MOST_KEEPALIVES));
        let user_timeout = config.user_timeout.min(LONGEST_USER_TIMEOUT);
        Self { nodelay: config.nodelay, keepalive, user_timeout }
    }

    /// Tries the addresses of `host` in turn. Each gets its share of the time that is left, so that
    /// a first one that swallows packets does not starve the second.
    async fn connect(&self, host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
        let end = end_of(limit);
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

//! Leads to the server that Sentinel says takes the writes.
//!
//! The sentinels are asked at each dial, and while a link is up from time to time: a primary that was
//! cut off from them keeps its clients, and takes writes that will be lost. What they name must say of
//! itself that it is the primary, before anything is sent there.

use crate::{
    connection::{
        config::Config,
        dial::Dialer,
        error,
        link::Link,
        standalone::{Site, Standalone},
        topology::{BoxFuture, Role, Stream, Topology},
        url::{Address, Watched},
    },
    store::StoreError,
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// A primary that sentinels watch.
pub(super) struct Sentinel {
    master: Arc<str>,
    name: Arc<str>,
    site: Site,
    sentinels: Vec<Dialer>,
    config: Arc<Config>,
    /// Whom they named last.
    current: Mutex<Option<Standalone>>,
    /// The sentinel that answered last: asked first, and alone.
    trusted: tokio::sync::Mutex<Option<Link>>,
}

impl Sentinel {
    pub(super) fn new(
        watched: Watched,
        mut site: Site,
        config: Arc<Config>,
    ) -> Result<Self, StoreError> {
        site.login.role = Some(Role::Primary);
        let mut there = site.clone();
        there.login.username = watched.username;
        there.login.password = watched.password;
        there.login.in_url = "?sentinel_user=…&sentinel_pass=…";
        (there.login.database, there.login.resp3, there.login.role) = (0, false, None);
        let names: Vec<_> = watched.sentinels.iter().map(ToString::to_string).collect();
        let sentinels = watched.sentinels.into_iter().map(|address| {
            let topology = Arc::new(Standalone::new(address, there.clone())?);
            Ok(Dialer { topology, config: config.clone() })
        });
        Ok(Self {
            sentinels: sentinels.collect::<Result<_, StoreError>>()?,
            name: format!("{} as the sentinels at {} name it", watched.name, names.join(","))
                .into(),
            master: watched.name.into(),
            site,
            config,
            current: Mutex::default(),
            trusted: tokio::sync::Mutex::default(),
        })
    }

    /// Whom the sentinels name now.
    async fn ask(&self) -> Result<Address, StoreError> {
        let mut trusted = self.trusted.lock().await;
        // Taken, so that one that hangs is not asked again by whoever comes after a caller that gave up.
        if let Some(link) = trusted.take()
            && let Ok(address) = named(&link, &self.master, self.config.ping_timeout).await
        {
            *trusted = Some(link);
            return Ok(address);
        }
        let (address, link) = self.ask_all().await?;
        *trusted = Some(link);
        Ok(address)
    }

    /// Asks all of them at once; the first that knows is enough.
    async fn ask_all(&self) -> Result<(Address, Link), StoreError> {
        let mut attempts = JoinSet::new();
        for dialer in &self.sentinels {
            let (dialer, master) = (dialer.clone(), self.master.clone());
            attempts.spawn(async move {
                let link = dialer.dial().await?;
                let address = named(&link, &master, dialer.config.connect_timeout).await?;
                Ok::<_, StoreError>((address, link))
            });
        }
        let mut failure = None::<StoreError>;
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(found)) => return Ok(found),
                // What is wrong tells more than what is not there.
                Ok(Err(error)) if failure.as_ref().is_none_or(|failure| !failure.is_config()) => {
                    failure = Some(error);
                }
                _ => {}
            }
        }
        Err(failure.unwrap_or_else(|| StoreError::unavailable("no Sentinel answers")))
    }

    fn current(&self) -> Option<Standalone> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whom one sentinel names.
async fn named(link: &Link, master: &str, limit: Duration) -> Result<Address, StoreError> {
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let reply = error::settle(link.call(&ask, false, limit).await?, "SENTINEL")?;
    match error::parse::<Option<(String, u16)>>(reply, "SENTINEL")? {
        Some((host, port)) => Ok(Address::Tcp { host, port }),
        None => Err(StoreError::config(format!(
            "the sentinels watch no master named {master:?}; SENTINEL MASTERS lists those that they do, \
             and the URL names it: redis+sentinel://host:26379/name"
        ))),
    }
}

impl Topology for Sentinel {
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>> {
        Box::pin(async move {
            let started = Instant::now();
            let named = timeout(limit, self.ask()).await.unwrap_or_else(|_| {
                Err(StoreError::unavailable(format!(
                    "{}: no Sentinel answered within {limit:?}; check that they run there and are \
                     not paused",
                    self.name
                )))
            });
            let server = Standalone::new(named?, self.site.clone())?;
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.clone());
            server.open(limit.saturating_sub(started.elapsed())).await
        })
    }

    fn address(&self) -> Arc<str> {
        match self.current() {
            Some(server) => server.address(),
            None => self.name.clone(),
        }
    }

    fn site(&self) -> &Site {
        &self.site
    }

    fn server(&self) -> Result<Standalone, StoreError> {
        self.current().ok_or_else(|| {
            StoreError::unavailable(format!("no Sentinel has named {} yet", self.master))
        })
    }

    fn moved(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                sleep(self.config.discovery_interval).await;
                // Sentinels that do not answer are no reason to leave a server that does.
                let Ok(named) = self.ask().await else { continue };
                if self.current().is_some_and(|server| *server.place() != named) {
                    return;
                }
            }
        })
    }
}

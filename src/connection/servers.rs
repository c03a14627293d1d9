//! Where calls go: to one server, to the one of a cluster that holds the keys, or through a pool.

use crate::{
    connection::{
        borrowed::Borrowed,
        cluster::Cluster,
        config::Config,
        dial::Dialer,
        health::Health,
        node::Node,
        pool::Pools,
        request::Request,
        sentinel::Sentinel,
        standalone::{Site, Standalone},
        topology::{BoxFuture, Stream, Topology},
        url::{Place, Target},
    },
    store::StoreError,
};
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// All that a connection leads to.
pub(super) enum Servers {
    One(Arc<Node>),
    Cluster(Cluster),
    Borrowed(Borrowed),
}

impl Servers {
    pub(super) async fn connect(target: Target, config: Arc<Config>) -> Result<Self, StoreError> {
        let site = Site::new(&target, &config)?;
        let topology: Arc<dyn Topology> = match target.place {
            Place::Server(address) => Arc::new(Standalone::new(address, site)?),
            Place::Sentinel(watched) => Arc::new(Sentinel::new(watched, site, config.clone())?),
            Place::Cluster(seeds) if config.lazy => {
                return Ok(Self::Cluster(Cluster::start(seeds, site, config)));
            }
            Place::Cluster(seeds) => {
                return Cluster::connect(seeds, site, config).await.map(Self::Cluster);
            }
        };
        Self::one(Dialer { topology, config }).await
    }

    pub(super) async fn one(dialer: Dialer) -> Result<Self, StoreError> {
        match dialer.config.lazy {
            true => Ok(Self::One(Node::start(dialer))),
            false => Node::connect(dialer).await.map(Self::One),
        }
    }

    /// Sends `request` where its keys are, and follows if they are elsewhere. Waits for a link at most
    /// `wait`.
    pub(super) async fn call<R: Request>(
        &self,
        request: &R,
        wait: Duration,
        end: Instant,
    ) -> Result<R::Reply, StoreError> {
        match self {
            Self::One(node) => {
                let left = || end.saturating_duration_since(Instant::now());
                let link = node.link(wait, left()).await?;
                link.call(request, false, left()).await
            }
            Self::Cluster(cluster) => cluster.call(request, wait, end).await,
            Self::Borrowed(pool) => pool.call(request, end).await,
        }
    }

    /// Every server that holds keys; none is known behind a pool.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        match self {
            Self::One(node) => vec![node.clone()],
            Self::Cluster(cluster) => cluster.nodes(),
            Self::Borrowed(_) => Vec::new(),
        }
    }

    /// The server that holds `slot`; `None` behind a pool.
    pub(super) fn owner(&self, slot: Option<u16>) -> Result<Option<Arc<Node>>, StoreError> {
        match self {
            Self::One(node) => Ok(Some(node.clone())),
            Self::Cluster(cluster) => cluster.owner(slot).map(Some),
            Self::Borrowed(_) => Ok(None),
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// One pool out of those of the server.
    pub(super) fn pool(
        &self,
        choose: impl FnOnce(&Pools) -> deadpool_redis::Pool,
    ) -> Result<deadpool_redis::Pool, StoreError> {
        match self {
            Self::One(node) => Ok(choose(&*node.pools()?)),
            Self::Cluster(_) => Err(StoreError::config(
                "a cluster has a pool for each server: ask Connection::server_of(key) or one of \
                 Connection::servers() for it",
            )),
            Self::Borrowed(borrowed) => Ok(borrowed.pool()),
        }
    }

    /// Where to listen to published messages; nowhere behind a pool.
    pub(super) fn feed(&self) -> Option<Arc<dyn Topology>> {
        match self {
            Self::One(node) => Some(Arc::new(Beside::new(&node.dialer().topology))),
            Self::Cluster(cluster) => Some(cluster.anywhere()),
            Self::Borrowed(_) => None,
        }
    }

    pub(super) fn health(&self) -> Health {
        match self {
            Self::One(node) => node.health(),
            Self::Cluster(cluster) => cluster.health(),
            Self::Borrowed(pool) => pool.health(),
        }
    }
}

/// Leads where the link leads: which server that is, only the link's own dials decide. It keeps
/// nothing open.
struct Beside {
    link: Weak<dyn Topology>,
    name: Arc<str>,
    site: Site,
}

impl Beside {
    fn new(link: &Arc<dyn Topology>) -> Self {
        Self { link: Arc::downgrade(link), name: link.address(), site: link.site().clone() }
    }
}

impl Topology for Beside {
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>> {
        Box::pin(async move { self.server()?.open(limit).await })
    }

    fn address(&self) -> Arc<str> {
        self.link.upgrade().map_or_else(|| self.name.clone(), |link| link.address())
    }

    fn site(&self) -> &Site {
        &self.site
    }

    fn server(&self) -> Result<Standalone, StoreError> {
        let gone = || StoreError::unavailable("the connection was dropped");
        self.link.upgrade().ok_or_else(gone)?.server()
    }
}

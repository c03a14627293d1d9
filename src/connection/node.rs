//! One server: its supervised link, its pools, and a replica of it for reads that may lag.

use crate::{
    connection::{
        dial::Dialer,
        health::Health,
        link::Link,
        pool::Pools,
        replica::ReplicaOf,
        supervisor::{Shared, supervise},
        topology::Topology as _,
    },
    store::StoreError,
};
use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio_util::task::AbortOnDropHandle;

/// A server and what watches over the link to it. Dropping it closes all.
pub(super) struct Node {
    shared: Arc<Shared>,
    dialer: Dialer,
    pools: Mutex<Option<Arc<Pools>>>,
    replica: OnceLock<Arc<Node>>,
    _supervisor: AbortOnDropHandle<()>,
}

impl Node {
    /// Connects, and sees the server answer.
    pub(super) async fn connect(dialer: Dialer) -> Result<Arc<Self>, StoreError> {
        let link = Arc::new(dialer.dial().await?);
        Ok(Self::supervised(dialer, Some(link)))
    }

    /// The same, but the link is made in the background.
    pub(super) fn start(dialer: Dialer) -> Arc<Self> {
        Self::supervised(dialer, None)
    }

    fn supervised(dialer: Dialer, link: Option<Arc<Link>>) -> Arc<Self> {
        let shared = Arc::new(Shared::new(link.clone(), dialer.topology.address()));
        let supervisor = tokio::spawn(supervise(shared.clone(), dialer.clone(), link));
        Arc::new(Self {
            shared,
            dialer,
            pools: Mutex::default(),
            replica: OnceLock::new(),
            _supervisor: AbortOnDropHandle::new(supervisor),
        })
    }

    /// The link to use, or why there is none. Waits for one at most `wait`, and while the very first
    /// is being made, at most `first`.
    pub(super) async fn link(
        &self,
        wait: Duration,
        first: Duration,
    ) -> Result<Arc<Link>, StoreError> {
        self.shared.link_within(wait, first).await
    }

    /// Whether a call would go out now.
    pub(super) fn is_up(&self) -> bool {
        self.shared.link().is_ok()
    }

    pub(super) fn health(&self) -> Health {
        self.shared.health()
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The pools of the server that was dialled last. They open nothing before they are asked for a
    /// connection.
    pub(super) fn pools(&self) -> Result<Arc<Pools>, StoreError> {
        let server = self.dialer.topology.server()?;
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pools {
            Some(pools) if pools.address() == server.address() => Ok(pools.clone()),
            _ => {
                let made = Arc::new(Pools::new(&server, &self.dialer.config)?);
                *pools = Some(made.clone());
                Ok(made)
            }
        }
    }

    /// A replica of this server. The link to it is made at the first call, in the background.
    pub(super) fn replica(self: &Arc<Self>) -> &Arc<Self> {
        self.replica.get_or_init(|| {
            let topology = Arc::new(ReplicaOf::new(self));
            Self::start(Dialer { topology, config: self.dialer.config.clone() })
        })
    }
}

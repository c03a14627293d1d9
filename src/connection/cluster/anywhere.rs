//! A stream to any server of a cluster, for what all of them know.

use crate::{
    connection::{
        cluster::map::Map,
        standalone::{Site, Standalone},
        topology::{BoxFuture, Stream, Topology},
        url::Address,
    },
    store::StoreError,
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Opens streams to a server that answers. It does not keep the links to them.
pub(super) struct Anywhere {
    pub(super) map: Weak<Map>,
    pub(super) name: Arc<str>,
    pub(super) site: Site,
}

impl Anywhere {
    fn map(&self) -> Result<Arc<Map>, StoreError> {
        self.map.upgrade().ok_or_else(|| StoreError::unavailable("the connection was dropped"))
    }
}

impl Topology for Anywhere {
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>> {
        Box::pin(async move { self.server()?.open(limit).await })
    }

    fn address(&self) -> Arc<str> {
        self.name.clone()
    }

    fn site(&self) -> &Site {
        &self.site
    }

    fn server(&self) -> Result<Standalone, StoreError> {
        self.map()?.any()?.dialer().topology.server()
    }

    /// A server that has left the cluster goes on, and hears nothing.
    fn is_current(&self, place: &Address) -> bool {
        self.map().is_ok_and(|map| {
            let owners = map.owners.load();
            let mut servers = owners.nodes.iter().map(|node| node.dialer().topology.server());
            servers.any(|server| server.is_ok_and(|server| server.place() == place))
        })
    }
}

//! Leads to a replica of a server, for reads that tolerate lag.
//!
//! The server itself names those that follow it. One of them is chosen at random at each dial, so a
//! fleet spreads over all; it is left when the server names it no more.

use crate::{
    connection::{
        error,
        node::Node,
        standalone::{Site, Standalone},
        topology::{BoxFuture, Role, Stream, Topology},
        url::Address,
    },
    store::StoreError,
};
use redis::Value;
use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::time::sleep;

/// A replica of a primary; which one, each dial decides.
pub(super) struct ReplicaOf {
    primary: Weak<Node>,
    site: Site,
    /// How often the primary is asked whether it still follows.
    interval: Duration,
    chosen: Mutex<Option<Standalone>>,
}

impl ReplicaOf {
    pub(super) fn new(primary: &Arc<Node>) -> Self {
        let mut site = primary.dialer().topology.site().clone();
        site.login.role = Some(Role::Replica);
        let interval = primary.dialer().config.discovery_interval;
        Self { primary: Arc::downgrade(primary), site, interval, chosen: Mutex::default() }
    }

    /// Those that follow the primary now.
    async fn candidates(&self) -> Result<Vec<Address>, StoreError> {
        let gone = || StoreError::unavailable("the primary is gone");
        let primary = self.primary.upgrade().ok_or_else(gone)?;
        let deadline = primary.dialer().config.deadline;
        let link = primary.link(Duration::ZERO, deadline).await?;
        let reply = link.call(&redis::cmd("ROLE"), false, deadline).await?;
        Ok(replicas(&error::settle(reply, "ROLE")?))
    }

    async fn choose(&self) -> Result<Standalone, StoreError> {
        let replicas = self.candidates().await?;
        let random = getrandom::u32().map_or(0, |random| random as usize);
        match replicas.get(random % replicas.len().max(1)) {
            Some(address) => Standalone::new(address.clone(), self.site.clone()),
            None => Err(StoreError::unavailable(match self.primary.upgrade() {
                Some(primary) => {
                    format!("no replica follows {}", primary.dialer().topology.address())
                }
                None => "the primary is gone".into(),
            })),
        }
    }
}

/// `ROLE` of a primary: `master`, an offset, and the address, port and offset of each replica.
fn replicas(reply: &Value) -> Vec<Address> {
    let followers = match reply {
        Value::Array(parts) => parts.get(2),
        _ => None,
    };
    let followers: Vec<(String, u16, String)> =
        followers.and_then(|list| redis::from_redis_value_ref(list).ok()).unwrap_or_default();
    followers.into_iter().map(|(host, port, _)| Address::Tcp { host, port }).collect()
}

impl Topology for ReplicaOf {
    fn open(&self, limit: Duration) -> BoxFuture<'_, Result<Stream, StoreError>> {
        Box::pin(async move {
            let replica = self.choose().await?;
            *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = Some(replica.clone());
            replica.open(limit).await
        })
    }

    fn address(&self) -> Arc<str> {
        self.server().map_or_else(|_| "a replica".into(), |replica| replica.address())
    }

    fn site(&self) -> &Site {
        &self.site
    }

    fn server(&self) -> Result<Standalone, StoreError> {
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        chosen.clone().ok_or_else(|| StoreError::unavailable("no replica has been found yet"))
    }

    /// One that was promoted, or follows another, keeps its clients and answers with what it has.
    fn moved(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                sleep(self.interval).await;
                // A primary that does not answer is no reason to leave a replica that does.
                let Ok(replicas) = self.candidates().await else { continue };
                if self.server().is_ok_and(|chosen| !replicas.contains(chosen.place())) {
                    return;
                }
            }
        })
    }
}

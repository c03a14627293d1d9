//! A Redis Cluster: a supervised link to each server that holds keys, and the map that says which.
//!
//! A server that does not hold the keys of a call names the one that does, and has done nothing: the
//! call goes there at once. The map is read again when that happens, and while a server is down,
//! because its replica may take its place. Everything else is what a single server has: a loss of one
//! is noticed, waited out and mended without a word from the others, whose calls go on.

mod anywhere;
mod layout;
mod map;
mod owners;
mod redirect;
mod refresh;
mod slot;

pub(super) use self::{
    redirect::Redirect,
    slot::{slot_of, slot_of_key},
};

use self::{anywhere::Anywhere, map::Map};
use crate::{
    connection::{
        config::Config, deadline::end_of, health::Health, node::Node, request::Request,
        standalone::Site, topology::Topology, url::Address,
    },
    store::StoreError,
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// Redirections that one call follows: more of them go round in a circle.
const REDIRECTIONS: usize = 8;

/// All servers of a cluster. Dropping it closes all links.
pub(super) struct Cluster {
    map: Arc<Map>,
    _refresher: AbortOnDropHandle<()>,
}

impl Cluster {
    /// Finds the servers through those at `seeds`, and connects to all that hold keys. One that cannot
    /// be reached does not prevent it, unless it is wrong with all.
    pub(super) async fn connect(
        seeds: Vec<Address>,
        site: Site,
        config: Arc<Config>,
    ) -> Result<Self, StoreError> {
        let end = end_of(config.connect_timeout);
        let map = Arc::new(Map::new(seeds, site, config));
        let layout = map.ask_seeds().await?;
        let mut dials = JoinSet::new();
        for owner in layout.iter().map(|range| range.owner.clone()).collect::<HashSet<_>>() {
            let dialer = map.dialer(owner.clone())?;
            dials.spawn(async move { (owner, Node::connect(dialer).await) });
        }
        let mut unreachable = None;
        // Those that are not there by then are dialled again in the background.
        while let Ok(Some(dialled)) = timeout_at(end.into(), dials.join_next()).await {
            let Ok((address, node)) = dialled else { continue };
            match node {
                Ok(node) => drop(map.nodes().insert(address, (node, Instant::now()))),
                // Wrong with one, wrong with all.
                Err(error) if error.is_config() => return Err(error),
                Err(error) => unreachable = Some(error),
            }
        }
        if map.nodes().is_empty() {
            return Err(unreachable.unwrap_or_else(|| {
                StoreError::unavailable(format!(
                    "the cluster at {} names its servers, but none of them let us in within {:?}; \
                     check that they can be reached from here",
                    map.name, map.config.connect_timeout
                ))
            }));
        }
        map.apply(layout)?;
        map.attempts.send_modify(|attempts| *attempts += 1);
        Ok(Self::over(map))
    }

    /// The same, but in the background.
    pub(super) fn start(seeds: Vec<Address>, site: Site, config: Arc<Config>) -> Self {
        let map = Arc::new(Map::new(seeds, site, config));
        map.wake.notify_one();
        Self::over(map)
    }

    fn over(map: Arc<Map>) -> Self {
        let refresher = AbortOnDropHandle::new(tokio::spawn(map.clone().keep_current()));
        Self { map, _refresher: refresher }
    }

    /// Sends `request` to the server that holds its keys. Waits for a link at most `wait`.
    pub(super) async fn call<R: Request>(
        &self,
        request: &R,
        wait: Duration,
        end: Instant,
    ) -> Result<R::Reply, StoreError> {
        let left = || end.saturating_duration_since(Instant::now());
        self.map.known_within(wait, left()).await;
        let wait = wait.min(left());
        let mut asking = false;
        let mut node = self.owner(request.slot())?;
        for _ in 0..REDIRECTIONS {
            let link = match node.link(wait, left()).await {
                Ok(link) => link,
                Err(error) => {
                    self.map.wake.notify_one();
                    return Err(error);
                }
            };
            let reply = link.call(request, asking, left()).await?;
            let asked = node.dialer().topology.server()?;
            (node, asking) = match R::redirect(&reply) {
                None => return Ok(reply),
                Some(Redirect::Moved { slot, to }) => {
                    let node = self.map.node(to.from(asked.place()))?;
                    self.map.learn(slot, &node);
                    (node, false)
                }
                Some(Redirect::Ask { to }) => (self.map.node(to.from(asked.place()))?, true),
            };
        }
        Err(StoreError::unavailable(format!(
            "the servers of the cluster sent {} on {REDIRECTIONS} times, and none holds its keys",
            request.name()
        )))
    }

    /// The server that holds `slot`; any that answers, if it is none.
    pub(super) fn owner(&self, slot: Option<u16>) -> Result<Arc<Node>, StoreError> {
        let owners = self.map.owners.load();
        let Some(slot) = slot else { return self.map.any() };
        owners.owner(slot).cloned().ok_or_else(|| {
            self.map.wake.notify_one();
            match owners.nodes.is_empty() {
                true => self.map.unknown(),
                false => StoreError::unavailable(format!(
                    "no server of the cluster holds the slot {slot}; see CLUSTER SLOTS"
                )),
            }
        })
    }

    /// Every server that holds keys, in the order of their slots.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map.owners.load().nodes.clone()
    }

    pub(super) fn health(&self) -> Health {
        let nodes: Vec<_> = self.nodes().iter().map(|node| node.health()).collect();
        let mut health = Health::of_cluster(self.map.name.clone(), nodes);
        if health.nodes.is_empty() {
            health.last_error = Some(self.map.unknown().to_string().into());
        }
        health
    }

    /// Leads to any server: each of them passes published messages on to all.
    pub(super) fn anywhere(&self) -> Arc<dyn Topology> {
        let map = Arc::downgrade(&self.map);
        Arc::new(Anywhere { map, name: self.map.name.clone(), site: self.map.site.clone() })
    }
}

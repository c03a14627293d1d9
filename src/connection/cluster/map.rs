//! What is known of a cluster: its servers, and which of them holds which keys.

use crate::{
    connection::{
        cluster::{layout, owners::Owners},
        config::Config,
        dial::Dialer,
        node::Node,
        standalone::{Site, Standalone},
        url::Address,
    },
    store::StoreError,
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

/// How long a server is remembered that nobody names any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What is known of the cluster.
pub(super) struct Map {
    pub(super) seeds: Vec<Address>,
    pub(super) name: Arc<str>,
    pub(super) site: Site,
    pub(super) config: Arc<Config>,
    pub(super) owners: ArcSwap<Owners>,
    /// With the time at which each was last named: one that holds no slot yet is kept for a while.
    nodes: Mutex<HashMap<Address, (Arc<Node>, Instant)>>,
    /// Why the map could not be read when that was tried last.
    pub(super) failure: Mutex<Option<StoreError>>,
    /// How often that was tried.
    pub(super) attempts: watch::Sender<u64>,
    pub(super) turn: AtomicUsize,
    pub(super) wake: Notify,
}

impl Map {
    pub(super) fn new(seeds: Vec<Address>, site: Site, config: Arc<Config>) -> Self {
        let names: Vec<_> = seeds.iter().map(ToString::to_string).collect();
        Self {
            name: names.join(",").into(),
            seeds,
            site,
            config,
            owners: ArcSwap::from_pointee(Owners::empty()),
            nodes: Mutex::default(),
            failure: Mutex::default(),
            attempts: watch::Sender::default(),
            turn: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    pub(super) fn nodes(&self) -> MutexGuard<'_, HashMap<Address, (Arc<Node>, Instant)>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dialer(&self, address: Address) -> Result<Dialer, StoreError> {
        let topology = Arc::new(Standalone::new(address, self.site.clone())?);
        Ok(Dialer { topology, config: self.config.clone() })
    }

    /// The server at `address`, known or new.
    pub(super) fn node(&self, address: Address) -> Result<Arc<Node>, StoreError> {
        let mut nodes = self.nodes();
        if let Some((node, named)) = nodes.get_mut(&address) {
            *named = Instant::now();
            return Ok(node.clone());
        }
        let node = Node::start(self.dialer(address.clone())?);
        nodes.insert(address, (node.clone(), Instant::now()));
        Ok(node)
    }

    /// Waits until a server is known: at most `limit`, and while nothing has been tried, at most
    /// `first`. Both begin now.
    pub(super) async fn known_within(&self, limit: Duration, first: Duration) {
        let is_known = || !self.owners.load().nodes.is_empty();
        if is_known() {
            return;
        }
        let started = Instant::now();
        let mut attempts = self.attempts.subscribe();
        let _ = timeout(first, attempts.wait_for(|&attempts| attempts > 0)).await;
        let known = attempts.wait_for(|_| is_known());
        let _ = timeout(limit.saturating_sub(started.elapsed()), known).await;
    }

    /// A server that answers, each in turn.
    pub(super) fn any(&self) -> Result<Arc<Node>, StoreError> {
        let nodes = &self.owners.load().nodes;
        let turn = self.turn.fetch_add(1, Relaxed);
        let in_turn = (0..nodes.len()).map(|at| &nodes[turn.wrapping_add(at) % nodes.len()]);
        let node = in_turn.clone().find(|node| node.is_up()).or_else(|| in_turn.clone().next());
        node.cloned().ok_or_else(|| self.unknown())
    }

    pub(super) fn unknown(&self) -> StoreError {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone().unwrap_or_else(|| {
            StoreError::unavailable(format!(
                "no server of the cluster at {} has answered yet",
                self.name
            ))
        })
    }

    /// A server said that `slot` is elsewhere.
    pub(super) fn learn(&self, slot: u16, owner: &Arc<Node>) {
        self.owners.rcu(|owners| owners.with(slot, owner));
        self.wake.notify_one();
    }

    /// Makes `layout` the map, and forgets the servers that are not in it.
    pub(super) fn apply(&self, layout: Vec<layout::Range>) -> Result<(), StoreError> {
        let mut owners = Owners::empty();
        for range in layout {
            let owner = self.node(range.owner)?;
            owners.set(range.first..=range.last, &owner);
        }
        self.owners.store(Arc::new(owners));
        self.nodes().retain(|_, (_, named)| named.elapsed() < FORGOTTEN_AFTER);
        Ok(())
    }
}

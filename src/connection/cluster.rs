//! A Redis Cluster: a supervised link to each server that holds keys, and the map that says which.
//!
//! A server that does not hold the keys of a call names the one that does, and has done nothing: the
//! call goes there at once. The map is read again when that happens, and while a server is down,
//! because its replica may take its place. Everything else is what a single server has: a loss of one
//! is noticed, waited out and mended without a word from the others, whose calls go on.

mod layout;
mod redirect;
mod slot;

pub(super) use self::{
    redirect::Redirect,
    slot::{slot_of, slot_of_key},
};

use self::slot::SLOTS;
use crate::{
    connection::{
        backoff::Backoff,
        config::Config,
        dial::Dialer,
        health::Health,
        node::Node,
        request::Request,
        standalone::{Site, Standalone},
        topology::{BoxFuture, Stream, Topology},
        url::Address,
    },
    store::StoreError,
    telemetry,
};
use arc_swap::ArcSwap;
use redis::Cmd;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

/// Redirections that one call follows: more of them go round in a circle.
const REDIRECTIONS: usize = 8;
/// How often the map is read again when all is well, in units of the discovery interval.
const WHEN_WELL: u32 = 30;
/// How long a server is remembered that nobody names any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

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
        let end = Instant::now() + config.connect_timeout;
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
        let slots = self.map.slots.load();
        let Some(slot) = slot else { return self.map.any() };
        slots.owner(slot).cloned().ok_or_else(|| {
            self.map.wake.notify_one();
            match slots.nodes.is_empty() {
                true => self.map.unknown(),
                false => StoreError::unavailable(format!(
                    "no server of the cluster holds the slot {slot}; see CLUSTER SLOTS"
                )),
            }
        })
    }

    /// Every server that holds keys, in the order of their slots.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map.slots.load().nodes.clone()
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

/// What is known of the cluster.
struct Map {
    seeds: Vec<Address>,
    name: Arc<str>,
    site: Site,
    config: Arc<Config>,
    slots: ArcSwap<Slots>,
    /// With the time at which each was last named: one that holds no slot yet is kept for a while.
    nodes: Mutex<HashMap<Address, (Arc<Node>, Instant)>>,
    /// Why the map could not be read when that was tried last.
    failure: Mutex<Option<StoreError>>,
    /// How often that was tried.
    attempts: watch::Sender<u64>,
    turn: AtomicUsize,
    wake: Notify,
}

impl Map {
    fn new(seeds: Vec<Address>, site: Site, config: Arc<Config>) -> Self {
        let names: Vec<_> = seeds.iter().map(ToString::to_string).collect();
        Self {
            name: names.join(",").into(),
            seeds,
            site,
            config,
            slots: ArcSwap::from_pointee(Slots::empty()),
            nodes: Mutex::default(),
            failure: Mutex::default(),
            attempts: watch::Sender::default(),
            turn: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Address, (Arc<Node>, Instant)>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dialer(&self, address: Address) -> Result<Dialer, StoreError> {
        let topology = Arc::new(Standalone::new(address, self.site.clone())?);
        Ok(Dialer { topology, config: self.config.clone() })
    }

    /// The server at `address`, known or new.
    fn node(&self, address: Address) -> Result<Arc<Node>, StoreError> {
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
    async fn known_within(&self, limit: Duration, first: Duration) {
        let is_known = || !self.slots.load().nodes.is_empty();
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
    fn any(&self) -> Result<Arc<Node>, StoreError> {
        let nodes = &self.slots.load().nodes;
        let turn = self.turn.fetch_add(1, Relaxed);
        let in_turn = (0..nodes.len()).map(|at| &nodes[turn.wrapping_add(at) % nodes.len()]);
        let node = in_turn.clone().find(|node| node.is_up()).or_else(|| in_turn.clone().next());
        node.cloned().ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> StoreError {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone().unwrap_or_else(|| {
            StoreError::unavailable(format!(
                "no server of the cluster at {} has answered yet",
                self.name
            ))
        })
    }

    /// A server said that `slot` is elsewhere.
    fn learn(&self, slot: u16, owner: &Arc<Node>) {
        self.slots.rcu(|slots| slots.with(slot, owner));
        self.wake.notify_one();
    }

    /// Makes `layout` the map, and forgets the servers that are not in it.
    fn apply(&self, layout: Vec<layout::Range>) -> Result<(), StoreError> {
        let mut slots = Slots::empty();
        for range in layout {
            let owner = self.node(range.owner)?;
            slots.set(range.first..=range.last, &owner);
        }
        self.slots.store(Arc::new(slots));
        self.nodes().retain(|_, (_, named)| named.elapsed() < FORGOTTEN_AFTER);
        Ok(())
    }

    async fn keep_current(self: Arc<Self>) {
        let interval = self.config.discovery_interval;
        let mut backoff = Backoff::new(self.config.backoff_min.min(interval), interval);
        loop {
            let well = {
                let slots = self.slots.load();
                !slots.nodes.is_empty() && slots.nodes.iter().all(|node| node.is_up())
            };
            let pause = if well { interval.saturating_mul(WHEN_WELL) } else { interval };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = sleep(pause) => backoff.reset(),
            }
            let failure = self.refresh().await.err();
            self.note(failure);
            // One look serves all that asked for one meanwhile. Calls to a server that is down ask
            // for one each, so the looks become rarer until there is a quiet moment.
            sleep(backoff.pause()).await;
        }
    }

    /// What came of a look at the map: told when it changes, and not each time.
    fn note(&self, failure: Option<StoreError>) {
        let mut last = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*last, &failure) {
            (None, Some(error)) => telemetry::warn(format_args!(
                "{}: who holds which slots is not known: {error}",
                self.name
            )),
            (Some(_), None) => {
                telemetry::notice(format_args!("{}: who holds which slots is known", self.name));
            }
            _ => {}
        }
        *last = failure;
        drop(last);
        self.attempts.send_modify(|attempts| *attempts += 1);
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        let layout = match self.ask_nodes().await {
            Some(layout) => layout,
            None => self.ask_seeds().await?,
        };
        self.apply(layout)
    }

    /// Asks the servers that have a link, until one knows.
    async fn ask_nodes(&self) -> Option<Vec<layout::Range>> {
        let nodes = self.slots.load().nodes.clone();
        let turn = self.turn.fetch_add(1, Relaxed);
        for at in 0..nodes.len() {
            let node = &nodes[turn.wrapping_add(at) % nodes.len()];
            let Ok(link) = node.link(Duration::ZERO, Duration::ZERO).await else { continue };
            let server = node.dialer().topology.server().ok()?;
            let reply = link.call(&cluster_slots(), false, self.config.ping_timeout).await;
            match reply.and_then(|reply| layout::read(&reply, server.place())) {
                Ok(layout) if !layout.is_empty() => return Some(layout),
                _ => {}
            }
        }
        None
    }

    /// Asks the servers that the application named, all at once: the first that knows is enough.
    async fn ask_seeds(&self) -> Result<Vec<layout::Range>, StoreError> {
        let mut attempts = JoinSet::new();
        for seed in &self.seeds {
            let dialer = self.dialer(seed.clone())?;
            let seed = seed.clone();
            let limit = self.config.connect_timeout;
            attempts.spawn(async move {
                timeout(limit, ask(dialer, &seed)).await.unwrap_or_else(|_| {
                    Err(StoreError::unavailable(format!(
                        "{seed} does not say within {limit:?} who holds which slots; check that it \
                         is not paused"
                    )))
                })
            });
        }
        let mut failure = None::<StoreError>;
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(layout)) => return Ok(layout),
                // What is wrong tells more than what is not there.
                Ok(Err(error)) if failure.as_ref().is_none_or(|failure| !failure.is_config()) => {
                    failure = Some(error);
                }
                _ => {}
            }
        }
        Err(failure.unwrap_or_else(|| StoreError::unavailable("no server of the cluster answers")))
    }
}

fn cluster_slots() -> Cmd {
    redis::cmd("CLUSTER").arg("SLOTS").take()
}

/// Asks a server that nothing is known of yet.
async fn ask(dialer: Dialer, seed: &Address) -> Result<Vec<layout::Range>, StoreError> {
    let link = dialer.dial().await?;
    // All in all it is limited outside.
    let reply = link.call(&cluster_slots(), false, dialer.config.connect_timeout).await?;
    let reply = reply.extract_error().map_err(|error| match error.detail() {
        Some(words) if words.contains("cluster support disabled") => StoreError::config(format!(
            "{seed} is not a node of a cluster; write redis://{seed} for a single server"
        )),
        _ => crate::connection::error::refused("CLUSTER SLOTS", error),
    })?;
    match layout::read(&reply, seed)? {
        layout if layout.is_empty() => Err(StoreError::unavailable(format!(
            "{seed} is a node of a cluster without slots; make the cluster with redis-cli --cluster \
             create, or wait until it has joined"
        ))),
        layout => Ok(layout),
    }
}

/// The owner of each slot.
#[derive(Clone)]
struct Slots {
    /// For each slot a position in `nodes`, or none.
    owners: Box<[Option<u16>]>,
    nodes: Vec<Arc<Node>>,
}

impl Slots {
    fn empty() -> Self {
        Self { owners: vec![None; SLOTS.into()].into(), nodes: Vec::new() }
    }

    fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let at = (*self.owners.get(usize::from(slot))?)?;
        self.nodes.get(usize::from(at))
    }

    fn set(&mut self, slots: std::ops::RangeInclusive<u16>, owner: &Arc<Node>) {
        let known = self.nodes.iter().position(|node| Arc::ptr_eq(node, owner));
        let at = known.unwrap_or_else(|| {
            self.nodes.push(owner.clone());
            self.nodes.len() - 1
        });
        for slot in slots {
            if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
                *owner = u16::try_from(at).ok();
            }
        }
    }

    fn with(&self, slot: u16, owner: &Arc<Node>) -> Self {
        let mut slots = self.clone();
        slots.set(slot..=slot, owner);
        slots
    }
}

/// Opens streams to a server that answers. It does not keep the links to them.
struct Anywhere {
    map: Weak<Map>,
    name: Arc<str>,
    site: Site,
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
            let slots = map.slots.load();
            let mut servers = slots.nodes.iter().map(|node| node.dialer().topology.server());
            servers.any(|server| server.is_ok_and(|server| server.place() == place))
        })
    }
}

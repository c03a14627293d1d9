//! Reads the map of a cluster: from servers that have a link, else from those that were named first.

use crate::{
    connection::{
        backoff::Backoff,
        cluster::{layout, map::Map},
        dial::Dialer,
        error::refused,
        url::Address,
    },
    store::StoreError,
    telemetry,
};
use redis::Cmd;
use std::{
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// How often the map is read again when all is well, in units of the discovery interval.
const WHEN_WELL: u32 = 30;

impl Map {
    pub(super) async fn keep_current(self: Arc<Self>) {
        let interval = self.config.discovery_interval;
        let mut backoff = Backoff::new(self.config.backoff_min.min(interval), interval);
        loop {
            let well = {
                let owners = self.owners.load();
                !owners.nodes.is_empty() && owners.nodes.iter().all(|node| node.is_up())
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
        let nodes = self.owners.load().nodes.clone();
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
    pub(super) async fn ask_seeds(&self) -> Result<Vec<layout::Range>, StoreError> {
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
        _ => refused("CLUSTER SLOTS", error),
    })?;
    match layout::read(&reply, seed)? {
        layout if layout.is_empty() => Err(StoreError::unavailable(format!(
            "{seed} is a node of a cluster without slots; make the cluster with redis-cli --cluster \
             create, or wait until it has joined"
        ))),
        layout => Ok(layout),
    }
}

//! One acquisition over all nodes: each verb to all of them, in order on each.

use crate::{
    clock::Clock,
    lease::release_within,
    lock::{
        claim::MIDDLEWARE,
        limits,
        policy::Attempt,
        redlock::{
            lane::{Answers, Lane, ask},
            tally::{Tally, majority},
        },
        store::LockStore,
        watch::Watch,
    },
    store::{StoreError, StoreFuture},
    tasks::Tasks,
    telemetry,
};
use std::{collections::BTreeSet, future::ready, sync::Arc, time::Duration};
use tokio::time::Instant;

pub(super) type Nodes = Arc<[Arc<dyn LockStore>]>;

/// The nodes that vote.
pub(in crate::lock) struct Quorum {
    pub(super) nodes: Nodes,
    timeout: Option<Duration>,
    pub(super) tasks: Tasks,
}

impl Quorum {
    pub(super) fn new(nodes: Nodes) -> Self {
        Self { nodes, timeout: None, tasks: Tasks::default() }
    }

    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        let (nodes, tasks) = (self.nodes.clone(), self.tasks.clone());
        Self { nodes, timeout: Some(timeout), tasks }
    }

    /// What one attempt asks with.
    pub(in crate::lock) fn round(self: &Arc<Self>) -> Round {
        let lanes = self.nodes.iter().map(|node| Arc::new(Lane::new(node.clone()))).collect();
        Round { quorum: self.clone(), lanes }
    }

    /// One release is a hint of each node, so a majority of them says that a lock is free.
    pub(in crate::lock) fn watch(&self, id: &str) -> Option<Watch> {
        let hints = self.nodes.iter().filter_map(|node| node.watch(id));
        Watch::over(hints, majority(self.nodes.len()))
    }

    fn timeout(&self, ttl: Duration) -> Duration {
        limits::node_timeout(self.timeout, ttl)
    }
}

/// One attempt: it has the lanes to itself, and its token.
pub(in crate::lock) struct Round {
    quorum: Arc<Quorum>,
    lanes: Arc<[Arc<Lane>]>,
}

impl Round {
    fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        verb: impl Fn(&Lane) -> StoreFuture<T> + Clone + Send + 'static,
    ) -> Answers<T> {
        let until = Instant::now() + within;
        ask(&self.lanes, &self.quorum.tasks, until, verb, |_, _| ready(()))
    }

    fn again(&self) -> Self {
        Self { quorum: self.quorum.clone(), lanes: self.lanes.clone() }
    }

    /// Releases what may be held, and lets the lanes go on trying where that fails.
    fn give_up(&self, name: &str, token: &str, ttl: Duration) -> Answers<bool> {
        let (name, token): (Arc<str>, Arc<str>) = (name.into(), token.into());
        let until = Instant::now() + self.quorum.timeout(ttl);
        let (again, its) = (name.clone(), token.clone());
        let release = move |lane: &Lane| lane.release(&name, &token);
        let insist = move |lane: Arc<Lane>, error: Option<StoreError>| {
            let (name, token) = (again.clone(), its.clone());
            async move {
                if error.is_some_and(|error| error.is_unavailable() || error.is_timeout()) {
                    release_within(ttl, MIDDLEWARE, || lane.release(&name, &token)).await;
                }
            }
        };
        ask(&self.lanes, &self.quorum.tasks, until, release, insist)
    }

    /// Takes the lock where it was lost, as it is ours by majority.
    fn repair(&self, lost: BTreeSet<usize>, name: &str, token: &str, ttl: Duration) {
        for index in lost {
            let (name, token) = (name.to_owned(), token.to_owned());
            self.lanes[index].run(&self.quorum.tasks, move |lane| async move {
                if let Err(error) = lane.acquire(&name, &token, ttl).await {
                    telemetry::store_failed(MIDDLEWARE, &error);
                }
            });
        }
    }
}

impl LockStore for Round {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        let (name, token): (Arc<str>, Arc<str>) = (name.into(), token.into());
        let (round, within) = (self.again(), self.quorum.timeout(ttl));
        let mut answers = self.ask(within, {
            let (name, token) = (name.clone(), token.clone());
            move |lane| lane.acquire(&name, &token, ttl)
        });
        StoreFuture::boxed(async move {
            let mut tally = Tally::new(round.lanes.len());
            while let Some((_, answer)) = answers.next().await {
                tally.count(seen(answer));
                if tally.is_decided() {
                    break;
                }
            }
            let attempt = tally.attempt(within);
            if !matches!(attempt, Ok(Attempt::Acquired { .. })) {
                drop(round.give_up(&name, &token, ttl));
            }
            attempt
        })
    }

    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        let (name, token): (Arc<str>, Arc<str>) = (name.into(), token.into());
        let (round, within) = (self.again(), self.quorum.timeout(ttl));
        let mut answers = self.ask(within, {
            let (name, token) = (name.clone(), token.clone());
            move |lane| lane.renew(&name, &token, ttl)
        });
        StoreFuture::boxed(async move {
            let mut tally = Tally::new(round.lanes.len());
            let mut lost = BTreeSet::new();
            while let Some((index, answer)) = answers.next().await {
                if let Ok(false) = answer {
                    lost.insert(index);
                }
                tally.count_ours(seen(answer));
            }
            if tally.is_won() {
                round.repair(lost, &name, &token, ttl);
            }
            tally.ours(within)
        })
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        let ttl = limits::MAX_TTL;
        let (nodes, within) = (self.lanes.len(), self.quorum.timeout(ttl));
        let mut answers = self.give_up(name, token, ttl);
        StoreFuture::boxed(async move {
            let mut tally = Tally::new(nodes);
            while let Some((_, answer)) = answers.next().await {
                tally.count_ours(seen(answer));
            }
            tally.ours(within)
        })
    }

    fn force_release(&self, name: &str) -> StoreFuture<bool> {
        let (name, nodes): (Arc<str>, _) = (name.into(), self.lanes.len());
        let within = self.quorum.timeout(limits::MAX_TTL);
        let mut answers = self.ask(within, move |lane| lane.force_release(&name));
        StoreFuture::boxed(async move {
            let mut tally = Tally::new(nodes);
            while let Some((_, answer)) = answers.next().await {
                tally.count_ours(seen(answer));
            }
            tally.ours(within)
        })
    }

    fn tasks(&self) -> Tasks {
        self.quorum.tasks.clone()
    }

    fn clock(&self) -> Clock {
        self.quorum.nodes[0].clock()
    }
}

/// A node that fails is told of, also where the others suffice.
fn seen<T>(answer: Result<T, StoreError>) -> Result<T, StoreError> {
    answer.inspect_err(|error| telemetry::store_failed(MIDDLEWARE, error))
}

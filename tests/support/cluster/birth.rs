//! A Cluster in a sixth of a second.
//!
//! Nodes that meet by `CLUSTER MEET` take seconds to know all others, and a master that starts
//! refuses to serve for 2 s, whatever its configuration says. A replica does not wait. So each node
//! finds a `nodes.conf` that names all of them as the replicas of masters that do not exist, and
//! takes over from its one: what an operator does after these have died.

use std::ops::RangeInclusive;

use super::{
    super::{
        hex::random_hex,
        ports::{BUS, free_cluster_port},
        server::{RedisServer, start_all},
    },
    MASTERS,
    group::Group,
    slot::SLOTS,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) replicas: bool,
    pub(super) args: Vec<String>,
}

const DEFAULTS: &[&str] = &[
    "--cluster-enabled",
    "yes",
    "--cluster-require-full-coverage",
    "no",
    "--cluster-node-timeout",
    "10000",
];

impl Options {
    pub(super) fn size(&self) -> usize {
        if self.replicas { 2 * MASTERS } else { MASTERS }
    }
}

/// The part of the slots that a master is born with.
pub(super) fn part(master: usize) -> RangeInclusive<u16> {
    let cut = |index: usize| (usize::from(SLOTS) * index).div_ceil(MASTERS) as u16;
    cut(master)..=cut(master + 1) - 1
}

impl Group {
    /// Starts the nodes and returns when each knows of every slot and its owner.
    pub(super) fn start(options: &Options) -> Self {
        for _ in 0..20 {
            if let Some(mut group) = Self::launch(options) {
                group.wait("the Cluster settles", |group| group.is_settled());
                group.remember();
                return group;
            }
        }
        panic!("20 times in a row, one of the ports was taken by others");
    }

    /// The nodes, unless somebody else took a port.
    fn launch(options: &Options) -> Option<Self> {
        let names = Names::new(options.size());
        let args: Vec<_> =
            DEFAULTS.iter().copied().chain(options.args.iter().map(String::as_str)).collect();
        let node = |index: usize| {
            let server = RedisServer::builder().args(&args);
            (server.file("nodes.conf", names.nodes_conf(index)), names.ports[index])
        };
        let masters = start_all((0..MASTERS).map(node).collect())?;
        let mut group = Self::new(masters, names.ids.clone(), names.ghosts.clone());
        group.take_over();
        group.servers.extend(start_all((MASTERS..options.size()).map(node).collect())?);
        Some(group)
    }

    /// Each takes over when it has heard of the epoch of the one before it, to get a higher one. Nodes
    /// with the same would settle that at length, and not always see what moves meanwhile.
    fn take_over(&self) {
        let mut last = 0;
        for node in &self.servers[..MASTERS] {
            self.wait("a node serves as a replica and hears of the others", |_| {
                serves(node) && number(node, "cluster_current_epoch") >= last
            });
            node.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
            last = number(node, "cluster_my_epoch");
        }
    }

    /// Whether every node is where it was meant to be, in the eyes of every node.
    fn is_settled(&self) -> bool {
        self.servers.iter().enumerate().all(|(index, node)| {
            let lines = self.view(node);
            let known = self.ids.iter().enumerate().all(|(index, id)| {
                lines.iter().find(|line| line.id == *id).is_some_and(|line| {
                    line.connected
                        && match index {
                            0..MASTERS => line.owns_just(&part(index)),
                            _ => line.master.as_ref() == Some(&self.ids[index % MASTERS]),
                        }
                })
            });
            known && self.forgets_ghosts(node, lines.len()) && serves(node) && {
                index < MASTERS || self.servers[index % MASTERS].feeds(node)
            }
        })
    }

    /// Whether the node knows the others only. Not before it follows none of the ghosts, as it would
    /// refuse to forget its own master.
    fn forgets_ghosts(&self, node: &RedisServer, known: usize) -> bool {
        if known > self.servers.len() {
            let mut client = node.client();
            for ghost in &self.ghosts {
                // A ghost that is forgotten already is unknown, which is as well.
                let _ = client.try_command(&["CLUSTER", "FORGET", ghost]);
            }
        }
        known == self.servers.len()
    }
}

fn serves(node: &RedisServer) -> bool {
    node.command(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok")
}

/// A number in `CLUSTER INFO`.
fn number(node: &RedisServer, name: &str) -> u64 {
    let info = node.command(&["CLUSTER", "INFO"]).text();
    let mut facts = info.lines().filter_map(|line| line.split_once(':'));
    let fact = facts.find(|(known, _)| *known == name);
    fact.and_then(|(_, value)| value.parse().ok()).expect("CLUSTER INFO has the number")
}

/// Who is who.
struct Names {
    ports: Vec<u16>,
    ids: Vec<String>,
    ghosts: Vec<String>,
}

impl Names {
    fn new(size: usize) -> Self {
        Self {
            ports: (0..size).map(|_| free_cluster_port()).collect(),
            ids: (0..size).map(|_| random_hex(40)).collect(),
            ghosts: (0..MASTERS).map(|_| random_hex(40)).collect(),
        }
    }

    /// What the node `me` knows at its birth. Replicas come when the masters have taken over.
    fn nodes_conf(&self, me: usize) -> String {
        let has_masters = me >= MASTERS;
        let mut lines = String::new();
        let mut line = |id: &str, address: &str, flags: &str, master: &str, slots: String| {
            lines += &format!("{id} {address} {flags} {master} 0 0 0 connected {slots}\n");
        };
        let slots = |master| format!("{}-{}", part(master).start(), part(master).end());
        for (index, (id, port)) in self.ids.iter().zip(&self.ports).enumerate() {
            let address = format!("127.0.0.1:{port}@{}", port + BUS);
            let myself = if index == me { "myself," } else { "" };
            let leader = if has_masters { &self.ids } else { &self.ghosts };
            if has_masters && index < MASTERS {
                line(id, &address, "master", "-", slots(index));
            } else {
                let flags = format!("{myself}slave");
                line(id, &address, &flags, &leader[index % MASTERS], String::new());
            }
        }
        if !has_masters {
            for (index, ghost) in self.ghosts.iter().enumerate() {
                // Nobody listens there. Valkey takes a master without an address for failed.
                line(ghost, &format!("127.0.0.1:{0}@{0}", index + 1), "master", "-", slots(index));
            }
        }
        lines + "vars currentEpoch 0 lastVoteEpoch 0\n"
    }
}

//! The nodes of one Cluster, and what they say of one another.

use std::{
    collections::BTreeSet,
    io, thread,
    time::{Duration, Instant},
};

use super::{
    super::{
        resp::{RespClient, Value},
        server::RedisServer,
    },
    view::{self, Line},
};

/// How long nodes may take to come to terms.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Group {
    pub(super) servers: Vec<RedisServer>,
    /// The nodes' names, in the order of the servers.
    pub(super) ids: Vec<String>,
    /// Masters that never were; see `birth`.
    pub(super) ghosts: Vec<String>,
    /// Each node's configuration and view after the birth.
    birth: Vec<State>,
}

type State = (Vec<String>, Vec<Line>);

impl Group {
    pub(super) fn new(servers: Vec<RedisServer>, ids: Vec<String>, ghosts: Vec<String>) -> Self {
        Self { servers, ids, ghosts, birth: Vec::new() }
    }

    /// From here on, this is how the Cluster was born.
    pub(super) fn remember(&mut self) {
        let states = self.servers.iter().map(|node| state(&mut node.client()));
        self.birth = states.collect::<io::Result<_>>().expect("a node that was born answers");
    }

    /// Takes everything away that a test may have left, and its connections; false if the Cluster is
    /// not as it was born, or a node does not answer.
    pub(super) fn is_as_born_when_cleaned(&self) -> bool {
        let is_as_born = |(node, birth): (&RedisServer, &State)| -> io::Result<bool> {
            if !node.is_running() {
                return Ok(false);
            }
            let mut client = RespClient::connect(node.port())?;
            client.set_patience(Duration::from_secs(1))?;
            clean(&mut client)?;
            Ok(state(&mut client)? == *birth)
        };
        self.servers.iter().zip(&self.birth).all(|pair| is_as_born(pair).unwrap_or(false))
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.servers.iter().filter(|node| node.is_running())
    }

    pub(super) fn id_of(&self, node: &RedisServer) -> &str {
        let index = self.servers.iter().position(|known| known.port() == node.port());
        &self.ids[index.expect("the node belongs to this Cluster")]
    }

    /// What a node says of all.
    pub(super) fn view(&self, node: &RedisServer) -> Vec<Line> {
        view::parse(&node.command(&["CLUSTER", "NODES"]).text())
    }

    /// What a node says of itself.
    pub(super) fn says(&self, node: &RedisServer) -> Line {
        let mut lines = self.view(node).into_iter();
        lines.find(|line| line.has("myself")).expect("a node knows itself")
    }

    pub(super) fn failover(&self, replica: &RedisServer) {
        let master = self.says(replica).master.expect("only a replica can take over");
        let master = self.running().find(|node| self.id_of(node) == master);
        if let Some(master) = master {
            self.introduce(replica);
            self.wait("the replica has its master's data", |group| {
                let knows = |line: &Line| line.id == group.id_of(replica) && !line.is_master();
                master.feeds(replica) && group.view(master).iter().any(knows)
            });
            replica.command(&["CLUSTER", "FAILOVER"]);
        } else {
            replica.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
        }
        self.wait("the replica is the master", |group| {
            group.says(replica).is_master() && master.is_none_or(|old| replica.feeds(old))
        });
        self.introduce(master.unwrap_or(replica));
        self.wait_until_agreed();
    }

    /// Has a node say at once what it is. By themselves, nodes tell it when it is their time to ping.
    fn introduce(&self, node: &RedisServer) {
        for other in self.running().filter(|other| other.port() != node.port()) {
            node.command(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string()]);
        }
    }

    pub(super) fn wait_until_agreed(&self) {
        self.wait("the nodes agree", |group| {
            let essence = |lines: Vec<Line>| lines.iter().map(Line::essence).collect::<Vec<_>>();
            let views: BTreeSet<_> =
                group.running().map(|node| essence(group.view(node))).collect();
            views.len() == 1
        });
    }

    pub(super) fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}: {:#?}", {
                self.running().map(|node| self.view(node)).collect::<Vec<_>>()
            });
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The users go first: whoever is thrown out cannot come back.
fn clean(client: &mut RespClient) -> io::Result<()> {
    let users = client.try_command(&["ACL", "USERS"])?.texts();
    let users = users.iter().map(String::as_str).filter(|&user| user != "default");
    let delete: Vec<_> = ["ACL", "DELUSER"].into_iter().chain(users).collect();
    if delete.len() > 2 {
        client.try_command(&delete)?;
    }
    // Some of them are errors on replicas or on Redis 6.2, and not needed there.
    client.pipeline(&[
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["CLIENT", "KILL", "TYPE", "pubsub"],
        &["CLIENT", "UNPAUSE"],
        &["FLUSHALL"],
        &["SCRIPT", "FLUSH"],
        &["FUNCTION", "FLUSH"],
        &["ACL", "LOG", "RESET"],
        &["SLOWLOG", "RESET"],
        &["CONFIG", "RESETSTAT"],
    ])?;
    Ok(())
}

fn state(client: &mut RespClient) -> io::Result<State> {
    let config = client.try_command(&["CONFIG", "GET", "*"])?;
    match client.try_command(&["CLUSTER", "NODES"])? {
        Value::Bulk(nodes) => Ok((config.texts(), view::parse(&String::from_utf8_lossy(&nodes)))),
        other => Err(io::Error::other(format!("CLUSTER NODES answers {other:?}"))),
    }
}

//! A real Redis or Valkey Cluster: three masters, with a replica each if a test wants them.
//!
//! Clusters are lent from a pool, as `cluster/pool.rs` has it: a test gets an empty one, and whatever
//! it left there is gone for the next.

use std::{collections::BTreeSet, io, thread, time::Duration};

use super::{
    hex::random_hex,
    resp::{RespClient, Value},
    server::RedisServer,
};

mod birth;
mod group;
mod migration;
mod pool;
mod slot;
mod view;

use birth::Options;
use group::Group;
pub(crate) use migration::Migration;
pub(crate) use slot::slot_of;

/// Masters of a Cluster.
pub(crate) const MASTERS: usize = 3;

/// How often a command follows a redirection.
const HOPS: usize = 100;

/// A Cluster without persistence; it ends with the test process at the latest. A slot that nobody
/// serves does not stop the others (`cluster-require-full-coverage no`).
#[derive(Debug)]
pub(crate) struct RedisCluster {
    /// None only while this is dropped.
    group: Option<Group>,
    /// Whether another test may have it next.
    lent: bool,
    password: String,
}

/// Options of a Cluster that is not lent from the pool.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing runs before start"]
pub(crate) struct Builder {
    options: Options,
}

impl Builder {
    /// A replica for each master.
    pub(crate) fn replicas(mut self) -> Self {
        self.options.replicas = true;
        self
    }

    /// Silence after which a node counts as failed and its replica takes over; 10 s unless told, so
    /// that a busy machine is not taken for a dead node.
    pub(crate) fn node_timeout(self, timeout: Duration) -> Self {
        self.args(&["--cluster-node-timeout", &timeout.as_millis().to_string()])
    }

    /// One slot that nobody serves stops all.
    pub(crate) fn require_full_coverage(self) -> Self {
        self.args(&["--cluster-require-full-coverage", "yes"])
    }

    /// More command-line options of every node; they win over the defaults.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.options.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Starts the Cluster and returns when every node knows of every slot and its owner.
    pub(crate) fn start(self) -> RedisCluster {
        RedisCluster::of(Group::start(&self.options), false)
    }
}

impl RedisCluster {
    /// Three masters that share all slots, empty.
    pub(crate) fn start() -> Self {
        Self::of(pool::lend(&Options::default()), true)
    }

    /// The same with a replica for each master, which follows it already.
    pub(crate) fn with_replicas() -> Self {
        Self::of(pool::lend(&Options { replicas: true, ..Options::default() }), true)
    }

    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    fn of(group: Group, lent: bool) -> Self {
        let cluster = Self { group: Some(group), lent, password: random_hex(16) };
        let password = format!(">{}", cluster.password);
        cluster.command_on_all(&["ACL", "SETUSER", USER, "on", &password, "~*", "&*", "+@all"]);
        cluster
    }

    /// `redis+cluster://user:password@127.0.0.1:p1,127.0.0.1:p2,127.0.0.1:p3`, for a user with every
    /// right whose password nobody has in another test.
    pub(crate) fn url(&self) -> String {
        self.url_as(USER, &self.password)
    }

    /// The password of that user, and a good one for others.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// The same URL for another user, made with [`command_on_all`](Self::command_on_all).
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        let seeds: Vec<_> = self.nodes()[..MASTERS]
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()))
            .collect();
        format!("redis+cluster://{user}:{password}@{}", seeds.join(","))
    }

    /// All nodes: first those that were born as masters, with the first, second and third part of
    /// the slots, then their replicas in the same order. Its default user has no password.
    pub(crate) fn nodes(&self) -> &[RedisServer] {
        &self.group().servers
    }

    /// Those that say now that they are masters.
    pub(crate) fn masters(&self) -> Vec<&RedisServer> {
        self.running().filter(|node| self.group().says(node).is_master()).collect()
    }

    /// One that says now that it is a replica of that master.
    pub(crate) fn replica_of(&self, master: &RedisServer) -> &RedisServer {
        let id = self.group().id_of(master);
        self.running()
            .find(|node| self.group().says(node).master.as_deref() == Some(id))
            .unwrap_or_else(|| panic!("the master at {} has no replica", master.port()))
    }

    /// The master that says now that the key's slot is its own.
    pub(crate) fn owner_of(&self, key: &str) -> &RedisServer {
        self.owner_of_slot(slot_of(key))
    }

    /// The master that says now that the slot is its own.
    pub(crate) fn owner_of_slot(&self, slot: u16) -> &RedisServer {
        self.running()
            .find(|node| self.group().says(node).owns(slot))
            .unwrap_or_else(|| panic!("no running node has the slot {slot}"))
    }

    /// A connection to the master that has the key.
    pub(crate) fn client_for(&self, key: &str) -> RespClient {
        self.owner_of(key).client()
    }

    /// Runs a command where its key is, following MOVED and ASK; panics on another error reply.
    pub(crate) fn command_for<A: AsRef<[u8]>>(&self, key: &str, args: &[A]) -> Value {
        match self.try_command_for(key, args) {
            Ok(Value::Error(message)) => panic!("{key}: {message}"),
            Ok(value) => value,
            Err(error) => panic!("{key}: {error}"),
        }
    }

    /// The same; the reply may be another error reply.
    pub(crate) fn try_command_for<A: AsRef<[u8]>>(
        &self,
        key: &str,
        args: &[A],
    ) -> io::Result<Value> {
        let mut client = self.client_for(key);
        for _ in 0..HOPS {
            let reply = client.try_command(args)?;
            let Value::Error(message) = &reply else { return Ok(reply) };
            let mut words = message.split([' ', ':']);
            let kind = words.next().unwrap_or_default();
            match (kind, words.next_back().and_then(|port| port.parse().ok())) {
                ("MOVED", Some(port)) => client = self.node_at(port).client(),
                ("ASK", Some(port)) => {
                    client = self.node_at(port).client();
                    client.command(&["ASKING"]);
                }
                ("TRYAGAIN", _) => {
                    thread::sleep(Duration::from_millis(1));
                    client = self.client_for(key);
                }
                _ => return Ok(reply),
            }
        }
        Err(io::Error::other(format!("{HOPS} redirections")))
    }

    /// The keys of all masters that match, sorted.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys = BTreeSet::new();
        self.each_master(|client| keys.extend(client.command(&["KEYS", pattern]).texts()));
        keys.into_iter().collect()
    }

    /// Does the same at every master that runs.
    pub(crate) fn each_master(&self, mut act: impl FnMut(&mut RespClient)) {
        self.masters().into_iter().for_each(|node| act(&mut node.client()));
    }

    /// Runs a command at every node that runs, such as `ACL SETUSER` or `CONFIG SET`, which nodes do
    /// not tell one another; panics on an error reply.
    pub(crate) fn command_on_all(&self, args: &[&str]) {
        self.running().for_each(|node| drop(node.command(args)));
    }

    /// Begins to move a slot to that master: the owner asks for what it does not have there.
    pub(crate) fn migrate_slot(&self, slot: u16, to: &RedisServer) -> Migration<'_> {
        Migration::begin(self.group(), slot, self.owner_of_slot(slot), self.node_at(to.port()))
    }

    /// Makes that replica the master, in agreement with its master if that one runs, and returns
    /// when all nodes know it.
    pub(crate) fn failover(&self, replica: &RedisServer) {
        self.group().failover(replica);
    }

    /// Returns when all running nodes say the same of who is master and who has which slots.
    pub(crate) fn wait_until_agreed(&self) {
        self.group().wait_until_agreed();
    }

    fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.group().running()
    }

    fn node_at(&self, port: u16) -> &RedisServer {
        self.nodes()
            .iter()
            .find(|node| node.port() == port)
            .unwrap_or_else(|| panic!("no node of this Cluster is at port {port}"))
    }

    fn group(&self) -> &Group {
        self.group.as_ref().expect("the Cluster is there until it is dropped")
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        let group = self.group.take();
        if let Some(group) = group.filter(|_| self.lent && !thread::panicking()) {
            pool::give_back(group);
        }
    }
}

/// The user in [`RedisCluster::url`].
const USER: &str = "test";

//! A real Redis or Valkey master with a replica, and three sentinels that watch them.

use std::{
    io,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use super::{
    hex::random_hex,
    ports::free_port,
    resp::{RespClient, Value},
    server::{RedisServer, start_all},
};

/// The name under which the sentinels know the master.
pub(crate) const MASTER: &str = "mymaster";

/// How long the sentinels may take to come to terms. A failover that began badly is begun again
/// after two times the failover timeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// A master, its replica and three sentinels, without persistence; all end with this value, and with
/// the test process.
#[derive(Debug)]
pub(crate) struct Sentinels {
    /// The one that was born as the master, and the other.
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    password: String,
    /// The port of the master that was known last.
    known: Mutex<u16>,
}

impl Sentinels {
    /// Starts all five and returns when every sentinel knows all others and a replica that could
    /// take over.
    pub(crate) fn start() -> Self {
        let group = (0..20).find_map(|_| Self::launch());
        let group = group.expect("not 20 times in a row a port is taken by others");
        group.wait("the sentinels know all", || group.is_ready());
        group
    }

    /// The processes, unless somebody else took a port. The sentinels come when all is well, as they
    /// would act on what is not.
    fn launch() -> Option<Self> {
        let ports: Vec<_> = (0..5).map(|_| free_port()).collect();
        let ids: Vec<_> = (0..3).map(|_| random_hex(40)).collect();

        let mut servers = start_all(vec![(RedisServer::builder(), ports[0])])?;
        let replica =
            RedisServer::builder().args(&["--replicaof", "127.0.0.1", &ports[0].to_string()]);
        servers.extend(start_all(vec![(replica, ports[1])])?);
        wait_until("the replica has its master's data", || servers[0].feeds(&servers[1]));

        let sentinel = |index| {
            let known = configuration(index, &ports[..2], &ports[2..], &ids);
            RedisServer::builder().args(&["--sentinel"]).config(known)
        };
        let sentinels = (0..3).map(|index| (sentinel(index), ports[2 + index])).collect();
        let sentinels = start_all(sentinels)?;
        sentinels.iter().for_each(hurry);

        let known = Mutex::new(ports[0]);
        let group = Self { servers, sentinels, password: random_hex(16), known };
        let password = format!(">{}", group.password);
        group.command_on_all(&["ACL", "SETUSER", USER, "on", &password, "~*", "&*", "+@all"]);
        Some(group)
    }

    /// `redis+sentinel://user:password@127.0.0.1:s1,127.0.0.1:s2,127.0.0.1:s3/mymaster`, for a user
    /// with every right on the servers and the sentinels.
    pub(crate) fn url(&self) -> String {
        self.url_as(USER, &self.password)
    }

    /// The same for another user, made with [`command_on_all`](Self::command_on_all).
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        let sentinels: Vec<_> = self
            .sentinels
            .iter()
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port()))
            .collect();
        format!("redis+sentinel://{user}:{password}@{}/{MASTER}", sentinels.join(","))
    }

    /// The master and the replica, as they were born. Their default user has no password.
    pub(crate) fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The sentinels. Their default user has no password.
    pub(crate) fn sentinels(&self) -> &[RedisServer] {
        &self.sentinels
    }

    /// The server that most sentinels say is the master.
    pub(crate) fn master(&self) -> &RedisServer {
        let mut found = None;
        self.wait("most sentinels agree about the master", || {
            let said: Vec<_> =
                self.sentinels.iter().filter_map(|sentinel| master_port(sentinel).ok()).collect();
            found = self.servers.iter().find(|server| {
                2 * said.iter().filter(|&&port| port == server.port()).count()
                    > self.sentinels.len()
            });
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// The other server, whatever it says of itself.
    pub(crate) fn replica(&self) -> &RedisServer {
        let master = self.master().port();
        self.servers.iter().find(|server| server.port() != master).expect("there are two")
    }

    /// Asks a sentinel to make the replica the master, and returns when that is done. The old one
    /// goes on as a master, until the sentinels make it a replica after some seconds.
    pub(crate) fn failover(&self) -> &RedisServer {
        let replica = self.replica();
        self.wait("the replica has its master's data", || self.master().feeds(replica));
        // The sentinel may not know that yet, or be busy with the last failover.
        let sentinel = &self.sentinels[0];
        self.wait("a sentinel begins a failover", || {
            let reply = sentinel.client().try_command(&["SENTINEL", "FAILOVER", MASTER]);
            matches!(reply, Ok(Value::Status(_)))
        });
        self.wait_until_promoted()
    }

    /// Returns the new master, when all sentinels that run answer with another one than at the last
    /// call (or the start) and it says itself that it is the master.
    pub(crate) fn wait_until_promoted(&self) -> &RedisServer {
        let mut known = self.known.lock().expect("no panic while the master changes");
        let new = self.servers.iter().find(|server| server.port() != *known);
        let new = new.expect("there are two");
        self.wait("the replica is promoted", || {
            let mut running = self.sentinels.iter().filter(|sentinel| sentinel.is_running());
            running.all(|sentinel| master_port(sentinel).is_ok_and(|port| port == new.port()))
                && role(new).is_ok_and(|role| role == "master")
        });
        *known = new.port();
        new
    }

    /// Runs a command on the servers and the sentinels, such as `ACL SETUSER`, which they do not tell
    /// one another; panics on an error reply.
    pub(crate) fn command_on_all(&self, args: &[&str]) {
        for server in self.servers.iter().chain(&self.sentinels) {
            if server.is_running() {
                server.command(args);
            }
        }
    }

    fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        wait_or(what, &mut done, || self.sentinels.iter().map(RedisServer::log).collect());
    }

    fn is_ready(&self) -> bool {
        self.sentinels.iter().all(|sentinel| {
            let mut client = sentinel.client();
            let master = client.command(&["SENTINEL", "MASTER", MASTER]).map();
            let replicas = client.command(&["SENTINEL", "REPLICAS", MASTER]);
            let Value::Array(replicas) = replicas else { return false };
            master["flags"] == "master"
                && master["num-other-sentinels"] == "2"
                && replicas.len() == 1
                && replicas.iter().map(Value::map).all(|replica| {
                    replica["flags"] == "slave" && replica["master-link-status"] == "ok"
                })
                && matches!(
                    client.try_command(&["SENTINEL", "CKQUORUM", MASTER]),
                    Ok(Value::Status(_))
                )
        })
    }
}

/// The user in [`Sentinels::url`].
const USER: &str = "test";

/// Sentinels that are told of one another need not find each other by the master's pub/sub, which
/// takes seconds.
fn configuration(me: usize, servers: &[u16], sentinels: &[u16], ids: &[String]) -> String {
    let mut lines = vec![
        format!("sentinel myid {}", ids[me]),
        format!("sentinel monitor {MASTER} 127.0.0.1 {} 2", servers[0]),
        format!("sentinel down-after-milliseconds {MASTER} 500"),
        format!("sentinel failover-timeout {MASTER} 3000"),
        format!("sentinel known-replica {MASTER} 127.0.0.1 {}", servers[1]),
    ];
    for (index, (port, id)) in sentinels.iter().zip(ids).enumerate() {
        if index != me {
            lines.push(format!("sentinel known-sentinel {MASTER} 127.0.0.1 {port} {id}"));
        }
    }
    lines.join("\n") + "\n"
}

/// From Redis 7 on, the intervals that are fixed in 6.2 can be shortened. A busy machine is then no
/// reason to stand still for 30 s ("tilt") either.
fn hurry(sentinel: &RedisServer) {
    let settings = [
        // A replica whose state is older than three of them is not promoted.
        "info-period",
        "500",
        // Four of them is how long a master is let be that should be a replica. As a failover goes on
        // once a second, it must be longer than that.
        "publish-period",
        "1000",
        "ask-period",
        "100",
        "tilt-trigger",
        "60000",
        "tilt-period",
        "500",
    ];
    let command: Vec<_> = ["SENTINEL", "DEBUG"].into_iter().chain(settings).collect();
    let _ = sentinel.client().try_command(&command);
}

fn connect(server: &RedisServer) -> io::Result<RespClient> {
    let mut client = RespClient::connect(server.port())?;
    client.set_patience(Duration::from_secs(1))?;
    Ok(client)
}

fn master_port(sentinel: &RedisServer) -> io::Result<u16> {
    let reply = connect(sentinel)?.try_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER])?;
    let parsed = match reply {
        Value::Array(_) => reply.texts().get(1).and_then(|port| port.parse().ok()),
        _ => None,
    };
    parsed.ok_or(io::ErrorKind::InvalidData.into())
}

fn role(server: &RedisServer) -> io::Result<String> {
    match connect(server)?.try_command(&["ROLE"])? {
        Value::Array(values) if !values.is_empty() => Ok(values[0].text()),
        other => Err(io::Error::other(format!("ROLE answers {other:?}"))),
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    wait_or(what, &mut done, Vec::new);
}

fn wait_or(what: &str, done: &mut dyn FnMut() -> bool, logs: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        let late = Instant::now() > deadline;
        assert!(!late, "{what}: not within {PATIENCE:?}: {}", logs().join("\n\n"));
        thread::sleep(Duration::from_millis(5));
    }
}

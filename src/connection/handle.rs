//! The handle that stores and applications hold.

use crate::{
    connection::{
        backoff::Backoff,
        batch::Batch,
        borrowed::Borrowed,
        cluster::slot_of_key,
        config::Config,
        deadline::end_of,
        error,
        health::Health,
        node::Node,
        pool::Pools,
        pubsub,
        request::Request,
        script::{Call, with_text},
        servers::Servers,
        url,
    },
    pubsub::Hints,
    store::StoreError,
};
use redis::{Cmd, FromRedisValue, Value};
use std::{
    fmt,
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, time::sleep};

/// A connection to Redis or Valkey that heals itself. A cheap clone; dropping the last one closes
/// it.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Servers,
    config: Arc<Config>,
    hints: OnceLock<Hints>,
    /// Where the connection was made, and the task of the hints runs.
    runtime: Option<Handle>,
}

impl Connection {
    /// Connects, and sees the server answer; in a cluster, one of its servers.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_config`] if the URL, the login or the database is wrong, and
    /// [`StoreError::is_unavailable`] if the server cannot be reached, both within the connect
    /// timeout. The message names the cause and the fix, and no password. A
    /// [lazy](Config::lazy) one only looks at the URL and the settings.
    pub async fn connect(config: Config) -> Result<Self, StoreError> {
        config.validate()?;
        let target = url::parse(&config.url)?;
        let config = Arc::new(config);
        Ok(Self::over(Servers::connect(target, config.clone()).await?, config))
    }

    /// Sends everything through a pool of the application's own, which leads to one server or, by
    /// its own means, to the right one.
    ///
    /// A call takes a connection out of the pool, which costs it one more round trip, and the pool's
    /// settings decide how a loss is noticed and mended. [Hints](Connection::hints) from other
    /// processes do not arrive: waiters look by themselves.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_config`] if a setting cannot work. Those that concern a link of our own, such
    /// as the URL, have no effect.
    pub fn through(pool: deadpool_redis::Pool, config: Config) -> Result<Self, StoreError> {
        config.validate()?;
        Ok(Self::over(Servers::Borrowed(Borrowed::new(pool)), Arc::new(config)))
    }

    pub(super) fn over(servers: Servers, config: Arc<Config>) -> Self {
        let runtime = Handle::try_current().ok();
        Self { inner: Arc::new(Inner { servers, config, hints: OnceLock::new(), runtime }) }
    }

    /// How long a call waits for its answer if it does not say otherwise.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.inner.config.deadline
    }

    /// The settings it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// How the link is doing; in a cluster, those to all servers. Costs no round trip.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.servers.health()
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    ///
    /// As [`cmd`](Connection::cmd).
    pub async fn ping(&self, deadline: Duration) -> Result<(), StoreError> {
        self.cmd(redis::cmd("PING"), deadline).await.map(drop)
    }

    /// Runs a command under the [default deadline](Connection::deadline), and converts its answer.
    ///
    /// Not for commands that block, watch, subscribe or change the connection itself: everybody
    /// shares the link. Those have [`pool`](Connection::pool) and
    /// [`blocking_pool`](Connection::blocking_pool).
    ///
    /// # Errors
    ///
    /// As [`cmd`](Connection::cmd), and [`StoreError::is_corrupt`] if the answer is not a `T`.
    pub async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let name = error::command_name(cmd);
        let reply = self.exchange(cmd, self.deadline()).await?;
        error::parse(error::settle(reply, &name)?, &name)
    }

    /// Runs a command.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_unavailable`] if there is no link: it was not sent.
    /// [`StoreError::is_timeout`] if there is no answer: it may or may not have been done.
    /// [`StoreError::is_refused`] if the server answered with an error.
    pub fn cmd(
        &self,
        cmd: Cmd,
        deadline: Duration,
    ) -> impl Future<Output = Result<Value, StoreError>> + Send + use<> {
        let this = self.clone();
        async move {
            let reply = this.exchange(&cmd, deadline).await?;
            reply.extract_error().map_err(|error| error::refused(&Request::name(&cmd), error))
        }
    }

    /// Calls a script; one more trip if the server does not know it yet.
    ///
    /// # Errors
    ///
    /// As [`cmd`](Connection::cmd).
    pub fn script(
        &self,
        call: Call,
        deadline: Duration,
    ) -> impl Future<Output = Result<Value, StoreError>> + Send + use<> {
        let this = self.clone();
        async move {
            let started = Instant::now();
            let mut reply = this.exchange(&call, deadline).await?;
            if error::is_no_script(&reply) {
                let left = deadline.saturating_sub(started.elapsed());
                let call = Call { cmd: with_text(call.script, &call.cmd), ..call };
                reply = this.exchange(&call, left).await?;
            }
            error::settle_script(reply, call.script)
        }
    }

    /// Begins a batch: several calls in one round trip.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Runs a read that tolerates lag, and converts its answer: on a replica if
    /// [`read_replicas`](Config::read_replicas) is on and the link to one is up, else where
    /// [`query`](Connection::query) runs it. A replica that does not answer within half the deadline
    /// leaves the rest to the primary. The link to one is made at the first call, in the background.
    ///
    /// A replica may be behind by any time, and after a failover hold what its primary never
    /// confirmed: not for sessions, limits, idempotency keys or locks.
    ///
    /// # Errors
    ///
    /// As [`query`](Connection::query).
    pub async fn query_replica<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let name = error::command_name(cmd);
        let started = Instant::now();
        if self.inner.config.read_replicas
            && let Ok(Some(primary)) = self.inner.servers.owner(cmd.slot())
            && let Ok(link) = primary.replica().link(Duration::ZERO, Duration::ZERO).await
        {
            // The other half is the primary's.
            let reply = link.call(cmd, false, self.deadline() / 2).await;
            match reply.and_then(|reply| error::settle(reply, &name)) {
                Ok(reply) => return error::parse(reply, &name),
                // A replica may have become a primary, and have done what is no read.
                Err(error) if error.is_timeout() && !cmd.is_read() => return Err(error),
                // A replica that does not know the keys, or is gone: the primary answers.
                Err(_) => {}
            }
        }
        let left = self.deadline().saturating_sub(started.elapsed());
        let reply = self.exchange(cmd, left).await?;
        error::parse(error::settle(reply, &name)?, &name)
    }

    /// A connection to each server that holds keys, for what concerns one server: `SCAN`, `INFO`,
    /// [pools](Connection::pool). There is one unless it is a cluster; this one itself, if it leads
    /// through an application's pool.
    #[must_use]
    pub fn servers(&self) -> Vec<Self> {
        match self.inner.servers.nodes() {
            nodes if nodes.is_empty() && !self.inner.servers.is_cluster() => vec![self.clone()],
            nodes => nodes.into_iter().map(|node| self.to(node)).collect(),
        }
    }

    /// A connection to the server that holds `key`, now: in a cluster slots move.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_unavailable`] if it is not known which one does.
    pub fn server_of(&self, key: impl AsRef<[u8]>) -> Result<Self, StoreError> {
        let owner = self.inner.servers.owner(Some(slot_of_key(key.as_ref())))?;
        Ok(owner.map_or_else(|| self.clone(), |node| self.to(node)))
    }

    fn to(&self, node: Arc<Node>) -> Self {
        Self::over(Servers::One(node), self.inner.config.clone())
    }

    /// The positions of `slots`, grouped by the server that holds them: one group, unless it is a
    /// cluster. What any server can answer goes with the first.
    pub(super) fn by_server(&self, slots: impl Iterator<Item = Option<u16>>) -> Vec<Vec<usize>> {
        if !self.is_cluster() {
            return Vec::new();
        }
        let mut groups: Vec<(Option<Arc<Node>>, Vec<usize>)> = Vec::new();
        let mut anywhere = Vec::new();
        for (position, slot) in slots.enumerate() {
            let Some(slot) = slot else {
                anywhere.push(position);
                continue;
            };
            let owner = self.inner.servers.owner(Some(slot)).unwrap_or_default();
            let known = groups.iter_mut().find(|(node, _)| match (node, &owner) {
                (Some(node), Some(owner)) => Arc::ptr_eq(node, owner),
                (node, owner) => node.is_none() && owner.is_none(),
            });
            match known {
                Some((_, positions)) => positions.push(position),
                None => groups.push((owner, vec![position])),
            }
        }
        match groups.first_mut() {
            Some((_, positions)) => {
                positions.extend(anywhere);
                positions.sort_unstable();
            }
            None => groups.push((None, anywhere)),
        }
        groups.into_iter().map(|(_, positions)| positions).collect()
    }

    /// Whether it leads to several servers, of which each holds a part of the keys.
    pub(crate) fn is_cluster(&self) -> bool {
        self.inner.servers.is_cluster()
    }

    /// Connections for transactions with `WATCH` and for `SCAN`: one of them is yours alone while
    /// you hold it. At most `pool_size`; a command waits for its answer at most `pool_deadline`.
    ///
    /// Getting one costs a round trip, so keep it out of the path of every request. Use it under a
    /// timeout of your own: `tokio::time::timeout(limit, work)`. Ask for the pool each time: after a
    /// failover it is another.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_config`] in a cluster, where [each server](Connection::server_of) has its
    /// own, or if TLS is not set up for it; [`StoreError::is_unavailable`] if Sentinel has not named a
    /// server yet.
    pub fn pool(&self) -> Result<deadpool_redis::Pool, StoreError> {
        self.inner.servers.pool(Pools::bounded)
    }

    /// Connections for commands that block, such as `BLPOP` and `XREADGROUP … BLOCK`. At most
    /// `blocking_pool_size`; **there is no limit on the wait for an answer**.
    ///
    /// Always use it under a timeout of your own, a little longer than the one that the command
    /// names, and after a timeout drop the connection with
    /// [`Connection::take`](deadpool_redis::Connection::take): its answer is still on the way. An
    /// application's own pool is given as it is, with the limit that it has.
    ///
    /// # Errors
    ///
    /// As [`pool`](Connection::pool).
    pub fn blocking_pool(&self) -> Result<deadpool_redis::Pool, StoreError> {
        self.inner.servers.pool(Pools::blocking)
    }

    /// Hints between processes through pub/sub. The connection for it is made at the first
    /// subscription; there is one for all clones. Through an application's own pool, hints stay
    /// within this process.
    #[must_use]
    pub fn hints(&self) -> Hints {
        let Inner { servers, config, hints, runtime } = &*self.inner;
        hints
            .get_or_init(|| match (servers.feed(), runtime) {
                (Some(topology), Some(runtime)) => {
                    pubsub::hints(topology, config.clone(), self.downgrade(), runtime.clone())
                }
                _ => Hints::memory(),
            })
            .clone()
    }

    /// Sends to the server that holds the keys, and again where that is safe and there is time.
    ///
    /// Only the first attempt's failure to find a link counts: later ones say nothing about what
    /// became of the call.
    pub(super) async fn exchange<R: Request>(
        &self,
        request: &R,
        deadline: Duration,
    ) -> Result<R::Reply, StoreError> {
        let Inner { servers, config, .. } = &*self.inner;
        let end = end_of(deadline);
        let wait = config.down_wait.min(deadline);
        let mut outcome = servers.call(request, wait, end).await;
        let mut backoff = None;
        for _ in 0..config.retries {
            let again = match &outcome {
                Ok(reply) => request.may_go_again(reply),
                // After its whole deadline there is no time left, so the link broke.
                Err(error) => error.is_timeout() && request.is_read(),
            };
            if !again {
                break;
            }
            let backoff =
                backoff.get_or_insert_with(|| Backoff::new(config.backoff_min, config.backoff_max));
            let pause = backoff.pause();
            if pause >= end.saturating_duration_since(Instant::now()) {
                break;
            }
            sleep(pause).await;
            match servers.call(request, Duration::ZERO, end).await {
                Err(error) if error.is_unavailable() => {}
                told => outcome = told,
            }
        }
        outcome
    }

    fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.inner))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("health", &self.health()).finish_non_exhaustive()
    }
}

/// A handle that does not keep the connection open: what the connection itself owns holds this one.
pub(super) struct WeakConnection(std::sync::Weak<Inner>);

impl WeakConnection {
    pub(super) fn upgrade(&self) -> Option<Connection> {
        self.0.upgrade().map(|inner| Connection { inner })
    }
}

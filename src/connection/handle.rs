//! The handle that stores and applications hold.

use crate::{
    connection::{
        backoff::Backoff,
        batch::Batch,
        config::Config,
        dial::Dialer,
        error,
        health::Health,
        pool::Pools,
        pubsub,
        request::Request,
        script::{Call, with_text},
        supervisor::{Shared, supervise},
        topology::{Standalone, Topology},
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
use tokio_util::task::AbortOnDropHandle;

/// A connection to Redis or Valkey that heals itself. A cheap clone; dropping the last one closes
/// it.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    dialer: Dialer,
    pools: Pools,
    hints: OnceLock<Hints>,
    runtime: Handle,
    _supervisor: AbortOnDropHandle<()>,
}

impl Connection {
    /// Connects, and sees the server answer.
    ///
    /// # Errors
    ///
    /// [`StoreError::is_config`] if the URL, the login or the database is wrong, and
    /// [`StoreError::is_unavailable`] if the server cannot be reached, both within the connect
    /// timeout. The message names the cause and the fix, and no password.
    pub async fn connect(config: Config) -> Result<Self, StoreError> {
        config.validate()?;
        let topology = Arc::new(Standalone::new(url::parse(&config.url)?, &config)?);
        Self::over(topology, config).await
    }

    pub(super) async fn over(
        topology: Arc<dyn Topology>,
        config: Config,
    ) -> Result<Self, StoreError> {
        let dialer = Dialer { topology, config: Arc::new(config) };
        let pools = Pools::new(&*dialer.topology, &dialer.config)?;
        let link = Arc::new(dialer.dial().await?);
        let shared = Arc::new(Shared::new(link.clone(), dialer.topology.address()));
        let supervisor = tokio::spawn(supervise(shared.clone(), dialer.clone(), link));
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                dialer,
                pools,
                hints: OnceLock::new(),
                runtime: Handle::current(),
                _supervisor: AbortOnDropHandle::new(supervisor),
            }),
        })
    }

    /// How long a call waits for its answer if it does not say otherwise.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.inner.dialer.config.deadline
    }

    /// The settings it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.dialer.config
    }

    /// How the link is doing. Costs no round trip.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.shared.health()
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

    /// Connections for transactions with `WATCH` and for `SCAN`: one of them is yours alone while
    /// you hold it. At most `pool_size`; a command waits for its answer at most `pool_deadline`.
    ///
    /// Getting one costs a round trip, so keep it out of the path of every request. Use it under a
    /// timeout of your own: `tokio::time::timeout(limit, work)`.
    #[must_use]
    pub fn pool(&self) -> deadpool_redis::Pool {
        self.inner.pools.bounded()
    }

    /// Connections for commands that block, such as `BLPOP` and `XREADGROUP … BLOCK`. At most
    /// `blocking_pool_size`; **there is no limit on the wait for an answer**.
    ///
    /// Always use it under a timeout of your own, a little longer than the one that the command
    /// names, and after a timeout drop the connection with
    /// [`Connection::take`](deadpool_redis::Connection::take): its answer is still on the way.
    #[must_use]
    pub fn blocking_pool(&self) -> deadpool_redis::Pool {
        self.inner.pools.blocking()
    }

    /// Hints between processes through this server's pub/sub. The connection for it is made at the
    /// first subscription; there is one for all clones.
    #[must_use]
    pub fn hints(&self) -> Hints {
        self.inner
            .hints
            .get_or_init(|| {
                let Inner { dialer, runtime, .. } = &*self.inner;
                pubsub::hints(dialer.clone(), self.downgrade(), runtime.clone())
            })
            .clone()
    }

    /// Sends through the current link, and again where that is safe and there is time.
    ///
    /// Only the first attempt's failure to find a link counts: later ones say nothing about what
    /// became of the call.
    pub(super) async fn exchange<R: Request>(
        &self,
        request: &R,
        deadline: Duration,
    ) -> Result<R::Reply, StoreError> {
        let started = Instant::now();
        let left = || deadline.saturating_sub(started.elapsed());
        let Inner { shared, dialer, .. } = &*self.inner;
        let config = &dialer.config;
        let link = match config.down_wait.is_zero() {
            true => shared.link()?,
            false => shared.link_within(config.down_wait.min(deadline)).await?,
        };
        let mut outcome = link.call(request, left()).await;
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
            if pause >= left() {
                break;
            }
            sleep(pause).await;
            if let Ok(link) = shared.link() {
                outcome = link.call(request, left()).await;
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

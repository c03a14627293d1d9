//! Watches the link and replaces it, forever.
//!
//! A link is replaced when its driver ended (the server closed it, or spoke nonsense), when its
//! server takes no writes any more, or when it is half-open: a call went out, nothing came back, and
//! the supervisor's own PING is not answered either. None of this needs a caller that stays to see
//! its timeout: an outer, shorter timeout drops callers before they could tell anybody.

use crate::{
    connection::{
        backoff::Backoff,
        config::Config,
        dial::Dialer,
        health::{Health, State},
        link::Link,
        topology::Topology,
        url::Address,
    },
    store::StoreError,
    telemetry,
};
use arc_swap::ArcSwapOption;
use std::{
    future::{self, Future},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// A link that lived this long was a good one: its loss starts the back-off afresh.
pub(super) const STEADY: Duration = Duration::from_secs(5);

/// What callers and the supervisor share.
pub(super) struct Shared {
    link: ArcSwapOption<Link>,
    health: watch::Sender<Health>,
}

impl Shared {
    /// With the first link, or before it.
    pub(super) fn new(link: Option<Arc<Link>>, address: Arc<str>) -> Self {
        let health = match &link {
            Some(_) => Health::up(address),
            None => Health::connecting(address),
        };
        Self { link: ArcSwapOption::new(link), health: watch::Sender::new(health) }
    }

    pub(super) fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The link to use, or why there is none.
    pub(super) fn link(&self) -> Result<Arc<Link>, StoreError> {
        match self.link.load_full() {
            Some(link) if !link.has_ended() && !link.breaker_is_open() => Ok(link),
            _ => Err(self.unavailable()),
        }
    }

    /// The same, but waits for one: at most `limit`, and while the very first is being made, at most
    /// `first`. Both begin now.
    pub(super) async fn link_within(
        &self,
        limit: Duration,
        first: Duration,
    ) -> Result<Arc<Link>, StoreError> {
        let link = self.link();
        if link.is_ok() {
            return link;
        }
        let mut health = self.health.subscribe();
        let mut until = async |give_up: fn(&Health) -> bool| loop {
            match self.link() {
                Err(_) if !give_up(&health.borrow_and_update()) => {}
                link => return link,
            }
            if health.changed().await.is_err() {
                future::pending::<()>().await;
            }
        };
        let started = Instant::now();
        let _ = timeout(first, until(|health| !health.is_connecting())).await;
        let _ = timeout(limit.saturating_sub(started.elapsed()), until(|_| false)).await;
        self.link()
    }

    fn unavailable(&self) -> StoreError {
        let health = self.health.borrow();
        let reason = match health.state {
            // The supervisor is about to find out.
            State::Up => "the server closed the link",
            _ => health.last_error.as_deref().unwrap_or("the cause is not known"),
        };
        StoreError::unavailable(match health.state {
            State::Open => format!(
                "Redis at {} does not answer in time: calls fail at once until it answers a PING \
                 ({reason})",
                health.address
            ),
            _ => format!("no link to Redis at {}: {reason}", health.address),
        })
    }

    fn up(&self, link: Arc<Link>, new: bool, topology: &dyn Topology) {
        self.link.store(Some(link));
        self.health.send_modify(|health| health.address = topology.address());
        self.change(State::Up, None, new);
    }

    fn down(&self, reason: String) {
        // First, so that callers fail at once from here on.
        self.link.store(None);
        self.change(State::Down, Some(reason), false);
    }

    fn change(&self, state: State, reason: Option<String>, new_link: bool) {
        self.health.send_modify(|health| {
            if let Some(reason) = reason {
                health.last_error = Some(reason.into());
            }
            health.links += u64::from(new_link);
            if health.state != state {
                health.state = state;
                health.since = SystemTime::now();
                match state {
                    State::Up => telemetry::notice(format_args!("{health}")),
                    _ => telemetry::warn(format_args!("{health}")),
                }
            }
        });
    }
}

/// Runs until the last connection that uses `shared` is dropped, which aborts it.
pub(super) fn supervise(
    shared: Arc<Shared>,
    dialer: Dialer,
    first: Option<Arc<Link>>,
) -> impl Future<Output = ()> + Send + 'static {
    // Made here, so that it is dropped also when the runtime ends before the first poll.
    let orphans = Orphans(shared.clone());
    async move {
        let _orphans = orphans;
        keep_up(&shared, &dialer, first).await
    }
}

async fn keep_up(shared: &Shared, dialer: &Dialer, first: Option<Arc<Link>>) {
    let Dialer { topology, config } = dialer;
    let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
    let mut link = match first {
        Some(link) => link,
        None => {
            let link = Arc::new(redial(shared, dialer, &mut backoff).await);
            shared.up(link.clone(), true, &**topology);
            link
        }
    };
    loop {
        let born = Instant::now();
        let end = tokio::select! {
            end = watch_over(shared, &link, config) => end,
            () = topology.moved() => End::moved(&topology.address()),
        };
        let suspect = end.may_return.then_some(link);
        let place = place_of(&**topology);
        shared.down(end.reason);
        let steady = born.elapsed() >= STEADY;
        if steady {
            backoff.reset();
        }
        let redial = async {
            // A server that takes connections only to drop them must not be dialled in a loop.
            if !steady {
                sleep(backoff.pause()).await;
            }
            redial(shared, dialer, &mut backoff).await
        };
        link = tokio::select! {
            biased;
            old = returned(suspect, || place_of(&**topology) == place) => {
                old.close_breaker();
                shared.up(old.clone(), false, &**topology);
                old
            }
            new = redial => {
                let new = Arc::new(new);
                shared.up(new.clone(), true, &**topology);
                new
            }
        };
    }
}

async fn redial(shared: &Shared, dialer: &Dialer, backoff: &mut Backoff) -> Link {
    loop {
        match dialer.dial().await {
            Ok(link) => return link,
            Err(error) => shared.down(error.to_string()),
        }
        sleep(backoff.pause()).await;
    }
}

/// Waits for the old link to answer after all: a server that was only paused keeps its connections.
/// One that has been replaced meanwhile comes too late.
async fn returned(suspect: Option<Arc<Link>>, is_current: impl Fn() -> bool) -> Arc<Link> {
    match suspect {
        Some(link) if link.ping().await && is_current() => link,
        _ => future::pending().await,
    }
}

fn place_of(topology: &dyn Topology) -> Option<Address> {
    topology.server().ok().map(|server| server.place().clone())
}

/// Why a link was given up.
struct End {
    reason: String,
    /// It may answer yet, and is then as good as a new one.
    may_return: bool,
}

impl End {
    fn closed() -> Self {
        Self { reason: "the server closed the link".into(), may_return: false }
    }

    fn moved(address: &str) -> Self {
        Self { reason: format!("{address} is no longer the server to use"), may_return: false }
    }

    fn silent(limit: Duration) -> Self {
        Self {
            reason: format!("the server did not answer a PING within {limit:?}"),
            may_return: true,
        }
    }
}

async fn watch_over(shared: &Shared, link: &Link, config: &Config) -> End {
    let mut pauses = Backoff::new(config.backoff_min, config.backoff_max);
    let mut closed_at = Instant::now();
    loop {
        tokio::select! {
            () = link.ended() => return End::closed(),
            () = link.attention() => {}
            () = sleep(config.ping_interval) => {}
        }
        if link.is_read_only() {
            return End {
                reason: "the server takes no writes: it is a replica now".into(),
                may_return: false,
            };
        }
        if link.breaker_is_open() {
            let reason = format!("{} calls in a row had no answer", config.breaker_threshold);
            shared.change(State::Open, Some(reason), false);
            if closed_at.elapsed() >= STEADY {
                pauses.reset();
            }
            tokio::select! {
                () = link.ended() => return End::closed(),
                () = sleep(pauses.pause()) => {}
            }
        } else if !link.take_waiting() {
            continue;
        }
        link.take_heard();
        match timeout(config.ping_timeout, link.ping()).await {
            Ok(true) => {}
            Ok(false) => return End::closed(),
            // Late, behind what others were answered meanwhile: this process or the server has too much
            // to do, and a new link would make it more.
            Err(_) if link.take_heard() => continue,
            Err(_) => return End::silent(config.ping_timeout),
        }
        if link.breaker_is_open() {
            link.close_breaker();
            closed_at = Instant::now();
            shared.change(State::Up, None, false);
        }
    }
}

/// Dropped with the supervisor. If connections are still there, their runtime has ended.
struct Orphans(Arc<Shared>);

impl Drop for Orphans {
    fn drop(&mut self) {
        self.0.link.store(None);
        self.0.health.send_modify(|health| {
            health.state = State::Down;
            health.since = SystemTime::now();
            health.last_error = Some(
                "the tokio runtime that made this connection has ended; make one per runtime"
                    .into(),
            );
        });
    }
}

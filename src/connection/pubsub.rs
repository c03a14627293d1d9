//! Hints through Redis pub/sub: one connection of its own, made at the first subscription.
//!
//! RESP2, which every server speaks. A message carries only what the channels here asked for, and
//! the set of channels follows the subscribers: a channel that has lost its last one is unsubscribed.

use crate::{
    connection::{
        backoff::Backoff, config::Config, dial::isolated, error, handle::WeakConnection,
        supervisor::STEADY, topology::Topology, url::Address,
    },
    pubsub::{Channels, Hint, Hints, Relay},
    store::{StoreError, StoreFuture},
    telemetry,
};
use bytes::Bytes;
use futures_core::Stream;
use redis::{
    Msg, RedisResult,
    aio::{PubSub, PubSubSink, PubSubStream},
};
use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Silence after which the server is asked for a sign of life: a half-open connection would stay
/// silent for ever.
const PING_AFTER: Duration = Duration::from_secs(5);
/// Channels in one SUBSCRIBE.
const CHUNK: usize = 512;

/// Hints through the server that `topology` leads to.
pub(super) fn hints(
    topology: Arc<dyn Topology>,
    config: Arc<Config>,
    publisher: WeakConnection,
    runtime: Handle,
) -> Hints {
    Hints::relayed(|channels| {
        Arc::new(RedisRelay {
            feed: Arc::new(Feed {
                topology,
                config,
                channels,
                changed: Mutex::default(),
                wake: Notify::new(),
            }),
            task: OnceLock::new(),
            runtime,
            publisher,
        })
    })
}

struct RedisRelay {
    feed: Arc<Feed>,
    task: OnceLock<AbortOnDropHandle<()>>,
    runtime: Handle,
    publisher: WeakConnection,
}

impl Relay for RedisRelay {
    fn changed(&self, channel: &Arc<str>) {
        self.feed.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.clone());
        self.feed.wake.notify_one();
        self.task
            .get_or_init(|| AbortOnDropHandle::new(self.runtime.spawn(self.feed.clone().run())));
    }

    fn publish(&self, channel: &str, payload: Bytes) -> StoreFuture<()> {
        let Some(connection) = self.publisher.upgrade() else {
            return StoreFuture::ready(Err(StoreError::unavailable("the connection was dropped")));
        };
        let mut cmd = redis::cmd("PUBLISH");
        cmd.arg(channel).arg(&payload[..]);
        let published = connection.cmd(cmd, connection.deadline());
        StoreFuture::boxed(async move { published.await.map(drop) })
    }
}

/// Keeps the connection, and keeps the server's set of channels equal to the one here.
struct Feed {
    topology: Arc<dyn Topology>,
    config: Arc<Config>,
    channels: Arc<Channels>,
    /// Channels that gained their first subscriber or lost their last since the last look.
    changed: Mutex<HashSet<Arc<str>>>,
    wake: Notify,
}

impl Feed {
    async fn run(self: Arc<Self>) {
        let config = &self.config;
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let mut in_force = true;
        loop {
            let started = Instant::now();
            let feed = self.clone();
            let lost = match isolated(async move { feed.connect().await }).await {
                Ok((pubsub, at)) => self.session(pubsub, &at, &mut in_force).await,
                Err(error) => error,
            };
            self.channels.disconnected();
            // The next connection asks for all channels anyway; until then nobody else takes these.
            self.take_changed();
            if std::mem::take(&mut in_force) {
                telemetry::warn(format_args!(
                    "no hints through Redis, so waiters look by themselves: {lost}"
                ));
            }
            if started.elapsed() >= STEADY {
                backoff.reset();
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn connect(&self) -> Result<(PubSub, Address), StoreError> {
        let limit = self.config.connect_timeout;
        let server = self.topology.server()?;
        let stream = server.open(limit).await?;
        let settings = server.site().login.redis_settings();
        match timeout(limit, PubSub::new(&settings, stream)).await {
            Ok(Ok(pubsub)) => Ok((pubsub, server.place().clone())),
            Ok(Err(error)) => Err(error::refused("the pub/sub login", error)),
            Err(_) => Err(StoreError::timeout("the pub/sub login", limit)),
        }
    }

    /// Serves until the connection is lost, and returns why it was.
    async fn session(&self, pubsub: PubSub, at: &Address, in_force: &mut bool) -> StoreError {
        let (mut sink, mut stream) = pubsub.split();
        let Err(lost) = self.serve(&mut sink, &mut stream, at, in_force).await;
        lost
    }

    async fn serve(
        &self,
        sink: &mut PubSubSink,
        stream: &mut PubSubStream,
        at: &Address,
        in_force: &mut bool,
    ) -> Result<Infallible, StoreError> {
        let mut subscribed = HashSet::new();
        self.take_changed();
        // Whoever was subscribed while there was no connection may have missed something.
        self.subscribe(sink, &mut subscribed, self.channels.names(), !*in_force).await?;
        if !std::mem::replace(in_force, true) {
            telemetry::notice(format_args!("hints through Redis are back"));
        }
        loop {
            tokio::select! {
                message = next(stream) => match message {
                    Some(message) => self.channels.deliver(
                        message.get_channel_name(),
                        Hint::Message(Bytes::copy_from_slice(message.get_payload_bytes())),
                    ),
                    None => {
                        return Err(StoreError::unavailable("the pub/sub connection was closed"));
                    }
                },
                () = self.wake.notified() => self.follow(sink, &mut subscribed).await?,
                () = sleep(PING_AFTER) => {
                    // It may be alive and well, and hear of nothing that is published elsewhere.
                    if !self.topology.is_current(at) {
                        return Err(StoreError::unavailable(format!(
                            "{at} is no longer the server to listen to"
                        )));
                    }
                    self.answer("PING", sink.ping::<redis::Value>()).await?;
                }
            }
        }
    }

    /// Brings the server's set of channels up to date.
    async fn follow(
        &self,
        sink: &mut PubSubSink,
        subscribed: &mut HashSet<Arc<str>>,
    ) -> Result<(), StoreError> {
        let (mut join, mut leave) = (Vec::new(), Vec::new());
        for name in self.take_changed() {
            match (self.channels.contains(&name), subscribed.contains(&name)) {
                (true, false) => join.push(name),
                // It left and came back between two looks: the server never noticed.
                (true, true) => self.channels.confirm(&name),
                (false, true) => leave.push(name),
                (false, false) => {}
            }
        }
        for names in leave.chunks(CHUNK) {
            self.answer("UNSUBSCRIBE", sink.unsubscribe(texts(names))).await?;
            for name in names {
                subscribed.remove(name);
            }
        }
        self.subscribe(sink, subscribed, join, false).await
    }

    async fn subscribe(
        &self,
        sink: &mut PubSubSink,
        subscribed: &mut HashSet<Arc<str>>,
        names: Vec<Arc<str>>,
        late: bool,
    ) -> Result<(), StoreError> {
        for names in names.chunks(CHUNK) {
            self.answer("SUBSCRIBE", sink.subscribe(texts(names))).await?;
            for name in names {
                subscribed.insert(name.clone());
                self.channels.confirm(name);
                if late {
                    self.channels.deliver(name, Hint::Resync);
                }
            }
        }
        Ok(())
    }

    fn take_changed(&self) -> HashSet<Arc<str>> {
        std::mem::take(&mut self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer<T>(
        &self,
        name: &str,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let limit = self.config.connect_timeout;
        match timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|error| error::refused(name, error)),
            Err(_) => Err(StoreError::timeout(name, limit)),
        }
    }
}

fn texts(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

async fn next(stream: &mut PubSubStream) -> Option<Msg> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

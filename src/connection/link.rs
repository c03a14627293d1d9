//! One multiplexed connection, and what is known about its health.

use crate::{
    connection::{error, request::Request},
    store::StoreError,
};
use redis::aio::MultiplexedConnection;
use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A link to one server. Every caller reports to the link that it used, so nothing is ever said
/// about the wrong one. It speaks raw [`redis::Value`]s: what they mean is decided after the verdict
/// on the link, or one unexpected value would take everybody's link away.
pub(super) struct Link {
    connection: MultiplexedConnection,
    driver: Driver,
    /// A call was sent, and nothing has come back since.
    waiting: AtomicBool,
    /// Something has come back since the supervisor asked last.
    heard: AtomicBool,
    timeouts: AtomicU32,
    breaker_threshold: u32,
    breaker_open: AtomicBool,
    read_only: AtomicBool,
    attention: Notify,
}

impl Link {
    pub(super) fn new(
        connection: MultiplexedConnection,
        driver: Driver,
        breaker_threshold: u32,
    ) -> Self {
        Self {
            connection,
            driver,
            waiting: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            timeouts: AtomicU32::new(0),
            breaker_threshold,
            breaker_open: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            attention: Notify::new(),
        }
    }

    /// Sends `request` and waits for the answer, at most `deadline`.
    pub(super) async fn call<R: Request>(
        &self,
        request: &R,
        asking: bool,
        deadline: Duration,
    ) -> Result<R::Reply, StoreError> {
        self.waiting.store(true, Relaxed);
        let mut connection = self.connection.clone();
        match timeout(deadline, request.send(&mut connection, asking)).await {
            Ok(Ok(reply)) => {
                self.answered();
                if R::says_read_only(&reply) {
                    self.read_only.store(true, Relaxed);
                    self.attention.notify_one();
                }
                Ok(reply)
            }
            // The driver has ended, so the supervisor knows.
            Ok(Err(broken)) if broken.is_unrecoverable_error() => {
                Err(error::interrupted(&request.name(), broken))
            }
            Ok(Err(error)) => Err(error::refused(&request.name(), error)),
            Err(_) => {
                self.timed_out();
                Err(StoreError::timeout(&request.name(), deadline))
            }
        }
    }

    /// Whether the server answers anything at all to a PING.
    pub(super) async fn ping(&self) -> bool {
        let mut connection = self.connection.clone();
        let answered = connection.send_packed_command(&redis::cmd("PING")).await.is_ok();
        if answered {
            self.answered();
        }
        answered
    }

    fn answered(&self) {
        self.waiting.store(false, Relaxed);
        self.heard.store(true, Relaxed);
        self.timeouts.store(0, Relaxed);
    }

    fn timed_out(&self) {
        // Exactly one caller crosses the threshold.
        if self.timeouts.fetch_add(1, Relaxed) + 1 == self.breaker_threshold {
            self.breaker_open.store(true, Relaxed);
            self.attention.notify_one();
        }
    }

    pub(super) async fn ended(&self) {
        self.driver.ended.cancelled().await;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.driver.ended.is_cancelled()
    }

    /// Resolves when a caller has found something for the supervisor to look at.
    pub(super) async fn attention(&self) {
        self.attention.notified().await;
    }

    /// Whether a call has been without any answer since the last time this was asked.
    pub(super) fn take_waiting(&self) -> bool {
        self.waiting.swap(false, Relaxed)
    }

    /// Whether any answer has come since the last time this was asked.
    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Relaxed)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.load(Relaxed)
    }

    pub(super) fn breaker_is_open(&self) -> bool {
        self.breaker_open.load(Relaxed)
    }

    pub(super) fn close_breaker(&self) {
        self.timeouts.store(0, Relaxed);
        self.breaker_open.store(false, Relaxed);
    }
}

/// The task that moves the bytes of one connection. Dropping it ends both.
pub(super) struct Driver {
    /// Cancelled when the task ends, for whatever reason: the server closed the connection, spoke
    /// nonsense, or the runtime is gone. No caller is needed to notice.
    ended: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Driver {
    pub(super) fn spawn(driver: impl Future<Output = ()> + Send + 'static) -> Self {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _guard = guard;
            driver.await;
        });
        Self { ended, _task: AbortOnDropHandle::new(task) }
    }
}

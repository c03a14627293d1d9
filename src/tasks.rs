//! The tasks that outlive a request, so that a shutdown can wait for them.

use crate::telemetry;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::Notify, task::JoinHandle};
use tokio_util::task::TaskTracker;

/// The background tasks of one backend: cache fills, idempotent handlers, releases. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    running: TaskTracker,
    drains: Arc<Notify>,
}

impl Tasks {
    /// Runs `future` in a task of its own, under a child of the current tracing span.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.running.spawn(telemetry::in_task_span(future))
    }

    /// Like [`spawn`](Tasks::spawn), for `Drop`: outside a runtime the future is dropped instead.
    pub fn spawn_if_possible(&self, future: impl Future<Output = ()> + Send + 'static) {
        if Handle::try_current().is_ok() {
            self.spawn(future);
        }
    }

    /// How many are running.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether none is running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits until every task has ended, at most `deadline`. Returns how many were still running
    /// then; they go on.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.running.close();
        self.drains.notify_waiters();
        let ended = tokio::time::timeout(deadline, self.running.wait()).await;
        self.running.reopen();
        if ended.is_ok() { 0 } else { self.running.len() }
    }

    /// Returns when somebody waits for all to end: for a task that would rather sleep on.
    #[cfg(feature = "rate-limit")]
    pub(crate) async fn draining(&self) {
        let drained = self.drains.notified();
        if !self.running.is_closed() {
            drained.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_waits_for_tasks_and_reports_those_that_do_not_end() {
        let tasks = Tasks::default();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async move { ended.await.ok() });
        assert_eq!(tasks.drain(Duration::from_millis(5)).await, 1);
        end.send(()).unwrap();
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
    }

    #[test]
    fn a_drop_outside_a_runtime_does_not_panic() {
        Tasks::default().spawn_if_possible(async {});
    }
}

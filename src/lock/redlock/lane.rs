//! The calls of one acquisition to one node, in order.

use crate::{
    lock::{policy::Attempt, store::LockStore},
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// The calls of one acquisition to one node. Each waits for the end of the one before it, however late
/// that comes: so a release is never overtaken by what it is to undo.
pub(super) struct Lane {
    node: Arc<dyn LockStore>,
    /// The node has said no, or was not asked at all: it does not hold the lock for us.
    refused: Arc<AtomicBool>,
    /// Ends with the last call.
    last: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Lane {
    pub(super) fn new(node: Arc<dyn LockStore>) -> Self {
        Self { node, refused: Arc::default(), last: Mutex::default() }
    }

    pub(super) fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        let (reply, refused) = (self.node.acquire(name, token, ttl), self.refused.clone());
        StoreFuture::boxed(async move {
            let answer = reply.await;
            refused.store(is_no(&answer), SeqCst);
            answer
        })
    }

    pub(super) fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        self.node.renew(name, token, ttl)
    }

    /// Asks only a node that may hold it.
    pub(super) fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        match self.refused.load(SeqCst) {
            true => StoreFuture::ready(Ok(false)),
            false => self.node.release(name, token),
        }
    }

    pub(super) fn force_release(&self, name: &str) -> StoreFuture<bool> {
        self.node.force_release(name)
    }

    /// Makes a call in a task of its own: whoever waits for its answer may give up, it does not.
    pub(super) fn run<F>(
        self: &Arc<Self>,
        tasks: &Tasks,
        call: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let (done, ended) = oneshot::channel::<()>();
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(ended);
        let lane = self.clone();
        tasks.spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            call(lane).await;
            drop(done);
        });
    }
}

/// Whether the lock is certainly not ours there.
fn is_no(answer: &Result<Attempt, StoreError>) -> bool {
    match answer {
        Ok(attempt) => matches!(attempt, Attempt::Held { .. }),
        Err(error) => error.is_unavailable(),
    }
}

/// The answers of all nodes to one verb, as they come.
pub(super) struct Answers<T> {
    answers: mpsc::UnboundedReceiver<(usize, Result<T, StoreError>)>,
    until: Instant,
}

/// Asks all at once. `after` is what a node's lane does when it has answered.
pub(super) fn ask<T, F>(
    lanes: &[Arc<Lane>],
    tasks: &Tasks,
    until: Instant,
    verb: impl Fn(&Lane) -> StoreFuture<T> + Clone + Send + 'static,
    after: impl Fn(Arc<Lane>, Option<StoreError>) -> F + Clone + Send + 'static,
) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send,
{
    let (sender, answers) = mpsc::unbounded_channel();
    for (index, lane) in lanes.iter().enumerate() {
        let (sender, verb, after) = (sender.clone(), verb.clone(), after.clone());
        lane.run(tasks, move |lane| async move {
            let answer = verb(&lane).await;
            let error = answer.as_ref().err().cloned();
            let _ = sender.send((index, answer));
            after(lane, error).await;
        });
    }
    Answers { answers, until }
}

impl<T> Answers<T> {
    /// The next answer and whose it is; `None` when all have come or the time is over.
    pub(super) async fn next(&mut self) -> Option<(usize, Result<T, StoreError>)> {
        timeout_at(self.until, self.answers.recv()).await.ok().flatten()
    }
}

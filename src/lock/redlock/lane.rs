//! The calls of one acquisition to one node, in order.

use crate::{
    lock::store::LockStore,
    store::{StoreError, StoreFuture},
    tasks::Tasks,
};
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// The calls of one acquisition to one node. Each waits for the end of the one before it, however late
/// that comes: so a release is never overtaken by what it is to undo.
pub(super) struct Lane {
    node: Arc<dyn LockStore>,
    /// Ends with the last call.
    last: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Lane {
    pub(super) fn new(node: Arc<dyn LockStore>) -> Self {
        Self { node, last: Mutex::default() }
    }

    /// Makes a call in a task of its own: whoever waits for its answer may give up, it does not.
    pub(super) fn run<F>(
        &self,
        tasks: &Tasks,
        call: impl FnOnce(Arc<dyn LockStore>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let (done, ended) = oneshot::channel::<()>();
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(ended);
        let node = self.node.clone();
        tasks.spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            call(node).await;
            drop(done);
        });
    }
}

/// The answers of all nodes to one verb, as they come.
pub(super) struct Answers<T> {
    answers: mpsc::UnboundedReceiver<(usize, Result<T, StoreError>)>,
    until: Instant,
}

/// Asks all at once. `after` is what a node's lane does when it has answered.
pub(super) fn ask<T, F>(
    lanes: &[Lane],
    tasks: &Tasks,
    until: Instant,
    verb: impl Fn(&dyn LockStore) -> StoreFuture<T> + Clone + Send + 'static,
    after: impl Fn(Arc<dyn LockStore>, Option<StoreError>) -> F + Clone + Send + 'static,
) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send,
{
    let (sender, answers) = mpsc::unbounded_channel();
    for (index, lane) in lanes.iter().enumerate() {
        let (sender, verb, after) = (sender.clone(), verb.clone(), after.clone());
        lane.run(tasks, move |node| async move {
            let answer = verb(&*node).await;
            let error = answer.as_ref().err().cloned();
            let _ = sender.send((index, answer));
            after(node, error).await;
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

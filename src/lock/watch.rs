//! What tells a waiter that a lock was released.

use crate::pubsub::Subscription;
use std::{
    future::{Future, poll_fn},
    task::Poll,
    time::Duration,
};

/// The hints of one store, or of several, of which one release is a hint of each.
#[derive(Debug)]
pub(super) struct Watch {
    hints: Vec<Subscription>,
    /// So many of them mean that the lock is free.
    needed: usize,
}

impl Watch {
    /// `None` unless so many give hints.
    pub(super) fn over(
        hints: impl IntoIterator<Item = Subscription>,
        needed: usize,
    ) -> Option<Self> {
        let hints: Vec<_> = hints.into_iter().collect();
        (hints.len() >= needed).then_some(Self { hints, needed })
    }

    /// Waits until no release is missed any more, at most `deadline`.
    pub(super) async fn ready(&mut self, deadline: Duration) {
        so_many(self.needed, self.hints.iter_mut().map(|hints| hints.ready(deadline))).await;
    }

    /// Waits for a release, always under a timeout.
    pub(super) async fn recv(&mut self) {
        so_many(self.needed, self.hints.iter_mut().map(Subscription::recv)).await;
    }

    /// Drops the hints that have come so far: for one who is about to ask anyway.
    pub(super) fn forget(&mut self) {
        self.hints.iter_mut().for_each(Subscription::forget);
    }
}

/// Ends when so many of these have ended.
async fn so_many<F: Future>(needed: usize, futures: impl Iterator<Item = F>) {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    let others = running.len() - needed;
    let enough = poll_fn(|cx| {
        running.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if running.len() <= others { Poll::Ready(()) } else { Poll::Pending }
    });
    enough.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::Hints;
    use tokio_test::{assert_pending, assert_ready, task};

    #[tokio::test]
    async fn a_release_is_one_of_which_a_majority_tells_since_the_last_question() {
        let nodes = [(); 5].map(|()| Hints::memory());
        let mut watch = Watch::over(nodes.iter().map(|node| node.subscribe("a")), 3).unwrap();
        let tell = |at: usize| drop(nodes[at].publish("a", "".into()));
        assert_ready!(task::spawn(watch.ready(Duration::ZERO)).poll());
        // The same one twice is one.
        [0, 0, 1].into_iter().for_each(tell);
        watch.forget();
        [2, 3, 3].into_iter().for_each(tell);
        let mut told = task::spawn(watch.recv());
        assert_pending!(told.poll());
        tell(4);
        assert_ready!(told.poll());
    }

    #[test]
    fn there_is_nothing_to_watch_where_too_few_give_hints() {
        let node = Hints::memory();
        let one = || [node.subscribe("a")];
        assert!(Watch::over(one(), 2).is_none() && Watch::over(one(), 1).is_some());
    }
}

//! A majority of nodes: what it grants, renews and gives back, on nodes in memory whose answers the test
//! has in its hand, by a clock that it moves.

use super::spy::{HOUR, PATIENCE, eventually};
use crate::harness::PREFIX;
use proptest::{collection::vec, prelude::*, test_runner::Config};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinSet};
use towerkeep::{
    Backend, Clock, StoreError, StoreFuture, Tasks,
    lock::{Attempt, LockStore, Redlock},
    pubsub::Subscription,
};

const TTL: Duration = Duration::from_secs(30);

/// A node that writes down what it did, and that hangs or fails when it is told to.
#[derive(Clone)]
pub(super) struct Node {
    store: Backend,
    clock: Clock,
    calls: Arc<Mutex<Vec<&'static str>>>,
    answers: Arc<Semaphore>,
    down: Arc<AtomicBool>,
    /// What it answers is lost.
    mute: Arc<AtomicBool>,
    /// What was asked in vain while it was down.
    missed: Arc<AtomicUsize>,
    /// How long each acquisition takes, by the clock.
    slow: Duration,
}

impl Node {
    fn new(clock: &Clock) -> Self {
        Self {
            store: Backend::builder().clock(clock.clone()).memory(),
            clock: clock.clone(),
            calls: Arc::default(),
            answers: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            down: Arc::default(),
            mute: Arc::default(),
            missed: Arc::default(),
            slow: Duration::ZERO,
        }
    }

    /// From here on it does what it is asked, and answers when it is told to.
    fn hang(&self) {
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn wake(&self) {
        self.answers.add_permits(Semaphore::MAX_PERMITS);
    }

    pub(super) fn down(&self, down: bool) {
        self.down.store(down, SeqCst);
    }

    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    async fn is_held(&self) -> bool {
        self.store.holder("a").await.unwrap().is_some()
    }

    /// What was asked of it is done, and then answered.
    fn answer<T: Send + 'static>(
        &self,
        verb: &'static str,
        done: impl FnOnce(&Backend) -> StoreFuture<T>,
    ) -> StoreFuture<T> {
        if self.down.load(SeqCst) {
            self.missed.fetch_add(1, SeqCst);
            return StoreFuture::ready(Err(StoreError::unavailable("the node is down")));
        }
        self.calls.lock().unwrap().push(verb);
        let (done, answers) = (done(&self.store), self.answers.clone());
        let mute = self.mute.load(SeqCst);
        StoreFuture::boxed(async move {
            drop(answers.acquire().await.unwrap());
            match mute {
                true => Err(StoreError::timeout(verb, Duration::ZERO)),
                false => done.await,
            }
        })
    }
}

impl LockStore for Node {
    fn acquire(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<Attempt> {
        self.clock.advance(self.slow);
        self.answer("acquire", |store| store.acquire(name, token, ttl))
    }

    fn renew(&self, name: &str, token: &str, ttl: Duration) -> StoreFuture<bool> {
        self.answer("renew", |store| store.renew(name, token, ttl))
    }

    fn release(&self, name: &str, token: &str) -> StoreFuture<bool> {
        self.answer("release", |store| store.release(name, token))
    }

    fn force_release(&self, name: &str) -> StoreFuture<bool> {
        self.answer("force_release", |store| store.force_release(name))
    }

    fn watch(&self, name: &str) -> Option<Subscription> {
        self.store.watch(name)
    }

    fn clock(&self) -> Clock {
        self.store.clock()
    }

    fn tasks(&self) -> Tasks {
        self.store.tasks().clone()
    }
}

/// Nodes by a clock that only the test moves. Whoever hangs is waited for only a moment.
pub(super) fn nodes<const N: usize>() -> ([Node; N], Clock, Redlock) {
    let clock = Clock::manual();
    let nodes = std::array::from_fn(|_| Node::new(&clock));
    let locks = Redlock::new(nodes.clone()).unwrap().node_timeout(Duration::from_millis(300));
    (nodes, clock, locks)
}

/// Redlock over real servers, some of which may be down.
pub(super) fn over(nodes: &[Backend]) -> Redlock {
    Redlock::new(nodes.to_vec()).unwrap().node_timeout(NODE_TIMEOUT)
}

/// Far longer than a server takes that does its work.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) async fn backends(urls: &[String]) -> Vec<Backend> {
    let mut backends = Vec::new();
    for url in urls {
        let builder = Backend::builder().prefix(PREFIX).deadline(NODE_TIMEOUT).lazy(true);
        backends.push(builder.redis(url).await.unwrap());
    }
    backends
}

#[tokio::test]
async fn a_number_of_nodes_without_a_majority_to_spare_is_refused() {
    for count in [0, 1, 2, 16] {
        let error = Redlock::new((0..count).map(|_| Backend::memory())).unwrap_err();
        assert!(error.is_config() && error.to_string().contains(&count.to_string()), "{error}");
    }
    let mixed: Vec<Arc<dyn LockStore>> = vec![
        Arc::new(Backend::memory()),
        Arc::new(towerkeep::lock::MemoryStore::default()),
        Arc::new(Backend::memory()),
    ];
    drop(Redlock::new(mixed).unwrap().try_lock("a").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_32_tasks_holds_the_lock() {
    let stores: Vec<_> = (0..5).map(|_| Backend::memory()).collect();
    let holders = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    // Four that do not know of one another, so that each asks for itself.
    let handles: Vec<_> = (0..4).map(|_| Redlock::new(stores.clone()).unwrap()).collect();
    for task in 0..32 {
        let (locks, holders) = (handles[task % 4].clone(), holders.clone());
        tasks.spawn(async move {
            for _ in 0..3 {
                let guard = locks.lock("a").ttl(HOUR).wait(PATIENCE).acquire().await.unwrap();
                assert_eq!(holders.fetch_add(1, SeqCst), 0, "another holds it already");
                tokio::task::yield_now().await;
                assert_eq!(holders.fetch_sub(1, SeqCst), 1, "another came in between");
                guard.release().await.unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_minority_that_is_down_or_hangs_changes_nothing() {
    let (nodes, _, locks) = nodes::<5>();
    nodes[1].down(true);
    nodes[4].hang();
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let refused = locks.try_lock("a").await.unwrap_err();
    assert!(refused.is_contended(), "{refused:?}");
    assert_eq!(refused.held_for(), Some(TTL));
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
    nodes[4].wake();
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    for node in &nodes {
        assert!(!node.is_held().await);
    }
}

#[tokio::test]
async fn who_is_refused_by_a_majority_waits_for_no_other_and_releases_only_what_may_be_held() {
    let (nodes, _, locks) = nodes::<5>();
    let locks = locks.node_timeout(HOUR);
    let holder = locks.lock("a").ttl(HOUR).acquire().await.unwrap();
    all_hold(&nodes).await;
    assert!(nodes[0].store.force_release("a").await.unwrap());
    nodes[1].down(true);
    nodes[0].hang();
    let refused = locks.lock("a").ttl(HOUR).acquire();
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("three have said no");
    assert!(refused.unwrap_err().is_contended());
    nodes[0].wake();
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    assert_eq!(nodes[0].calls(), ["acquire", "acquire", "release"], "it has granted it");
    assert_eq!(nodes[1].missed.load(SeqCst), 1, "it cannot hold what it was not asked for");
    for node in &nodes[2..] {
        assert_eq!(node.calls(), ["acquire", "acquire"], "it has refused it");
    }
    nodes[1].down(false);
    holder.release().await.unwrap();
    assert_eq!(nodes[1].calls(), ["acquire", "release"], "it holds it all the same");
}

#[tokio::test]
async fn what_a_repair_has_taken_is_released() {
    let (nodes, _, locks) = nodes::<3>();
    nodes[2].down(true);
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    nodes[2].down(false);
    guard.renew().await.unwrap();
    all_hold(&nodes).await;
    guard.release().await.unwrap();
    assert_eq!(nodes[2].calls(), ["renew", "acquire", "release"]);
    assert!(!nodes[2].is_held().await);
}

#[tokio::test]
async fn without_a_majority_it_is_the_store_that_failed_and_nothing_stays_behind() {
    let (nodes, _, locks) = nodes::<5>();
    nodes[0].down(true);
    nodes[1].hang();
    nodes[2].hang();
    for wait in [Duration::ZERO, PATIENCE] {
        let error = locks.lock("a").ttl(TTL).wait(wait).acquire().await.unwrap_err();
        let store = error.store_error().unwrap();
        assert!(store.is_unavailable() && store.to_string().contains("2 of 5 nodes"), "{store}");
    }
    // Those that hang have granted it, and are not told to release it before they have said so.
    assert_eq!(nodes[1].calls(), ["acquire", "acquire"]);
    assert!(nodes[1].is_held().await);
    nodes[1].wake();
    nodes[2].wake();
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    for node in &nodes[1..] {
        assert!(!node.is_held().await, "{:?}", node.calls());
    }
}

#[tokio::test]
async fn what_was_granted_in_an_answer_that_was_lost_is_released() {
    let (nodes, _, locks) = nodes::<5>();
    nodes[..3].iter().for_each(|node| node.mute.store(true, SeqCst));
    assert!(locks.lock("a").ttl(TTL).acquire().await.unwrap_err().is_store());
    nodes.iter().for_each(|node| node.mute.store(false, SeqCst));
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    for node in &nodes {
        assert!(!node.is_held().await, "{:?}", node.calls());
    }
}

#[tokio::test]
async fn one_that_gives_up_leaves_nothing_behind() {
    let (nodes, _, locks) = nodes::<3>();
    nodes.iter().for_each(Node::hang);
    let acquire = locks.lock("a").ttl(TTL).acquire();
    let asked = tokio::spawn(acquire);
    eventually("all are asked", || nodes.iter().all(|node| node.calls().len() == 1)).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    assert!(nodes[0].is_held().await);
    nodes.iter().for_each(Node::wake);
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    for node in &nodes {
        assert!(!node.is_held().await, "{:?}", node.calls());
    }
}

#[tokio::test]
async fn a_dropped_guard_releases_on_every_node_also_after_an_answer_that_is_late() {
    let (nodes, _, locks) = nodes::<3>();
    nodes[2].hang();
    drop(locks.lock("a").ttl(TTL).auto_renew().acquire().await.unwrap());
    nodes[2].wake();
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    for node in &nodes {
        assert!(!node.is_held().await);
        assert_eq!(node.calls(), ["acquire", "release"]);
    }
}

#[tokio::test]
async fn a_renewal_repairs_the_nodes_that_have_lost_the_lock() {
    let (nodes, clock, locks) = nodes::<5>();
    nodes[0].down(true);
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    nodes[0].down(false);
    assert!(nodes[3].store.force_release("a").await.unwrap());
    clock.advance(TTL / 2);
    guard.renew().await.unwrap();
    eventually("it is taken there", || nodes[0].calls().contains(&"acquire")).await;
    eventually("and there", || nodes[3].calls().len() >= 3).await;
    // Not one that another holds, and the others are enough now.
    for node in &nodes[..2] {
        assert!(node.store.force_release("a").await.unwrap());
    }
    assert!(locks.try_lock("a").await.unwrap_err().is_contended());
    guard.release().await.unwrap();
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    drop(locks.try_lock("a").await.unwrap());
}

#[tokio::test]
async fn a_lock_that_no_majority_holds_any_more_is_lost_at_once_and_not_taken_again() {
    let (nodes, clock, locks) = nodes::<5>();
    let guard = locks.lock("a").ttl(TTL).auto_renew().acquire().await.unwrap();
    for node in &nodes[..3] {
        assert!(node.store.force_release("a").await.unwrap());
    }
    guard.check().expect("it does not know yet");
    clock.advance(TTL / 2);
    guard.lost().await;
    assert!(guard.check().unwrap_err().is_lost());
    for node in &nodes[..3] {
        assert_eq!(node.calls(), ["acquire", "renew"], "nobody knows who held it meanwhile");
    }
}

#[tokio::test]
async fn a_renewal_without_a_majority_releases_nothing_and_is_tried_again_until_the_deadline() {
    let (nodes, clock, locks) = nodes::<5>();
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    nodes[..3].iter().for_each(|node| node.down(true));
    clock.advance(TTL / 2);
    let error = guard.renew().await.unwrap_err();
    assert!(error.is_store(), "{error:?}");
    guard.check().expect("the TTL has not passed");
    for node in &nodes {
        assert!(node.is_held().await && !node.calls().contains(&"release"));
    }
    nodes[..3].iter().for_each(|node| node.down(false));
    guard.renew().await.unwrap();
    assert!(guard.valid_for() > TTL * 9 / 10);

    nodes[..3].iter().for_each(|node| node.down(true));
    clock.advance(TTL);
    assert!(guard.check().unwrap_err().is_lost());
    assert!(guard.renew().await.unwrap_err().is_lost());
}

#[tokio::test]
async fn a_release_that_fails_on_some_nodes_is_tried_again_there() {
    let (nodes, _, locks) = nodes::<3>();
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    nodes[2].down(true);
    guard.release().await.unwrap();
    assert!(nodes[2].is_held().await);
    nodes[2].down(false);
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    assert!(!nodes[2].is_held().await);
}

#[tokio::test]
async fn a_forced_release_goes_to_every_node() {
    let (nodes, _, locks) = nodes::<3>();
    assert!(!locks.force_release("a").await.unwrap());
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    assert!(locks.force_release("a").await.unwrap());
    for node in &nodes {
        assert!(!node.is_held().await);
    }
    assert!(guard.release().await.unwrap_err().is_lost());
    nodes[..2].iter().for_each(|node| node.down(true));
    assert!(locks.force_release("a").await.unwrap_err().is_store());
}

#[tokio::test]
async fn an_acquisition_with_too_little_left_is_given_back() {
    let clock = Clock::manual();
    // The first takes its time, as a process does that is paused while it asks.
    let mut nodes: Vec<_> = (0..3).map(|_| Node::new(&clock)).collect();
    nodes[0].slow = TTL / 4;
    let locks = Redlock::new(nodes.clone()).unwrap();
    let acquire = || locks.lock("a").ttl(TTL);
    let certain = TTL * 99 / 100 - Duration::from_millis(2) - TTL / 4;
    let guard = acquire().acquire().await.unwrap();
    assert!(guard.valid_for() >= certain);
    guard.release().await.unwrap();

    let lost = acquire().min_validity(TTL * 4 / 5).acquire().await.unwrap_err();
    // The other two may have been enough before the clock moved.
    assert!(lost.is_lost(), "{lost:?}");
    assert_eq!(locks.shutdown(PATIENCE).await, 0);
    for node in &nodes {
        assert!(!node.is_held().await);
    }
    let never = acquire().min_validity(TTL).acquire().await.unwrap_err();
    let never = never.store_error().unwrap();
    assert!(never.is_config() && never.to_string().contains("min_validity"), "{never}");
}

/// What happens to a lock that is held, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Wait(Duration),
    Renew,
    /// So many nodes are down from here on.
    Down(usize),
}

fn steps() -> impl Strategy<Value = (u64, usize, Vec<Step>)> {
    let step = prop_oneof![
        3 => (0..40_000_000u64).prop_map(|us| Step::Wait(Duration::from_micros(us))),
        2 => Just(Step::Renew),
        1 => (0..=7usize).prop_map(Step::Down),
    ];
    (10_000..100_000u64, 3..=7usize, vec(step, 1..12))
}

/// The holder's end as the paper has it, in whole microseconds: what is asked for at `start` and granted
/// holds until `start + TTL - drift`, with a drift of 1% of the TTL and 2 ms.
fn end(start_us: u64, ttl_ms: u64) -> u64 {
    start_us + ttl_ms * 1_000 - ttl_ms * 10 - 2_000
}

/// Those after the majority are late, and repairs are made behind the holder's back: what is down next
/// must not depend on it.
pub(super) async fn all_hold(nodes: &[Node]) {
    for node in nodes {
        while !node.is_held().await {
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn the_holder_is_certain_of_what_the_paper_says_and_nobody_else_holds_it_meanwhile() {
    let runtime = Runtime::new().unwrap();
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    proptest!(config, |((ttl_ms, count, steps) in steps())| {
        runtime.block_on(async {
            let clock = Clock::manual();
            let now_us = || clock.now().as_micros() as u64;
            let nodes: Vec<_> = (0..count).map(|_| Node::new(&clock)).collect();
            let ttl = Duration::from_millis(ttl_ms);
            // A node in memory answers at once or not at all; a quarter of the TTL is time enough.
            let patient = Redlock::new(nodes.clone()).unwrap().node_timeout(PATIENCE);
            let guard = patient.lock("a").ttl(ttl).acquire().await.unwrap();
            all_hold(&nodes).await;
            let (mut until, mut down) = (end(now_us(), ttl_ms), 0);
            for step in steps {
                match step {
                    Step::Wait(time) => clock.advance(time),
                    Step::Down(some) => {
                        down = some.min(count);
                        for (index, node) in nodes.iter().enumerate() {
                            node.down(index < down);
                        }
                    }
                    Step::Renew => {
                        let held = now_us() < until;
                        let renewed = guard.renew().await;
                        let majority = 2 * (count - down) > count;
                        if held && majority {
                            prop_assert!(renewed.is_ok(), "{:?}", renewed);
                            until = end(now_us(), ttl_ms);
                            all_hold(&nodes[down..]).await;
                        } else {
                            let error = renewed.unwrap_err();
                            prop_assert_eq!(error.is_lost(), !held);
                        }
                    }
                }
                let left = Duration::from_micros(until.saturating_sub(now_us()));
                prop_assert_eq!(guard.valid_for(), left);
                if !left.is_zero() {
                    // By the nodes themselves, also those that are cut off.
                    let mut held = 0;
                    for node in &nodes {
                        held += usize::from(node.is_held().await);
                    }
                    prop_assert!(2 * held > count, "{} of {}", held, count);
                }
            }
            nodes.iter().for_each(|node| node.down(false));
            Ok(())
        })?;
    });
}

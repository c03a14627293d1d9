//! A majority of five real servers: any two are killed, paused or cut off, at every moment.

use super::{
    redlock::{backends, over},
    spy::{HOUR, PATIENCE, eventually},
};
use crate::{
    harness::PREFIX,
    support::{
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use std::{
    env,
    time::{Duration, Instant},
};
use towerkeep::{
    Backend,
    lock::{Error, Redlock},
};

const LOCK: &str = "a";

/// Five servers, each with a proxy before it, and two that lock there: one through the proxies and one
/// past them.
struct Five {
    servers: Vec<RedisServer>,
    proxies: Vec<FaultProxy>,
    /// Of both.
    nodes: Vec<Backend>,
    locks: Redlock,
    other: Redlock,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// And comes back empty.
    Kill,
    Pause,
    Partition,
}

impl Five {
    async fn start() -> Self {
        let servers: Vec<_> = (0..5).map(|_| RedisServer::start()).collect();
        let proxies: Vec<_> = servers.iter().map(|of| FaultProxy::start(of.port())).collect();
        let direct: Vec<_> = servers.iter().map(RedisServer::url).collect();
        let urls: Vec<_> = proxies.iter().map(FaultProxy::url).collect();
        let (mut nodes, others) = (backends(&urls).await, backends(&direct).await);
        let (locks, other) = (over(&nodes), over(&others));
        nodes.extend(others);
        let five = Self { servers, proxies, nodes, locks, other };
        five.all_answer().await;
        five
    }

    fn begin(&self, fault: Fault, whom: &[usize]) {
        for &index in whom {
            match fault {
                Fault::Kill => self.servers[index].kill(),
                Fault::Pause => self.servers[index].pause(),
                Fault::Partition => self.proxies[index].set(Mode::BlackHole),
            }
        }
    }

    async fn end(&self, fault: Fault, whom: &[usize]) {
        for &index in whom {
            match fault {
                Fault::Kill => self.servers[index].restart(),
                Fault::Pause => self.servers[index].resume(),
                Fault::Partition => {
                    self.proxies[index].set(Mode::Pass);
                    self.proxies[index].cut();
                }
            }
        }
        self.all_answer().await;
    }

    /// Every link leads somewhere again.
    async fn all_answer(&self) {
        for node in &self.nodes {
            let connection = node.connection().unwrap();
            while connection.ping(PATIENCE).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// The servers that hold the lock; those that run are asked.
    fn holding(&self) -> Vec<usize> {
        let held = |of: &RedisServer| {
            let key = format!("{PREFIX}:lock:{{{LOCK}}}");
            of.command(&["EXISTS", &key]).int() == 1
        };
        (0..5).filter(|&index| held(&self.servers[index])).collect()
    }

    async fn all_free(&self) {
        eventually("every server has released it", || self.holding().is_empty()).await;
    }

    async fn refuses_the_other(&self) {
        let error = linked(|| self.other.lock(LOCK).ttl(HOUR).acquire()).await.unwrap_err();
        assert!(error.is_contended(), "{error:?}");
    }
}

/// Asks again while the store fails: a link that was found dead in the fault before may still be on its
/// way back, which is one more than the two that may fail.
async fn linked<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> Result<T, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(error) if error.is_store() && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => return answer,
        }
    }
}

/// Each of the ten, or of a ring in which each server has its turns.
fn pairs() -> Vec<[usize; 2]> {
    let all = (0..5).flat_map(|one| (one + 1..5).map(move |two| [one, two]));
    if env::var_os("TOWERKEEP_QUICK").is_some() {
        return all.filter(|[one, two]| (two - one) % 3 == 1).collect();
    }
    all.collect()
}

/// At acquisition, while it is held, at a renewal and at the release.
async fn any_two_may_fail(fault: Fault) {
    let five = Five::start().await;
    for pair in pairs() {
        println!("{fault:?} of {pair:?}");
        five.begin(fault, &pair);
        let guard = linked(|| five.locks.lock(LOCK).ttl(HOUR).acquire()).await.unwrap();
        five.refuses_the_other().await;
        five.end(fault, &pair).await;
        linked(|| guard.renew()).await.unwrap();
        eventually("the two have it as well", || five.holding().len() == 5).await;

        five.begin(fault, &pair);
        five.refuses_the_other().await;
        linked(|| guard.renew()).await.unwrap();
        guard.check().unwrap();
        guard.release().await.unwrap();
        let next = five.other.lock(LOCK).ttl(HOUR).wait(PATIENCE).acquire().await.unwrap();
        let refused = five.locks.lock(LOCK).acquire().await.unwrap_err();
        assert!(refused.is_contended(), "{refused:?}");
        next.release().await.unwrap();
        five.end(fault, &pair).await;
        five.all_free().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_two_of_five_servers_may_be_killed() {
    any_two_may_fail(Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_two_of_five_servers_may_hang() {
    any_two_may_fail(Fault::Pause).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_two_of_five_servers_may_be_cut_off() {
    any_two_may_fail(Fault::Partition).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_that_hang_grant_nothing_and_what_they_do_later_is_undone() {
    let five = Five::start().await;
    let hang = [0, 2, 4];
    five.begin(Fault::Pause, &hang);
    let error = five.locks.lock(LOCK).ttl(HOUR).acquire().await.unwrap_err();
    assert!(error.is_store(), "{error:?}");
    five.end(Fault::Pause, &hang).await;
    assert_eq!(five.locks.shutdown(PATIENCE).await, 0);
    five.all_free().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_three_do_not_answer_releases_nothing() {
    let five = Five::start().await;
    let guard = five.locks.lock(LOCK).ttl(HOUR).acquire().await.unwrap();
    eventually("all have granted it", || five.holding().len() == 5).await;
    let cut = [1, 2, 3];
    five.begin(Fault::Partition, &cut);
    for _ in 0..2 {
        assert!(guard.renew().await.unwrap_err().is_store());
        guard.check().unwrap();
        assert_eq!(five.holding().len(), 5);
        five.refuses_the_other().await;
    }
    five.end(Fault::Partition, &cut).await;
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
    five.all_free().await;
}

/// The deadline of one that is cut off comes before another's majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_from_a_majority_knows_of_its_loss_before_another_holds_the_lock()
{
    let five = Five::start().await;
    let ttl = Duration::from_secs(4);
    let guard = five.locks.lock(LOCK).ttl(ttl).auto_renew().acquire().await.unwrap();
    five.begin(Fault::Partition, &[0, 1, 2]);
    let next = five.other.lock(LOCK).ttl(HOUR).wait(PATIENCE).acquire().await.unwrap();
    assert!(guard.is_lost(), "two believed to hold the lock");
    guard.lost().await;
    drop(guard);
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verb_is_one_round_trip_to_each_server() {
    let five = Five::start().await;
    let turns = || five.proxies.iter().map(FaultProxy::turns).collect::<Vec<_>>();
    let once_more = |before: &[usize]| before.iter().map(|turns| turns + 1).collect::<Vec<_>>();
    let mut guard = five.locks.lock(LOCK).ttl(HOUR).acquire().await.unwrap();
    for warm in [true, false] {
        guard.renew().await.unwrap();
        guard.release().await.unwrap();
        five.all_free().await;
        let before = turns();
        guard = five.locks.lock(LOCK).ttl(HOUR).acquire().await.unwrap();
        eventually("all have granted it", || five.holding().len() == 5).await;
        let acquired = turns();
        guard.renew().await.unwrap();
        let renewed = turns();
        if !warm {
            assert_eq!(acquired, once_more(&before), "to acquire");
            assert_eq!(renewed, once_more(&acquired), "to renew");
        }
    }
    let before = turns();
    guard.release().await.unwrap();
    assert_eq!(turns(), once_more(&before), "to release");
}

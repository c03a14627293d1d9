//! What a lock costs: free ones, one that every task wants, and those of a majority of five servers; next
//! to the bare commands that such locks are often made of.

mod support;

use futures_util::future::join_all;
use std::{sync::Arc, time::Duration};
use support::{Bench, Operation, RedisServer, TASKS};
use tokio::sync::Mutex;
use towerkeep::{
    Backend,
    connection::redis,
    lock::{Locks, Redlock},
};

/// The usual compare-and-delete.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

fn main() {
    let mut bench = Bench::new("lock", "acquisition with its release");
    let (_server, redis) = bench.redis();
    let (_servers, nodes): (Vec<RedisServer>, Vec<Backend>) = (0..5).map(|_| bench.redis()).unzip();

    for tasks in TASKS {
        let mutexes: Arc<Vec<_>> = Arc::new((0..tasks).map(|_| Mutex::new(())).collect());
        bench.measure("tokio Mutex", tasks, None, move |task| {
            let mutexes = mutexes.clone();
            async move { drop(mutexes[task].lock().await) }
        });
        bench.measure("memory", tasks, "tokio Mutex", one_each(Backend::memory()));
        bench.measure("memory, in line", tasks, "memory", in_line(Backend::memory()));
        bench.measure_pings("two PINGs", 2, tasks, &redis);
        bench.measure("SET NX PX and EVALSHA", tasks, "two PINGs", bare(vec![redis.clone()]));
        bench.measure("Redis", tasks, "SET NX PX and EVALSHA", one_each(redis.clone()));
        bench.measure("Redis, in line", tasks, "Redis", in_line(redis.clone()));
        let in_memory = (0..5).map(|_| Backend::memory()).collect();
        bench.measure("Redlock in memory", tasks, "memory", majority(in_memory));
        bench.measure("the same on 5 at once", tasks, "SET NX PX and EVALSHA", bare(nodes.clone()));
        bench.measure("Redlock on 5", tasks, "the same on 5 at once", majority(nodes.clone()));
        if tasks > 1 {
            bench.measure("memory, one for all", tasks, "memory", one_for_all(Backend::memory()));
            bench.measure("Redis, one for all", tasks, "two PINGs", one_for_all(redis.clone()));
            let all = one_for_all_of_majority(nodes.clone());
            bench.measure("Redlock on 5, one for all", tasks, "Redlock on 5", all);
        }
    }
    bench.report();
}

/// Every task has a lock of its own, and takes it or is refused.
fn one_each(backend: Backend) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let locks = Locks::new(backend);
    move |task| {
        let locks = locks.clone();
        Box::pin(async move {
            let guard = locks.try_lock(format!("own:{task}")).await.expect("nobody else wants it");
            guard.release().await.expect("it is held");
        })
    }
}

/// Every task has a lock of its own, for which it would wait.
fn in_line(backend: Backend) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let locks = Locks::new(backend);
    move |task| {
        let acquire = locks.lock(format!("own:{task}")).wait(Duration::from_secs(60));
        Box::pin(async move {
            let guard = acquire.acquire().await.expect("nobody else wants it");
            guard.release().await.expect("it is held");
        })
    }
}

/// What a lock is made of by hand, on each server at once: no fence, no wait, nothing told of a loss.
fn bare(servers: Vec<Backend>) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let servers: Arc<[Backend]> = servers.into();
    let script = Arc::new(redis::Script::new(RELEASE));
    move |task| {
        let (servers, script) = (servers.clone(), script.clone());
        Box::pin(async move {
            let key = format!("bare:{task}");
            let mut take = redis::cmd("SET");
            take.arg(&key).arg("token").arg("NX").arg("PX").arg(30_000);
            let taken = servers.iter().map(|of| of.connection().expect("on Redis").query(&take));
            for taken in join_all(taken).await {
                let () = taken.expect("nobody else wants it");
            }
            let mut free = redis::cmd("EVALSHA");
            free.arg(script.get_hash()).arg(1).arg(&key).arg("token");
            let freed = servers.iter().map(|of| async {
                let connection = of.connection().expect("on Redis");
                match connection.query::<u64>(&free).await {
                    // The first time, the server does not know it.
                    Err(_) => {
                        let mut eval = redis::cmd("EVAL");
                        eval.arg(RELEASE).arg(1).arg(&key).arg("token");
                        connection.query::<u64>(&eval).await.expect("the server runs")
                    }
                    Ok(freed) => freed,
                }
            });
            for freed in join_all(freed).await {
                assert_eq!(freed, 1, "it is held");
            }
        })
    }
}

/// Every task has a lock of its own, of a majority.
fn majority(nodes: Vec<Backend>) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let locks = Redlock::new(nodes).expect("five are enough");
    move |task| {
        let acquire = locks.lock(format!("own:{task}"));
        Box::pin(async move {
            let guard = acquire.acquire().await.expect("nobody else wants it");
            guard.release().await.expect("it is held");
        })
    }
}

/// All wait for the same.
fn one_for_all(backend: Backend) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let locks = Locks::new(backend);
    move |_| {
        let acquire = locks.lock("shared").wait(Duration::from_secs(60));
        Box::pin(async move {
            let guard = acquire.acquire().await.expect("its turn comes");
            guard.release().await.expect("it is held");
        })
    }
}

/// The same of a majority.
fn one_for_all_of_majority(
    nodes: Vec<Backend>,
) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let locks = Redlock::new(nodes).expect("five are enough");
    move |_| {
        let acquire = locks.lock("shared").wait(Duration::from_secs(60));
        Box::pin(async move {
            let guard = acquire.acquire().await.expect("its turn comes");
            guard.release().await.expect("it is held");
        })
    }
}

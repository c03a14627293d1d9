//! What a lock costs: free ones, and one that every task wants.

mod support;

use std::{sync::Arc, time::Duration};
use support::{Bench, Operation, TASKS};
use tokio::sync::Mutex;
use towerkeep::{Backend, lock::Locks};

fn main() {
    let mut bench = Bench::new("lock", "acquisition with its release");
    let (_server, redis) = bench.redis();

    for tasks in TASKS {
        let mutexes: Arc<Vec<_>> = Arc::new((0..tasks).map(|_| Mutex::new(())).collect());
        bench.measure("tokio Mutex", tasks, None, move |task| {
            let mutexes = mutexes.clone();
            async move { drop(mutexes[task].lock().await) }
        });
        bench.measure("memory", tasks, "tokio Mutex", one_each(Backend::memory()));
        bench.measure_pings("two PINGs", 2, tasks, &redis);
        bench.measure("Redis", tasks, "two PINGs", one_each(redis.clone()));
        if tasks > 1 {
            bench.measure("memory, one for all", tasks, "memory", one_for_all(Backend::memory()));
            bench.measure("Redis, one for all", tasks, "two PINGs", one_for_all(redis.clone()));
        }
    }
    bench.report();
}

/// Every task has a lock of its own.
fn one_each(backend: Backend) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let locks = Locks::new(backend);
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

//! What an idempotency key costs: the first request with it, and one that is sent again.

mod support;

use http::Request;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use support::{Bench, Body, Operation, TASKS, call, page};
use tower::{Layer, service_fn};
use towerkeep::{Backend, UserId, idempotency::IdempotencyLayer};

fn main() {
    let mut bench = Bench::new("idempotency", "request");
    let (_server, redis) = bench.redis();

    for tasks in TASKS {
        bench.measure("bare service", tasks, None, |task| async move {
            call(service_fn(page), request(task as u64)).await;
        });
        bench.measure_pings("one PING", 1, tasks, &redis);
        bench.measure_pings("two PINGs", 2, tasks, &redis);

        let (memory, bare) = (roomy(), "bare service");
        bench.measure("memory, first", tasks, bare, sent(memory.clone(), Key::New));
        bench.measure("memory, replayed", tasks, bare, sent(memory, Key::Old));
        bench.measure("Redis, first", tasks, "two PINGs", sent(redis.clone(), Key::New));
        bench.measure("Redis, replayed", tasks, "one PING", sent(redis.clone(), Key::Old));
    }
    bench.report();
}

/// Room for the records of a second, at any speed.
fn roomy() -> Backend {
    Backend::builder().max_idempotency_bytes(1 << 30).memory()
}

/// Which key a request has.
#[derive(Clone, Copy, Debug)]
enum Key {
    /// One that was never seen.
    New,
    /// The task's own.
    Old,
}

fn sent(backend: Backend, key: Key) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    // Forgotten soon, or the first requests would fill the store.
    let layer = IdempotencyLayer::new(backend).retain(Duration::from_secs(1));
    let service = layer.layer(service_fn(page));
    let next = Arc::new(AtomicU64::new(1 << 32));
    move |task| {
        let number = match key {
            Key::New => next.fetch_add(1, Relaxed),
            Key::Old => task as u64,
        };
        let service = service.clone();
        Box::pin(async move {
            let response = call(service, request(number)).await;
            assert!(response.status().is_success(), "{}", response.status());
        })
    }
}

fn request(key: u64) -> Request<Body> {
    Request::post("/payments")
        .header("idempotency-key", format!("\"{key}\""))
        .extension(UserId::new("ann"))
        .body(Body::from("12 EUR"))
        .expect("the request is well-formed")
}

//! What an idempotency key costs: the first request with it, and one that is sent again, beside the bare
//! service, and beside Redis with the same two scripts and nothing around them.

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
use towerkeep::{Backend, UserId, connection::Script, idempotency::IdempotencyLayer};

fn main() {
    let mut bench = Bench::new("idempotency", "request");
    let (_server, redis) = bench.redis();

    for tasks in TASKS {
        bench.measure("bare service", tasks, None, |task| async move {
            call(service_fn(page), request(task as u64)).await;
        });
        bench.measure_pings("one PING", 1, tasks, &redis);
        bench.measure_pings("two PINGs", 2, tasks, &redis);
        bench.measure("two EVALSHA", tasks, "two PINGs", scripts(&redis));

        let (memory, bare) = (roomy(), "bare service");
        bench.measure("memory, first", tasks, bare, sent(memory.clone(), Key::New));
        bench.measure("memory, replayed", tasks, bare, sent(memory, Key::Old));
        bench.measure("Redis, first", tasks, "two EVALSHA", sent(redis.clone(), Key::New));
        bench.measure("Redis, replayed", tasks, "one PING", sent(redis.clone(), Key::Old));
    }
    bench.report();
}

static BEGIN: Script = Script::new(concat!(
    include_str!("../src/connection/prelude.lua"),
    include_str!("../src/idempotency/begin.lua"),
));
static COMPLETE: Script = Script::new(include_str!("../src/idempotency/complete.lua"));

/// What the layer asks Redis for a first request, with nothing around it.
fn scripts(backend: &Backend) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let connection = backend.connection().expect("a backend on Redis").clone();
    let next = Arc::new(AtomicU64::new(0));
    move |_| {
        let (connection, number) = (connection.clone(), next.fetch_add(1, Relaxed));
        Box::pin(async move {
            let (record, deadline) = (format!("bench:raw:{{{number}}}"), Duration::from_secs(5));
            let begin = BEGIN
                .keys([&record, &format!("{record}:f")])
                .arg("token")
                .arg([7_u8; 32].as_slice());
            let begin = begin.arg(30_000_000).arg(1_000).arg("retry").arg("");
            connection.script(begin, deadline).await.expect("the record is new");
            // As long as the record of the page that the handlers answer with.
            let complete = COMPLETE.keys([&record]).arg("token").arg([7_u8; 100].as_slice());
            let complete = complete.arg(1_000).arg("bench:raw:end");
            connection.script(complete, deadline).await.expect("the record is ours");
        })
    }
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

//! What a rate limit costs a request that it lets through.

mod support;

use http::Request;
use support::{Bench, Body, Operation, TASKS, call, page};
use tower::{Layer, service_fn};
use towerkeep::{
    Backend, PeerAddr,
    rate_limit::{Policy, Quota, RateLimitLayer, by},
};

fn main() {
    let mut bench = Bench::new("rate_limit", "request");
    let (_server, redis) = bench.redis();

    for tasks in TASKS {
        bench.measure("bare service", tasks, None, |task| async move {
            call(service_fn(page), request(task)).await;
        });
        bench.measure("memory", tasks, "bare service", limited(Backend::memory()));
        bench.measure_pings("one PING", 1, tasks, &redis);
        bench.measure("Redis", tasks, "one PING", limited(redis.clone()));
    }
    bench.report();
}

fn limited(backend: Backend) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    // Nobody comes near it: what is measured is the request that passes.
    let quota = Quota::per_second(10_000).burst(1_000_000_000);
    let layer = RateLimitLayer::new(backend, Policy::gcra("burst", quota).key(by::ip()));
    let service = layer.layer(service_fn(page));
    move |task| {
        let service = service.clone();
        Box::pin(async move {
            let response = call(service, request(task)).await;
            assert!(response.status().is_success(), "the quota is never reached");
        })
    }
}

/// Each task is a client of its own.
fn request(task: usize) -> Request<Body> {
    let mut request = Request::new(Body::default());
    let host = [10, 0, (task >> 8) as u8, task as u8];
    request.extensions_mut().insert(PeerAddr::new((host, 40_000).into()));
    request
}

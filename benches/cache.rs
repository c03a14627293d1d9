//! What a hit of the cache costs.

mod support;

use http::{HeaderValue, Request, Response, header::CACHE_CONTROL};
use std::convert::Infallible;
use support::{Bench, Body, Operation, TASKS, call, page};
use tower::{Layer, service_fn};
use towerkeep::{Backend, cache::CacheLayer};

fn main() {
    let mut bench = Bench::new("cache", "hit");
    let (_server, redis) = bench.redis();

    for tasks in TASKS {
        bench.measure("bare service", tasks, None, |task| async move {
            call(service_fn(page), request(task)).await;
        });
        let op = hit(&bench, Backend::memory(), tasks);
        bench.measure("memory", tasks, "bare service", op);
        bench.measure_pings("one PING", 1, tasks, &redis);
        let op = hit(&bench, redis.clone(), tasks);
        bench.measure("Redis", tasks, "one PING", op);
    }
    bench.report();
}

/// Each task asks for a page of its own, which is stored before.
fn hit(
    bench: &Bench,
    backend: Backend,
    tasks: usize,
) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let service = CacheLayer::new(backend.clone()).layer(service_fn(cacheable));
    for task in 0..tasks {
        bench.block_on(call(service.clone(), request(task)));
    }
    let unfinished = bench.block_on(backend.shutdown(std::time::Duration::from_secs(10)));
    assert_eq!(unfinished, 0, "every page is stored");
    move |task| {
        let service = service.clone();
        Box::pin(async move {
            let response = call(service, request(task)).await;
            let status = response.headers()["cache-status"].to_str().unwrap_or_default();
            assert!(status.contains("; hit"), "{status}");
        })
    }
}

async fn cacheable<B>(request: Request<B>) -> Result<Response<Body>, Infallible> {
    let mut response = page(request).await?;
    let day = HeaderValue::from_static("max-age=86400");
    response.headers_mut().insert(CACHE_CONTROL, day);
    Ok(response)
}

fn request(task: usize) -> Request<Body> {
    let request = Request::get(format!("http://bench.example/{task}"));
    request.body(Body::default()).expect("the URI is valid")
}

//! What a session costs a request: that does not ask for it, that reads it, that changes it.

mod support;

use http::{
    HeaderValue, Request, Response,
    header::{COOKIE, SET_COOKIE},
};
use std::{convert::Infallible, sync::Arc};
use support::{Bench, Body, Operation, TASKS, call, page};
use tower::{Layer, service_fn};
use towerkeep::{
    Backend,
    session::{LazySession, Session, SessionLayer},
};

fn main() {
    let mut bench = Bench::new("session", "request");
    let (_server, redis) = bench.redis();

    for tasks in TASKS {
        bench.measure("bare service", tasks, None, |_| async {
            call(service_fn(page), Request::new(Body::default())).await;
        });
        bench.measure_pings("one PING", 1, tasks, &redis);
        bench.measure_pings("two PINGs", 2, tasks, &redis);

        let (memory, bare) = (Backend::memory(), "bare service");
        let op = visit(&bench, memory.clone(), tasks, Use::Nothing);
        bench.measure("not asked for", tasks, bare, op);
        let op = visit(&bench, memory.clone(), tasks, Use::Read);
        bench.measure("memory, read", tasks, bare, op);
        let op = visit(&bench, memory, tasks, Use::Change);
        bench.measure("memory, read and changed", tasks, bare, op);

        let op = visit(&bench, redis.clone(), tasks, Use::Read);
        bench.measure("Redis, read", tasks, "one PING", op);
        let op = visit(&bench, redis.clone(), tasks, Use::Change);
        bench.measure("Redis, read and changed", tasks, "two PINGs", op);
    }
    bench.report();
}

/// What the handler does with the session.
#[derive(Clone, Copy, Debug)]
enum Use {
    Nothing,
    Read,
    Change,
}

/// Each task comes back to a session of its own.
fn visit(
    bench: &Bench,
    backend: Backend,
    tasks: usize,
    what: Use,
) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let layer = SessionLayer::new(backend);
    let create = layer.layer(service_fn(|request| handler(request, Use::Change)));
    let cookies: Vec<HeaderValue> = (0..tasks)
        .map(|_| {
            let first = bench.block_on(call(create.clone(), Request::new(Body::default())));
            let cookie = first.headers()[SET_COOKIE].to_str().expect("a cookie is ASCII");
            let pair = cookie.split(';').next().expect("a split has a first part");
            pair.parse().expect("a cookie is a header value")
        })
        .collect();

    let cookies: Arc<[_]> = cookies.into();
    let service = layer.layer(service_fn(move |request| handler(request, what)));
    move |task| {
        let mut request = Request::new(Body::default());
        request.headers_mut().insert(COOKIE, cookies[task].clone());
        let service = service.clone();
        Box::pin(async move {
            let response = call(service, request).await;
            assert!(response.status().is_success(), "{}", response.status());
        })
    }
}

async fn handler<B>(request: Request<B>, what: Use) -> Result<Response<Body>, Infallible> {
    let session = request.extensions().get::<LazySession>().cloned();
    let session = async || -> Session {
        session.expect("the layer is around").load().await.expect("the store works")
    };
    match what {
        Use::Nothing => {}
        Use::Read => {
            let visits = session().await.get::<u64>("visits").expect("it is a number");
            assert!(visits.is_some(), "the session is known");
        }
        Use::Change => {
            session().await.incr("visits", 1).expect("it is a number");
        }
    }
    page(request).await
}

//! A site behind a cache, whose pages say how often they were made.

use axum::{Router, body::Body};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};
use tower::ServiceExt;
use towerkeep::{
    Backend,
    cache::{CacheControl, CacheHandle, CacheLayer},
};

/// Long enough for anything that should happen; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) cache: CacheHandle,
    backend: Backend,
    app: Router,
    gate: Arc<Gate>,
}

struct Gate {
    runs: AtomicUsize,
    open: Semaphore,
}

/// What came of a request: the body, and `hit` or why it went forward.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) verdict: String,
}

impl Reply {
    pub(crate) fn is_hit(&self) -> bool {
        self.verdict.starts_with("hit")
    }
}

impl Site {
    /// With these settings, and this answer to the request of that number, from 1.
    pub(crate) fn new(
        backend: &Backend,
        settings: impl Fn(CacheLayer) -> CacheLayer,
        answer: impl Fn(usize, &Request<Body>, CacheControl) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let layer = settings(CacheLayer::new(backend.clone()).deadline(PATIENCE));
        let open = Semaphore::new(Semaphore::MAX_PERMITS);
        let gate = Arc::new(Gate { runs: AtomicUsize::new(0), open });
        let (guard, answer) = (gate.clone(), Arc::new(answer));
        let page = move |cache: CacheControl, request: Request<Body>| async move {
            let run = guard.runs.fetch_add(1, SeqCst) + 1;
            let answered = answer(run, &request, cache);
            guard.open.acquire().await.unwrap().forget();
            answered
        };
        let cache = layer.handle();
        let app = Router::new().fallback(page).layer(layer);
        Self { cache, backend: backend.clone(), app, gate }
    }

    pub(crate) fn runs(&self) -> usize {
        self.gate.runs.load(SeqCst)
    }

    /// From now on handlers end only when they are let go.
    pub(crate) fn close(&self) {
        self.gate.open.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_go(&self, runs: usize) {
        self.gate.open.add_permits(runs);
    }

    pub(crate) async fn has_run(&self, times: usize) {
        let wait = async {
            while self.runs() < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the handler runs");
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let exchange = async {
            let (head, body) = self.app.clone().oneshot(request).await.unwrap().into_parts();
            let text = body.collect().await.unwrap().to_bytes();
            let told = head.headers["cache-status"].to_str().unwrap().split("; ").skip(1);
            Reply {
                status: head.status,
                text: String::from_utf8(text.to_vec()).unwrap(),
                verdict: told
                    .filter(|part| !part.starts_with("ttl="))
                    .collect::<Vec<_>>()
                    .join("; "),
            }
        };
        timeout(PATIENCE, exchange).await.expect("a whole response")
    }

    /// Asks, and waits until what is to be stored is.
    pub(crate) async fn get(&self, uri: &str) -> Reply {
        let reply = self.send(Request::get(uri).body(Body::empty()).unwrap()).await;
        self.settle().await;
        reply
    }

    /// Asks in a task of its own.
    pub(crate) fn spawn(&self, uri: &str) -> JoinHandle<Reply> {
        let (site, request) = (self.clone(), Request::get(uri).body(Body::empty()).unwrap());
        tokio::spawn(async move { site.send(request).await })
    }

    /// Waits for what goes on behind the clients' backs.
    pub(crate) async fn settle(&self) {
        self.backend.tasks().drain(PATIENCE).await;
    }
}

/// A page that is fresh for a minute.
pub(crate) fn fresh(run: usize) -> Response<Body> {
    let response = Response::builder().header("cache-control", "max-age=60");
    response.body(Body::from(format!("run {run}"))).unwrap()
}

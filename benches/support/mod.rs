//! What the benches share: subjects that are measured in the same run, and told as ratios.
//!
//! A figure depends on the machine, and client and server share its cores here; a ratio to something
//! measured in the same minute does so much less.

// Every bench compiles this module anew and uses its own part of it.
#![allow(dead_code)]

#[path = "../../tests/support/mod.rs"]
pub(crate) mod servers;

pub(crate) use servers::server::RedisServer;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet};
use tower::{Service, ServiceExt};
use towerkeep::Backend;

/// How many run at a time.
pub(crate) const TASKS: [usize; 2] = [1, 64];

/// One bench: its subjects, and what each took.
pub(crate) struct Bench {
    name: &'static str,
    operation: &'static str,
    criterion: Criterion,
    runtime: Runtime,
    figures: Vec<Figure>,
}

struct Figure {
    subject: &'static str,
    tasks: usize,
    baseline: Option<&'static str>,
    /// The mean of all that were run.
    micros: f64,
}

impl Bench {
    /// `operation` says what is counted as one.
    pub(crate) fn new(name: &'static str, operation: &'static str) -> Self {
        let criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(500))
            .without_plots()
            .configure_from_args();
        let runtime = Runtime::new().expect("a runtime can be built");
        Self { name, operation, criterion, runtime, figures: Vec::new() }
    }

    /// Makes what a subject needs.
    pub(crate) fn block_on<T>(&self, make: impl Future<Output = T>) -> T {
        self.runtime.block_on(make)
    }

    /// A backend on a server of its own, which lives as long as the first.
    pub(crate) fn redis(&self) -> (RedisServer, Backend) {
        let server = RedisServer::start();
        let backend = self.block_on(Backend::redis(server.url())).expect("the server runs");
        (server, backend)
    }

    /// Measures `subject`: `op` is told which of the tasks it runs in. It is later told as a ratio to
    /// `baseline`, another subject of the same bench.
    pub(crate) fn measure<F, O>(
        &mut self,
        subject: &'static str,
        tasks: usize,
        baseline: impl Into<Option<&'static str>>,
        op: F,
    ) where
        F: Fn(usize) -> O + Clone + Send + 'static,
        O: Future<Output = ()> + Send,
    {
        let (runtime, mut counted, mut total) = (&self.runtime, 0, Duration::ZERO);
        let mut group = self.criterion.benchmark_group(self.name);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new(subject, tasks), |bencher| {
            bencher.iter_custom(|count| {
                let took = runtime.block_on(run(tasks, count, &op));
                counted += count;
                total += took;
                took
            });
        });
        group.finish();
        // None if the command line asks for others only.
        if counted > 0 {
            let micros = total.as_secs_f64() * 1e6 / counted as f64;
            self.figures.push(Figure { subject, tasks, baseline: baseline.into(), micros });
        }
    }

    /// `trips` bare round trips over the backend's own connection: what Redis costs at the least.
    pub(crate) fn measure_pings(
        &mut self,
        subject: &'static str,
        trips: usize,
        tasks: usize,
        backend: &Backend,
    ) {
        let connection = backend.connection().expect("a backend on Redis").clone();
        self.measure(subject, tasks, None, move |_| {
            let connection = connection.clone();
            async move {
                for _ in 0..trips {
                    connection.ping(Duration::from_secs(5)).await.expect("the server answers");
                }
            }
        });
    }

    /// Says what was measured against what.
    pub(crate) fn report(self) {
        for tasks in TASKS {
            let figures: Vec<_> = self.figures.iter().filter(|of| of.tasks == tasks).collect();
            if figures.is_empty() {
                continue;
            }
            println!("\n{}, {tasks} at a time, mean of each {}:", self.name, self.operation);
            for Figure { subject, baseline, micros, .. } in &figures {
                let base = figures.iter().find(|of| Some(of.subject) == *baseline);
                let ratio = base.map_or(String::new(), |base| {
                    format!("  {:8.2} times {}", micros / base.micros, base.subject)
                });
                println!("  {subject:<28} {micros:10.2} µs{ratio}");
            }
        }
        self.criterion.final_summary();
    }
}

/// Runs `op` `count` times, spread over `tasks`, and returns the time from the first to the last.
pub(crate) async fn run<F, O>(tasks: usize, count: u64, op: &F) -> Duration
where
    F: Fn(usize) -> O + Clone + Send + 'static,
    O: Future<Output = ()> + Send,
{
    let started = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let share = count / tasks as u64 + u64::from((task as u64) < count % tasks as u64);
        let op = op.clone();
        running.spawn(async move {
            for _ in 0..share {
                op(task).await;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no subject panics");
    }
    started.elapsed()
}

/// What is measured, boxed so that it can be named.
pub(crate) type Operation = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) type Body = Full<Bytes>;

/// Sends one request through a layer and reads its response to the end.
pub(crate) async fn call<S, R>(service: S, request: Request<Body>) -> Response<Bytes>
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible>,
    R: http_body::Body<Data = Bytes>,
{
    let Ok(response) = service.oneshot(request).await;
    let (parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else { panic!("the body ends well") };
    Response::from_parts(parts, body.to_bytes())
}

/// The service inside: a small page, at once.
pub(crate) async fn page<B>(_request: Request<B>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Full::from("<h1>hello</h1>")))
}

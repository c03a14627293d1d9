//! A server with the records, and the processes before it.

use super::{
    app::{PATIENT, spawn},
    runs::{self, Run},
};
use crate::support::{
    http::client::{HttpClient, Reply},
    process::ChildApp,
    proxy::FaultProxy,
    server::RedisServer,
};
use axum::{body::Body, http::Request};
use std::{thread, time::Duration};
use tokio::{
    task::{JoinHandle, block_in_place},
    time::{Instant, sleep},
};

/// Long enough for a few renewals on a small machine, short enough to wait for its end.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// What becomes of a request under a key.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The handler's own answer.
    Made(u16, String),
    Replayed(u16, String),
    /// A problem: its status, and the variant of `Rejection`.
    Problem(u16, String),
}

pub(super) fn made(text: &str) -> Answer {
    Answer::Made(200, text.into())
}

pub(super) fn replayed(text: &str) -> Answer {
    Answer::Replayed(200, text.into())
}

pub(super) struct Site {
    pub(super) redis: RedisServer,
    pub(super) proxy: FaultProxy,
}

/// How a process is started.
type Start<'a> = Box<dyn Fn(&Site) -> ChildApp + Sync + 'a>;

impl Site {
    pub(super) fn open() -> Self {
        let redis = RedisServer::start();
        let proxy = FaultProxy::start(redis.port());
        Self { redis, proxy }
    }

    /// A process that reaches its records directly.
    pub(super) fn app(&self, envs: &[(&str, &str)]) -> ChildApp {
        self.app_at(&self.redis.url(), envs)
    }

    /// A process that reaches its records by the proxy, and stops at a step.
    pub(super) fn victim(&self, at: &str, envs: &[(&str, &str)]) -> ChildApp {
        self.app_at(&self.proxy.url(), &[&[("AT", at)], envs].concat())
    }

    pub(super) fn app_at(&self, url: &str, envs: &[(&str, &str)]) -> ChildApp {
        let (notes, lease) = (self.redis.url(), LEASE.as_millis().to_string());
        let known = [("REDIS_URL", url), ("NOTES_URL", &notes), ("LEASE", &lease)];
        spawn(&[&known[..], envs].concat())
    }

    /// Several processes at once.
    pub(super) fn spawn_all<const N: usize>(&self, starts: [Start<'_>; N]) -> [ChildApp; N] {
        thread::scope(|scope| {
            let running = starts.each_ref().map(|start| scope.spawn(|| start(self)));
            running.map(|start| start.join().unwrap())
        })
    }

    /// Lets those go on that stand still at a step, now or later.
    pub(super) fn go(&self, step: &str) {
        self.redis.command(&["SET", &format!("go:{step}"), "1"]);
    }

    /// The runs of a key so far; that none is beside another which holds its lease is checked here, so
    /// that no test forgets it.
    pub(super) fn runs(&self, key: &str) -> Vec<Run> {
        let runs = runs::of(&self.redis, key);
        assert_eq!(runs::violations(&runs), 0, "two at a time: {runs:?}");
        assert!(runs.is_sorted_by(|a, b| a.fence < b.fence), "{runs:?}");
        runs
    }
}

/// One request.
pub(super) async fn pay(app: &ChildApp, key: &str) -> Answer {
    answer(HttpClient::http1().send(request(app, key)).await)
}

/// The same from a client that nobody waits for.
pub(super) fn pay_aside(app: &ChildApp, key: &str) -> JoinHandle<Option<Answer>> {
    let request = request(app, key);
    tokio::spawn(async { HttpClient::http1().try_send(request).await.ok().map(answer) })
}

/// Asks until nobody else handles the request.
pub(super) async fn settle(app: &ChildApp, key: &str) -> Answer {
    let (client, deadline) = (HttpClient::http1(), Instant::now() + PATIENT * 2);
    loop {
        let reply = client.send(request(app, key)).await;
        let retry_after = reply.header("retry-after").is_some();
        match answer(reply) {
            Answer::Problem(409, kind) if kind == "InFlight" => assert!(retry_after),
            answer => return answer,
        }
        assert!(Instant::now() < deadline, "{key} is in flight for ever");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A line of a process's output; other requests go on meanwhile.
pub(super) fn wait_for(app: &ChildApp, line: &str) -> String {
    block_in_place(|| app.wait_for_line(line))
}

fn request(app: &ChildApp, key: &str) -> Request<Body> {
    let request = Request::post(app.url(&format!("/{key}")));
    request.header("idempotency-key", format!("{key:?}")).body(Body::from("12 EUR")).unwrap()
}

fn answer(reply: Reply) -> Answer {
    let (status, text) = (reply.status.as_u16(), reply.text().to_owned());
    if reply.header("content-type") == Some("application/problem+json") {
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
        let kind = problem["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        return Answer::Problem(status, kind);
    }
    match reply.header("idempotent-replayed") {
        Some(_) => Answer::Replayed(status, text),
        None => Answer::Made(status, text),
    }
}

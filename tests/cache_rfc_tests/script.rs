//! Scripts of requests, of what the origin answers, and of what the client is to get.

use crate::harness::Harness;
use axum::body::Body;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use towerkeep::{
    ResponseBody,
    cache::{CacheLayer, Policy, QueryMethodBody, QueryMethodLayer},
    marks::SessionTouched,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What of a question's content is read at most.
pub(crate) const MAX_CONTENT: usize = 16;

/// A behaviour: its name, and the exchanges that show it.
pub(crate) type Case = (&'static str, Vec<Step>);

type App = BoxCloneSyncService<Request<Body>, Response<ResponseBody<Body>>, &'static str>;

/// One request and all that is to come of it.
///
/// Headers are lines of `name: value`, separated by `|`. In them `{here}` is the target of the case,
/// `{now}` an HTTP date, and `{now-60}` one of a minute ago.
#[derive(Default)]
pub(crate) struct Step {
    method: &'static str,
    suffix: &'static str,
    request: &'static str,
    content: &'static str,
    later: u64,
    answer: Option<(u16, &'static str, &'static str)>,
    down: bool,
    touches: bool,
    meets: Vec<Expect>,
}

enum Expect {
    /// The origin is not asked.
    Hit,
    /// The origin is asked.
    Asked,
    Status(u16),
    Body(&'static str),
    Header(&'static str, &'static str),
    NoHeader(&'static str),
    OriginSees(&'static str, &'static str),
    OriginDoesNotSee(&'static str),
    OriginReads(&'static str),
    /// `Cache-Status` without the time.
    CacheStatus(&'static str),
    Error,
}

pub(crate) fn get(request: &'static str) -> Step {
    Step { method: "GET", request, ..Step::default() }
}

/// A question by content.
pub(crate) fn query(request: &'static str, content: &'static str) -> Step {
    Step { method: "QUERY", request, content, ..Step::default() }
}

pub(crate) fn head() -> Step {
    method("HEAD")
}

pub(crate) fn method(method: &'static str) -> Step {
    Step { method, ..Step::default() }
}

impl Step {
    /// With these headers.
    pub(crate) fn asking(self, request: &'static str) -> Self {
        Self { request, ..self }
    }

    /// So many seconds after the one before.
    pub(crate) fn later(self, seconds: u64) -> Self {
        Self { later: seconds, ..self }
    }

    /// For another target, that of the case with this behind it.
    pub(crate) fn to(self, suffix: &'static str) -> Self {
        Self { suffix, ..self }
    }

    /// If it is asked, the origin answers 200 with these headers and body.
    pub(crate) fn gives(self, headers: &'static str, body: &'static str) -> Self {
        self.answers(200, headers, body)
    }

    pub(crate) fn answers(self, status: u16, headers: &'static str, body: &'static str) -> Self {
        Self { answer: Some((status, headers, body)), ..self }.expect(Expect::Asked)
    }

    /// The origin cannot be reached.
    pub(crate) fn down(self) -> Self {
        Self { down: true, ..self }.expect(Expect::Asked)
    }

    /// The origin touches its client's session.
    pub(crate) fn touching_a_session(self) -> Self {
        Self { touches: true, ..self }
    }

    /// The origin is not asked, and this is the body.
    pub(crate) fn hit(self, body: &'static str) -> Self {
        self.expect(Expect::Hit).body(body)
    }

    pub(crate) fn unasked(self) -> Self {
        self.expect(Expect::Hit)
    }

    pub(crate) fn body(self, body: &'static str) -> Self {
        self.expect(Expect::Body(body))
    }

    pub(crate) fn status(self, status: u16) -> Self {
        self.expect(Expect::Status(status))
    }

    pub(crate) fn with(self, name: &'static str, value: &'static str) -> Self {
        self.expect(Expect::Header(name, value))
    }

    pub(crate) fn without(self, name: &'static str) -> Self {
        self.expect(Expect::NoHeader(name))
    }

    pub(crate) fn origin_sees(self, name: &'static str, value: &'static str) -> Self {
        self.expect(Expect::OriginSees(name, value))
    }

    pub(crate) fn origin_does_not_see(self, name: &'static str) -> Self {
        self.expect(Expect::OriginDoesNotSee(name))
    }

    pub(crate) fn origin_reads(self, content: &'static str) -> Self {
        self.expect(Expect::OriginReads(content))
    }

    pub(crate) fn tells(self, status: &'static str) -> Self {
        self.expect(Expect::CacheStatus(status))
    }

    pub(crate) fn error(self) -> Self {
        self.expect(Expect::Error)
    }

    fn expect(mut self, expect: Expect) -> Self {
        self.meets.push(expect);
        self
    }
}

/// Runs all cases with a proxy's cache, and tells of all that failed.
pub(crate) async fn run(harness: &Harness, area: &str, cases: Vec<Case>) {
    run_with(harness, area, |layer| layer, cases).await;
}

/// The same, with other settings.
pub(crate) async fn run_with(
    harness: &Harness,
    area: &str,
    settings: impl Fn(CacheLayer) -> CacheLayer,
    cases: Vec<Case>,
) {
    let mut failed = Vec::new();
    let total = cases.len();
    for (at, (name, steps)) in cases.into_iter().enumerate() {
        let layer = CacheLayer::new(harness.backend.clone()).deadline(PATIENCE);
        let stage = Stage::new(settings(layer.policy(Policy::proxy())), format!("/{area}/{at}"));
        for (number, step) in steps.into_iter().enumerate() {
            harness.advance(Duration::from_secs(step.later));
            let exchange = tokio::time::timeout(PATIENCE, stage.exchange(harness, step));
            let failures = exchange.await.expect("an exchange ends");
            failed.extend(failures.iter().map(|why| format!("{name}, step {number}: {why}")));
        }
    }
    assert!(
        failed.is_empty(),
        "{} failures in {total} cases:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// An origin behind a cache, and the target of a case.
struct Stage {
    app: App,
    origin: Arc<Mutex<Origin>>,
    here: String,
}

#[derive(Default)]
struct Origin {
    next: Option<Response<Body>>,
    asked: Vec<HeaderMap>,
    read: String,
}

impl Stage {
    fn new(layer: CacheLayer, here: String) -> Self {
        let origin = Arc::new(Mutex::new(Origin::default()));
        let script = origin.clone();
        let service = service_fn(move |request: Request<QueryMethodBody<Body>>| {
            let script = script.clone();
            async move {
                let (head, body) = request.into_parts();
                let read = body.collect().await.map_err(|_| "a body that breaks off")?.to_bytes();
                let mut origin = script.lock().unwrap();
                origin.read = String::from_utf8_lossy(&read).into_owned();
                origin.asked.push(head.headers);
                origin.next.take().ok_or("the origin is down")
            }
        });
        let service = QueryMethodLayer::new(MAX_CONTENT).layer(layer.layer(service));
        Self { app: BoxCloneSyncService::new(service), origin, here }
    }

    async fn exchange(&self, harness: &Harness, step: Step) -> Vec<String> {
        let target = format!("{}{}", self.here, step.suffix);
        let mut request = Request::builder().method(step.method).uri(target);
        *request.headers_mut().unwrap() = self.headers(step.request);
        request.headers_mut().unwrap().insert("host", "origin.example".parse().unwrap());
        *self.origin.lock().unwrap() = Origin { next: self.answer(&step), ..Origin::default() };
        let response =
            self.app.clone().oneshot(request.body(Body::from(step.content)).unwrap()).await;
        let Ok(response) = response else {
            harness.tasks().drain(PATIENCE).await;
            let expected = step.meets.iter().any(|expect| matches!(expect, Expect::Error));
            return if expected { Vec::new() } else { vec!["an error".into()] };
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        // What goes on behind the client's back has to be seen, too.
        harness.tasks().drain(PATIENCE).await;
        let reply = (head.status.as_u16(), &head.headers, std::str::from_utf8(&body).unwrap());
        step.meets.iter().filter_map(|expect| self.fault(expect, reply).err()).collect()
    }

    fn answer(&self, step: &Step) -> Option<Response<Body>> {
        // An origin that is asked against expectation tells so.
        let unexpected = (200, "cache-control: no-store", "the origin was asked");
        let (status, headers, body) = step.answer.unwrap_or(unexpected);
        let mut response = Response::builder().status(status).body(Body::from(body)).unwrap();
        *response.headers_mut() = self.headers(headers);
        if !response.headers().contains_key("date") {
            response.headers_mut().insert("date", date("now").parse().unwrap());
        }
        if step.touches {
            let mark = SessionTouched::default();
            mark.set();
            response.extensions_mut().insert(mark);
        }
        (!step.down).then_some(response)
    }

    fn headers(&self, lines: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines.split('|').filter(|line| !line.trim().is_empty()) {
            let (name, value) = line.split_once(':').expect("name: value");
            let name: http::HeaderName = name.trim().parse().unwrap();
            headers.append(name, self.filled(value).trim().parse().unwrap());
        }
        headers
    }

    fn filled(&self, text: &str) -> String {
        let mut filled = text.replace("{here}", &self.here);
        while let Some(start) = filled.find("{now") {
            let end = start + filled[start..].find('}').expect("a closing brace");
            let date = date(&filled[start + 1..end]);
            filled.replace_range(start..=end, &date);
        }
        filled
    }

    fn fault(&self, expect: &Expect, reply: (u16, &HeaderMap, &str)) -> Result<(), String> {
        let (status, headers, body) = reply;
        let origin = self.origin.lock().unwrap();
        let all = |headers: &HeaderMap, name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        };
        let check = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
        let told = headers.get("cache-status").map(|told| told.to_str().unwrap());
        let sees = |name| origin.asked.first().map(|seen| all(seen, name)).unwrap_or_default();
        match expect {
            Expect::Hit => check(origin.asked.is_empty(), format!("the origin is asked: {told:?}")),
            Expect::Asked => check(!origin.asked.is_empty(), format!("it is a hit: {told:?}")),
            Expect::Status(expected) => check(status == *expected, format!("status {status}")),
            Expect::Body(expected) => check(body == *expected, format!("body {body:?}")),
            // A few real milliseconds, and the fraction that `Date` has not, may be another second.
            Expect::Header("age", expected) => {
                let (found, expected) = (all(headers, "age").join(" | "), expected.parse::<u64>());
                let late = found.parse::<u64>().map(|age| age.saturating_sub(1));
                check(found.parse() == expected || late == expected, format!("age: {found}"))
            }
            Expect::Header(name, expected) => {
                let found = all(headers, name).join(" | ");
                check(found == self.filled(expected), format!("{name}: {found}"))
            }
            Expect::NoHeader(name) => check(!headers.contains_key(*name), format!("has {name}")),
            Expect::OriginSees(name, expected) => {
                let found = sees(name).join(" | ");
                check(found == self.filled(expected), format!("the origin sees {name}: {found}"))
            }
            Expect::OriginDoesNotSee(name) => {
                check(sees(name).is_empty(), format!("the origin sees {name}"))
            }
            Expect::OriginReads(expected) => {
                check(origin.read == *expected, format!("the origin reads {:?}", origin.read))
            }
            Expect::CacheStatus(expected) => {
                let parts = told.unwrap_or_default().split("; ").skip(1);
                let parts: Vec<_> = parts.filter(|part| !part.starts_with("ttl=")).collect();
                check(parts.join("; ") == *expected, format!("Cache-Status: {told:?}"))
            }
            Expect::Error => Err("no error".into()),
        }
    }
}

/// `now`, or so many seconds before or after.
fn date(when: &str) -> String {
    let seconds: i64 = when.strip_prefix("now").unwrap().parse().unwrap_or(0);
    let by = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    httpdate::fmt_http_date(if seconds < 0 { now - by } else { now + by })
}

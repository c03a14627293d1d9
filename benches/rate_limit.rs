//! What a rate limit costs: a check alone, a request through the layer, and Redis its CPU.

mod support;

use http::Request;
use std::time::{Duration, Instant};
use support::{Bench, Body, Operation, RedisServer, TASKS, call, page};
use tower::{Layer, service_fn};
use towerkeep::{
    Backend, PeerAddr,
    rate_limit::{Charge, Policy, Quota, RateLimitLayer, RateLimitStore, Rule, by},
};

/// The least that a GCRA in Redis can do, written by hand for one key: what the check is held against.
const BARE_GCRA: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local after = tat + interval
if after - now > tolerance then
  return { 0, math.floor((now + tolerance - tat) / interval), tat - now, after - now - tolerance }
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return { 1, math.floor((now + tolerance - after) / interval), after - now, 0 }
";

/// Calls of which the server's CPU time is the mean.
const CALLS: u32 = 20_000;

/// How often a mean is taken of which the lowest counts: others use this machine, too.
const BATCHES: u32 = 20;

fn main() {
    let mut bench = Bench::new("rate_limit", "request");
    let (server, redis) = bench.redis();

    for tasks in TASKS {
        in_memory(&mut bench, tasks);
        on_redis(&mut bench, tasks, &server, &redis);
    }
    tight(&bench);
    cpu(&bench, &server, &redis);
    bench.report();
}

fn in_memory(bench: &mut Bench, tasks: usize) {
    let memory = Backend::memory();
    bench.measure("bare service", tasks, None, |task| async move {
        call(service_fn(page), request(task)).await;
    });
    for (name, rule) in rules() {
        bench.measure(name, tasks, "bare service", check(&memory, 1, rule));
    }
    bench.measure("check of 4 policies", tasks, "bare service", check(&memory, 4, gcra()));
    bench.measure("layer", tasks, "bare service", limited(&memory, 1));
    bench.measure("layer, 8 policies", tasks, "bare service", limited(&memory, 8));
    bench.measure("layer, denied", tasks, "bare service", denied(&memory));
}

fn on_redis(bench: &mut Bench, tasks: usize, server: &RedisServer, redis: &Backend) {
    bench.measure_pings("one PING", 1, tasks, redis);
    bench.measure("bare GCRA script", tasks, "one PING", bare(bench, server));
    for (name, rule) in rules() {
        let name = format!("Redis, {name}").leak();
        bench.measure(name, tasks, "one PING", check(redis, 1, rule));
    }
    bench.measure("Redis, layer", tasks, "one PING", limited(redis, 1));
    bench.measure("Redis, layer, 8 policies", tasks, "one PING", limited(redis, 8));
    bench.measure("Redis, layer, denied", tasks, "bare service", denied(redis));
}

/// Nobody comes near it: what is measured is the request that passes.
fn roomy() -> Quota {
    Quota::per_second(10_000).burst(1_000_000_000)
}

fn gcra() -> Rule {
    Rule::gcra(roomy()).expect("a legal quota")
}

fn rules() -> [(&'static str, Rule); 6] {
    let many = Quota::per_hour(1_000_000_000);
    // As long as a log may be, and soon over.
    let few = Quota::new(10_000, Duration::from_millis(10)).expect("a legal quota");
    let rules = [
        ("check, gcra", Rule::gcra(roomy())),
        (
            "check, token bucket",
            Rule::token_bucket(Quota::per_hour(1_000_000_000).burst(1_000_000)),
        ),
        ("check, fixed window", Rule::fixed_window(many)),
        ("check, sliding window", Rule::sliding_window(Quota::per_hour(100_000_000))),
        ("check, sliding log", Rule::sliding_log(few)),
        // The same lease again and again.
        ("check, concurrency", Rule::concurrency(10)),
    ];
    rules.map(|(name, rule)| (name, rule.expect("a legal quota")))
}

/// A check of so many policies, without a layer.
fn check(
    store: &Backend,
    policies: usize,
    rule: Rule,
) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let policy = |n| Policy::new(&format!("p{n}"), rule).expect("a legal name");
    let policies: Vec<Policy> = (0..policies).map(policy).collect();
    let charges = move |key: String| {
        policies.iter().map(|policy| Charge::new(policy, key.clone(), 1)).collect::<Vec<_>>()
    };
    let charges: Vec<_> = (0..TASKS[1]).map(|task| charges(format!("10.0.0.{task}"))).collect();
    let (store, charges) = (store.clone(), std::sync::Arc::new(charges));
    move |task| {
        let (store, charges) = (store.clone(), charges.clone());
        Box::pin(async move {
            store.check(&charges[task]).await.expect("the store answers");
        })
    }
}

fn limited(
    store: &Backend,
    policies: usize,
) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let policy = |n| Policy::gcra(&format!("p{n}"), roomy()).key(by::ip());
    let layer = RateLimitLayer::new(store.clone(), policy(0));
    let layer = (1..policies).map(policy).fold(layer, RateLimitLayer::policy);
    let service = layer.layer(service_fn(page));
    move |task| {
        let service = service.clone();
        Box::pin(async move {
            let response = call(service, request(task)).await;
            assert!(response.status().is_success(), "the quota is never reached");
        })
    }
}

/// A client that has used up what it may; on Redis the process knows, and does not ask.
fn denied(store: &Backend) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let policy = Policy::gcra("denied", Quota::per_day(1)).key(by::ip());
    let service = RateLimitLayer::new(store.clone(), policy).layer(service_fn(page));
    move |task| {
        let service = service.clone();
        Box::pin(async move {
            call(service, request(task)).await;
        })
    }
}

fn bare(
    bench: &Bench,
    server: &RedisServer,
) -> impl Fn(usize) -> Operation + Clone + Send + 'static {
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = bench.block_on(client.get_multiplexed_async_connection());
    let connection = connection.expect("the server runs");
    move |task| {
        let mut connection = connection.clone();
        Box::pin(async move {
            let script = redis::Script::new(BARE_GCRA);
            let mut call = script.key(format!("bare:{{10.0.0.{task}}}:gcra"));
            let told: Vec<i64> = call
                .arg(100)
                .arg(100_000_000_000_u64)
                .invoke_async(&mut connection)
                .await
                .expect("an answer");
            assert_eq!(told.len(), 4);
        })
    }
}

/// A check in memory and nothing else: no task, no box, no request.
fn tight(bench: &Bench) {
    println!("\nrate_limit, in memory, the lowest mean of {BATCHES} batches of {CALLS} checks:");
    for (name, rule) in rules() {
        let policy = Policy::new("p", rule).expect("a legal name");
        let (store, charge) = (Backend::memory(), [Charge::new(&policy, "10.0.0.1", 1)]);
        let batch = || {
            let started = Instant::now();
            bench.block_on(async {
                for _ in 0..CALLS {
                    store.check(&charge).await.expect("the store answers");
                }
            });
            started.elapsed()
        };
        let lowest = (0..BATCHES).map(|_| batch()).min().expect("a batch");
        println!("  {name:<28} {:10.0} ns", lowest.as_secs_f64() * 1e9 / f64::from(CALLS));
    }
}

/// The server's own time for a call, without network and client.
fn cpu(bench: &Bench, server: &RedisServer, redis: &Backend) {
    let mean = |op: &dyn Fn(usize) -> Operation| {
        bench.block_on(async {
            op(0).await;
            server.command(&["CONFIG", "RESETSTAT"]);
            for _ in 0..CALLS {
                op(0).await;
            }
        });
        let stats = server.command(&["INFO", "commandstats"]).text().to_owned();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:"));
        let told =
            line.and_then(|line| line.split(',').find_map(|of| of.strip_prefix("usec_per_call=")));
        told.and_then(|told| told.parse::<f64>().ok()).expect("scripts were called")
    };
    let base = mean(&bare(bench, server));
    println!("\nrate_limit, CPU of Redis, mean of {CALLS} calls:");
    println!("  {:<28} {base:10.2} µs", "bare GCRA script");
    for (name, policies, rule) in rules()
        .map(|(name, rule)| (name, 1, rule))
        .into_iter()
        .chain([("check of 4 policies", 4, gcra()), ("check of 8 policies", 8, gcra())])
    {
        let micros = mean(&check(redis, policies, rule));
        println!("  {name:<28} {micros:10.2} µs  {:8.2} times bare GCRA script", micros / base);
    }
}

/// Each task is a client of its own.
fn request(task: usize) -> Request<Body> {
    let mut request = Request::new(Body::default());
    let host = [10, 0, (task >> 8) as u8, task as u8];
    request.extensions_mut().insert(PeerAddr::new((host, 40_000).into()));
    request
}

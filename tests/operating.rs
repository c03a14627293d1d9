//! What a backend tells about its server.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;

use crate::support::{proxy::FaultProxy, proxy::Mode as Fault, server::RedisServer};
use std::{
    collections::BTreeSet,
    net::TcpListener,
    process::Command,
    time::{Duration, Instant, SystemTime},
};
use towerkeep::{
    Backend, Clock,
    backend::{Finding, Mode, Report, Role, ServerKind, Severity, Version},
    lock::Locks,
};

// Most tests ask what a server says, not how fast it does on a small machine under load.
const PATIENCE: Duration = Duration::from_secs(5);

async fn connect(url: &str) -> Backend {
    Backend::builder().prefix("shop").deadline(PATIENCE).redis(url).await.unwrap()
}

#[tokio::test]
async fn info_agrees_with_the_server() {
    let server = RedisServer::builder().args(&["--maxmemory", "64mb"]).start();
    server.command(&["SET", "a", "1"]);
    server.command(&["GET", "a"]);
    server.command(&["GET", "b"]);
    for protocol in ["resp2", "resp3"] {
        let backend = connect(&format!("{}?protocol={protocol}", server.url())).await;
        let info = backend.info().await.unwrap();
        assert_ne!(info.server.kind, ServerKind::Memory);
        assert!(info.server.version.unwrap() >= Version::new(6, 2, 0), "{info:?}");
        let text = server.command(&["INFO", "server"]).text();
        let version = info.server.version.unwrap();
        assert!(text.contains(&format!("_version:{version}\r\n")), "{version}: {text}");
        assert_eq!(info.server.kind == ServerKind::Valkey, text.contains("valkey_version"));
        assert_eq!(info.server.mode, Some(Mode::Standalone));
        assert!(info.server.uptime.unwrap() < Duration::from_secs(600));
        assert_eq!(info.memory.max, Some(64 << 20));
        assert_eq!(info.memory.policy.as_deref(), Some("noeviction"));
        assert!(info.memory.used.unwrap() > 100_000, "{info:?}");
        assert!(info.memory.peak >= info.memory.used.map(|used| used / 2), "{info:?}");
        assert!(info.memory.fragmentation.is_some(), "{info:?}");
        assert!(info.clients.unwrap() >= 1, "{info:?}");
        assert!(info.stats.connections.unwrap() >= 4, "{info:?}");
        assert!(info.stats.commands.unwrap() >= 3, "{info:?}");
        assert!(info.stats.ops_per_second.is_some(), "{info:?}");
        assert_eq!((info.stats.hits, info.stats.misses), (Some(1), Some(1)));
        assert_eq!(info.stats.hit_rate(), Some(0.5));
        assert_eq!(info.replication.role, Some(Role::Primary));
        assert_eq!((info.replication.replicas, info.replication.lag), (Some(0), None));
    }
}

#[tokio::test]
async fn info_that_is_not_permitted_is_an_error_that_names_the_command() {
    let server = RedisServer::start();
    let backend = connect(&restricted(&server, &["-info", "-slowlog"])).await;
    for error in [backend.info().await.unwrap_err(), backend.slow_log(9).await.unwrap_err()] {
        let text = error.to_string();
        assert!(error.is_refused(), "{text}");
        assert!(text.starts_with("INFO") || text.starts_with("SLOWLOG"), "{text}");
    }
}

#[tokio::test]
async fn the_slow_log_names_calls_and_no_arguments() {
    let server = RedisServer::start();
    let backend = connect(&server.url()).await;
    let before = SystemTime::now() - Duration::from_secs(2);
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.command(&["SET", "shop:session:x", "hunter2"]);
    server.command(&["SET", "other", "hunter2"]);
    let calls = backend.slow_log(100).await.unwrap();
    let found: Vec<_> =
        calls.iter().filter(|call| call.command == "SET").map(|call| call.is_ours).collect();
    assert_eq!(found, [false, true], "the newest first: {calls:?}");
    assert!(calls.iter().all(|call| call.at > before && call.took < Duration::from_secs(1)));
    assert!(!format!("{calls:?}").contains("hunter2"), "{calls:?}");
    assert_eq!(backend.slow_log(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn memory_says_that_it_is_memory() {
    let backend = Backend::memory();
    let info = backend.info().await.unwrap();
    assert_eq!(info.server.kind, ServerKind::Memory);
    assert_eq!((info.server.version, info.memory.used, info.clients), (None, None, None));
    assert!(backend.slow_log(10).await.unwrap().is_empty());
}

/// The URL of a user who may do everything but what `rules` take away.
fn restricted(server: &RedisServer, rules: &[&str]) -> String {
    let all = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"];
    server.command(&[&all[..], rules].concat());
    format!("redis://app:secret@127.0.0.1:{}/", server.port())
}

/// What a server needs to be without a finding.
const HEALTHY: &[&str] =
    &["--maxmemory", "64mb", "--maxmemory-policy", "noeviction", "--appendonly", "yes"];

/// Starts a healthy server but for `args`.
fn server(args: &[&str]) -> RedisServer {
    RedisServer::builder().args(HEALTHY).args(args).start()
}

async fn report(url: &str) -> Report {
    connect(url).await.doctor().await
}

/// The only finding that is about `check`; the machine may be too busy for a fast PING.
fn found<'a>(report: &'a Report, check: &str) -> &'a Finding {
    let others: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| ![check, "latency", "slow-log"].contains(&finding.check))
        .collect();
    assert!(others.is_empty(), "more than {check}: {report}");
    let of_this: Vec<_> = report.findings.iter().filter(|one| one.check == check).collect();
    let [finding] = of_this[..] else { panic!("not one {check}: {report}") };
    assert!(!finding.fix.is_empty() && !finding.problem.is_empty(), "{report}");
    finding
}

#[track_caller]
fn no_findings(report: &Report) {
    let busy = |finding: &&Finding| ["latency", "slow-log"].contains(&finding.check);
    assert!(report.findings.iter().all(|finding| busy(&finding)), "{report}");
    assert!(report.not_checked.is_empty(), "{report}");
}

#[tokio::test]
async fn a_healthy_server_yields_no_finding_and_everything_is_checked() {
    let server = server(&[]);
    for protocol in ["resp2", "resp3"] {
        let report = report(&format!("{}?protocol={protocol}", server.url())).await;
        no_findings(&report);
        assert!(report.server.contains("standalone"), "{report}");
    }
    // Snapshots are persistence, too.
    server.command(&["CONFIG", "SET", "appendonly", "no"]);
    server.command(&["CONFIG", "SET", "save", "3600 1"]);
    no_findings(&report(&server.url()).await);
}

#[tokio::test]
async fn the_doctor_leaves_no_key_and_no_connection_behind() {
    let server = server(&[]);
    let backend = connect(&server.url()).await;
    let mut client = server.client();
    let connections = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("connected_clients:"));
        line.unwrap().parse::<u32>().unwrap()
    };
    let before = connections(&client.command(&["INFO", "clients"]).text());
    no_findings(&backend.doctor().await);
    assert_eq!(client.command(&["DBSIZE"]).int(), 0);
    let deadline = Instant::now() + PATIENCE;
    while connections(&client.command(&["INFO", "clients"]).text()) > before {
        assert!(Instant::now() < deadline, "the connection for the permissions stays open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The link is as it was: a transaction that was not discarded would queue this.
    backend.connection().unwrap().ping(PATIENCE).await.unwrap();
    assert!(backend.info().await.unwrap().server.version.is_some());
}

#[tokio::test]
async fn policies_that_evict_sessions_and_locks_are_errors() {
    let server = server(&[]);
    for policy in ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lru"] {
        server.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
        let report = report(&server.url()).await;
        let finding = found(&report, "maxmemory-policy");
        assert_eq!((finding.severity, finding.value.as_str()), (Severity::Error, policy));
        assert!(finding.problem.contains("sessions") && finding.fix.contains("noeviction"));
        assert_eq!(finding.problem.contains("TTL"), policy.starts_with("volatile"), "{report}");
    }
}

#[tokio::test]
async fn settings_that_hurt_are_warnings() {
    for (args, check, value) in [
        (["--maxmemory", "0"], "maxmemory", "0"),
        (["--appendonly", "no"], "persistence", "neither"),
        (["--timeout", "77"], "timeout", "77 s"),
    ] {
        let server = server(&args);
        let report = report(&server.url()).await;
        let finding = found(&report, check);
        assert_eq!(finding.severity, Severity::Warning, "{report}");
        assert!(finding.value.contains(value), "{report}");
    }
}

#[tokio::test]
async fn uncovered_slots_of_a_cluster_are_counted() {
    let server = server(&["--cluster-enabled", "yes"]);
    let all: Vec<String> = (0..16_384).map(|slot: u32| slot.to_string()).collect();
    let mut add = vec!["CLUSTER", "ADDSLOTS"];
    add.extend(all[84..].iter().map(String::as_str));
    server.command(&add);
    let url = format!("redis+cluster://127.0.0.1:{}", server.port());
    let partly = report(&url).await;
    let finding = found(&partly, "cluster-slots");
    assert_eq!(finding.severity, Severity::Error, "{partly}");
    assert!(finding.value.starts_with("84 of 16384"), "{partly}");

    let mut rest = vec!["CLUSTER", "ADDSLOTS"];
    rest.extend(all[..84].iter().map(String::as_str));
    server.command(&rest);
    no_findings(&report(&url).await);

    // The same server under a URL that takes it for the only one.
    let alone = report(&server.url()).await;
    let finding = found(&alone, "topology");
    assert_eq!(finding.severity, Severity::Error, "{alone}");
    assert!(finding.fix.contains("redis+cluster://"), "{alone}");
}

#[tokio::test]
async fn a_replica_and_one_that_is_silent_are_found() {
    let primary = server(&[]);
    let port = primary.port().to_string();
    let replica = server(&["--repl-diskless-sync-delay", "0"]);
    replica.command(&["REPLICAOF", "127.0.0.1", &port]);
    let told = report(&replica.url()).await;
    let finding = found(&told, "role");
    assert_eq!(finding.severity, Severity::Error, "{told}");

    // A replica that follows is no finding; one that does not report any more is.
    let online = || primary.command(&["INFO", "replication"]).text().contains("state=online");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !online() {
        assert!(Instant::now() < deadline, "the replica does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let backend = connect(&primary.url()).await;
    replica.pause();
    loop {
        let report = backend.doctor().await;
        if report.findings.iter().any(|finding| finding.check == "replication") {
            assert_eq!(found(&report, "replication").severity, Severity::Warning);
            break;
        }
        assert!(Instant::now() < deadline, "a silent replica is not found: {report}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    replica.resume();
}

#[tokio::test]
async fn a_clock_that_is_off_is_found() {
    let server = server(&[]);
    let clock = Clock::manual();
    let builder = Backend::builder().deadline(PATIENCE).clock(clock.clone());
    let backend = builder.redis(server.url()).await.unwrap();
    clock.advance(Duration::from_secs(60));
    let report = backend.doctor().await;
    let finding = found(&report, "clock");
    assert!(finding.value.contains("behind this process"), "{report}");
    assert_eq!(finding.severity, Severity::Warning, "{report}");
}

#[tokio::test]
async fn missing_permissions_are_named_with_the_rule_that_grants_them() {
    let server = server(&[]);
    for command in ["hset", "evalsha", "eval", "set", "publish", "subscribe", "time", "hgetall"] {
        let report = report(&restricted(&server, &[&format!("-{command}")])).await;
        if command == "time" {
            assert!(report.not_checked.is_empty() || report.not_checked[0].check == "clock");
        }
        let finding = found(&report, "permissions");
        let hint = ["publish", "subscribe"].contains(&command);
        let severity = if hint { Severity::Warning } else { Severity::Error };
        assert_eq!(finding.severity, severity, "{report}");
        assert_eq!(finding.value, command.to_uppercase(), "{report}");
        assert!(finding.fix.contains(&format!("+{command}")), "{report}");
        server.command(&["ACL", "DELUSER", "app"]);
    }
    let keys = report(&restricted(&server, &["resetkeys", "~other:*"])).await;
    let finding = found(&keys, "permissions");
    assert!(finding.value.contains("keys") && finding.value.contains("HSET"), "{keys}");
    server.command(&["ACL", "DELUSER", "app"]);
    let channels = report(&restricted(&server, &["resetchannels"])).await;
    let finding = found(&channels, "permissions");
    assert!(finding.value.contains("channels") && finding.value.contains("PUBLISH"), "{channels}");
}

#[tokio::test]
async fn what_a_managed_server_forbids_is_not_checked_and_no_failure() {
    let server = server(&["--appendonly", "no"]);
    let rules = ["-config", "-slowlog", "-multi"];
    let report = report(&restricted(&server, &rules)).await;
    assert!(report.is_healthy() || report.findings[0].check == "latency", "{report}");
    let not_checked: BTreeSet<_> = report.not_checked.iter().map(|one| one.check).collect();
    let expected = ["permissions", "persistence", "slow-log", "timeout"];
    assert_eq!(not_checked, BTreeSet::from(expected), "{report}");
    let shown = report.to_string();
    assert!(shown.contains("not checked\n") && shown.contains("CONFIG"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(server.command(&["DBSIZE"]).int(), 0, "without MULTI nothing may be run");
}

#[tokio::test]
async fn slow_calls_of_our_scripts_are_found_and_those_of_others_are_not() {
    let server = server(&["--slowlog-log-slower-than", "-1"]);
    let backend = connect(&server.url()).await;
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.command(&["SET", "other", "1"]);
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
    let others = backend.doctor().await;
    assert!(others.findings.iter().all(|finding| finding.check != "slow-log"), "{others}");

    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    for _ in 0..2 {
        // The second time by its hash.
        let guard = Locks::new(backend.clone()).try_lock("job").await.unwrap();
        guard.release().await.unwrap();
    }
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
    let report = backend.doctor().await;
    let finding = found(&report, "slow-log");
    assert!(finding.value.contains("lock") || finding.value.contains("EVAL"), "{report}");
    assert_eq!(finding.severity, Severity::Warning);
}

#[tokio::test]
async fn latency_is_measured() {
    let server = server(&[]);
    let proxy = FaultProxy::start(server.port());
    let backend = connect(&proxy.url()).await;
    proxy.set(Fault::Delay(Duration::from_millis(60)));
    let report = backend.doctor().await;
    let finding = found(&report, "latency");
    assert_eq!(finding.severity, Severity::Error, "{report}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_finding_and_no_panic() {
    let server = server(&[]);
    let backend = connect(&server.url()).await;
    server.kill();
    let report = backend.doctor().await;
    assert_eq!(found(&report, "connection").severity, Severity::Error);
    assert!(report.to_string().contains(&server.port().to_string()), "{report}");
}

#[tokio::test]
async fn memory_says_what_is_lost_at_restart() {
    let report = Backend::memory().doctor().await;
    let finding = found(&report, "memory");
    assert!(report.is_healthy() && finding.severity == Severity::Note, "{report}");
    for what in ["sessions", "idempotency", "locks", "rate limits", "cached"] {
        assert!(finding.problem.contains(what), "{what}: {report}");
    }
}

#[tokio::test]
async fn a_report_is_sorted_for_people_and_complete_for_machines() {
    let server = server(&["--maxmemory", "0", "--maxmemory-policy", "allkeys-lru"]);
    let report = report(&server.url()).await;
    let shown = report.to_string();
    let at = |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text:?}: {shown}"));
    assert!(at("error: maxmemory-policy: allkeys-lru") < at("warning: maxmemory: 0"));
    assert!(shown.starts_with(&format!("Redis at 127.0.0.1:{}", server.port())), "{shown}");

    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["healthy"], false);
    let first = &json["findings"][0];
    assert_eq!(
        (&first["severity"], &first["check"]),
        (&"error".into(), &"maxmemory-policy".into())
    );
    assert_eq!(first["value"], "allkeys-lru");
    assert!(
        first["problem"].is_string() && first["fix"].is_string() && json["backend"].is_string()
    );
    assert_eq!(json["not_checked"], serde_json::json!([]));
}

#[test]
fn the_example_exits_with_what_it_found() {
    let run = |url: &str, args: &[&str]| {
        let mut example = std::env::current_exe().unwrap();
        example.pop();
        example.set_file_name("examples");
        let mut command = Command::new(example.join("doctor"));
        let output = command.args(args).env("REDIS_URL", url).output();
        output.expect("cargo build --example doctor makes it")
    };
    let (well, ill) = (server(&[]), server(&["--maxmemory-policy", "allkeys-lru"]));
    let output = run(&ill.url(), &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["findings"][0]["check"], "maxmemory-policy");
    assert!(String::from_utf8(run(&ill.url(), &[]).stdout).unwrap().contains("  fix: "));
    assert_eq!(run("", &[]).status.code(), Some(0), "memory is a note");
    let output = run(&well.url(), &[]);
    let busy = String::from_utf8_lossy(&output.stdout).contains("latency");
    assert!(output.status.success() || busy, "{output:?}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(run(&format!("redis://{free}"), &[]).status.code(), Some(2));
}

/// What the documentation grants is what is asked for, no more and no less.
#[tokio::test]
async fn the_documented_rights_are_enough_for_the_application_and_for_the_doctor() {
    let server = server(&[]);
    let text = include_str!("../src/connection/acl.md");
    let rules = text.lines().find(|line| line.starts_with("ACL SETUSER shop")).unwrap();
    let least: Vec<_> = rules.split(' ').filter(|word| *word != ">password").collect();
    let url = format!("redis://shop:secret@127.0.0.1:{}/", server.port());
    server.command(&[&least[..], &[">secret"]].concat());
    let report_of_least = report(&url).await;
    assert!(report_of_least.findings.iter().all(|one| one.check == "latency"), "{report_of_least}");
    assert!(report_of_least.not_checked.iter().any(|one| one.check == "version"));

    let granted = ["+info", "+multi", "+discard", "+config", "+slowlog", "+cluster"];
    for right in granted {
        assert!(text.contains(right), "{right} is not documented");
    }
    server.command(&[&["ACL", "SETUSER", "shop"][..], &granted].concat());
    no_findings(&report(&url).await);
}

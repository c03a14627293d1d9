//! Judges what the server said; asks nothing.

use super::{
    Finding, NotChecked, Report,
    Severity::{self, Error, Warning},
    facts::Facts,
    permissions::What,
};
use crate::{
    backend::{
        info::{Info, Mode, Role, ServerKind},
        version::Version,
    },
    store::StoreError,
};
use std::{borrow::Cow, time::Duration};

/// Above it, what was decided there and here can visibly differ. NTP keeps clocks within a few ms.
const MAX_SKEW_US: i128 = 1_000_000;

/// A server in the same data centre answers in under 1 ms, in the next one in 2 ms. Rate limits and
/// cache lookups give up after 100 ms, and some of them take two trips.
const HIGH_LATENCY: Duration = Duration::from_millis(10);
const TOO_HIGH_LATENCY: Duration = Duration::from_millis(50);

/// Replicas report every second: three reports are missing.
const MAX_LAG: Duration = Duration::from_secs(3);

/// A slow log is kept until it is full, so what is older says nothing about now.
const RECENT: Duration = Duration::from_secs(60 * 60);

const WITHOUT_HINTS: &str = "the ACL user may not use the channels under the prefix, so those who \
                             wait for another server only learn of it when they look again";

const SLOTS: u16 = 16_384;

/// State that is not allowed to vanish before its time.
const MUST_STAY: &[&str] = &[
    #[cfg(feature = "session")]
    "sessions",
    #[cfg(feature = "idempotency")]
    "idempotency records",
    #[cfg(feature = "lock")]
    "locks",
];

pub(super) fn unreachable(error: &StoreError) -> Finding {
    finding(
        Error,
        "connection",
        error.reason().to_owned(),
        error.to_string(),
        "see that the server runs, and what lies between",
    )
}

pub(super) fn judge(facts: &Facts, report: &mut Report) {
    match &facts.info {
        Ok(info) => {
            version(info, report);
            replication(info, report);
        }
        Err(error) => {
            for check in ["version", "role", "replication", "cluster-slots"] {
                unknown(report, check, error);
            }
        }
    }
    memory(facts, report);
    persistence(facts, report);
    timeout(facts, report);
    slots(facts, report);
    permissions(facts, report);
    clock(facts, report);
    latency(facts, report);
    slow_log(facts, report);
}

/// Of a connection that is not to a cluster.
pub(super) fn topology(facts: &Facts, report: &mut Report) {
    let (value, problem, form) = match facts.info.as_ref().ok().and_then(|info| info.server.mode) {
        Some(Mode::Cluster) => (
            "a node of a cluster",
            "calls for keys that other nodes hold are refused with MOVED",
            "redis+cluster://host1,host2",
        ),
        Some(Mode::Sentinel) => (
            "a sentinel",
            "it keeps no data: every call is refused",
            "redis+sentinel://host1,host2/master-name",
        ),
        _ => return,
    };
    let fix = format!("let the URL say so: {form}");
    report.findings.push(finding(Error, "topology", value, problem, fix));
}

fn version(info: &Info, report: &mut Report) {
    let needed = match info.server.kind {
        ServerKind::Valkey => Version::new(7, 2, 0),
        _ => Version::new(6, 2, 0),
    };
    match info.server.version {
        Some(version) if version < needed => report.findings.push(finding(
            Error,
            "version",
            info.server.to_string(),
            "commands and options that the middleware need are missing there",
            format!("upgrade to {needed} or later"),
        )),
        Some(_) => {}
        None => skip(report, "version", "the server does not say its version"),
    }
}

fn replication(info: &Info, report: &mut Report) {
    let replication = &info.replication;
    match replication.role {
        Some(Role::Replica) => report.findings.push(finding(
            Error,
            "role",
            match replication.link_up {
                Some(false) => "a replica without its primary",
                _ => "a replica",
            },
            "a replica takes no writes, and what it is asked to read may be old",
            "let the URL name the primary",
        )),
        Some(Role::Primary) => {}
        None => skip(report, "role", "the server does not say its role"),
    }
    // What a replica says of its primary is part of the finding above.
    if replication.role == Some(Role::Primary) && replication.lag >= Some(MAX_LAG) {
        let lag = replication.lag.unwrap_or_default().as_secs();
        let behind = replication.behind.unwrap_or_default();
        report.findings.push(finding(
            Warning,
            "replication",
            format!("a replica is silent for {lag} s, {behind} bytes behind"),
            "a failover to it loses what it has not received: sessions, locks, finished requests",
            "see the replica's load, log and network; min-replicas-to-write refuses writes that \
             no replica would receive",
        ));
    }
}

fn memory(facts: &Facts, report: &mut Report) {
    let said = facts.info.as_ref().ok().map(|info| &info.memory);
    let max = said.and_then(|memory| memory.max);
    let max = max.or_else(|| facts.maxmemory.as_ref().ok()?.parse().ok());
    match max {
        Some(0) => report.findings.push(finding(
            Warning,
            "maxmemory",
            "0 (no limit)",
            "the server grows until the system kills it, with everything in it",
            "set maxmemory to what the machine can spare, and alert on used memory well below it",
        )),
        Some(_) => {}
        None => reason(report, "maxmemory", facts.maxmemory.as_ref().err()),
    }
    let policy = said.and_then(|memory| memory.policy.as_deref());
    match policy.or(facts.policy.as_deref().ok()) {
        Some(policy) => report.findings.extend(eviction(policy)),
        None => reason(report, "maxmemory-policy", facts.policy.as_ref().err()),
    }
}

/// Every key of this crate has a TTL, so the `volatile-*` policies spare none of them.
fn eviction(policy: &str) -> Option<Finding> {
    let which = match policy.split_once('-') {
        Some(("allkeys", _)) => "any key",
        Some(("volatile", _)) => "keys with a TTL, and all of these have one",
        _ => return None,
    };
    let (severity, problem) = match MUST_STAY {
        [] if cfg!(feature = "rate-limit") => (
            Warning,
            format!(
                "a full server evicts {which}: a count that is evicted begins anew, and lets more through"
            ),
        ),
        [] => return None,
        must_stay => (
            Error,
            format!(
                "a full server evicts {which}: {} vanish before their time, so that users are \
                 logged out, requests run twice and two holders have one lock",
                must_stay.join(", ")
            ),
        ),
    };
    let fix = "set maxmemory-policy to noeviction; for a cache that should be evicted, use a \
               server of its own";
    Some(finding(severity, "maxmemory-policy", policy.to_owned(), problem, fix))
}

fn persistence(facts: &Facts, report: &mut Report) {
    if MUST_STAY.is_empty() || facts.aof == Some(true) {
        return;
    }
    match &facts.save {
        // Without INFO it is not known whether there is an AOF.
        Ok(save) if save.is_empty() && facts.aof == Some(false) => report.findings.push(finding(
            Warning,
            "persistence",
            "neither RDB nor AOF",
            format!(
                "a restart forgets {}: a request that is retried within its retention runs again",
                MUST_STAY.join(", ")
            ),
            "set appendonly to yes (appendfsync everysec), or at least a `save` interval",
        )),
        Ok(save) if save.is_empty() => {
            skip(report, "persistence", "the server does not say whether it has an AOF");
        }
        Ok(_) => {}
        Err(error) => unknown(report, "persistence", error),
    }
}

fn timeout(facts: &Facts, report: &mut Report) {
    match &facts.timeout {
        Ok(seconds) if seconds != "0" => report.findings.push(finding(
            Warning,
            "timeout",
            format!("{seconds} s"),
            "the server closes connections that are idle for so long; the first calls after a quiet \
             time fail while the link is made anew",
            "set timeout to 0; tcp-keepalive finds dead connections",
        )),
        Ok(_) => {}
        Err(error) => unknown(report, "timeout", error),
    }
}

fn slots(facts: &Facts, report: &mut Report) {
    match &facts.slots {
        Some(Ok(slots)) if *slots < SLOTS => report.findings.push(finding(
            Error,
            "cluster-slots",
            format!("{} of {SLOTS} are not served", SLOTS - slots),
            "calls with keys in these slots fail, and unless cluster-require-full-coverage is no, \
             all calls",
            "bring the failed nodes back, or assign the slots: redis-cli --cluster fix",
        )),
        Some(Err(error)) => unknown(report, "cluster-slots", error),
        Some(Ok(_)) | None => {}
    }
}

fn permissions(facts: &Facts, report: &mut Report) {
    let denied = match &facts.denied {
        Ok(denied) => denied,
        Err(error) => return unknown(report, "permissions", error),
    };
    let of = |what| {
        let of_this: Vec<_> =
            denied.iter().filter(|one| one.what == what).map(|one| one.command).collect();
        (!of_this.is_empty()).then_some(of_this)
    };
    let grant = |commands: &[&str]| {
        let rules: Vec<_> =
            commands.iter().map(|name| format!("+{}", name.to_lowercase())).collect();
        format!("ACL SETUSER <user> {}", rules.join(" "))
    };
    if let Some(commands) = of(What::Command) {
        report.findings.push(finding(
            Error,
            "permissions",
            commands.join(", "),
            "the ACL user may not run these commands, which the scripts need",
            grant(&commands),
        ));
    }
    if let Some(commands) = of(What::HintCommand) {
        report.findings.push(finding(
            Warning,
            "permissions",
            commands.join(", "),
            WITHOUT_HINTS,
            grant(&commands),
        ));
    }
    if let Some(commands) = of(What::Keys) {
        report.findings.push(finding(
            Error,
            "permissions",
            format!("keys ({})", commands.join(", ")),
            "the ACL user may not use the keys under the prefix",
            "ACL SETUSER <user> ~<prefix>:*",
        ));
    }
    if let Some(commands) = of(What::Channels) {
        report.findings.push(finding(
            Warning,
            "permissions",
            format!("channels ({})", commands.join(", ")),
            WITHOUT_HINTS,
            "ACL SETUSER <user> &<prefix>:*",
        ));
    }
}

fn clock(facts: &Facts, report: &mut Report) {
    let skew = match &facts.clock {
        Ok(skew) => skew,
        Err(error) => return unknown(report, "clock", error),
    };
    // Only what the round trips cannot explain.
    let (by, which) = match skew {
        _ if skew.least > MAX_SKEW_US => (skew.least, "ahead of"),
        _ if skew.most < -MAX_SKEW_US => (-skew.most, "behind"),
        _ => return,
    };
    report.findings.push(finding(
        Warning,
        "clock",
        format!(
            "the server is {}.{:03} s {which} this process",
            by / 1_000_000,
            by / 1_000 % 1_000
        ),
        "limits, leases and retention are decided by the server's clock, the ages of cached \
         responses and the end of a session by this one",
        "run NTP on both machines; this process follows its clock when it is restarted",
    ));
}

fn latency(facts: &Facts, report: &mut Report) {
    let latency = match &facts.latency {
        Ok(latency) => *latency,
        Err(error) => return report.findings.push(unreachable(error)),
    };
    let severity = match latency {
        _ if latency >= TOO_HIGH_LATENCY => Error,
        _ if latency >= HIGH_LATENCY => Warning,
        _ => return,
    };
    report.findings.push(finding(
        severity,
        "latency",
        format!("PING takes {} ms", latency.as_millis()),
        "every request waits for one to three round trips, and rate limits and cache lookups give \
         up after 100 ms",
        "use a server in the same region; see its load with INFO commandstats and SLOWLOG",
    ));
}

fn slow_log(facts: &Facts, report: &mut Report) {
    let calls = match &facts.slow {
        Ok(calls) => calls,
        Err(error) => return unknown(report, "slow-log", error),
    };
    let since = facts.now.checked_sub(RECENT);
    let ours: Vec<_> = calls.iter().filter(|call| call.is_ours && Some(call.at) >= since).collect();
    let Some(slowest) = ours.iter().max_by_key(|call| call.took) else { return };
    report.findings.push(finding(
        Warning,
        "slow-log",
        format!(
            "{} in the last hour, the slowest {} with {} µs",
            ours.len(),
            slowest.script.unwrap_or(&slowest.command),
            slowest.took.as_micros()
        ),
        "while one call runs, all others wait: calls of this crate are among those that the server \
         found slow",
        "see SLOWLOG GET: large sessions or responses, a machine that swaps, or a disk that is slow \
         to fsync",
    ));
}

fn finding(
    severity: Severity,
    check: &'static str,
    value: impl Into<String>,
    problem: impl Into<Cow<'static, str>>,
    fix: impl Into<Cow<'static, str>>,
) -> Finding {
    Finding { severity, check, value: value.into(), problem: problem.into(), fix: fix.into() }
}

fn unknown(report: &mut Report, check: &'static str, error: &StoreError) {
    skip(report, check, &error.to_string());
}

fn reason(report: &mut Report, check: &'static str, error: Option<&StoreError>) {
    let silent = "the server does not say it".to_owned();
    skip(report, check, &error.map_or(silent, StoreError::to_string));
}

fn skip(report: &mut Report, check: &'static str, reason: &str) {
    report.not_checked.push(NotChecked { check, reason: reason.to_owned() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, doctor::facts::Skew, info_text::Fields};
    use std::time::SystemTime;

    fn healthy() -> Facts {
        let text = "redis_version:6.2.0\r\nrole:master\r\nmaxmemory:1000\r\n\
                    maxmemory_policy:noeviction\r\n";
        Facts {
            info: Ok(Fields::parse(text).info()),
            aof: Some(true),
            save: Ok(String::new()),
            timeout: Ok("0".into()),
            maxmemory: Ok("1000".into()),
            policy: Ok("noeviction".into()),
            slots: Some(Ok(SLOTS)),
            latency: Ok(Duration::from_millis(9)),
            clock: Ok(Skew { least: -5_000_000, most: 5_000_000 }),
            slow: Ok(Vec::new()),
            denied: Ok(Vec::new()),
            now: SystemTime::now(),
        }
    }

    fn judged(facts: &Facts) -> Report {
        let mut report = Report::new(&Backend::memory(), String::new());
        judge(facts, &mut report);
        report
    }

    fn checks(facts: &Facts) -> Vec<(&'static str, Severity)> {
        judged(facts).findings.iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    #[test]
    fn nothing_is_found_at_the_edge_of_what_is_right() {
        let report = judged(&healthy());
        assert!(report.findings.is_empty() && report.not_checked.is_empty(), "{report}");
    }

    #[test]
    fn old_servers_are_found_and_valkey_is_measured_by_its_own_version() {
        for (text, found) in [
            ("redis_version:6.0.20\r\nrole:master", true),
            ("redis_version:5.0.14\r\nrole:master", true),
            ("redis_version:8.2.3\r\nrole:master", false),
            ("redis_version:7.2.4\r\nvalkey_version:7.2.5\r\nrole:master", false),
            ("redis_version:7.2.4\r\nvalkey_version:7.1.0\r\nrole:master", true),
        ] {
            let facts = Facts { info: Ok(Fields::parse(text).info()), ..healthy() };
            let expected: &[_] = if found { &[("version", Error)] } else { &[] };
            assert_eq!(checks(&facts), expected, "{text}");
        }
    }

    #[test]
    fn a_skew_counts_as_far_as_the_round_trips_cannot_explain_it() {
        for (least, most, found) in [
            (-1_000_000, -999_999, false),
            (999_000, 9_000_000, false),
            (1_000_001, 1_200_000, true),
            (-9_000_000, -1_000_001, true),
        ] {
            let facts = Facts { clock: Ok(Skew { least, most }), ..healthy() };
            assert_eq!(!checks(&facts).is_empty(), found, "{least} to {most}");
        }
    }

    #[test]
    fn latency_has_two_steps() {
        for (ms, expected) in [(9, None), (10, Some(Warning)), (50, Some(Error))] {
            let facts = Facts { latency: Ok(Duration::from_millis(ms)), ..healthy() };
            assert_eq!(judged(&facts).worst(), expected, "{ms} ms");
        }
    }

    #[test]
    fn only_policies_that_evict_are_found() {
        let evicts = |policy| eviction(policy).is_some();
        for policy in ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lfu"] {
            assert_eq!(evicts(policy), !MUST_STAY.is_empty() || cfg!(feature = "rate-limit"));
        }
        assert!(!evicts("noeviction"));
    }

    #[test]
    fn what_info_hides_is_asked_of_config_and_what_both_hide_is_not_checked() {
        let hidden = || Err(StoreError::refused("CONFIG: Redis answered \"NOPERM\""));
        let info = || Ok(Fields::parse("redis_version:7.0.0\r\nrole:master").info());
        let policy = || Ok("allkeys-lru".into());
        let told = Facts { info: info(), maxmemory: Ok("0".into()), policy: policy(), ..healthy() };
        let found: Vec<_> = checks(&told).into_iter().map(|(check, _)| check).collect();
        assert!(found.contains(&"maxmemory"), "{found:?}");

        let silent = Facts {
            info: info(),
            aof: None,
            save: hidden(),
            timeout: hidden(),
            maxmemory: hidden(),
            policy: hidden(),
            ..healthy()
        };
        let report = judged(&silent);
        assert!(report.findings.is_empty(), "{report}");
        for check in ["maxmemory", "maxmemory-policy", "timeout"] {
            let not_checked = report.not_checked.iter().find(|one| one.check == check);
            assert!(not_checked.unwrap().reason.contains("NOPERM"), "{report}");
        }
    }
}

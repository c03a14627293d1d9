//! What would hurt an application in the place where its state lives.

#[cfg(feature = "redis")]
mod facts;
#[cfg(feature = "redis")]
mod permissions;
#[cfg(feature = "redis")]
mod rules;

use super::Backend;
#[cfg(feature = "redis")]
use crate::{connection::Connection, key::Keys};
use serde::{Serialize, Serializer, ser::SerializeStruct};
#[cfg(feature = "redis")]
use std::sync::Arc;
use std::{borrow::Cow, fmt};

/// What [`Backend::doctor`] found. `Display` is for people, several lines; `Serialize` for machines.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Where the state lives: the server's address without user and password, or this process's
    /// memory.
    pub backend: String,
    /// The program there, such as `Valkey 9.0.1, standalone`; empty if it is not known.
    pub server: String,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub not_checked: Vec<NotChecked>,
}

/// One thing that would hurt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How much.
    pub severity: Severity,
    /// What it is about, for machines: one of the names in the table at [`Backend::doctor`].
    pub check: &'static str,
    /// What is the case, such as `allkeys-lru`.
    pub value: String,
    /// What is wrong with it.
    pub problem: Cow<'static, str>,
    /// What to do.
    pub fix: Cow<'static, str>,
}

/// A check that could not be made, often because a managed server forbids the command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotChecked {
    /// As [`Finding::check`].
    pub check: &'static str,
    /// What prevented it.
    pub reason: String,
}

/// How bad a [`Finding`] is. The order is that of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It will hurt under some circumstances: a restart, a full memory, a busy hour.
    Warning,
    /// A promise of some middleware does not hold, or calls fail.
    Error,
}

impl Report {
    fn new(backend: &Backend, server: String) -> Self {
        let backend = backend.to_string();
        Self { backend, server, findings: Vec::new(), not_checked: Vec::new() }
    }

    /// Whether there is neither an error nor a warning.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.worst() < Some(Severity::Warning)
    }

    /// The severity of the worst finding.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// How many findings there are of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl Backend {
    /// Examines the place where the state lives, and reports what would hurt.
    ///
    /// ```
    /// use towerkeep::{Backend, backend::Severity};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = Backend::memory().doctor().await;
    /// println!("{report}");
    /// assert!(report.worst() < Some(Severity::Error));
    /// # }
    /// ```
    ///
    /// | check | finds | severity |
    /// | --- | --- | --- |
    /// | `memory` | state in memory, which is gone after a restart | note |
    /// | `connection` | a server that does not answer | error |
    /// | `version` | older than Redis 6.2 or Valkey 7.2 | error |
    /// | `role` | a replica, which takes no writes | error |
    /// | `topology` | a node of a cluster or a sentinel, and a URL for one server | error |
    /// | `cluster-slots` | a cluster that does not cover all slots | error |
    /// | `permissions` | commands, keys or channels that the ACL user is denied | error; for hints, warning |
    /// | `maxmemory-policy` | eviction of what must not be lost | error; for counts alone, warning |
    /// | `maxmemory` | no limit of memory | warning |
    /// | `persistence` | neither RDB nor AOF, so a restart forgets | warning |
    /// | `timeout` | idle connections are closed | warning |
    /// | `clock` | the clocks here and there differ by more than a second | warning |
    /// | `latency` | the fastest of five PINGs took 10 ms; 50 ms | warning; error |
    /// | `slow-log` | slow calls of this crate in the last hour | warning |
    /// | `replication` | a replica that has not reported for 3 s | warning |
    ///
    /// In a cluster every server that holds keys is examined; what does not hold for all of them stands
    /// in the report with the addresses.
    ///
    /// Only what the features that are compiled in need is looked at. It takes about twenty round
    /// trips and reads only. The permissions are asked for by queueing commands in a transaction on a
    /// connection of its own that is discarded, so none of them is run; a denied one shows in the
    /// server's `ACL LOG`. What the server does not allow to look at is
    /// [not checked](Report::not_checked), and no failure.
    pub async fn doctor(&self) -> Report {
        #[cfg(feature = "redis")]
        if let (Some(connection), Some(keys)) = (&self.inner.connection, &self.inner.keys) {
            // A cluster that has not answered yet has none.
            if let Err(error) = connection.ping(connection.deadline()).await {
                let mut report = Report::new(self, String::new());
                report.findings.push(rules::unreachable(&error));
                return report;
            }
            let mut reports = Vec::new();
            for server in connection.servers() {
                reports.push((server.health().address, self.examine(&server, keys).await));
            }
            return merged(reports);
        }
        let mut report = Report::new(self, String::new());
        report.findings.push(in_memory());
        report
    }

    #[cfg(feature = "redis")]
    async fn examine(&self, server: &Connection, keys: &Keys) -> Report {
        let clock = &self.inner.context.clock;
        let facts = match facts::gather(server, keys.prefix(), clock).await {
            Ok(facts) => facts,
            Err(error) => {
                let mut report = Report::new(self, String::new());
                report.findings.push(rules::unreachable(&error));
                return report;
            }
        };
        let program = facts.info.as_ref().map(|info| info.server.to_string());
        let mut report = Report::new(self, program.unwrap_or_default());
        if !self.inner.connection.as_ref().is_some_and(Connection::is_cluster) {
            rules::topology(&facts, &mut report);
        }
        rules::judge(&facts, &mut report);
        report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        report
    }
}

/// One report of all servers: what holds for every one of them stands there once, all else with the
/// server's address.
#[cfg(feature = "redis")]
fn merged(mut reports: Vec<(Arc<str>, Report)>) -> Report {
    let count = reports.len();
    let mut findings = Vec::new();
    let mut not_checked = Vec::new();
    for (address, report) in &mut reports {
        gather_at(&mut findings, std::mem::take(&mut report.findings), address);
        gather_at(&mut not_checked, std::mem::take(&mut report.not_checked), address);
    }
    let (_, mut all) = reports.swap_remove(0);
    all.findings = findings
        .into_iter()
        .map(|(mut finding, at)| {
            if at.len() < count {
                finding.value = format!("{} at {}", finding.value, at.join(", "));
            }
            finding
        })
        .collect();
    all.not_checked = not_checked
        .into_iter()
        .map(|(mut missed, at)| {
            if at.len() < count {
                missed.reason = format!("{} at {}", missed.reason, at.join(", "));
            }
            missed
        })
        .collect();
    all.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    all
}

#[cfg(feature = "redis")]
fn gather_at<T: PartialEq>(all: &mut Vec<(T, Vec<Arc<str>>)>, found: Vec<T>, address: &Arc<str>) {
    for new in found {
        match all.iter_mut().find(|(known, _)| *known == new) {
            Some((_, at)) => at.push(address.clone()),
            None => all.push((new, vec![address.clone()])),
        }
    }
}

fn in_memory() -> Finding {
    Finding {
        severity: Severity::Note,
        check: "memory",
        value: "in this process".into(),
        problem: format!(
            "a restart loses {}, and no other process sees them",
            LOST_AT_RESTART.join(", ")
        )
        .into(),
        fix: "for more than one process, or to outlive a restart, use Backend::redis(url)".into(),
    }
}

/// What lives in the backend.
const LOST_AT_RESTART: &[&str] = &[
    #[cfg(feature = "session")]
    "sessions (everybody is logged out)",
    #[cfg(feature = "idempotency")]
    "idempotency records (a retried request runs again)",
    #[cfg(feature = "lock")]
    "locks and their fencing tokens",
    #[cfg(feature = "rate-limit")]
    "the counts of rate limits",
    #[cfg(feature = "cache")]
    "cached responses",
];

impl Severity {
    /// `note`, `warning` or `error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.backend)?;
        if !self.server.is_empty() {
            write!(f, " ({})", self.server)?;
        }
        let [errors, warnings] = [Severity::Error, Severity::Warning].map(|of| self.count(of));
        write!(f, ": {errors} errors, {warnings} warnings")?;
        for finding in &self.findings {
            write!(f, "\n\n{finding}")?;
        }
        if !self.not_checked.is_empty() {
            write!(f, "\n\nnot checked")?;
        }
        for NotChecked { check, reason } in &self.not_checked {
            write!(f, "\n  {check}: {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, check, value, problem, fix } = self;
        write!(f, "{severity}: {check}: {value}\n  {problem}\n  fix: {fix}")
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 5)?;
        report.serialize_field("backend", &self.backend)?;
        report.serialize_field("server", &self.server)?;
        report.serialize_field("healthy", &self.is_healthy())?;
        report.serialize_field("findings", &self.findings)?;
        report.serialize_field("not_checked", &self.not_checked)?;
        report.end()
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut finding = serializer.serialize_struct("Finding", 5)?;
        finding.serialize_field("severity", self.severity.as_str())?;
        finding.serialize_field("check", self.check)?;
        finding.serialize_field("value", &self.value)?;
        finding.serialize_field("problem", &self.problem)?;
        finding.serialize_field("fix", &self.fix)?;
        finding.end()
    }
}

impl Serialize for NotChecked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("NotChecked", 2)?;
        entry.serialize_field("check", self.check)?;
        entry.serialize_field("reason", &self.reason)?;
        entry.end()
    }
}

//! Asks the server; judges nothing.

use super::permissions::{self, Denied};
use crate::{
    backend::{
        info::Info,
        info_text::{self, Fields},
        slow_log::{self, SlowCall},
    },
    clock::Clock,
    connection::{Connection, parse},
    store::StoreError,
};
use redis::{Cmd, Value};
use std::time::{Duration, Instant, SystemTime};

/// A thing that the server may refuse to say.
type Fact<T> = Result<T, StoreError>;

/// How often the fastest of several is taken: the others measure the load of this process.
const TRIES: usize = 5;

/// Entries of the slow log to look through: what a server keeps unless told.
const SLOW_CALLS: u32 = 128;

/// All that the rules look at.
pub(super) struct Facts {
    pub(super) info: Fact<Info>,
    /// Whether there is an append-only file.
    pub(super) aof: Option<bool>,
    /// `CONFIG GET save`: when snapshots are written; empty is never.
    pub(super) save: Fact<String>,
    /// `CONFIG GET timeout`, in seconds.
    pub(super) timeout: Fact<String>,
    /// `CONFIG GET maxmemory` and `maxmemory-policy`, for servers whose `INFO` does not say it.
    pub(super) maxmemory: Fact<String>,
    pub(super) policy: Fact<String>,
    /// Slots that some node serves, of a cluster.
    pub(super) slots: Option<Fact<u16>>,
    /// The fastest PING.
    pub(super) latency: Fact<Duration>,
    pub(super) clock: Fact<Skew>,
    pub(super) slow: Fact<Vec<SlowCall>>,
    pub(super) denied: Fact<Vec<Denied>>,
    pub(super) now: SystemTime,
}

/// How far the server's clock is ahead of this process's, in microseconds: somewhere in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Skew {
    pub(super) least: i128,
    pub(super) most: i128,
}

/// Fails only if the server does not answer.
pub(super) async fn gather(
    connection: &Connection,
    prefix: &str,
    clock: &Clock,
) -> Result<Facts, StoreError> {
    let config = |name: &str| command(&["CONFIG", "GET", name]);
    let batch = connection
        .batch()
        .cmd(command(&["INFO"]))
        .cmd(config("save"))
        .cmd(config("timeout"))
        .cmd(config("maxmemory"))
        .cmd(config("maxmemory-policy"))
        .cmd(command(&["CLUSTER", "INFO"]))
        .cmd(command(&["SLOWLOG", "GET", &SLOW_CALLS.to_string()]));
    let mut replies = batch.run(connection.deadline()).await?.into_iter();
    let mut next = || replies.next().unwrap_or_else(|| Err(StoreError::corrupt("no answer")));

    let text = next().and_then(info_text::text);
    let fields = text.as_deref().map(Fields::parse);
    let flag = |name| Some(fields.as_ref().ok()?.number::<u8>(name)? == 1);
    let mut setting = |name| next().and_then(|reply| value_of(name, reply));
    Ok(Facts {
        save: setting("save"),
        timeout: setting("timeout"),
        maxmemory: setting("maxmemory"),
        policy: setting("maxmemory-policy"),
        slots: {
            let slots = next().and_then(slots);
            flag("cluster_enabled").filter(|&enabled| enabled).map(|_| slots)
        },
        slow: next().map(|reply| slow_log::parse(reply, prefix)),
        aof: flag("aof_enabled"),
        info: fields.map(|fields| fields.info()).map_err(Clone::clone),
        latency: latency(connection).await,
        clock: skew(connection, clock).await,
        denied: permissions::denied(connection, prefix).await,
        now: SystemTime::now(),
    })
}

fn command(words: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    cmd.arg(words);
    cmd
}

/// The value in the answer to `CONFIG GET name`. A managed server may answer with nothing.
fn value_of(name: &'static str, reply: Value) -> Result<String, StoreError> {
    let pairs: Vec<(String, String)> = parse(reply, "CONFIG")?;
    let found = pairs.into_iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value).ok_or_else(|| {
        StoreError::refused(format!("CONFIG: the server does not show its {name:?}"))
    })
}

fn slots(reply: Value) -> Result<u16, StoreError> {
    let text = info_text::text(reply)?;
    let slots = Fields::parse(&text).number("cluster_slots_ok");
    slots.ok_or_else(|| StoreError::corrupt("CLUSTER: the server does not count its slots"))
}

async fn latency(connection: &Connection) -> Fact<Duration> {
    let mut fastest = Duration::MAX;
    for _ in 0..TRIES {
        let started = Instant::now();
        connection.ping(connection.deadline()).await?;
        fastest = fastest.min(started.elapsed());
    }
    Ok(fastest)
}

/// The server read its clock at some time between the call and its answer, so what it said is
/// compared with both ends. Every try narrows the range.
async fn skew(connection: &Connection, clock: &Clock) -> Fact<Skew> {
    let mut skew = Skew { least: i128::MIN, most: i128::MAX };
    for _ in 0..TRIES {
        let before = i128::from(clock.now_us());
        let (seconds, micros): (u64, u64) = connection.query(&command(&["TIME"])).await?;
        let after = i128::from(clock.now_us());
        let there = i128::from(seconds) * 1_000_000 + i128::from(micros);
        skew.least = skew.least.max(there - after);
        skew.most = skew.most.min(there - before);
    }
    Ok(skew)
}

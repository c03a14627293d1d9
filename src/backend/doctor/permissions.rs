//! Which commands the ACL user is denied.

use crate::{connection::Connection, store::StoreError};
use redis::{Pipeline, Value};
use std::collections::BTreeSet;

/// A permission that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// What the crate would run.
    pub(super) command: &'static str,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Command,
    /// A command without which there are no hints, and those who wait look by themselves.
    HintCommand,
    Keys,
    Channels,
}

/// What a command acts on.
enum On {
    Nothing,
    Key,
    Channel,
    /// A script, and one key.
    Script,
}

/// Commands of the scripts and of their callers, with as many arguments as they need to be looked at,
/// under the features that run them.
const EVERYBODYS: &[(&str, On, &[&str])] =
    &[("TIME", On::Nothing, &[]), ("EVALSHA", On::Script, &[]), ("EVAL", On::Script, &[])];
const SESSION: &[(&str, On, &[&str])] = &[
    ("EXISTS", On::Key, &[]),
    ("HDEL", On::Key, &["f"]),
    ("HGET", On::Key, &["f"]),
    ("HGETALL", On::Key, &[]),
    ("HKEYS", On::Key, &[]),
    ("HLEN", On::Key, &[]),
    ("HMGET", On::Key, &["f"]),
    ("HSET", On::Key, &["f", "v"]),
    ("LPUSH", On::Key, &["v"]),
    ("LRANGE", On::Key, &["0", "0"]),
    ("LTRIM", On::Key, &["0", "0"]),
    ("PEXPIRE", On::Key, &["1"]),
    ("PTTL", On::Key, &[]),
    ("UNLINK", On::Key, &[]),
    ("ZADD", On::Key, &["1", "m"]),
    ("ZCARD", On::Key, &[]),
    ("ZRANGE", On::Key, &["0", "0"]),
    ("ZREM", On::Key, &["m"]),
    ("ZREMRANGEBYSCORE", On::Key, &["0", "1"]),
    ("ZSCORE", On::Key, &["m"]),
];
const RATE_LIMIT: &[(&str, On, &[&str])] = &[
    ("DEL", On::Key, &[]),
    ("LINDEX", On::Key, &["0"]),
    ("LLEN", On::Key, &[]),
    ("LPUSH", On::Key, &["v"]),
    ("LREM", On::Key, &["1", "v"]),
    ("LTRIM", On::Key, &["0", "1"]),
    ("MGET", On::Key, &[]),
    ("PEXPIRE", On::Key, &["1"]),
    ("SET", On::Key, &["v"]),
    ("ZADD", On::Key, &["1", "v"]),
    ("ZCOUNT", On::Key, &["0", "1"]),
    ("ZRANGE", On::Key, &["0", "1"]),
    ("ZRANGEBYSCORE", On::Key, &["0", "1"]),
    ("ZREM", On::Key, &["v"]),
    ("ZREMRANGEBYSCORE", On::Key, &["0", "1"]),
    ("ZSCORE", On::Key, &["v"]),
];
const IDEMPOTENCY: &[(&str, On, &[&str])] = &[
    ("DEL", On::Key, &[]),
    ("EXISTS", On::Key, &[]),
    ("GET", On::Key, &[]),
    ("HDEL", On::Key, &["f"]),
    ("HMGET", On::Key, &["f"]),
    ("HSET", On::Key, &["f", "v"]),
    ("PEXPIRE", On::Key, &["1"]),
    ("PTTL", On::Key, &[]),
    ("SET", On::Key, &["v"]),
    ("PUBLISH", On::Channel, &["m"]),
    ("SUBSCRIBE", On::Channel, &[]),
];
const CACHE: &[(&str, On, &[&str])] = &[
    ("EXISTS", On::Key, &[]),
    ("HDEL", On::Key, &["f"]),
    ("HGET", On::Key, &["f"]),
    ("HGETALL", On::Key, &[]),
    ("HLEN", On::Key, &[]),
    ("HMGET", On::Key, &["f"]),
    ("HSET", On::Key, &["f", "v"]),
    ("PEXPIRE", On::Key, &["1"]),
    ("PTTL", On::Key, &[]),
    ("UNLINK", On::Key, &[]),
    ("ZADD", On::Key, &["1", "m"]),
    ("ZCARD", On::Key, &[]),
    ("ZRANGE", On::Key, &["0", "0"]),
    ("ZRANGEBYSCORE", On::Key, &["0", "1"]),
    ("ZREM", On::Key, &["m"]),
    ("ZSCORE", On::Key, &["m"]),
    ("PUBLISH", On::Channel, &["m"]),
    ("SUBSCRIBE", On::Channel, &[]),
];
const COALESCE: &[(&str, On, &[&str])] = &[
    ("DEL", On::Key, &[]),
    ("GET", On::Key, &[]),
    ("PEXPIRE", On::Key, &["1"]),
    ("PTTL", On::Key, &[]),
    ("SET", On::Key, &["v"]),
    ("PUBLISH", On::Channel, &["m"]),
    ("SUBSCRIBE", On::Channel, &[]),
];
const LOCK: &[(&str, On, &[&str])] = &[
    ("DEL", On::Key, &[]),
    ("GET", On::Key, &[]),
    ("HMGET", On::Key, &["f"]),
    ("HSET", On::Key, &["f", "v"]),
    ("PEXPIRE", On::Key, &["1"]),
    ("SET", On::Key, &["v"]),
    ("PUBLISH", On::Channel, &["m"]),
    ("SUBSCRIBE", On::Channel, &[]),
];

const TOWER_SESSIONS: &[(&str, On, &[&str])] =
    &[("GET", On::Key, &[]), ("SET", On::Key, &["v"]), ("UNLINK", On::Key, &[])];

fn needed() -> impl Iterator<Item = &'static (&'static str, On, &'static [&'static str])> {
    let groups = [
        (true, EVERYBODYS),
        (cfg!(feature = "session"), SESSION),
        (cfg!(feature = "rate-limit"), RATE_LIMIT),
        (cfg!(feature = "idempotency"), IDEMPOTENCY),
        (cfg!(feature = "cache"), CACHE),
        (cfg!(feature = "coalesce"), COALESCE),
        (cfg!(feature = "lock"), LOCK),
        (cfg!(any(feature = "tower-sessions", feature = "tower-sessions-0-14")), TOWER_SESSIONS),
    ];
    let mut seen = BTreeSet::new();
    let all = groups.into_iter().filter(|(enabled, _)| *enabled).flat_map(|(_, group)| group);
    all.filter(move |(name, ..)| seen.insert(*name))
}

/// A server checks the permission of a command when it queues it for a transaction; the transaction is
/// discarded, so none of them is run. That needs a connection of its own, and `MULTI` has to be
/// answered before anything else is sent: without it the commands would be run.
pub(super) async fn denied(
    connection: &Connection,
    prefix: &str,
) -> Result<Vec<Denied>, StoreError> {
    let failed = |error: &dyn std::error::Error| StoreError::refused(error.to_string());
    let pooled = connection.pool()?.get().await.map_err(|error| failed(&error))?;
    // It is closed at the end, so nothing of the transaction can outlive this call.
    let mut own = deadpool_redis::Connection::take(pooled);
    redis::cmd("MULTI").exec_async(&mut own).await.map_err(|error| failed(&error))?;

    let (key, channel) = (format!("{prefix}:doctor"), format!("{prefix}:doctor:hint"));
    let mut queued = Pipeline::new();
    let needed: Vec<_> = needed().collect();
    for (name, on, rest) in &needed {
        let cmd = queued.cmd(name);
        match on {
            On::Nothing => cmd,
            On::Key => cmd.arg(&key),
            On::Channel => cmd.arg(&channel),
            On::Script => cmd.arg("0".repeat(40)).arg(1).arg(&key),
        };
        for arg in *rest {
            queued.arg(arg);
        }
    }
    queued.cmd("DISCARD");
    let count = needed.len() + 1;
    let replies = own.send_packed_commands(&queued, 0, count).await;
    let replies = replies.map_err(|error| failed(&error))?;
    let denied = needed.iter().zip(replies).filter_map(|((command, on, _), reply)| match reply {
        Value::ServerError(error) if error.code() == "NOPERM" => {
            let what = match what(error.details().unwrap_or_default()) {
                What::Command if matches!(on, On::Channel) => What::HintCommand,
                what => what,
            };
            Some(Denied { command, what })
        }
        _ => None,
    });
    Ok(denied.collect())
}

/// Servers word it differently; all of them name a command with `to run the '…'`.
fn what(words: &str) -> What {
    match words {
        _ if words.contains("to run the") => What::Command,
        _ if words.contains("channel") => What::Channels,
        _ if words.contains("key") => What::Keys,
        _ => What::Command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    #[test]
    fn the_words_of_every_server_are_understood() {
        for (words, expected) in [
            (
                "this user has no permissions to run the 'hkeys' command or its subcommand",
                What::Command,
            ),
            ("User x has no permissions to run the 'hset' command", What::Command),
            (
                "this user has no permissions to access one of the keys used as arguments",
                What::Keys,
            ),
            ("No permissions to access a key", What::Keys),
            ("this user has no permissions to access one of the channels used", What::Channels),
            ("No permissions to access a channel", What::Channels),
        ] {
            assert_eq!(what(words), expected, "{words}");
        }
    }

    /// Whoever uses a new command in a script is reminded here to ask for its permission.
    #[test]
    fn every_command_of_every_script_is_asked_for() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let groups = [
            ("connection", EVERYBODYS),
            ("session", SESSION),
            ("rate_limit", RATE_LIMIT),
            ("idempotency", IDEMPOTENCY),
            ("cache", CACHE),
            ("coalesce", COALESCE),
            ("lock", LOCK),
        ];
        for (folder, group) in groups {
            let mut found = 0;
            let nested = fs::read_dir(source.join(folder).join("algorithm")).into_iter().flatten();
            for file in fs::read_dir(source.join(folder)).unwrap().chain(nested) {
                let path = file.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "lua") {
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                for call in text.split("call(").skip(1) {
                    let name = call.trim_start_matches(['\'', '"']).split(['\'', '"']).next();
                    let name = name.unwrap();
                    assert!(group.iter().any(|(known, ..)| *known == name), "{folder}: {name}");
                    found += 1;
                }
            }
            assert!(found > 0, "{folder} has no scripts");
        }
    }
}

//! From what the client crate and the server say to a [`StoreError`].

use crate::{connection::script::Script, store::StoreError};
use redis::{Arg, Cmd, FromRedisValue, RedisError, ServerError, Value};
use std::borrow::Cow;

/// Longest piece of the server's words that an error repeats.
const MAX_WORDS: usize = 240;

/// What a code means for whoever runs the application.
struct Advice {
    code: &'static str,
    kind: fn(String) -> StoreError,
    text: &'static str,
}

const fn advice(code: &'static str, kind: fn(String) -> StoreError, text: &'static str) -> Advice {
    Advice { code, kind, text }
}

/// The codes that need more than the server's own words. Those that say "not now, and nothing was
/// done" are `unavailable`, like a link that is down; the others are `refused`.
const ADVICE: &[Advice] = &[
    advice("OOM", StoreError::refused, "Redis is at its maxmemory; raise it, or store less"),
    advice(
        "NOPERM",
        StoreError::refused,
        "allow the ACL user this command and the keys and channels under the prefix",
    ),
    advice(
        "WRONGTYPE",
        StoreError::refused,
        "something else uses the same key; give each application a prefix of its own",
    ),
    advice(
        "MISCONF",
        StoreError::refused,
        "Redis takes no writes since it could not save its data; see its log, often the disk is full",
    ),
    advice(
        "NOREPLICAS",
        StoreError::refused,
        "too few replicas follow (min-replicas-to-write); see INFO replication on the server",
    ),
    advice(
        "CROSSSLOT",
        StoreError::refused,
        "keys used together in a cluster must share a {hash tag}",
    ),
    advice(
        "MOVED",
        StoreError::refused,
        "this server is a node of a cluster: write redis+cluster://host:port",
    ),
    advice("NOAUTH", StoreError::config, "the server asks for a password; set it in the URL"),
    advice("WRONGPASS", StoreError::config, "check the user and the password"),
    advice(
        "READONLY",
        StoreError::unavailable,
        "this server is a replica; the link is being replaced, which helps after a failover, else \
         point the URL at the primary",
    ),
    advice("LOADING", StoreError::unavailable, "Redis still reads its data after a start"),
    advice("BUSY", StoreError::unavailable, "a script has run for too long on the server"),
    advice("MASTERDOWN", StoreError::unavailable, "this server is a replica without its primary"),
    advice("CLUSTERDOWN", StoreError::unavailable, "the cluster does not cover all its slots"),
    advice("TRYAGAIN", StoreError::unavailable, "the cluster is moving these keys"),
];

/// The codes after which nothing was done and a moment may help: a server that starts, a failover,
/// slots on the move. `BUSY` is not among them: that script has run for seconds already.
const NOT_NOW: [&str; 5] = ["LOADING", "TRYAGAIN", "MASTERDOWN", "READONLY", "CLUSTERDOWN"];

/// An answer as a result: an error in it, at any depth, is the server's no.
pub(super) fn settle(reply: Value, name: &str) -> Result<Value, StoreError> {
    reply.extract_error().map_err(|error| refused(name, error))
}

/// `name` was answered with an error, or was not even sent: an empty command.
pub(super) fn refused(name: &str, error: RedisError) -> StoreError {
    match ServerError::try_from(error) {
        Ok(error) => server_error(name, &error),
        Err(error) => {
            StoreError::refused(format!("{name}: {}", error.category())).with_source(error)
        }
    }
}

/// The same for a script. Redis tells that the user may not run some command in it, and not which.
pub(super) fn settle_script(reply: Value, script: &Script) -> Result<Value, StoreError> {
    reply.extract_error().map_err(|error| {
        if !error.detail().is_some_and(|words| words.contains(NO_RIGHT_IN_SCRIPT)) {
            return refused(script.name(), error);
        }
        let commands = script.commands().join(", ");
        StoreError::refused(format!(
            "{}: the ACL user may not run every command of this script: allow {commands}; ACL LOG on \
             the server names the one",
            script.name()
        ))
        .with_source(error)
    })
}

/// What Redis says of a command that the ACL user may not run, from 7 on, and before, where its code
/// is within the words.
const NO_RIGHT_IN_SCRIPT: &str = "can't run this command";

pub(super) fn server_error(name: &str, error: &ServerError) -> StoreError {
    let words = words(error);
    let advice = ADVICE.iter().find(|advice| says(error, advice.code));
    match advice {
        Some(advice) => (advice.kind)(format!("{name}: Redis answered {words:?}: {}", advice.text)),
        None => StoreError::refused(format!("{name}: Redis answered {words:?}")),
    }
}

/// The link broke before `name` had its answer.
pub(super) fn interrupted(name: &str, error: RedisError) -> StoreError {
    StoreError::interrupted(format!(
        "the link broke before {name} had its answer ({error}); it may or may not have been done"
    ))
    .with_source(error)
}

/// Converts an answer to `name`.
///
/// # Errors
///
/// [`StoreError::is_corrupt`] if it is not a `T`. The value itself is not shown: it may be anybody's
/// data.
pub fn parse<T: FromRedisValue>(reply: Value, name: &str) -> Result<T, StoreError> {
    redis::from_redis_value(reply).map_err(|_| {
        StoreError::corrupt(format!(
            "{name}: Redis answered with something other than {}",
            std::any::type_name::<T>()
        ))
    })
}

/// The first word of a command: what an error may show of it.
pub(super) fn command_name(cmd: &Cmd) -> Cow<'static, str> {
    let word = match cmd.args_iter().next() {
        Some(Arg::Simple(word)) => String::from_utf8_lossy(word).to_uppercase(),
        _ => return "an empty command".into(),
    };
    match word.as_str() {
        "EVALSHA" | "EVAL" => "script".into(),
        _ => word.into(),
    }
}

pub(super) fn is_read_only(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if says(error, "READONLY"))
}

/// Whether the server turned the call away for now: nothing was done.
pub(super) fn is_not_now(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if NOT_NOW.iter().any(|code| says(error, code)))
}

pub(super) fn is_no_script(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

/// Whether the error has this code. Inside a script, Redis before 7 answers
/// `ERR Error running script (…): @user_script: 1: -OOM command not allowed …`.
pub(super) fn says(error: &ServerError, code: &str) -> bool {
    let inside = || {
        let details = error.details().unwrap_or_default();
        details.match_indices(code).any(|(at, _)| {
            details[..at].ends_with(": -") && details[at + code.len()..].starts_with(' ')
        })
    };
    error.code() == code || (error.code() == "ERR" && inside())
}

/// The server's own words, without the arguments that some of them repeat.
pub(super) fn words(error: &ServerError) -> String {
    let details = error.details().unwrap_or_default();
    let details = details.split(", with args beginning with").next().unwrap_or_default();
    let mut words = format!("{} {details}", error.code());
    if let Some((end, _)) = words.char_indices().nth(MAX_WORDS) {
        words.truncate(end);
        words.push('…');
    }
    words.truncate(words.trim_end().len());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn every_refusal_names_the_command_the_servers_words_and_the_fix() {
        for (line, kind, fix) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", "refused", "maxmemory"),
            ("NOPERM User x has no permissions to run the 'get' command", "refused", "ACL"),
            ("WRONGTYPE Operation against a key", "refused", "prefix"),
            ("MISCONF Redis is configured to save RDB snapshots", "refused", "disk"),
            ("NOREPLICAS Not enough good replicas to write.", "refused", "min-replicas"),
            ("NOAUTH Authentication required.", "config", "password"),
            ("READONLY You can't write against a read only replica.", "unavailable", "primary"),
            ("LOADING Redis is loading the dataset in memory", "unavailable", "start"),
            ("ERR value is not an integer or out of range", "refused", "integer"),
        ] {
            let error = settle(answer(line), "INCR").unwrap_err();
            assert_eq!(error.reason(), kind, "{error}");
            let text = error.to_string();
            let code = line.split(' ').next().unwrap();
            assert!(text.contains("INCR") && text.contains(code) && text.contains(fix), "{text}");
        }
    }

    #[test]
    fn codes_inside_the_script_errors_of_redis_6_are_understood() {
        let line = "ERR Error running script (call to f_ab): @user_script:3: @user_script: 3: \
                    -READONLY You can't write against a read only replica.";
        assert!(is_read_only(&answer(line)));
        assert!(settle(answer(line), "lock").unwrap_err().is_unavailable());
        assert!(!is_read_only(&answer("ERR no such key READONLY here")));
        assert!(is_not_now(&answer(line)) && !is_not_now(&answer("ERR LOADING is a word")));
    }

    #[test]
    fn arguments_that_the_server_repeats_are_cut_off() {
        let line = "ERR unknown command 'FOO', with args beginning with: 'hunter2' ";
        let text = settle(answer(line), "FOO").unwrap_err().to_string();
        assert!(!text.contains("hunter2") && text.contains("unknown command"), "{text}");
    }

    #[test]
    fn an_error_inside_an_answer_counts_and_a_foreign_type_shows_no_value() {
        let nested = Value::Array(vec![Value::Int(1), answer("ERR no")]);
        assert!(settle(nested, "EXEC").unwrap_err().is_refused());
        let error = parse::<u64>(Value::BulkString(b"hunter2".to_vec()), "GET").unwrap_err();
        assert!(error.is_corrupt() && !error.to_string().contains("hunter2"), "{error}");
    }
}

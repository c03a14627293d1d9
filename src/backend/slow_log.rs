//! The calls that the server remembers as slow.

use std::time::{Duration, SystemTime};
#[cfg(feature = "redis")]
use {
    super::scripts,
    redis::Value,
    std::{collections::HashMap, time::UNIX_EPOCH},
};

/// A call that took the server long; see [`Backend::slow_log`](super::Backend::slow_log).
///
/// It never holds an argument: they are anybody's data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowCall {
    /// The command, in capitals, such as `EVALSHA`.
    pub command: String,
    /// The script, if it is one of this crate's, such as `session commit`.
    pub script: Option<&'static str>,
    /// Whether its first key is under the prefix of this backend.
    pub is_ours: bool,
    /// How long it ran, to the microsecond; the time that it waited for its turn is not in it.
    pub took: Duration,
    /// When it began, to the second, by the server's clock.
    pub at: SystemTime,
}

/// Reads the answer to `SLOWLOG GET`. Entries of an unknown shape are passed over.
#[cfg(feature = "redis")]
pub(super) fn parse(reply: Value, prefix: &str) -> Vec<SlowCall> {
    let Value::Array(entries) = reply else { return Vec::new() };
    let names: HashMap<&str, &'static str> =
        scripts::all().map(|script| (script.hash(), script.name())).collect();
    entries.into_iter().filter_map(|entry| slow_call(entry, prefix, &names)).collect()
}

#[cfg(feature = "redis")]
fn slow_call(entry: Value, prefix: &str, names: &HashMap<&str, &'static str>) -> Option<SlowCall> {
    let Value::Array(parts) = entry else { return None };
    let [_id, Value::Int(at), Value::Int(took), Value::Array(args), ..] = &parts[..] else {
        return None;
    };
    let mut args = args.iter().map(|arg| match arg {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
        _ => "".into(),
    });
    let command = args.next()?.to_uppercase();
    let (script, key) = match command.as_str() {
        "EVALSHA" | "EVAL" => {
            let script = args.next().and_then(|hash| names.get(&*hash).copied());
            (script, args.nth(1))
        }
        _ => (None, args.next()),
    };
    let is_ours = script.is_some()
        || key.is_some_and(|key| key.strip_prefix(prefix).is_some_and(|id| id.starts_with(':')));
    Some(SlowCall {
        command,
        script,
        is_ours,
        took: Duration::from_micros((*took).try_into().ok()?),
        at: UNIX_EPOCH.checked_add(Duration::from_secs((*at).try_into().ok()?))?,
    })
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(args: &[&str]) -> Value {
        let args = args.iter().map(|arg| Value::BulkString(arg.as_bytes().to_vec())).collect();
        let parts = vec![Value::Int(4), Value::Int(1_700_000_000), Value::Int(1_500)];
        Value::Array(
            [parts, vec![Value::Array(args), Value::BulkString(b"addr".to_vec())]].concat(),
        )
    }

    fn read(args: &[&str]) -> SlowCall {
        parse(Value::Array(vec![entry(args)]), "shop").remove(0)
    }

    #[test]
    fn a_call_is_ours_by_its_script_or_by_its_first_key_and_shows_no_argument() {
        let get = read(&["get", "shop:session:hunter2"]);
        assert_eq!((get.command.as_str(), get.is_ours), ("GET", true));
        assert_eq!(get.took, Duration::from_micros(1_500));
        assert_eq!(get.at, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        assert!(!format!("{get:?}").contains("hunter2"));

        assert!(read(&["EVALSHA", "0000", "1", "shop:x", "a"]).is_ours);
        for args in [&["get", "shopping:x"][..], &["evalsha", "0000", "1", "else"], &["DBSIZE"]] {
            assert!(!read(args).is_ours, "{args:?}");
        }
        for script in scripts::all() {
            let ours = read(&["EVALSHA", script.hash(), "1", "any", "hunter2"]);
            assert_eq!((ours.script, ours.is_ours), (Some(script.name()), true));
        }
    }

    proptest! {
        #[test]
        fn no_entry_makes_it_panic(
            at: i64, took: i64, args in proptest::collection::vec(any::<String>(), 0..5),
        ) {
            let args = args.into_iter().map(|arg| Value::BulkString(arg.into())).collect();
            let entry = vec![Value::Nil, Value::Int(at), Value::Int(took), Value::Array(args)];
            parse(Value::Array(vec![Value::Array(entry), Value::Nil]), "shop");
        }
    }
}

//! Which slot a command belongs to.

use crate::connection::error::command_name;
use crc::{CRC_16_XMODEM, Crc};
use redis::{Arg, Cmd};

/// Slots of every cluster.
pub(in crate::connection) const SLOTS: u16 = 16_384;

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// Commands that any server can answer, sorted.
const KEYLESS: &[&str] = &[
    "ACL",
    "AUTH",
    "CLIENT",
    "CLUSTER",
    "COMMAND",
    "CONFIG",
    "DBSIZE",
    "DEBUG",
    "DISCARD",
    "ECHO",
    "EXEC",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION",
    "HELLO",
    "INFO",
    "KEYS",
    "LASTSAVE",
    "LATENCY",
    "MODULE",
    "MULTI",
    "PING",
    "PUBLISH",
    "RANDOMKEY",
    "ROLE",
    "SCAN",
    "SCRIPT",
    "SLOWLOG",
    "TIME",
    "WAIT",
    "WAITAOF",
];

/// Commands whose keys are counted first, sorted: the number of words before the count.
const COUNTED: &[(&str, usize)] = &[
    ("BLMPOP", 2),
    ("BZMPOP", 2),
    ("EVAL", 2),
    ("EVALSHA", 2),
    ("EVALSHA_RO", 2),
    ("EVAL_RO", 2),
    ("FCALL", 2),
    ("FCALL_RO", 2),
    ("LMPOP", 1),
    ("SINTERCARD", 1),
    ("ZDIFF", 1),
    ("ZINTER", 1),
    ("ZINTERCARD", 1),
    ("ZMPOP", 1),
    ("ZUNION", 1),
];

/// Commands whose first key is their third word, sorted.
const THIRD: &[&str] = &["BITOP", "MEMORY", "OBJECT", "XGROUP", "XINFO"];

/// The slot of the first key of `cmd`; the server refuses one whose keys are in several. `None` if it
/// has no key.
pub(in crate::connection) fn slot_of(cmd: &Cmd) -> Option<u16> {
    let name = cmd.args_iter().next().and_then(|_| match first_word(cmd) {
        word if word.is_empty() => None,
        word => Some(word),
    })?;
    let name = name.as_str();
    if KEYLESS.binary_search(&name).is_ok() {
        return None;
    }
    let at = if let Ok(found) = COUNTED.binary_search_by_key(&name, |(name, _)| name) {
        let (_, before) = COUNTED[found];
        match word(cmd, before) {
            Some(b"0") | None => return None,
            Some(_) => before + 1,
        }
    } else if THIRD.binary_search(&name).is_ok() {
        2
    } else if name == "XREAD" || name == "XREADGROUP" {
        1 + cmd.args_iter().position(
            |arg| matches!(arg, Arg::Simple(word) if word.eq_ignore_ascii_case(b"STREAMS")),
        )?
    } else {
        1
    };
    word(cmd, at).map(slot_of_key)
}

/// The slot of a key: CRC16 of what stands between its first braces, if anything does, else of all of
/// it (Redis Cluster specification, "Hash tags").
pub(in crate::connection) fn slot_of_key(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let inside = &key[open + 1..];
        let close = inside.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &inside[..close])
    });
    CRC.checksum(tag.unwrap_or(key)) % SLOTS
}

fn word(cmd: &Cmd, at: usize) -> Option<&[u8]> {
    match cmd.args_iter().nth(at)? {
        Arg::Simple(word) => Some(word),
        _ => None,
    }
}

fn first_word(cmd: &Cmd) -> String {
    match word(cmd, 0) {
        Some(word) => String::from_utf8_lossy(word).to_ascii_uppercase(),
        None => command_name(cmd).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(words: &[&str]) -> Option<u16> {
        let mut cmd = Cmd::new();
        cmd.arg(words);
        slot_of(&cmd)
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(CRC.checksum(b"123456789"), 0x31c3);
        // What CLUSTER KEYSLOT answers.
        for (key, slot) in [("foo", 12_182), ("shop:lock:{a}:f", 15_495), ("{}x", 10_595)] {
            assert_eq!(slot_of_key(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of_key(b"{a}x"), slot_of_key(b"y{a}z{b}"));
        assert_eq!(slot_of_key(b"a{}b"), slot_of_key(b"a{}b"));
        assert_ne!(slot_of_key(b"a{}b"), slot_of_key(b""));
    }

    #[test]
    fn the_first_key_is_found_where_each_command_has_it() {
        assert!(KEYLESS.is_sorted() && THIRD.is_sorted() && COUNTED.is_sorted());
        let k = Some(slot_of_key(b"k"));
        for words in [
            &["GET", "k"][..],
            &["get", "k"],
            &["MGET", "k", "other"],
            &["EVALSHA", "sha", "2", "k", "k2", "arg"],
            &["EVAL", "return 1", "1", "k"],
            &["BITOP", "AND", "k", "a"],
            &["OBJECT", "ENCODING", "k"],
            &["MEMORY", "USAGE", "k"],
            &["XREAD", "COUNT", "1", "streams", "k", "0"],
            &["ZINTER", "2", "k", "k2"],
            &["BLMPOP", "0", "2", "k", "k2", "LEFT"],
        ] {
            assert_eq!(slot(words), k, "{words:?}");
        }
        for words in [
            &["PING"][..],
            &["PUBLISH", "channel", "x"],
            &["EVALSHA", "sha", "0", "arg"],
            &["INFO"],
            &["GET"],
        ] {
            assert_eq!(slot(words), None, "{words:?}");
        }
    }
}

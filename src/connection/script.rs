//! Lua scripts: sent by hash, and by text only when the server does not know them.

use redis::{Cmd, ToSingleRedisArg};
use std::{fmt, sync::OnceLock};

/// A Lua script, made once as a `static`.
///
/// ```
/// use towerkeep::connection::Script;
///
/// static ADD: Script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])").named("add");
///
/// let call = ADD.keys(["shop:visits"]).arg(2);
/// ```
pub struct Script {
    code: &'static str,
    name: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    /// A script with this text.
    #[must_use]
    pub const fn new(code: &'static str) -> Self {
        Self { code, name: "script", hash: OnceLock::new() }
    }

    /// The name that errors call it by. Default: `script`.
    #[must_use]
    pub const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Begins a call with its keys. All keys that the script touches are named here, and in a
    /// cluster they share a hash tag.
    pub fn keys<K: AsRef<[u8]>>(
        &'static self,
        keys: impl IntoIterator<Item = K, IntoIter: ExactSizeIterator>,
    ) -> Call {
        let keys = keys.into_iter();
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(self.hash()).arg(keys.len());
        for key in keys {
            cmd.arg(key.as_ref());
        }
        Call { script: self, cmd }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The commands that it calls, in the order of their first call.
    pub(super) fn commands(&self) -> Vec<&'static str> {
        let mut commands = Vec::new();
        for (_, rest) in
            self.code.match_indices("call('").map(|(at, call)| self.code.split_at(at + call.len()))
        {
            let name = rest.split('\'').next().unwrap_or_default();
            if !commands.contains(&name) {
                commands.push(name);
            }
        }
        commands
    }

    /// The SHA-1 of the text in hex, the script's name on the server.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| redis::Script::new(self.code).get_hash().to_owned())
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("name", &self.name).field("hash", &self.hash()).finish()
    }
}

/// One call of a [`Script`]: its keys and arguments.
#[must_use = "a call does nothing until a connection runs it"]
#[derive(Clone)]
pub struct Call {
    pub(super) script: &'static Script,
    pub(super) cmd: Cmd,
}

impl Call {
    /// Appends one argument. Text, bytes and integers are arguments; a list or an option is not, so
    /// that none shifts its neighbours unseen.
    pub fn arg(mut self, arg: impl ToSingleRedisArg) -> Self {
        self.cmd.arg(arg);
        self
    }

    /// Appends arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl ToSingleRedisArg>) -> Self {
        for arg in args {
            self.cmd.arg(arg);
        }
        self
    }

    pub(super) fn name(&self) -> &'static str {
        self.script.name
    }
}

/// The command that sends the script's text instead of its hash. It runs and is remembered under its
/// hash at once; `SCRIPT LOAD` would take a trip of its own, and in a cluster go to every node.
pub(super) fn with_text(script: &'static Script, by_hash: &Cmd) -> Cmd {
    let mut by_text = redis::cmd("EVAL");
    by_text.arg(script.code);
    for arg in by_hash.args_iter().skip(2) {
        if let redis::Arg::Simple(arg) = arg {
            by_text.arg(arg);
        }
    }
    by_text
}

impl fmt::Debug for Call {
    /// Names the script and shows no argument: they may hold session data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("script", &self.script.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ONE: Script = Script::new("return 1").named("one");

    fn packed(cmd: &Cmd) -> String {
        String::from_utf8(cmd.get_packed_command()).unwrap()
    }

    #[test]
    fn a_call_counts_its_keys_and_the_text_replaces_only_the_hash() {
        let call = ONE.keys(["a", "b"]).arg(7).args(["x"]);
        let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        assert_eq!(ONE.hash(), sha);
        let expected = format!(
            "*7\r\n$7\r\nEVALSHA\r\n$40\r\n{sha}\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\n7\r\n$1\r\nx\r\n"
        );
        assert_eq!(packed(&call.cmd), expected);
        assert_eq!(
            packed(&with_text(&ONE, &call.cmd)),
            expected
                .replace("EVALSHA", "EVAL")
                .replace("$7\r\nEVAL", "$4\r\nEVAL")
                .replace(&format!("$40\r\n{sha}"), "$8\r\nreturn 1")
        );
    }

    #[test]
    fn a_script_knows_the_commands_that_it_calls() {
        static TWO: Script = Script::new(
            "redis.call('GET', KEYS[1]) redis.pcall('SET', KEYS[1], redis.call('GET', 'x'))",
        );
        assert_eq!(TWO.commands(), ["GET", "SET"]);
    }

    #[test]
    fn debug_shows_no_argument() {
        assert_eq!(format!("{:?}", ONE.keys(["a"]).arg("secret")), "Call { script: \"one\", .. }");
    }

    #[test]
    fn the_prelude_joins_a_script_at_compile_time() {
        static WHOLE: Script = Script::new(concat!(include_str!("prelude.lua"), "return int(1)"));
        assert!(WHOLE.code.ends_with("return int(1)"));
    }
}

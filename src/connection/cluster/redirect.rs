//! The answers that name another server.

use crate::connection::{error::says, url::Address};
use redis::Value;

/// "Not here": from a server that does not, or not yet, hold the keys.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::connection) enum Redirect {
    /// The slot has another owner from now on.
    Moved { slot: u16, to: Place },
    /// The slot is on the move, and these keys have arrived there; its owner is still the old one.
    Ask { to: Place },
}

/// An address as the servers write it: without a host it is the one that was asked.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::connection) struct Place {
    host: Option<String>,
    port: u16,
}

impl Place {
    pub(super) fn new(host: Option<String>, port: u16) -> Self {
        Self { host: host.filter(|host| !host.is_empty() && host != "?"), port }
    }

    /// Seen from the server at `asked`.
    pub(in crate::connection) fn from(self, asked: &Address) -> Address {
        let host = match (self.host, asked) {
            (Some(host), _) => host,
            (None, Address::Tcp { host, .. }) => host.clone(),
            (None, Address::Unix(_)) => "localhost".into(),
        };
        Address::Tcp { host, port: self.port }
    }
}

impl Redirect {
    /// `MOVED 3999 10.0.0.7:6381`, `ASK 3999 10.0.0.7:6381`; IPv6 addresses have no brackets there.
    pub(in crate::connection) fn read(reply: &Value) -> Option<Self> {
        let Value::ServerError(error) = reply else { return None };
        let moved = says(error, "MOVED");
        if !moved && !says(error, "ASK") {
            return None;
        }
        let (slot, place) = error.details()?.split_once(' ')?;
        let (host, port) = place.trim().rsplit_once(':')?;
        let to = Place::new(Some(host.to_owned()), port.parse().ok()?);
        Some(match moved {
            true => Self::Moved { slot: slot.parse().ok()?, to },
            false => Self::Ask { to },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Redirect> {
        Redirect::read(&redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap())
    }

    #[test]
    fn reads_the_slot_and_the_place() {
        let to = |host: Option<&str>| Place { host: host.map(Into::into), port: 6381 };
        let moved = |host| Some(Redirect::Moved { slot: 3999, to: to(host) });
        assert_eq!(read("MOVED 3999 10.0.0.7:6381"), moved(Some("10.0.0.7")));
        assert_eq!(read("MOVED 3999 2001:db8::1:6381"), moved(Some("2001:db8::1")));
        assert_eq!(read("MOVED 3999 :6381"), moved(None));
        assert_eq!(read("MOVED 3999 ?:6381"), moved(None));
        assert_eq!(read("ASK 3999 a:6381"), Some(Redirect::Ask { to: to(Some("a")) }));
        for line in
            ["MOVED", "MOVED x a:1", "MOVED 1 a", "MOVED 1 a:x", "ERR MOVED 1 a:1", "ASKING"]
        {
            assert_eq!(read(line), None, "{line}");
        }
        let asked = Address::Tcp { host: "here".into(), port: 1 };
        assert_eq!(to(None).from(&asked).to_string(), "here:6381");
    }
}

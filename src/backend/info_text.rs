//! Reads the text that `INFO` answers with.

use super::{
    info::{Info, Memory, Mode, Replication, Role, Server, ServerKind, Stats},
    version::Version,
};
use crate::store::StoreError;
use redis::Value;
use std::{collections::HashMap, str::FromStr, time::Duration};

/// The text of the answer: a string, in RESP3 with a format in front.
pub(super) fn text(reply: Value) -> Result<String, StoreError> {
    match reply {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Ok(text),
        _ => Err(StoreError::corrupt("INFO: Redis answered with something other than text")),
    }
}

/// The fields of all sections.
pub(super) struct Fields<'a>(HashMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    /// Lines that are not `name:value` are passed over; of a name that comes twice, the first counts.
    pub(super) fn parse(text: &'a str) -> Self {
        let mut fields = HashMap::new();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            fields.entry(name).or_insert(value);
        }
        Self(fields)
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    pub(super) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    pub(super) fn info(&self) -> Info {
        Info {
            server: self.server(),
            memory: Memory {
                used: self.number("used_memory"),
                peak: self.number("used_memory_peak"),
                max: self.number("maxmemory"),
                policy: self.text("maxmemory_policy").map(str::to_owned),
                fragmentation: self
                    .number("mem_fragmentation_ratio")
                    .filter(|n: &f64| n.is_finite()),
            },
            clients: self.number("connected_clients"),
            stats: Stats {
                connections: self.number("total_connections_received"),
                commands: self.number("total_commands_processed"),
                ops_per_second: self.number("instantaneous_ops_per_sec"),
                hits: self.number("keyspace_hits"),
                misses: self.number("keyspace_misses"),
            },
            replication: self.replication(),
        }
    }

    /// A Valkey server also names a `redis_version`, that of the Redis it is compatible with.
    fn server(&self) -> Server {
        let (kind, version) = match self.text("valkey_version") {
            Some(version) => (ServerKind::Valkey, Some(version)),
            None => (ServerKind::Redis, self.text("redis_version")),
        };
        Server {
            kind,
            version: version.and_then(Version::parse),
            mode: match self.text("server_mode").or(self.text("redis_mode")) {
                Some("standalone") => Some(Mode::Standalone),
                Some("cluster") => Some(Mode::Cluster),
                Some("sentinel") => Some(Mode::Sentinel),
                _ => None,
            },
            uptime: self.number("uptime_in_seconds").map(Duration::from_secs),
        }
    }

    fn replication(&self) -> Replication {
        let role = match self.text("role") {
            Some("master") => Some(Role::Primary),
            Some("slave") => Some(Role::Replica),
            _ => None,
        };
        let (lag, behind) = match role {
            Some(Role::Replica) => (self.number("master_last_io_seconds_ago"), None),
            _ => self.replicas(),
        };
        Replication {
            role,
            replicas: self.number("connected_slaves"),
            lag: lag.map(Duration::from_secs),
            behind,
            link_up: self.text("master_link_status").map(|status| status == "up"),
        }
    }

    /// The largest lag, in seconds, and the largest distance, in bytes, of `slave0`, `slave1`, …
    fn replicas(&self) -> (Option<u64>, Option<u64>) {
        let written: Option<u64> = self.number("master_repl_offset");
        let (mut lag, mut behind) = (None, None);
        for (name, line) in &self.0 {
            let is_replica = |number: &str| number.parse::<u32>().is_ok();
            if !name.strip_prefix("slave").is_some_and(is_replica) {
                continue;
            }
            let part = |wanted| {
                let mut parts = line.split(',').filter_map(|part| part.split_once('='));
                let (_, value) = parts.find(|(name, _)| *name == wanted)?;
                value.parse::<u64>().ok()
            };
            lag = lag.max(part("lag"));
            let distance = written.zip(part("offset")).map(|(all, seen)| all.saturating_sub(seen));
            behind = behind.max(distance);
        }
        (lag, behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REDIS_6: &str = "# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n\
        uptime_in_seconds:90\r\n\r\n# Clients\r\nconnected_clients:3\r\n\r\n# Memory\r\n\
        used_memory:945728\r\nused_memory_peak:1000000\r\nmaxmemory:1048576\r\n\
        maxmemory_policy:noeviction\r\nmem_fragmentation_ratio:5.08\r\n\r\n# Stats\r\n\
        total_connections_received:2\r\ntotal_commands_processed:8\r\n\
        instantaneous_ops_per_sec:4\r\nkeyspace_hits:3\r\nkeyspace_misses:1\r\n\r\n\
        # Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
        slave0:ip=10.0.0.1,port=6379,state=online,offset=900,lag=1\r\n\
        slave1:ip=10.0.0.2,port=6379,state=online,offset=700,lag=7\r\n\
        master_repl_offset:1000\r\n";

    fn info(text: &str) -> Info {
        Fields::parse(text).info()
    }

    #[test]
    fn every_field_is_read() {
        let info = info(REDIS_6);
        assert_eq!(info.server.to_string(), "Redis 6.2.14, standalone");
        assert_eq!(info.server.uptime, Some(Duration::from_secs(90)));
        assert_eq!(info.clients, Some(3));
        assert_eq!((info.memory.used, info.memory.peak), (Some(945_728), Some(1_000_000)));
        assert_eq!(info.memory.max, Some(1_048_576));
        assert_eq!(info.memory.policy.as_deref(), Some("noeviction"));
        assert_eq!(info.memory.fragmentation, Some(5.08));
        assert_eq!((info.stats.connections, info.stats.commands), (Some(2), Some(8)));
        assert_eq!((info.stats.ops_per_second, info.stats.hit_rate()), (Some(4), Some(0.75)));
        let replication = &info.replication;
        assert_eq!((replication.role, replication.replicas), (Some(Role::Primary), Some(2)));
        assert_eq!(replication.lag, Some(Duration::from_secs(7)), "the furthest behind counts");
        assert_eq!(replication.behind, Some(300));
    }

    #[test]
    fn valkey_says_its_own_version_and_not_the_one_it_is_compatible_with() {
        let text = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n\
            server_mode:cluster\r\n";
        assert_eq!(info(text).server.to_string(), "Valkey 9.1.2, cluster");
    }

    #[test]
    fn a_replica_tells_of_its_primary() {
        let text = "role:slave\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:12\r\n";
        let replication = info(text).replication;
        assert_eq!((replication.role, replication.link_up), (Some(Role::Replica), Some(false)));
        assert_eq!(replication.lag, Some(Duration::from_secs(12)));
        // It is -1 as long as there was no contact.
        let never = info("role:slave\r\nmaster_last_io_seconds_ago:-1\r\n");
        assert_eq!(never.replication.lag, None);
    }

    #[test]
    fn what_a_server_hides_is_none_and_the_rest_is_read() {
        let info = info("redis_version:7.1.0\r\nused_memory:lots\r\n");
        assert_eq!(info.server.version, Some(Version::new(7, 1, 0)));
        assert_eq!((info.server.mode, info.clients, info.memory.used), (None, None, None));
        assert_eq!(info.stats.hit_rate(), None);
        let fresh = Stats { hits: Some(0), misses: Some(0), ..Stats::default() };
        assert_eq!(fresh.hit_rate(), None, "no reads have no rate");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            info(&text);
        }

        #[test]
        fn no_value_of_a_known_field_makes_it_panic(
            values in proptest::collection::vec("[0-9a-z.,=:-]{0,24}|18446744073709551615", 21),
        ) {
            let names = [
                "redis_version", "valkey_version", "redis_mode", "uptime_in_seconds", "used_memory",
                "used_memory_peak", "maxmemory", "mem_fragmentation_ratio", "connected_clients",
                "total_connections_received", "total_commands_processed", "keyspace_hits",
                "keyspace_misses", "instantaneous_ops_per_sec", "role", "connected_slaves",
                "master_repl_offset", "slave0", "slave1", "slave_x", "master_link_status",
            ];
            let mut text: String =
                names.iter().zip(&values).map(|(name, value)| format!("{name}:{value}\r\n")).collect();
            text.push_str("slave2:offset=18446744073709551615,lag=18446744073709551615\r\n");
            let _ = info(&text).stats.hit_rate();
        }
    }
}

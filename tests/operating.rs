//! What a backend tells about its server.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;

use crate::support::server::RedisServer;
use std::time::{Duration, SystemTime};
use towerkeep::{
    Backend,
    backend::{Mode, Role, ServerKind, Version},
};

// Most tests ask what a server says, not how fast it does on a small machine under load.
const PATIENCE: Duration = Duration::from_secs(5);

async fn connect(url: &str) -> Backend {
    Backend::builder().prefix("shop").deadline(PATIENCE).redis(url).await.unwrap()
}

#[tokio::test]
async fn info_agrees_with_the_server() {
    let server = RedisServer::builder().args(&["--maxmemory", "64mb"]).start();
    server.command(&["SET", "a", "1"]);
    server.command(&["GET", "a"]);
    server.command(&["GET", "b"]);
    for protocol in ["resp2", "resp3"] {
        let backend = connect(&format!("{}?protocol={protocol}", server.url())).await;
        let info = backend.info().await.unwrap();
        assert_ne!(info.server.kind, ServerKind::Memory);
        assert!(info.server.version.unwrap() >= Version::new(6, 2, 0), "{info:?}");
        let text = server.command(&["INFO", "server"]).text();
        let version = info.server.version.unwrap();
        assert!(text.contains(&format!("_version:{version}\r\n")), "{version}: {text}");
        assert_eq!(info.server.kind == ServerKind::Valkey, text.contains("valkey_version"));
        assert_eq!(info.server.mode, Some(Mode::Standalone));
        assert!(info.server.uptime.unwrap() < Duration::from_secs(600));
        assert_eq!(info.memory.max, Some(64 << 20));
        assert_eq!(info.memory.policy.as_deref(), Some("noeviction"));
        assert!(info.memory.used.unwrap() > 100_000, "{info:?}");
        assert!(info.memory.peak >= info.memory.used.map(|used| used / 2), "{info:?}");
        assert!(info.memory.fragmentation.is_some(), "{info:?}");
        assert!(info.clients.unwrap() >= 1, "{info:?}");
        assert!(info.stats.connections.unwrap() >= 4, "{info:?}");
        assert!(info.stats.commands.unwrap() >= 3, "{info:?}");
        assert!(info.stats.ops_per_second.is_some(), "{info:?}");
        assert_eq!((info.stats.hits, info.stats.misses), (Some(1), Some(1)));
        assert_eq!(info.stats.hit_rate(), Some(0.5));
        assert_eq!(info.replication.role, Some(Role::Primary));
        assert_eq!((info.replication.replicas, info.replication.lag), (Some(0), None));
    }
}

#[tokio::test]
async fn info_that_is_not_permitted_is_an_error_that_names_the_command() {
    let server = RedisServer::start();
    let backend = connect(&restricted(&server, &["-info", "-slowlog"])).await;
    for error in [backend.info().await.unwrap_err(), backend.slow_log(9).await.unwrap_err()] {
        let text = error.to_string();
        assert!(error.is_refused(), "{text}");
        assert!(text.starts_with("INFO") || text.starts_with("SLOWLOG"), "{text}");
    }
}

#[tokio::test]
async fn the_slow_log_names_calls_and_no_arguments() {
    let server = RedisServer::start();
    let backend = connect(&server.url()).await;
    let before = SystemTime::now() - Duration::from_secs(2);
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.command(&["SET", "shop:session:x", "hunter2"]);
    server.command(&["SET", "other", "hunter2"]);
    let calls = backend.slow_log(100).await.unwrap();
    let found: Vec<_> =
        calls.iter().filter(|call| call.command == "SET").map(|call| call.is_ours).collect();
    assert_eq!(found, [false, true], "the newest first: {calls:?}");
    assert!(calls.iter().all(|call| call.at > before && call.took < Duration::from_secs(1)));
    assert!(!format!("{calls:?}").contains("hunter2"), "{calls:?}");
    assert_eq!(backend.slow_log(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn memory_says_that_it_is_memory() {
    let backend = Backend::memory();
    let info = backend.info().await.unwrap();
    assert_eq!(info.server.kind, ServerKind::Memory);
    assert_eq!((info.server.version, info.memory.used, info.clients), (None, None, None));
    assert!(backend.slow_log(10).await.unwrap().is_empty());
}

/// The URL of a user who may do everything but what `rules` take away.
fn restricted(server: &RedisServer, rules: &[&str]) -> String {
    let all = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"];
    server.command(&[&all[..], rules].concat());
    format!("redis://app:secret@127.0.0.1:{}/", server.port())
}

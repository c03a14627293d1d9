//! One server, and a user with few rights there.

use super::tour::{MINUTE, backend, hint, tour};
use crate::{
    harness::{allow_user, user_url},
    support::server::RedisServer,
};
use towerkeep::{Backend, connection::redis};

#[tokio::test]
async fn every_store_works_over_resp2_and_resp3_and_tcp_and_a_unix_socket() {
    let server = RedisServer::builder().unix_socket().start();
    for url in [
        server.url(),
        format!("{}?protocol=resp3", server.url()),
        server.unix_url(),
        format!("{}?protocol=resp3", server.unix_url()),
    ] {
        let backend = backend(&url).await;
        tour(&backend).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        hint(&backend).await;
        server.command(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let server = RedisServer::start();
    allow_user(&server);
    let backend = backend(&user_url(&server)).await;
    tour(&backend).await.unwrap();
    hint(&backend).await;
    // And the pool's.
    let pool = backend.connection().unwrap().pool().unwrap();
    for _ in 0..2 {
        let mut own = pool.get().await.unwrap();
        redis::cmd("PING").exec_async(&mut own).await.unwrap();
    }
    assert_eq!(pool.status().size, 1, "it was used again");
}

#[tokio::test]
async fn without_any_one_of_the_documented_rights_the_error_names_the_command() {
    let server = RedisServer::start();
    for command in allow_user(&server) {
        // The link's, the pool's and the hints' own: no verb of a store fails without them.
        if ["ping", "unwatch", "publish", "subscribe", "unsubscribe"].contains(&command) {
            continue;
        }
        server.command(&["FLUSHALL"]);
        server.command(&["SCRIPT", "FLUSH"]);
        allow_user(&server);
        server.command(&["ACL", "SETUSER", "shop", &format!("-{command}")]);
        let error = tour(&backend(&user_url(&server)).await).await.expect_err(command);
        let text = error.to_string();
        assert!(error.is_refused() && text.to_lowercase().contains(command), "{command}: {text}");
        assert!(text.contains("ACL") && !text.contains("password"), "{command}: {text}");
    }
}

#[tokio::test]
async fn keys_of_another_prefix_are_out_of_reach() {
    let server = RedisServer::start();
    allow_user(&server);
    let url = user_url(&server);
    let other = Backend::builder().prefix("other").redis(&url).await.unwrap();
    let error = tour(&other).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("NOPERM"), "{error}");
}

#[tokio::test]
async fn the_user_of_the_compose_files_has_the_documented_rights_and_those_of_the_doctor() {
    const FILE: &str = include_str!("../../examples/compose/config/users.acl");
    let server = RedisServer::start();
    let documented = allow_user(&server);
    let user = FILE.lines().find_map(|line| line.strip_prefix("user towerkeep ")).unwrap();
    let granted: Vec<_> = user.split(' ').filter_map(|rule| rule.strip_prefix('+')).collect();
    assert!(granted.starts_with(&documented), "{documented:?} in {granted:?}");

    // A server takes the file as it is, and the doctor finds nothing that it may not look at.
    for line in FILE.lines().filter(|line| !line.starts_with("user default")) {
        let rules = line.strip_prefix("user ").unwrap().split(' ');
        server.command(&["ACL", "SETUSER"].into_iter().chain(rules).collect::<Vec<_>>());
    }
    let url = format!("redis://towerkeep:password@127.0.0.1:{}", server.port());
    let backend = Backend::builder().deadline(MINUTE / 6).redis(&url).await.unwrap();
    tour(&backend).await.unwrap();
    let report = backend.doctor().await;
    assert!(report.not_checked.is_empty(), "{report}");
    assert!(report.findings.iter().all(|one| one.check != "permissions"), "{report}");
}

//! Every store over every way to reach a server: one, Sentinel, Cluster, an application's own pool; and
//! what a caller sees when servers fail, move, or refuse.

mod harness;
mod support;

/// One file for each topology. `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "topology_tests"]
mod tests {
    mod cluster;
    mod lazy;
    mod load;
    mod pool;
    mod replicas;
    mod sentinel;
    mod standalone;
    mod tour;
}

#[tokio::test]
async fn the_user_of_the_compose_files_has_the_documented_rights_and_those_of_the_doctor() {
    const FILE: &str = include_str!("../examples/compose/config/users.acl");
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

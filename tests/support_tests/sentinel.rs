use crate::support::{resp::Value, sentinel::Sentinels, server::RedisServer};

fn role(server: &RedisServer) -> String {
    match server.command(&["ROLE"]) {
        Value::Array(values) => values[0].text(),
        other => panic!("ROLE answers {other:?}"),
    }
}

#[test]
fn three_sentinels_watch_a_master_and_its_replica() {
    let group = Sentinels::start();
    assert_eq!(group.master().port(), group.servers()[0].port());
    assert_eq!(group.replica().port(), group.servers()[1].port());
    assert_eq!((role(group.master()), role(group.replica())), ("master".into(), "slave".into()));

    let url = group.url();
    let (login, rest) = url.strip_prefix("redis+sentinel://").unwrap().split_once('@').unwrap();
    let (hosts, name) = rest.split_once('/').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let ports: Vec<_> = group.sentinels().iter().map(|one| one.port().to_string()).collect();
    let hosts: Vec<_> = hosts.split(',').map(|host| host.split_once(':').unwrap().1).collect();
    assert_eq!(hosts, ports);
    for sentinel in group.sentinels() {
        let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name];
        let address = sentinel.command(&command).texts();
        assert_eq!(address, ["127.0.0.1".to_owned(), group.master().port().to_string()]);
    }
    for server in group.servers() {
        let mut client = server.client();
        client.command(&["AUTH", user, password]);
        assert!(client.command(&["GET", "k"]).is_nil());
    }
}

#[test]
fn a_failover_that_was_asked_for_promotes_the_replica() {
    let group = Sentinels::start();
    group.master().command(&["SET", "k", "v"]);
    group.master().command(&["WAIT", "1", "5000"]);
    let first = group.servers()[0].port();
    let promoted = group.failover();
    assert_ne!(promoted.port(), first);
    assert_eq!(group.master().port(), promoted.port());
    assert_eq!(group.replica().port(), first);
    assert_eq!(role(promoted), "master");
    assert_eq!(promoted.command(&["GET", "k"]).text(), "v");
}

#[test]
fn the_replica_is_promoted_when_the_master_dies_or_hangs() {
    type Fault = fn(&RedisServer);
    for fault in [RedisServer::kill as Fault, RedisServer::pause] {
        let group = Sentinels::start();
        let old = group.master().port();
        fault(group.master());
        let promoted = group.wait_until_promoted();
        assert_ne!(promoted.port(), old);
        promoted.command(&["SET", "k", "v"]);
    }
}

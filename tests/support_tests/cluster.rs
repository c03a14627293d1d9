use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    cluster::{MASTERS, RedisCluster, slot_of},
    resp::{RespClient, Value},
};

/// A key whose slot the master that was born as number `master` has.
fn key_at(cluster: &RedisCluster, master: usize) -> String {
    let port = cluster.nodes()[master].port();
    let mut keys = (0..).map(|n| format!("key-{n}"));
    keys.find(|key| cluster.owner_of(key).port() == port).unwrap()
}

/// As many keys of the slot of `{tag}`.
fn tagged(cluster: &RedisCluster, tag: &str, count: usize) -> Vec<String> {
    let keys: Vec<_> = (0..count).map(|n| format!("{{{tag}}}-{n}")).collect();
    for key in &keys {
        cluster.command_for(key, &["SET", key, "v"]);
    }
    keys
}

fn error_of(client: &mut RespClient, args: &[&str]) -> String {
    match client.try_command(args).unwrap() {
        Value::Error(message) => message,
        other => panic!("{args:?} answers {other:?}"),
    }
}

#[test]
fn slots_are_those_of_the_specification() {
    assert_eq!(slot_of("123456789"), 0x31c3, "the specification's own example");
    assert_eq!(slot_of("foo"), 12182);
    assert_eq!(slot_of("{user1000}.following"), slot_of("user1000"));
    assert_eq!(slot_of("foo{}{bar}"), slot_of_all("foo{}{bar}"));
    assert_eq!(slot_of("foo{{bar}}zap"), slot_of("{bar"));
    assert_eq!(slot_of("foo{bar}{zap}"), slot_of("bar"));
    assert_eq!(slot_of("a{b"), slot_of_all("a{b"));
}

/// What a server says.
fn slot_of_all(key: &str) -> u16 {
    let cluster = RedisCluster::start();
    cluster.nodes()[0].command(&["CLUSTER", "KEYSLOT", key]).int() as u16
}

#[test]
fn every_slot_is_served_by_one_of_three_masters_that_all_nodes_know() {
    let cluster = RedisCluster::start();
    assert_eq!(cluster.nodes().len(), MASTERS);
    assert_eq!(cluster.masters().len(), MASTERS);
    let mut epochs = BTreeSet::new();
    for node in cluster.nodes() {
        let info = node.command(&["CLUSTER", "INFO"]).text();
        let epoch = info.lines().find(|line| line.starts_with("cluster_my_epoch:")).unwrap();
        assert!(epochs.insert(epoch.to_owned()), "{epochs:?}");
        for fact in [
            "cluster_state:ok",
            "cluster_slots_ok:16384",
            "cluster_known_nodes:3",
            "cluster_size:3",
        ] {
            assert!(info.contains(fact), "{fact}: {info}");
        }
    }
    for n in 0..100 {
        let key = format!("k-{n}");
        cluster.client_for(&key).command(&["SET", &key, "v"]);
        for node in cluster.nodes() {
            let reply = node.client().try_command(&["GET", &key]).unwrap();
            if node.port() == cluster.owner_of(&key).port() {
                assert_eq!(reply.text(), "v");
            } else {
                let port = cluster.owner_of(&key).port();
                let moved = format!("MOVED {} 127.0.0.1:{port}", slot_of(&key));
                assert_eq!(reply, Value::Error(moved));
            }
        }
    }
    assert_eq!(cluster.keys("k-*").len(), 100);
    assert_eq!(cluster.keys("k-9"), ["k-9"]);
    let mut sizes = Vec::new();
    cluster.each_master(|client| sizes.push(client.command(&["DBSIZE"]).int()));
    assert!(sizes.iter().sum::<i64>() == 100 && !sizes.contains(&0), "{sizes:?}");
}

#[test]
fn one_slot_that_nobody_serves_stops_the_others_only_if_that_is_asked_for() {
    for (asked, serves) in [(false, true), (true, false)] {
        let mut builder = RedisCluster::builder();
        if asked {
            builder = builder.require_full_coverage();
        }
        let cluster = builder.start();
        let (key, slot) = (key_at(&cluster, 0), slot_of("foo").to_string());
        assert_ne!(slot_of(&key), slot_of("foo"));
        cluster.command_on_all(&["CLUSTER", "DELSLOTS", &slot]);
        let reply = cluster.nodes()[0].client().try_command(&["SET", &key, "v"]).unwrap();
        let expected = match serves {
            true => Value::Status("OK".to_owned()),
            false => Value::Error("CLUSTERDOWN The cluster is down".to_owned()),
        };
        assert_eq!(reply, expected);
    }
}

#[test]
fn the_user_in_the_url_may_do_everything_on_every_node() {
    let cluster = RedisCluster::with_replicas();
    let url = cluster.url();
    let (login, hosts) = url.strip_prefix("redis+cluster://").unwrap().split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let seeds: Vec<_> = hosts.split(',').map(|host| host.split_once(':').unwrap()).collect();
    let masters: Vec<_> = cluster.masters().iter().map(|node| node.port().to_string()).collect();
    assert_eq!(seeds.iter().map(|(_, port)| port.to_string()).collect::<Vec<_>>(), masters);
    assert_eq!(cluster.nodes().len(), 2 * MASTERS);
    for node in cluster.nodes() {
        let mut client = node.client();
        client.command(&["AUTH", user, password]);
        assert_eq!(client.command(&["ACL", "WHOAMI"]).text(), user);
        client.command(&["CLUSTER", "INFO"]);
    }
}

#[test]
fn a_slot_moves_key_by_key_and_everybody_sees_how_far_it_is() {
    let cluster = RedisCluster::with_replicas();
    let slot = slot_of("tag");
    let keys = tagged(&cluster, "tag", 5);
    let from = cluster.owner_of("tag");
    let to = cluster.masters().into_iter().find(|node| node.port() != from.port()).unwrap();

    let migration = cluster.migrate_slot(slot, to);
    assert_eq!((migration.from().port(), migration.to().port()), (from.port(), to.port()));
    assert_eq!(migration.move_keys(2), 2);
    let (mut old, mut new) = (from.client(), to.client());
    let ask = format!("ASK {slot} 127.0.0.1:{}", to.port());
    let moved = format!("MOVED {slot} 127.0.0.1:{}", from.port());
    let replies: Vec<_> = keys.iter().map(|key| old.try_command(&["GET", key]).unwrap()).collect();
    assert_eq!(replies.iter().filter(|reply| **reply == Value::Error(ask.clone())).count(), 2);
    assert_eq!(replies.iter().filter(|reply| **reply == Value::Bulk(b"v".to_vec())).count(), 3);
    assert_eq!(error_of(&mut new, &["GET", &keys[0]]), moved);
    // Redis 6.2 sends to the new master who is sent away there, as not all keys have moved.
    let all: Vec<_> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let error = error_of(&mut old, &all);
    assert!(error.starts_with("TRYAGAIN") || error == ask, "{error}");
    new.command(&["ASKING"]);
    let error = error_of(&mut new, &all);
    assert!(error.starts_with("TRYAGAIN"), "{error}");
    for key in &keys {
        assert_eq!(cluster.command_for(key, &["GET", key]).text(), "v");
    }
    assert_eq!(cluster.keys("*").len(), 5);

    migration.finish();
    assert_eq!(cluster.owner_of("tag").port(), to.port());
    assert_eq!(error_of(&mut old, &["GET", &keys[0]]), {
        format!("MOVED {slot} 127.0.0.1:{}", to.port())
    });
    assert_eq!(new.command(&["GET", &keys[4]]).text(), "v");
    assert_eq!(cluster.replica_of(to).command(&["CLUSTER", "COUNTKEYSINSLOT", "0"]).int(), 0);
}

#[test]
fn keys_move_as_the_test_chooses() {
    let cluster = RedisCluster::start();
    let keys = tagged(&cluster, "tag", 3);
    let from = cluster.owner_of("tag").port();
    let to = cluster.masters().into_iter().find(|node| node.port() != from).unwrap();
    let migration = cluster.migrate_slot(slot_of("tag"), to);
    migration.move_these(&[&keys[1]]);
    let here = migration.from().command(&["KEYS", "*"]).texts().into_iter().collect();
    assert_eq!(BTreeSet::from([keys[0].clone(), keys[2].clone()]), here);
    assert_eq!(to.command(&["KEYS", "*"]).texts(), [keys[1].clone()]);
}

#[test]
fn a_replica_takes_over_from_a_master_that_runs_and_from_one_that_is_dead() {
    let cluster = RedisCluster::with_replicas();
    let key = key_at(&cluster, 0);
    cluster.command_for(&key, &["SET", &key, "v"]);
    let (first, second) = (&cluster.nodes()[0], &cluster.nodes()[MASTERS]);
    assert_eq!(cluster.replica_of(first).port(), second.port());

    cluster.failover(second);
    assert_eq!(cluster.owner_of(&key).port(), second.port());
    assert_eq!(cluster.replica_of(second).port(), first.port());
    assert_eq!(cluster.command_for(&key, &["GET", &key]).text(), "v");

    second.kill();
    cluster.failover(first);
    assert_eq!(cluster.owner_of(&key).port(), first.port());
    assert_eq!(cluster.command_for(&key, &["GET", &key]).text(), "v");
    assert_eq!(cluster.masters().len(), MASTERS);
}

#[test]
fn the_death_of_a_master_is_noticed_after_the_node_timeout() {
    let cluster =
        RedisCluster::builder().replicas().node_timeout(Duration::from_millis(500)).start();
    let (old, new) = (&cluster.nodes()[1], &cluster.nodes()[MASTERS + 1]);
    old.kill();
    let started = Instant::now();
    while cluster.masters().iter().all(|master| master.port() != new.port()) {
        assert!(started.elapsed() < Duration::from_secs(20), "nobody takes over");
        thread::sleep(Duration::from_millis(10));
    }
    cluster.wait_until_agreed();
}

#[test]
fn a_node_can_be_paused_and_resumed() {
    let cluster = RedisCluster::start();
    let node = &cluster.nodes()[2];
    let mut client = node.client();
    client.set_patience(Duration::from_millis(200)).unwrap();
    node.pause();
    assert!(client.try_command(&["PING"]).is_err());
    node.resume();
    assert_eq!(client.receive().unwrap().text(), "PONG");
}

/// What a test leaves is gone for the next one, and the next one gets the same nodes if it can. The
/// tests beside this one take from the same pool, so it looks at what it gets, and not at which.
#[test]
fn the_next_test_finds_nothing_of_the_last() {
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let cluster = RedisCluster::start();
        seen.insert(cluster.nodes()[0].port());
        assert_eq!(cluster.keys("*"), Vec::<String>::new());
        for node in cluster.nodes() {
            let mut client = node.client();
            assert_eq!(client.command(&["ACL", "USERS"]).texts(), ["default", "test"]);
            assert_eq!(
                client.command(&["SCRIPT", "EXISTS", NOTHING]),
                Value::Array(vec![Value::Int(0)])
            );
        }
        let key = key_at(&cluster, 1);
        cluster.command_for(&key, &["SET", &key, "v"]);
        cluster.command_on_all(&["ACL", "SETUSER", "shop", "on", ">password", "~*", "+@all"]);
        cluster.command_on_all(&["SCRIPT", "LOAD", "return 1"]);
    }
    assert!(seen.len() < 20, "no Cluster was lent twice");
}

/// The SHA-1 of `return 1`.
const NOTHING: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

#[test]
fn the_last_test_is_thrown_out() {
    let cluster = RedisCluster::start();
    let url = cluster.url();
    let password = url.split([':', '@']).nth(2).unwrap().to_owned();
    let port = cluster.nodes()[0].port();
    let mut client = RespClient::connect(port).unwrap();
    client.command(&["AUTH", "test", &password]);
    drop(cluster);
    assert!(client.try_command(&["GET", "k"]).is_err(), "the connection is closed");
    // Nobody may be there, either; then nobody comes back.
    let Ok(mut client) = RespClient::connect(port) else { return };
    let reply = client.try_command(&["AUTH", "test", &password]);
    assert!(!matches!(reply, Ok(Value::Status(_))), "{reply:?}");
}

#[test]
fn a_cluster_that_is_not_as_it_was_is_not_lent_again() {
    type Spoil = fn(&RedisCluster);
    let spoils: [Spoil; 5] = [
        |cluster| cluster.nodes()[1].kill(),
        |cluster| cluster.nodes()[1].pause(),
        |cluster| cluster.migrate_slot(0, &cluster.nodes()[1]).finish(),
        |cluster| drop(cluster.migrate_slot(0, &cluster.nodes()[1])),
        |cluster| cluster.command_on_all(&["CONFIG", "SET", "maxmemory", "10mb"]),
    ];
    for (index, spoil) in spoils.iter().enumerate() {
        let cluster = RedisCluster::start();
        let ports: Vec<_> = cluster.nodes().iter().map(|node| node.port()).collect();
        spoil(&cluster);
        drop(cluster);
        for port in ports {
            assert!(RespClient::connect(port).is_err(), "after {index}: a node lives at {port}");
        }
    }
}

//! A cluster: keys on several servers, slots on the move, servers that fail.

use super::{
    load::{Load, count, until},
    tour::{MINUTE, backend, hint, tour},
};
use crate::{
    harness::PREFIX,
    support::{
        cluster::{RedisCluster, slot_of},
        proxy::FaultProxy,
        resp::Value,
        server::RedisServer,
    },
};
use std::time::{Duration, Instant};
use towerkeep::{
    Backend,
    connection::{Config, Connection, Script, State, redis},
};

static ADD: Script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])").named("test/add");

/// A key for each master, in their order.
fn keys_of(cluster: &RedisCluster, name: &str) -> Vec<String> {
    let owned_by = |port| {
        let candidates = (0..).map(|n| format!("{PREFIX}:{name}:{{{n}}}"));
        let mut here = candidates.filter(|key| cluster.owner_of(key).port() == port);
        here.next().unwrap()
    };
    cluster.nodes()[..3].iter().map(|node| owned_by(node.port())).collect()
}

async fn connect(cluster: &RedisCluster) -> Connection {
    Connection::connect(Config::new(cluster.url())).await.unwrap()
}

/// For tests that ask what comes back, and not how fast.
async fn patient(cluster: &RedisCluster) -> Connection {
    let mut config = Config::new(cluster.url());
    config.deadline = MINUTE / 6;
    Connection::connect(config).await.unwrap()
}

#[tokio::test]
async fn every_store_and_hint_works() {
    let cluster = RedisCluster::start();
    for url in [cluster.url(), format!("{}?protocol=resp3", cluster.url())] {
        let backend = backend(&url).await;
        for _ in 0..10 {
            tour(&backend).await.unwrap();
            cluster.each_master(|master| drop(master.command(&["FLUSHALL"])));
        }
        hint(&backend).await;
        let health = backend.health();
        let link = health.link().unwrap();
        assert_eq!((link.state, link.nodes.len()), (State::Up, 3), "{link:?}");
    }
}

#[tokio::test]
async fn one_seed_is_enough_and_dead_ones_do_no_harm() {
    let cluster = RedisCluster::start();
    let dead = "127.0.0.1:1";
    let seeds = |at: usize| format!("{dead},127.0.0.1:{}", cluster.nodes()[at].port());
    for at in 0..3 {
        let url = format!("redis+cluster://{}", seeds(at));
        let connection = Connection::connect(Config::new(url)).await.unwrap();
        for key in keys_of(&cluster, "seed") {
            connection.query::<()>(redis::cmd("SET").arg(&key).arg(1)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_batch_goes_to_each_server_once_and_comes_back_in_order() {
    let cluster = RedisCluster::start();
    let connection = patient(&cluster).await;
    let keys = keys_of(&cluster, "batch");
    let mut batch = connection.batch().cmd(redis::cmd("PING"));
    for (n, key) in keys.iter().chain(&keys).enumerate() {
        batch = batch.cmd(redis::cmd("APPEND").arg(key).arg(n.to_string()).take());
        batch = batch.script(ADD.keys([format!("{key}:n")]).arg(n));
    }
    let replies = batch.run(MINUTE).await.unwrap();
    let text: Vec<_> = replies.into_iter().map(|reply| format!("{:?}", reply.unwrap())).collect();
    let lengths: Vec<_> = text[1..].iter().step_by(2).map(String::as_str).collect();
    assert_eq!(lengths, ["int(1)", "int(1)", "int(1)", "int(2)", "int(2)", "int(2)"]);
    let sums: Vec<_> = text[2..].iter().step_by(2).map(String::as_str).collect();
    assert_eq!(sums, ["int(0)", "int(1)", "int(2)", "int(3)", "int(5)", "int(7)"]);
    assert_eq!(text[0], "simple-string(\"PONG\")");
}

#[tokio::test]
async fn a_batch_with_a_dead_server_answers_for_the_others() {
    let cluster = RedisCluster::builder().start();
    let connection = connect(&cluster).await;
    let keys = keys_of(&cluster, "half");
    cluster.nodes()[0].kill();
    let batch = keys
        .iter()
        .fold(connection.batch(), |batch, key| batch.cmd(redis::cmd("SET").arg(key).arg(1).take()));
    let replies = batch.run(MINUTE).await.unwrap();
    assert!(replies[0].is_err() && replies[1].is_ok() && replies[2].is_ok(), "{replies:?}");
}

#[tokio::test]
async fn scripts_survive_a_flush_on_one_server() {
    let cluster = RedisCluster::start();
    let connection = patient(&cluster).await;
    let keys = keys_of(&cluster, "flush");
    for round in 1..=3 {
        for key in &keys {
            let sum = connection.script(ADD.keys([key]).arg(1), MINUTE).await.unwrap();
            assert_eq!(sum, redis::Value::Int(round));
        }
        cluster.nodes()[round as usize % 3].command(&["SCRIPT", "FLUSH"]);
    }
}

#[tokio::test]
async fn a_server_that_is_new_to_the_cluster_and_to_us_is_followed() {
    let cluster = RedisCluster::start();
    let connection = patient(&cluster).await;
    let key = &keys_of(&cluster, "moved")[0];
    connection.query::<()>(redis::cmd("SET").arg(key).arg(1)).await.unwrap();
    let migration = cluster.migrate_slot(slot_of(key), &cluster.nodes()[1]);
    // Half way: this key is there, others of the slot are not.
    migration.move_keys(100);
    let tag = key.rsplit_once(':').unwrap().1;
    let fresh = format!("{PREFIX}:fresh:{tag}");
    for key in [key, &fresh] {
        connection.query::<()>(redis::cmd("INCR").arg(key)).await.unwrap();
        connection.script(ADD.keys([key]).arg(1), MINUTE).await.unwrap();
        let batch = connection.batch().cmd(redis::cmd("INCR").arg(key).take());
        let batch = batch.script(ADD.keys([key]).arg(1));
        assert!(batch.run(MINUTE).await.unwrap().iter().all(Result::is_ok));
    }
    migration.finish();
    assert_eq!((count(&connection, key).await, count(&connection, &fresh).await), (5, 4));
    // And from now on without a detour.
    until("the map is right", || async {
        connection.server_of(key).unwrap().health().address.ends_with(&port(&cluster, 1))
    })
    .await;
}

fn role(server: &RedisServer) -> String {
    let Value::Array(parts) = server.command(&["ROLE"]) else { panic!("ROLE answers a list") };
    parts[0].text()
}

fn port(cluster: &RedisCluster, node: usize) -> String {
    format!(":{}", cluster.nodes()[node].port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_on_the_move_under_load_surface_no_error() {
    let cluster = RedisCluster::start();
    let connection = patient(&cluster).await;
    // Ten slots, of which each is moved twice.
    let keys: Vec<_> = (0..10).map(|n| format!("{PREFIX}:load:{{{n}}}")).collect();
    let load = Load::on(&connection, keys.clone());
    until("all have begun", || async {
        let all = keys.iter().map(|key| format!("{key}:second"));
        let mut begun = 0;
        for key in all {
            begun += usize::from(!cluster.command_for(&key, &["GET", &key]).is_nil());
        }
        begun == keys.len()
    })
    .await;
    for round in 0..2 {
        for key in &keys {
            let from = cluster.owner_of(key).port();
            let others: Vec<_> =
                cluster.nodes()[..3].iter().filter(|node| node.port() != from).collect();
            let migration = cluster.migrate_slot(slot_of(key), others[round % 2]);
            tokio::time::sleep(Duration::from_millis(20)).await;
            while migration.move_keys(1) > 0 {}
            migration.finish();
        }
    }
    for (key, tally) in load.stop().await {
        assert!(tally.errors.is_empty(), "{key}: {:?}", tally.errors);
        assert_eq!(count(&connection, &key).await, tally.done, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_server_leaves_the_keys_of_the_others_served() {
    let cluster = RedisCluster::builder().start();
    let connection = connect(&cluster).await;
    let keys = keys_of(&cluster, "lost");
    let load = Load::on(&connection, keys.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.nodes()[0].kill();
    until("the loss is known", || async { connection.health().state == State::Partial }).await;
    let health = connection.health();
    assert!(health.is_up() && health.to_string().contains(&port(&cluster, 0)), "{health}");
    let error = connection.query::<()>(redis::cmd("GET").arg(&keys[0])).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains(&port(&cluster, 0)), "{error}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tallies = load.stop().await;
    for key in &keys[1..] {
        let tally = &tallies[key];
        assert!(tally.errors.is_empty() && tally.done > 50, "{key}: {tally:?}");
    }
    assert!(tallies[&keys[0]].errors.len() > 50, "it fails at once, and not after a wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_over_is_found_without_a_restart() {
    let timeout = Duration::from_millis(700);
    let cluster = RedisCluster::builder().replicas().node_timeout(timeout).start();
    let connection = connect(&cluster).await;
    let keys = keys_of(&cluster, "promoted");
    let load = Load::on(&connection, keys.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.nodes()[0].kill();
    until("the replica has taken over", || async { role(&cluster.nodes()[3]) == "master" }).await;
    let promoted = Instant::now();
    until("its keys are served", || async {
        connection.query::<()>(redis::cmd("GET").arg(&keys[0])).await.is_ok()
    })
    .await;
    eprintln!("usable {:?} after the promotion", promoted.elapsed());
    assert_eq!(connection.health().state, State::Up);
    let tallies = load.stop().await;
    for key in &keys[1..] {
        assert!(tallies[key].errors.is_empty(), "{key}: {:?}", tallies[key].errors);
    }
    let longest = tallies[&keys[0]].longest;
    assert!(longest < connection.deadline() * 4, "a call took {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_of_places_loses_nothing() {
    let cluster = RedisCluster::with_replicas();
    let connection = patient(&cluster).await;
    let keys = keys_of(&cluster, "planned");
    let load = Load::on(&connection, keys.clone());
    tokio::time::sleep(Duration::from_millis(50)).await;
    tokio::task::block_in_place(|| cluster.failover(&cluster.nodes()[3]));
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (key, tally) in load.stop().await {
        assert!(tally.errors.is_empty(), "{key}: {:?}", tally.errors);
        assert_eq!(count(&connection, &key).await, tally.done, "{key}");
    }
}

#[tokio::test]
async fn each_server_has_a_pool_of_its_own() {
    let cluster = RedisCluster::start();
    let connection = patient(&cluster).await;
    let error = connection.pool().unwrap_err();
    assert!(error.is_config() && error.to_string().contains("server_of"), "{error}");
    for key in keys_of(&cluster, "pool") {
        let pool = connection.server_of(&key).unwrap().pool().unwrap();
        let mut own = pool.get().await.unwrap();
        redis::cmd("WATCH").arg(&key).exec_async(&mut own).await.unwrap();
        let (n,): (i64,) =
            redis::pipe().atomic().incr(&key, 5).query_async(&mut own).await.unwrap();
        assert_eq!(n, 5);
    }
    let mut found = Vec::new();
    for server in connection.servers() {
        let pool = server.pool().unwrap();
        let mut own = pool.get().await.unwrap();
        let (_, keys): (u64, Vec<String>) =
            redis::cmd("SCAN").arg(0).arg("COUNT").arg(100).query_async(&mut own).await.unwrap();
        found.extend(keys);
    }
    assert_eq!(found.len(), 3, "{found:?}");
}

#[tokio::test]
async fn the_report_and_the_numbers_are_those_of_every_server() {
    let cluster = RedisCluster::start();
    cluster.nodes()[1].command(&["CONFIG", "SET", "timeout", "60"]);
    let backend = backend(&cluster.url()).await;
    let report = backend.doctor().await.to_string();
    let one = format!("timeout: 60 s at 127.0.0.1{}", port(&cluster, 1));
    assert!(report.contains(&one), "{report}");
    assert_eq!(report.matches("persistence:").count(), 1, "once for all: {report}");
    assert!(!report.contains("not checked"), "{report}");
    let infos = backend.infos().await.unwrap();
    let mut ports: Vec<_> = infos.iter().map(|(at, _)| at.rsplit_once(':').unwrap().1).collect();
    ports.sort_unstable();
    let mut expected: Vec<_> =
        cluster.nodes()[..3].iter().map(|node| node.port().to_string()).collect();
    expected.sort_unstable();
    assert_eq!(ports, expected);
    assert!(backend.slow_log(10).await.unwrap().len() <= 10);
}

#[tokio::test]
async fn what_is_no_cluster_and_what_is_one_is_told_with_the_url_to_write() {
    let single = RedisServer::start();
    let url = format!("redis+cluster://127.0.0.1:{}", single.port());
    let error = Backend::redis(url).await.unwrap_err();
    let fix = format!("redis://127.0.0.1:{}", single.port());
    assert!(error.is_config() && error.to_string().contains(&fix), "{error}");

    let cluster = RedisCluster::start();
    let url = format!("redis://127.0.0.1:{}", cluster.nodes()[0].port());
    let alone = Backend::redis(url).await.unwrap();
    let key = &keys_of(&cluster, "other")[1];
    let get = redis::cmd("GET").arg(key).take();
    let error = alone.connection().unwrap().query::<()>(&get).await.unwrap_err();
    assert!(error.to_string().contains("redis+cluster://"), "{error}");

    let error = Backend::redis(cluster.url_as("test", "wrong")).await.unwrap_err();
    assert!(error.is_config() && error.to_string().contains("WRONGPASS"), "{error}");
    assert!(!error.to_string().contains("wrong\""), "{error}");
}

#[tokio::test]
async fn keys_of_several_slots_in_one_call_are_refused_with_the_reason() {
    let cluster = RedisCluster::start();
    let connection = patient(&cluster).await;
    let keys = keys_of(&cluster, "cross");
    let error = connection.query::<()>(redis::cmd("MGET").arg(&keys)).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("hash tag"), "{error}");
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let cluster = RedisCluster::start();
    for line in crate::harness::rights() {
        cluster.command_on_all(&line.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let backend = backend(&cluster.url_as("shop", "password")).await;
    tour(&backend).await.unwrap();
    hint(&backend).await;
    // ASKING, too.
    let connection = backend.connection().unwrap();
    let key = &keys_of(&cluster, "rights")[0];
    let migration = cluster.migrate_slot(slot_of(key), &cluster.nodes()[1]);
    connection.query::<()>(redis::cmd("SET").arg(key).arg(1)).await.unwrap();
    migration.finish();
}

/// The servers name themselves by addresses that only some can reach: a proxy does not matter to the
/// cluster, which shows that only the map decides.
#[tokio::test]
async fn a_seed_that_is_only_a_door_is_left_for_the_addresses_that_the_cluster_names() {
    let cluster = RedisCluster::start();
    let door = FaultProxy::start(cluster.nodes()[0].port());
    let url = format!("redis+cluster://127.0.0.1:{}", door.port());
    let connection = Connection::connect(Config::new(url)).await.unwrap();
    drop(door);
    for key in keys_of(&cluster, "door") {
        connection.query::<()>(redis::cmd("SET").arg(&key).arg(1)).await.unwrap();
    }
}

use super::server::Server;
use crate::connection::{Script, parse};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(5);

static INCR: Script =
    Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])").named("test.incr");
static INT: Script = Script::new(concat!(
    include_str!("../prelude.lua"),
    "return {int(1760000000000123), int(now_us(ARGV[1])), int(now_ms(ARGV[1])), int(now_us(''))}"
))
.named("test.int");

static OTHER: Script =
    Script::new("return redis.call('INCRBY', KEYS[1], -ARGV[1])").named("test.other");

#[tokio::test]
async fn a_batch_runs_a_script_once_when_only_another_was_forgotten() {
    let server = Server::start().await;
    let connection = server.connect().await;
    connection.script(INCR.keys(["known"]).arg(0), LONG).await.unwrap();
    let batch = connection
        .batch()
        .script(OTHER.keys(["unknown"]).arg(5))
        .script(INCR.keys(["known"]).arg(1))
        .cmd(redis::cmd("INCR").arg("plain").take())
        .script(OTHER.keys(["unknown"]).arg(5));
    let replies = batch.run(LONG).await.unwrap().into_iter().map(Result::unwrap);
    let numbers: Vec<i64> = replies.map(|reply| parse(reply, "test").unwrap()).collect();
    assert_eq!(numbers, [-5, 1, 1, -10]);
}

#[tokio::test]
async fn a_batch_resends_only_the_scripts_that_the_server_forgot() {
    let server = Server::start().await;
    let connection = server.connect().await;
    let run = async || {
        let batch = connection
            .batch()
            .cmd(redis::cmd("INCR").arg("plain").take())
            .script(INCR.keys(["first"]).arg(1))
            .cmd(redis::cmd("HGET").arg("plain").arg("field").take())
            .script(INCR.keys(["second"]).arg(10));
        assert_eq!(batch.len(), 4);
        batch.run(LONG).await.unwrap()
    };
    for round in 1..=3 {
        let results = run().await;
        let number = |slot: usize| match &results[slot] {
            Ok(redis::Value::Int(number)) => *number,
            other => panic!("slot {slot}: {other:?}"),
        };
        assert_eq!((number(0), number(1), number(3)), (round, round, 10 * round));
        assert!(results[2].as_ref().unwrap_err().is_refused());
        connection.query::<()>(redis::cmd("SCRIPT").arg("FLUSH")).await.unwrap();
    }
}

#[tokio::test]
async fn a_script_is_sent_by_text_once_and_by_hash_from_then_on() {
    let server = Server::start().await;
    let connection = server.connect().await;
    for expected in 1..=3_i64 {
        let reply = connection.script(INCR.keys(["n"]).arg(1), LONG).await.unwrap();
        assert_eq!(parse::<i64>(reply, "test.incr").unwrap(), expected);
    }
    let stats: String = connection.query(redis::cmd("INFO").arg("commandstats")).await.unwrap();
    let calls = |name: &str| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")));
        line.map(|line| line.split(['=', ',']).nth(1).unwrap().to_owned())
    };
    assert_eq!(calls("eval").as_deref(), Some("1"), "{stats}");
    assert_eq!(calls("script|load"), None);
}

#[tokio::test]
async fn a_failing_script_is_refused_by_its_name_without_its_arguments() {
    let server = Server::start().await;
    let connection = server.connect().await;
    connection.query::<()>(redis::cmd("SET").arg("n").arg("text")).await.unwrap();
    let error = connection.script(INCR.keys(["n"]).arg(7_340_034), LONG).await.unwrap_err();
    assert!(error.is_refused(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("test.incr") && text.contains("integer"), "{text}");
    assert!(!text.contains("7340034"), "{text}");
}

#[tokio::test]
async fn the_prelude_prints_whole_numbers_and_takes_the_tests_time() {
    let server = Server::start().await;
    let connection = server.connect().await;
    let reply =
        connection.script(INT.keys::<&str>([]).arg("1760000000000123"), LONG).await.unwrap();
    let [int, us, ms, now]: [String; 4] = parse(reply, "test.int").unwrap();
    assert_eq!([&int, &us, &ms], ["1760000000000123"; 3]);
    let reply = connection.script(INT.keys::<&str>([]).arg(""), LONG).await.unwrap();
    let [_, us, ms, _]: [u64; 4] = parse(reply, "test.int").unwrap();
    assert!(us.abs_diff(now.parse().unwrap()) < 60_000_000 && us / 1000 - ms < 60_000);
}

#[tokio::test]
async fn an_empty_batch_costs_nothing() {
    let server = Server::start().await;
    assert!(server.connect().await.batch().run(Duration::ZERO).await.unwrap().is_empty());
}

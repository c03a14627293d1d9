use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    proxy::{FaultProxy, Mode},
    resp::RespClient,
    server::RedisServer,
};

/// Long enough for an answer that comes at all.
const A_WHILE: Duration = Duration::from_millis(300);

fn redis_behind_proxy() -> (RedisServer, FaultProxy) {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    (redis, proxy)
}

fn connect(proxy: &FaultProxy) -> RespClient {
    RespClient::connect(proxy.port()).unwrap()
}

/// The connection is open and says nothing.
fn assert_silent(client: &mut RespClient) {
    client.set_patience(A_WHILE).unwrap();
    let error = client.receive().unwrap_err().kind();
    assert!(matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    client.set_patience(Duration::from_secs(5)).unwrap();
}

fn assert_closed(client: &mut RespClient) {
    let error = client.receive().unwrap_err().kind();
    assert!(matches!(error, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn commands_one_after_the_other_are_a_turn_each() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    for turn in 1..=5 {
        client.command(&["INCR", "n"]);
        assert_eq!(proxy.turns(), turn);
    }
    assert_eq!(proxy.links()[0].turns, 5);
}

#[test]
fn a_pipeline_is_one_turn() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.pipeline(&[&["SET", "a", "1"], &["INCR", "a"], &["GET", "a"]]).unwrap();
    assert_eq!(proxy.turns(), 1);
    client.pipeline(&[&["INCR", "a"], &["GET", "a"]]).unwrap();
    assert_eq!(proxy.turns(), 2);
    assert_eq!(proxy.commands().len(), 5);
}

#[test]
fn commands_that_do_not_wait_for_one_another_are_one_turn() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    proxy.set(Mode::Delay(Duration::from_millis(50)));
    client.send(&["INCR", "n"]).unwrap();
    eventually("the first command is seen", || proxy.count("INCR") == 1);
    client.send(&["INCR", "n"]).unwrap();
    assert_eq!(client.receive().unwrap().int(), 1);
    assert_eq!(client.receive().unwrap().int(), 2);
    assert_eq!(proxy.turns(), 1);
}

#[test]
fn a_command_larger_than_any_buffer_is_one_turn() {
    let (redis, proxy) = redis_behind_proxy();
    let large = "x".repeat(20 << 20);
    connect(&proxy).command(&["SET", "large", &large]);
    assert_eq!(proxy.turns(), 1);
    assert_eq!(redis.command(&["STRLEN", "large"]).int(), 20 << 20);
    assert_eq!(proxy.commands()[0].args[1].len(), 256);
}

#[test]
fn a_command_that_begins_before_the_reply_belongs_to_the_turn() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.write_all(b"*1\r\n$6\r\nDBSIZE\r\n*1\r\n$6\r\nDB").unwrap();
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).unwrap();
    stream.write_all(b"SIZE\r\n").unwrap();
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((proxy.turns(), proxy.count("DBSIZE")), (1, 2));
}

#[test]
fn a_command_in_pieces_is_read_as_one() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n*1\r\n$6\r\nDBSIZE\r\n" {
        stream.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let mut replies = [0; 9];
    stream.read_exact(&mut replies).unwrap();
    assert_eq!(&replies, b"+OK\r\n:1\r\n");
    let commands = proxy.commands();
    assert_eq!(commands[0].name, "SET");
    assert_eq!(commands[0].texts(), ["k", "a\r\nb"]);
    assert_eq!(commands[1].name, "DBSIZE");
}

#[test]
fn what_sets_a_connection_up_or_keeps_it_alive_is_no_turn() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.command(&["client", "setname", "test"]);
    client.command(&["SELECT", "1"]);
    client.command(&["PING"]);
    assert_eq!(proxy.turns(), 0);
    assert!(proxy.commands().is_empty());
    assert_eq!(proxy.all_commands().len(), 3);

    client.pipeline(&[&["PING"], &["GET", "k"]]).unwrap();
    client.command(&["CLIENT", "ID"]);
    assert_eq!(proxy.turns(), 2);
    assert_eq!(proxy.counts()["PING"], 2);
}

#[test]
fn a_ping_in_between_hides_no_turn() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    for _ in 0..3 {
        client.command(&["GET", "k"]);
        client.command(&["PING"]);
    }
    assert_eq!(proxy.turns(), 3);
}

#[test]
fn reset_forgets_turns_and_commands_but_no_connection() {
    let (_redis, proxy) = redis_behind_proxy();
    let (mut one, mut two) = (connect(&proxy), connect(&proxy));
    one.command(&["GET", "k"]);
    two.command(&["GET", "k"]);
    proxy.reset();
    assert_eq!((proxy.turns(), proxy.commands().len()), (0, 0));
    two.command(&["GET", "k"]);
    assert_eq!(proxy.links().iter().map(|link| link.turns).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(proxy.commands()[0].link, 1);
    assert_eq!(proxy.open_links(), 2);
    drop(one);
    eventually("the closed connection is noticed", || proxy.open_links() == 1);
}

#[tokio::test]
async fn the_turns_of_one_piece_of_work_are_told() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.command(&["GET", "k"]);
    let (value, turns) = proxy.turns_of(async { client.command(&["INCR", "n"]).int() }).await;
    assert_eq!((value, turns), (1, 1));
}

#[test]
fn traffic_that_cannot_be_read_is_passed_and_counted() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    // Redis ignores an empty line; the proxy takes it for something that it cannot read.
    for turn in 1..=3 {
        stream.write_all(b"\r\nPING\r\n").unwrap();
        stream.read_exact(&mut [0; 7]).unwrap();
        assert_eq!(proxy.turns(), turn);
    }
}

#[test]
fn subscriptions_deliver_through_the_proxy() {
    let (redis, proxy) = redis_behind_proxy();
    let mut subscriber = connect(&proxy);
    subscriber.send(&["SUBSCRIBE", "news"]).unwrap();
    subscriber.receive().unwrap();
    redis.command(&["PUBLISH", "news", "hello"]);
    redis.command(&["PUBLISH", "news", "again"]);
    assert_eq!(subscriber.receive().unwrap().texts()[2], "hello");
    assert_eq!(subscriber.receive().unwrap().texts()[2], "again");
    assert_eq!((proxy.turns(), proxy.count("SUBSCRIBE")), (1, 1));
}

#[test]
fn delay_makes_each_request_late_but_none_wait_for_another() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    let delay = Duration::from_millis(600);
    proxy.set(Mode::Delay(delay));
    let start = Instant::now();
    for _ in 0..10 {
        client.send(&["INCR", "n"]).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    for n in 1..=10 {
        assert_eq!(client.receive().unwrap().int(), n);
    }
    assert!(start.elapsed() >= delay + Duration::from_millis(45), "{:?}", start.elapsed());
    // Had the others waited for the first, they would need twice the delay.
    assert!(start.elapsed() < Duration::from_millis(1100), "{:?}", start.elapsed());
}

#[test]
fn a_black_hole_accepts_and_never_answers() {
    let (redis, proxy) = redis_behind_proxy();
    let mut old = connect(&proxy);
    old.command(&["SET", "k", "before"]);
    proxy.set(Mode::BlackHole);
    old.send(&["SET", "k", "after"]).unwrap();
    assert_silent(&mut old);
    let mut new = connect(&proxy);
    new.send(&["PING"]).unwrap();
    assert_silent(&mut new);
    assert_eq!(redis.command(&["GET", "k"]).text(), "before");
    assert!(!proxy.commands().last().unwrap().forwarded);
}

#[test]
fn a_black_hole_hides_the_death_of_the_server() {
    let (redis, proxy) = redis_behind_proxy();
    let mut old = connect(&proxy);
    old.command(&["PING"]);
    proxy.set(Mode::BlackHole);
    redis.kill();
    assert_silent(&mut old);
    let mut new = connect(&proxy);
    new.send(&["PING"]).unwrap();
    assert_silent(&mut new);
}

#[test]
fn a_connection_that_lost_bytes_never_heals() {
    for mode in [Mode::BlackHole, Mode::DropReplies] {
        let (_redis, proxy) = redis_behind_proxy();
        let mut client = connect(&proxy);
        client.command(&["SET", "mine", "1"]);
        proxy.set(mode);
        client.send(&["GET", "mine"]).unwrap();
        assert_silent(&mut client);

        proxy.set(Mode::Pass);
        client.send(&["GET", "another"]).unwrap();
        assert_silent(&mut client);
        assert_eq!(connect(&proxy).command(&["GET", "mine"]).text(), "1");
    }
}

#[test]
fn cut_closes_what_is_open_and_nothing_else() {
    let (_redis, proxy) = redis_behind_proxy();
    let (mut one, mut two) = (connect(&proxy), connect(&proxy));
    one.command(&["PING"]);
    two.command(&["PING"]);
    proxy.cut();
    assert_eq!(proxy.open_links(), 0);
    assert_closed(&mut one);
    assert_closed(&mut two);
    connect(&proxy).command(&["PING"]);
}

#[test]
fn refuse_closes_the_door_and_pass_opens_it() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut old = connect(&proxy);
    old.command(&["PING"]);
    proxy.set(Mode::Refuse);
    let error = TcpStream::connect(proxy.addr()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    old.command(&["GET", "k"]);

    proxy.set(Mode::Pass);
    connect(&proxy).command(&["GET", "k"]);
}

#[test]
fn half_open_swallows_on_old_connections_only() {
    let (redis, proxy) = redis_behind_proxy();
    let mut old = connect(&proxy);
    old.command(&["SET", "k", "before"]);
    proxy.half_open();
    connect(&proxy).command(&["GET", "k"]);
    old.send(&["SET", "k", "after"]).unwrap();
    assert_silent(&mut old);
    assert_eq!(redis.command(&["GET", "k"]).text(), "before");
}

#[test]
fn a_dropped_reply_is_of_a_command_that_was_executed() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.command(&["SET", "n", "1"]);
    proxy.set(Mode::DropReplies);
    client.send(&["INCR", "n"]).unwrap();
    assert_silent(&mut client);
    assert_eq!(redis.command(&["GET", "n"]).text(), "2");
}

#[test]
fn a_cut_reply_is_of_a_command_that_was_executed() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.command(&["SET", "n", "1"]);
    proxy.set(Mode::CutReplies);
    client.send(&["INCR", "n"]).unwrap();
    assert_closed(&mut client);
    assert_eq!(redis.command(&["GET", "n"]).text(), "2");
}

#[test]
fn a_command_at_which_the_proxy_hangs_up_is_not_executed() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.command(&["SET", "n", "1"]);
    proxy.set(Mode::HangUp);
    client.send(&["INCR", "n"]).unwrap();
    assert_closed(&mut client);
    assert_eq!(redis.command(&["GET", "n"]).text(), "1");
}

#[test]
fn a_plan_hits_the_turn_that_it_names_and_lets_a_client_reconnect() {
    let (redis, proxy) = redis_behind_proxy();
    proxy.plan([(1, Mode::CutReplies), (1, Mode::HangUp), (1, Mode::Pass)]);
    let mut client = connect(&proxy);
    assert_eq!(client.command(&["INCR", "n"]).int(), 1);
    client.send(&["INCR", "n"]).unwrap();
    assert_closed(&mut client);

    let mut client = connect(&proxy);
    client.command(&["PING"]);
    client.send(&["INCR", "n"]).unwrap();
    assert_closed(&mut client);
    assert_eq!(redis.command(&["GET", "n"]).text(), "2");

    let mut client = connect(&proxy);
    client.command(&["PING"]);
    assert_eq!(client.command(&["INCR", "n"]).int(), 3);
    assert_eq!(client.command(&["INCR", "n"]).int(), 4);
}

#[test]
fn what_a_client_writes_before_it_leaves_goes_out() {
    let (redis, proxy) = redis_behind_proxy();
    proxy.set(Mode::Delay(Duration::from_millis(50)));
    let mut client = connect(&proxy);
    client.send(&["SET", "k", "last word"]).unwrap();
    drop(client);
    eventually("the command arrives", || !redis.command(&["GET", "k"]).is_nil());
}

#[test]
fn the_death_of_the_server_is_passed_on() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.command(&["PING"]);
    redis.kill();
    assert_closed(&mut client);
    let mut new = connect(&proxy);
    assert_closed(&mut new);

    redis.restart();
    connect(&proxy).command(&["PING"]);
}

#[test]
fn a_dropped_proxy_closes_everything() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    client.command(&["PING"]);
    let addr = proxy.addr();
    drop(proxy);
    assert_closed(&mut client);
    assert!(TcpStream::connect(addr).is_err());
}

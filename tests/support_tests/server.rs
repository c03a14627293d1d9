use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::support::{
    resp::{RespClient, Value},
    server::RedisServer,
};

#[test]
fn a_server_answers_and_shows_what_is_stored() {
    let redis = RedisServer::start();
    redis.command(&["HSET", "h", "a", "1", "b", "two words"]);
    let fields = redis.command(&["HGETALL", "h"]).map();
    assert_eq!(fields["b"], "two words");
    assert_eq!(fields.len(), 2);
    assert_eq!(redis.command(&["HLEN", "h"]).int(), 2);
    assert!(redis.command(&["GET", "nothing"]).is_nil());
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{}/", redis.port()));
}

#[test]
fn a_server_persists_nothing() {
    let redis = RedisServer::start();
    assert_eq!(redis.command(&["CONFIG", "GET", "save"]).texts(), ["save", ""]);
    assert_eq!(redis.command(&["CONFIG", "GET", "appendonly"]).texts(), ["appendonly", "no"]);
}

#[test]
fn a_password_is_asked_for_and_stands_in_the_url() {
    let redis = RedisServer::builder().password("sesame").start();
    let reply = RespClient::connect(redis.port()).unwrap().try_command(&["GET", "k"]).unwrap();
    assert!(matches!(&reply, Value::Error(error) if error.starts_with("NOAUTH")), "{reply:?}");
    assert!(redis.command(&["GET", "k"]).is_nil());
    assert_eq!(redis.url_at(1), "redis://:sesame@127.0.0.1:1/");
}

#[test]
fn options_reach_the_server() {
    let redis = RedisServer::builder().args(&["--databases", "3"]).unix_socket().start();
    assert_eq!(redis.command(&["CONFIG", "GET", "databases"]).texts(), ["databases", "3"]);
    let mut client = RespClient::connect_unix(&redis.unix_path()).unwrap();
    assert_eq!(client.command(&["PING"]).text(), "PONG");
    assert!(redis.unix_url().starts_with("redis+unix:///"));
}

#[test]
#[should_panic(expected = "no-such-option")]
fn an_option_that_does_not_exist_fails_with_the_servers_own_words() {
    RedisServer::builder().args(&["--no-such-option", "1"]).start();
}

#[test]
#[should_panic(expected = "taken by others")]
fn a_server_that_finds_no_port_fails() {
    let other = RedisServer::start();
    RedisServer::builder().args(&["--port", &other.port().to_string()]).start();
}

#[test]
fn another_server_on_the_port_is_not_taken_for_ours() {
    let redis = RedisServer::start();
    redis.kill();
    let impostor = TcpListener::bind(("127.0.0.1", redis.port())).unwrap();
    let impostor = thread::spawn(move || {
        for _ in 0..10 {
            let (mut stream, _) = impostor.accept().unwrap();
            let mut answer = || {
                stream.read_exact(&mut [0; 14])?;
                stream.write_all(b"+PONG\r\n$12\r\nprocess_id:1\r\n")
            };
            // A client that leaves is of no interest.
            let _ = answer();
        }
    });
    redis.restart();
    assert_eq!(redis.command(&["SET", "k", "v"]).text(), "OK");
    impostor.join().unwrap();
}

#[test]
fn servers_started_together_are_apart() {
    let starts: Vec<_> = (0..8).map(|_| thread::spawn(RedisServer::start)).collect();
    let servers: Vec<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    for (index, redis) in servers.iter().enumerate() {
        redis.command(&["SET", "who", &index.to_string()]);
    }
    for (index, redis) in servers.iter().enumerate() {
        assert_eq!(redis.command(&["GET", "who"]).text(), index.to_string());
    }
}

#[test]
fn a_killed_server_refuses_and_comes_back_empty_on_its_port() {
    let redis = RedisServer::start();
    let mut client = redis.client();
    client.command(&["SET", "k", "v"]);

    redis.kill();
    assert!(client.try_command(&["GET", "k"]).is_err());
    let error = TcpStream::connect(("127.0.0.1", redis.port())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    let port = redis.port();
    redis.restart();
    assert_eq!(redis.port(), port);
    assert!(redis.command(&["GET", "k"]).is_nil());
}

#[test]
fn a_paused_server_keeps_its_connections_and_answers_when_it_is_resumed() {
    let redis = RedisServer::start();
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();

    redis.pause();
    stream.write_all(b"PING\r\n").unwrap();
    let mut reply = [0; 7];
    let error = stream.read(&mut reply).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");

    redis.resume();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+PONG\r\n");
}

#[test]
fn a_paused_server_can_be_restarted() {
    let redis = RedisServer::start();
    redis.pause();
    redis.restart();
    assert_eq!(redis.command(&["PING"]).text(), "PONG");
}

#[test]
fn a_dropped_server_is_gone_with_its_directory() {
    let redis = RedisServer::builder().unix_socket().start();
    let (port, socket) = (redis.port(), redis.unix_path());
    assert!(socket.exists());
    drop(redis);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!socket.parent().unwrap().exists());
}

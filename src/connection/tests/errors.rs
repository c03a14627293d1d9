use super::server::Server;
use crate::{
    connection::{Config, Connection},
    store::StoreError,
};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

async fn refusal(url: impl Into<String>) -> StoreError {
    let config = Config { connect_timeout: Duration::from_secs(1), ..Config::new(url) };
    let started = Instant::now();
    let error = Connection::connect(config).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(10), "{error}");
    error
}

fn has(error: &StoreError, pieces: &[&str]) {
    let text = error.to_string();
    assert!(pieces.iter().all(|piece| text.contains(piece)), "{pieces:?} in {text:?}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_named_and_not_shown() {
    let server = Server::with(&["--requirepass", "right"]).await;
    let port = server.port;
    for protocol in ["", "?protocol=resp3"] {
        let error = refusal(format!("redis://:hunter2@127.0.0.1:{port}{protocol}")).await;
        assert!(error.is_config(), "{error:?}");
        has(&error, &["WRONGPASS", "127.0.0.1", "default"]);
        let error = refusal(format!("redis://127.0.0.1:{port}/{protocol}")).await;
        assert!(error.is_config(), "{error:?}");
        has(&error, &["NOAUTH", "password"]);
        let url = format!("redis://:right@127.0.0.1:{port}/1{protocol}");
        let connection = Connection::connect(Config::new(url)).await.unwrap();
        let ping: String = connection.query(&redis::cmd("PING")).await.unwrap();
        assert_eq!(ping, "PONG");
    }
    let error = refusal(format!("redis://nobody:hunter2@127.0.0.1:{port}")).await;
    has(&error, &["WRONGPASS", "nobody"]);
}

#[tokio::test]
async fn a_password_that_the_server_does_not_have_is_named() {
    let server = Server::start().await;
    let error = refusal(format!("redis://:hunter2@127.0.0.1:{}", server.port)).await;
    assert!(error.is_config());
    has(&error, &["no password", "take it out"]);
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_named() {
    let server = Server::start().await;
    let error = refusal(format!("{}/99", server.url())).await;
    assert!(error.is_config());
    has(&error, &["99", "out of range", "16"]);
}

#[tokio::test]
async fn a_refused_port_is_unavailable_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = refusal(format!("redis://{address}")).await;
    assert!(error.is_unavailable());
    has(&error, &[&address.to_string(), "refused"]);
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_within_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = refusal(format!("redis://{}", listener.local_addr().unwrap())).await;
    assert!(error.is_unavailable());
    has(&error, &["did not answer within 1s"]);
}

#[tokio::test]
async fn a_server_that_hangs_up_or_is_no_redis_is_named() {
    use tokio::io::AsyncWriteExt;
    for greeting in ["", "HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting.as_bytes()).await.unwrap();
        });
        let error = refusal(format!("redis://{address}")).await;
        assert!(error.is_unavailable());
        has(&error, &[&address.to_string(), "check the port"]);
    }
}

#[tokio::test]
async fn a_wrong_url_is_an_error_before_anything_is_dialled() {
    let error = refusal("http://127.0.0.1:6379").await;
    assert!(error.is_config());
    has(&error, &["http", "redis://host:port"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_works_and_a_missing_one_is_named() {
    let path = std::env::temp_dir().join(format!("towerkeep-{}.sock", std::process::id()));
    let server = Server::with(&["--unixsocket", path.to_str().unwrap()]).await;
    let url = format!("unix://{}?db=2", path.display());
    let connection = Connection::connect(Config::new(&url)).await.unwrap();
    connection.query::<()>(redis::cmd("SET").arg("k").arg("v")).await.unwrap();
    assert_eq!(connection.health().address.as_ref(), path.to_str().unwrap());
    let pooled: String = redis::cmd("GET")
        .arg("k")
        .query_async(&mut connection.pool().unwrap().get().await.unwrap())
        .await
        .unwrap();
    assert_eq!(pooled, "v");
    drop(server);
    let _ = std::fs::remove_file(&path);
    has(&refusal(url).await, &[path.to_str().unwrap(), "No such file"]);
}

#[tokio::test]
async fn refusals_of_the_server_name_the_command_and_the_fix() {
    let server = Server::start().await;
    let connection = server.connect().await;
    connection.query::<()>(redis::cmd("SET").arg("k").arg("hunter2")).await.unwrap();
    let error =
        connection.query::<()>(redis::cmd("LPUSH").arg("k").arg("hunter2")).await.unwrap_err();
    assert!(error.is_refused());
    has(&error, &["LPUSH", "WRONGTYPE", "prefix"]);
    let error = connection.query::<u64>(redis::cmd("GET").arg("k")).await.unwrap_err();
    assert!(error.is_corrupt());
    has(&error, &["GET", "u64"]);
    // Neither harmed the link.
    assert!(connection.health().is_up() && connection.health().links == 1);

    let set = |name: &'static str, value: &'static str| {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).take()
    };
    connection.query::<()>(&set("maxmemory", "1")).await.unwrap();
    let error =
        connection.query::<()>(redis::cmd("SET").arg("k").arg("hunter2")).await.unwrap_err();
    assert!(error.is_refused());
    has(&error, &["SET", "OOM", "maxmemory"]);
}

#[tokio::test]
async fn debug_shows_no_password() {
    let server = Server::with(&["--requirepass", "hunter2"]).await;
    let url = format!("redis://:hunter2@127.0.0.1:{}", server.port);
    let connection = Connection::connect(Config::new(url)).await.unwrap();
    let shown = format!("{connection:?} {:?} {:?}", connection.config(), connection.hints());
    assert!(!shown.contains("hunter2") && shown.contains("127.0.0.1"), "{shown}");
}

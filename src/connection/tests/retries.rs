//! Retries against a server that answers what the test wants, and counts what it was sent.

use crate::connection::{Config, Connection, Script};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

const LONG: Duration = Duration::from_secs(20);
const LOADING: &str = "-LOADING Redis is loading the dataset in memory\r\n";
/// Closes the connection instead of an answer.
const HANG_UP: &str = "";

/// Answers the handshake well, and each other command with the next of `answers`; the last one
/// stays.
struct Actor {
    url: String,
    commands: Arc<AtomicUsize>,
}

impl Actor {
    async fn playing(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let commands = Arc::new(AtomicUsize::new(0));
        let counter = commands.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(play(stream, answers, counter.clone()));
            }
        });
        Self { url, commands }
    }

    async fn connect(&self) -> Connection {
        self.connect_with(|_| {}).await
    }

    async fn connect_with(&self, change: impl FnOnce(&mut Config)) -> Connection {
        let mut config = Config::new(&self.url);
        change(&mut config);
        Connection::connect(config).await.unwrap()
    }

    fn commands(&self) -> usize {
        self.commands.load(SeqCst)
    }
}

async fn play(stream: TcpStream, answers: &[&str], commands: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    while let Some(name) = command(&mut stream).await {
        let answer = match name.as_str() {
            "PING" => "+PONG\r\n",
            "CLIENT" => "+OK\r\n",
            _ => answers[commands.fetch_add(1, SeqCst).min(answers.len() - 1)],
        };
        if answer == HANG_UP || stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads one command, and returns its name.
async fn command(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut name = String::new();
    for index in 0..number(stream).await? {
        let mut word = vec![0; number(stream).await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        if index == 0 {
            name = String::from_utf8_lossy(&word).trim_end().to_owned();
        }
    }
    Some(name)
}

/// `*3` or `$3`.
async fn number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

async fn set(connection: &Connection) -> Result<redis::Value, crate::StoreError> {
    connection.cmd(redis::cmd("SET").arg("k").arg("v").take(), LONG).await
}

#[tokio::test]
async fn a_write_that_was_turned_away_undone_goes_again() {
    let actor = Actor::playing(&[LOADING, "-TRYAGAIN moving\r\n", "+OK\r\n"]).await;
    let connection = actor.connect().await;
    set(&connection).await.unwrap();
    assert_eq!(actor.commands(), 3);
}

#[tokio::test]
async fn a_script_that_was_turned_away_undone_goes_again() {
    static ONE: Script = Script::new("return 1").named("one");
    let actor = Actor::playing(&["-MASTERDOWN Link with MASTER is down\r\n", ":1\r\n"]).await;
    let connection = actor.connect().await;
    connection.script(ONE.keys(["k"]), LONG).await.unwrap();
    assert_eq!(actor.commands(), 2);
}

#[tokio::test]
async fn a_write_goes_to_the_server_that_took_over() {
    let actor = Actor::playing(&["-READONLY You can't write\r\n", "+OK\r\n"]).await;
    let connection = actor.connect().await;
    set(&connection).await.unwrap();
    assert_eq!((actor.commands(), connection.health().links), (2, 2));
}

#[tokio::test]
async fn a_write_whose_link_broke_is_never_sent_again() {
    let actor = Actor::playing(&[HANG_UP, "+OK\r\n"]).await;
    let connection = actor.connect().await;
    let error = set(&connection).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("may or may not"), "{error}");
    assert_eq!(actor.commands(), 1);
}

#[tokio::test]
async fn a_read_whose_link_broke_goes_again_over_the_next_one() {
    let actor = Actor::playing(&[HANG_UP, "$1\r\nv\r\n"]).await;
    let connection = actor.connect_with(|config| config.retries = 10).await;
    let get = connection.cmd(redis::cmd("GET").arg("k").take(), LONG);
    assert_eq!(get.await.unwrap(), redis::Value::BulkString(b"v".to_vec()));
    assert_eq!((actor.commands(), connection.health().links), (2, 2));
}

#[tokio::test]
async fn retries_end_with_the_words_of_the_server() {
    let actor = Actor::playing(&[LOADING]).await;
    let connection = actor.connect().await;
    let error = set(&connection).await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("LOADING"), "{error}");
    assert_eq!(actor.commands(), 4);

    let once = actor.connect_with(|config| config.retries = 0).await;
    set(&once).await.unwrap_err();
    assert_eq!(actor.commands(), 5);
}

#[tokio::test]
async fn retries_end_with_the_deadline() {
    let actor = Actor::playing(&[LOADING]).await;
    let connection = actor
        .connect_with(|config| {
            config.retries = u32::MAX;
            config.backoff_min = Duration::from_millis(1);
        })
        .await;
    let started = Instant::now();
    let error = connection
        .cmd(redis::cmd("GET").arg("k").take(), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(error.is_unavailable() || error.is_timeout(), "{error}");
}

#[tokio::test]
async fn a_refusal_is_final() {
    let actor = Actor::playing(&["-OOM command not allowed\r\n"]).await;
    let connection = actor.connect().await;
    assert!(set(&connection).await.unwrap_err().is_refused());
    assert_eq!(actor.commands(), 1);
}

#[tokio::test]
async fn a_batch_goes_again_only_if_that_repeats_no_write() {
    let batch = |connection: &Connection, name: &str| {
        let cmd = redis::cmd(name).arg("k").take();
        connection.batch().cmd(cmd.clone()).cmd(cmd).run(LONG)
    };
    // One of two writes was done: neither is sent again.
    let actor = Actor::playing(&[":1\r\n", LOADING, ":2\r\n"]).await;
    let results = batch(&actor.connect().await, "INCR").await.unwrap();
    assert!(results[0].is_ok() && results[1].is_err());
    assert_eq!(actor.commands(), 2);

    let actor = Actor::playing(&[LOADING, LOADING, ":2\r\n"]).await;
    let results = batch(&actor.connect().await, "INCR").await.unwrap();
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(actor.commands(), 4);

    let actor = Actor::playing(&[":1\r\n", LOADING, ":2\r\n"]).await;
    let results = batch(&actor.connect().await, "STRLEN").await.unwrap();
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(actor.commands(), 4);
}

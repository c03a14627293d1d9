//! A `redis-server` of the test's own, and a proxy that can swallow traffic.

use crate::connection::{Config, Connection};
use std::{
    future::Future,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{io, net::TcpStream, time::sleep};

/// Longest wait for something that must happen. Generous: it never decides how fast something is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `done` yields true.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Killed when dropped.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    args: Vec<String>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(&[]).await
    }

    pub(super) async fn with(args: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = Self { child: spawn(port, &args), port, args };
        server.await_port().await;
        server
    }

    pub(super) async fn restart(&mut self) {
        self.child = spawn(self.port, &self.args);
        self.await_port().await;
    }

    async fn await_port(&mut self) {
        let port = self.port;
        until("redis-server listens", || async move {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `STOP` or `CONT`.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) async fn connect(&self) -> Connection {
        Connection::connect(Config::new(self.url())).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, args: &[String]) -> Child {
    let binary = std::env::var_os("TOWERKEEP_REDIS_SERVER").unwrap_or("redis-server".into());
    Command::new(PathBuf::from(&binary))
        .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .args(args)
        .current_dir(std::env::temp_dir())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot start {binary:?} ({error}): install Redis, or set TOWERKEEP_REDIS_SERVER"
            )
        })
}

/// Forwards connections to a server, until told to swallow what existing ones carry. New ones are
/// forwarded again: what a half-open link looks like.
pub(super) struct Proxy {
    pub(super) port: u16,
    swallow: Arc<AtomicBool>,
    pub(super) accepted: Arc<AtomicU64>,
}

impl Proxy {
    pub(super) async fn to(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            swallow: Arc::default(),
            accepted: Arc::default(),
        };
        let (swallow, accepted) = (proxy.swallow.clone(), proxy.accepted.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, SeqCst);
                // Each connection remembers what held when it was made.
                let born_into = swallow.load(SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(pump(client_read, server_write, swallow.clone(), born_into));
                tokio::spawn(pump(server_read, client_write, swallow.clone(), born_into));
            }
        });
        proxy
    }

    /// Everything that is connected now falls silent.
    pub(super) fn swallow_existing(&self) {
        self.swallow.store(true, SeqCst);
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    swallow: Arc<AtomicBool>,
    born_into: bool,
) {
    use io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if swallow.load(SeqCst) == born_into && to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
}

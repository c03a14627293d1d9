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
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

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

/// Forwards connections to a server, unless told otherwise.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) port: u16,
    /// Connections that are older than this number of orders lose everything they carry.
    swallow: Arc<AtomicU64>,
    /// Whatever arrives waits.
    hold: watch::Sender<bool>,
    /// New connections are closed at once.
    refuse: Arc<AtomicBool>,
    pub(super) accepted: Arc<AtomicU64>,
}

impl Proxy {
    pub(super) async fn to(server: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            swallow: Arc::default(),
            hold: watch::Sender::new(false),
            refuse: Arc::default(),
            accepted: Arc::default(),
        };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                this.accepted.fetch_add(1, SeqCst);
                if this.refuse.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(this.clone().pump(client_read, server_write));
                tokio::spawn(this.clone().pump(server_read, client_write));
            }
        });
        proxy
    }

    async fn pump(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let born = self.swallow.load(SeqCst);
        let mut held = self.hold.subscribe();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            held.wait_for(|held| !held).await.unwrap();
            if self.swallow.load(SeqCst) == born && to.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    }

    /// Everything that is connected now falls silent for ever; new connections work. What a
    /// half-open link looks like.
    pub(super) fn swallow_existing(&self) {
        self.swallow.fetch_add(1, SeqCst);
    }

    pub(super) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    pub(super) fn refuse_new(&self) {
        self.refuse.store(true, SeqCst);
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

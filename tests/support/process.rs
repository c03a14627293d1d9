//! The current test binary once more, as a separate process: one app of a fleet.
//!
//! A test function doubles as the child's `main`. In an ordinary run it returns at once:
//!
//! ```ignore
//! #[tokio::test]
//! async fn app() {
//!     if !process::is_child("app") {
//!         return;
//!     }
//!     let server = HttpServer::start(router(&std::env::var("REDIS_URL").unwrap())).await;
//!     process::announce(server.addr());
//!     std::future::pending::<()>().await;
//! }
//!
//! #[tokio::test]
//! async fn two_apps_share_a_session() {
//!     let redis = RedisServer::start();
//!     let one = ChildApp::spawn("app", &[("REDIS_URL", &redis.url())]);
//!     let two = ChildApp::spawn("app", &[("REDIS_URL", &redis.url())]);
//!     // … requests to one.addr() and two.addr(); one.kill(); …
//! }
//! ```

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::guarded::Guarded;

const ROLE: &str = "TOWERKEEP_TEST_CHILD";
const LISTENING: &str = "LISTENING ";

/// How long a child may take to say where it listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether this process was started as the child of that name.
pub(crate) fn is_child(name: &str) -> bool {
    env::var_os(ROLE).is_some_and(|role| role == name)
}

/// Tells the parent where this child listens.
pub(crate) fn announce(addr: SocketAddr) {
    println!("{LISTENING}{addr}");
}

/// A child that has announced its address.
#[derive(Debug)]
pub(crate) struct ChildApp {
    addr: SocketAddr,
    process: Mutex<Guarded>,
    lines: Mutex<Receiver<String>>,
}

impl ChildApp {
    /// Runs the test function `name` (with its module path, if it has one) in a new process, and
    /// returns when it has announced its address.
    pub(crate) fn spawn(name: &str, envs: &[(&str, &str)]) -> Self {
        let binary = env::current_exe().expect("the test binary knows its path");
        let mut command = Command::new(binary);
        command
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(ROLE, name)
            .envs(envs.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Guarded::spawn(&mut command, None).expect("the test binary starts");
        let stdout = process.take_stdout().expect("the output is piped");

        // The thread reads on to the end, so that the child never waits for a full pipe.
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = wait_for(&lines, LISTENING);
        let (_, addr) = line.split_once(LISTENING).expect("the line has the mark");
        Self {
            addr: addr.trim().parse().expect("the child announces an address"),
            process: Mutex::new(process),
            lines: Mutex::new(lines),
        }
    }

    /// Where the child listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A URL of the child.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Waits for a line of the child's output that contains `mark`; earlier lines are dropped.
    pub(crate) fn wait_for_line(&self, mark: &str) -> String {
        wait_for(&self.lines.lock().expect("no panic while reading"), mark)
    }

    /// Stops the child (SIGSTOP), and returns when it stands still.
    pub(crate) fn pause(&self) {
        self.process().pause();
    }

    /// Ends a pause (SIGCONT).
    pub(crate) fn resume(&self) {
        self.process().resume();
    }

    /// Kills the child (SIGKILL), paused or not, and returns when it is gone.
    pub(crate) fn kill(&self) {
        self.process().kill();
    }

    /// Sends any signal, such as `Signal::TERM`.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Waits for the child's own end, and panics if it does not come in time.
    pub(crate) fn wait(&self, limit: Duration) -> ExitStatus {
        self.process().wait(limit)
    }

    fn process(&self) -> MutexGuard<'_, Guarded> {
        self.process.lock().expect("no panic while the process changes")
    }
}

fn wait_for(lines: &Receiver<String>, mark: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) if line.contains(mark) => return line,
            Ok(_) => {}
            Err(error) => panic!("no line with {mark:?} from the child: {error}"),
        }
    }
}

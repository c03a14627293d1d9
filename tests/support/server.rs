//! A real Redis or Valkey server for one test.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io,
    panic::resume_unwind,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use super::{
    guarded::Guarded,
    ports::free_port,
    resp::{RespClient, Value},
    temp_dir::TempDir,
};

const HOW_TO_GET_ONE: &str = "the Redis tests need a real server: `apt-get install redis-server`, \
    `brew install redis`, or TOWERKEEP_REDIS_SERVER=/path/to/redis-server (or valkey-server)";

/// How long a server may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a loopback port of its own, without persistence; it ends with this value, and with
/// the test process.
#[derive(Debug)]
pub(crate) struct RedisServer {
    binary: PathBuf,
    port: u16,
    dir: TempDir,
    options: Builder,
    /// None after `kill`.
    process: Mutex<Option<Guarded>>,
}

/// Options of a server.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing runs before start"]
pub(crate) struct Builder {
    password: Option<String>,
    args: Vec<String>,
    unix_socket: bool,
    /// Names and contents, in the server's directory.
    files: Vec<(&'static str, String)>,
    /// The name of a file among them that is the server's configuration.
    config: Option<&'static str>,
}

impl Builder {
    /// The default user's password (letters and digits, as it goes into the URL as it is).
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// More command-line options, such as `["--maxmemory", "10mb"]`; they win over the defaults.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Also listens on a unix socket.
    pub(crate) fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// A file in the server's directory that is there before the server starts.
    pub(super) fn file(mut self, name: &'static str, contents: String) -> Self {
        self.files.push((name, contents));
        self
    }

    /// A configuration file, which the server may rewrite.
    pub(super) fn config(mut self, contents: String) -> Self {
        self.config = Some("server.conf");
        self.file("server.conf", contents)
    }

    /// Starts the server and returns when it answers. Blocks for some tens of milliseconds.
    pub(crate) fn start(self) -> RedisServer {
        let mut server = self.prepare(0);
        for _ in 0..20 {
            server.port = free_port();
            if server.try_launch() {
                return server;
            }
        }
        panic!("20 ports in a row were taken by others: {}", server.log());
    }

    /// The same on this port; `None` if somebody else took it.
    fn start_on(self, port: u16) -> Option<RedisServer> {
        let server = self.prepare(port);
        server.try_launch().then_some(server)
    }

    fn prepare(self, port: u16) -> RedisServer {
        let dir = TempDir::new();
        for (name, contents) in &self.files {
            fs::write(dir.path().join(name), contents).expect("the directory can be written");
        }
        let binary = find_binary();
        RedisServer { binary, port, dir, options: self, process: Mutex::new(None) }
    }
}

impl RedisServer {
    /// A server with the defaults.
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:port/`, with the password if there is one.
    pub(crate) fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same with another port, for a proxy in front of this server.
    pub(crate) fn url_at(&self, port: u16) -> String {
        match &self.options.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{port}/"),
            None => format!("redis://127.0.0.1:{port}/"),
        }
    }

    /// `redis+unix:///path`, with the password if there is one.
    pub(crate) fn unix_url(&self) -> String {
        let path = self.unix_path();
        let path = path.display();
        match &self.options.password {
            Some(password) => format!("redis+unix://{path}?pass={password}"),
            None => format!("redis+unix://{path}"),
        }
    }

    /// The unix socket; it exists if the builder was told so.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// A new connection for inspection, logged in.
    pub(crate) fn client(&self) -> RespClient {
        self.connect().unwrap_or_else(|error| panic!("cannot reach port {}: {error}", self.port))
    }

    /// Runs one command over a connection of its own; panics on an error reply.
    pub(crate) fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Value {
        self.client().command(args)
    }

    /// Whether that replica has all data of this master, and gets what is written from now on.
    pub(super) fn feeds(&self, replica: &RedisServer) -> bool {
        let online = format!("port={},state=online", replica.port);
        let says = |server: &Self, what: &str| {
            server.command(&["INFO", "replication"]).text().contains(what)
        };
        says(replica, "master_link_status:up") && says(self, &online)
    }

    /// Stops the process (SIGSTOP): connections stay open, nobody answers.
    pub(crate) fn pause(&self) {
        self.running(Guarded::pause);
    }

    /// Ends a pause (SIGCONT).
    pub(crate) fn resume(&self) {
        self.running(Guarded::resume);
    }

    /// Kills the process (SIGKILL), paused or not, and returns when it is gone.
    pub(crate) fn kill(&self) {
        self.process().take();
    }

    /// Whether there is a process, paused or not.
    pub(crate) fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(|process| process.exited().is_none())
    }

    /// Starts the server again on the same port and returns when it answers; kills it first if it
    /// runs. Without persistence (the default) it comes back empty.
    pub(crate) fn restart(&self) {
        self.kill();
        let deadline = Instant::now() + PATIENCE;
        while !self.try_launch() {
            assert!(Instant::now() < deadline, "port {} stays taken: {}", self.port, self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Launches the process and waits for its answer; false if the port is taken by somebody else.
    fn try_launch(&self) -> bool {
        let log = File::create(self.log_path()).expect("the log can be written");
        let mut command = Command::new(&self.binary);
        if let Some(config) = self.options.config {
            command.arg(self.dir.path().join(config));
        }
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            // A copy without a file would begin after 5 s and be in use after one more.
            .args(["--repl-diskless-sync", "no"])
            .arg("--dir")
            .arg(self.dir.path());
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        if self.options.unix_socket {
            command.arg("--unixsocket").arg(self.unix_path());
        }
        command
            .args(&self.options.args)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("the log can be shared"))
            .stdout(log);

        let mut process = Guarded::spawn(&mut command, Some(self.dir.path()))
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.binary.display()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.exited() {
                let log = self.log();
                let taken = log.contains("in use") || log.contains("Failed listening");
                assert!(taken, "{} ended ({status}): {log}", self.binary.display());
                return false;
            }
            if self.is_answered_by(process.id()) {
                *self.process() = Some(process);
                return true;
            }
            assert!(
                Instant::now() < deadline,
                "process {} does not answer on port {}: {}",
                process.id(),
                self.port,
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether our process is the one that answers, and not another that took the port before it.
    fn is_answered_by(&self, pid: u32) -> bool {
        let info = self.connect().and_then(|mut client| {
            let pong = client.try_command(&["PING"])?;
            let ready = pong == Value::Status("PONG".to_owned());
            Ok(if ready { Some(client.try_command(&["INFO", "server"])?) } else { None })
        });
        let Ok(Some(Value::Bulk(info))) = info else { return false };
        let expected = format!("process_id:{pid}");
        String::from_utf8_lossy(&info).lines().any(|line| line == expected)
    }

    fn connect(&self) -> io::Result<RespClient> {
        let mut client = RespClient::connect(self.port)?;
        if let Some(password) = &self.options.password {
            client.try_command(&["AUTH", password])?;
        }
        Ok(client)
    }

    fn process(&self) -> MutexGuard<'_, Option<Guarded>> {
        self.process.lock().expect("no panic while the process changes")
    }

    fn running(&self, act: impl FnOnce(&mut Guarded)) {
        act(self.process().as_mut().expect("the server was killed and not restarted"));
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("redis.log")
    }

    /// What the process printed since its start.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

/// Starts servers side by side on ports that they have to know of one another; `None` if somebody
/// else took one.
pub(super) fn start_all(servers: Vec<(Builder, u16)>) -> Option<Vec<RedisServer>> {
    thread::scope(|scope| {
        let starts: Vec<_> = servers
            .into_iter()
            .map(|(options, port)| scope.spawn(move || options.start_on(port)))
            .collect();
        let started = starts.into_iter().map(|start| start.join());
        started.map(|start| start.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

fn find_binary() -> PathBuf {
    if let Some(path) = env::var_os("TOWERKEEP_REDIS_SERVER").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        assert!(
            path.is_file(),
            "TOWERKEEP_REDIS_SERVER={} is no file; {HOW_TO_GET_ONE}",
            path.display()
        );
        return path;
    }
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("neither redis-server nor valkey-server on PATH; {HOW_TO_GET_ONE}")
        })
}

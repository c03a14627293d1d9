//! A TCP proxy between the code under test and a real server: it counts turns and makes faults.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{self, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};

use super::ports::free_port;
use traffic::Traffic;

mod link;
mod requests;
mod traffic;

pub(crate) use traffic::{Link, Seen};

/// What the proxy does with traffic, from now on.
///
/// A connection that lost bytes is never healed: passing what comes after them would hand a client
/// the reply of another request, which no network does. Under another mode it goes on swallowing
/// until one side closes it or `cut` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything passes.
    #[default]
    Pass,
    /// Requests arrive that much later; replies pass. Requests do not wait for one another.
    Delay(Duration),
    /// Connections are accepted, whatever is sent is swallowed, nothing is answered or closed.
    BlackHole,
    /// Requests pass and replies are swallowed: executed, never confirmed.
    DropReplies,
    /// Requests pass and the connection is closed when the reply comes: executed, not confirmed,
    /// noticed at once.
    CutReplies,
    /// A connection is closed when it sends anything, before that reaches the server; new ones too.
    HangUp,
    /// New connections are refused, as by a server that does not run. Open ones pass; see `cut`.
    Refuse,
}

/// A proxy on a loopback port of its own, run by a thread of its own, so that tests without a
/// runtime may use it and a busy test does not slow it down.
///
/// A **turn** is what the client sends after it has seen a reply: a pipeline is one turn, and so
/// are requests that overlap on one connection. A turn is counted before it is passed on or lost.
/// What sets a connection up or keeps it alive is no turn: HELLO, AUTH, SELECT, PING, CLIENT
/// SETINFO and CLIENT SETNAME.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    traffic: Mutex<Traffic>,
}

impl Shared {
    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().expect("the proxy counts without a panic")
    }
}

/// What the proxy's thread is told; it answers when it is done.
enum Order {
    /// Listen or not, as the mode says.
    Listen(mpsc::Sender<()>),
    /// Close every connection.
    Cut(mpsc::Sender<()>),
}

impl FaultProxy {
    /// A proxy in front of a loopback port, in `Mode::Pass`.
    pub(crate) fn start(upstream: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let (port, listener) = listen_anywhere();
        let shared = Arc::new(Shared { upstream, traffic: Mutex::default() });
        let (sender, receiver) = unbounded_channel();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || runtime.block_on(run(port, listener, shared, receiver))
        });
        Self { port, shared, orders: Some(sender), thread: Some(thread) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// `redis://127.0.0.1:port/`; for a server with a password see `RedisServer::url_at`.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sets the mode; it holds when this returns. Forgets a plan.
    pub(crate) fn set(&self, mode: Mode) {
        self.shared.traffic().set(mode);
        self.order(Order::Listen);
    }

    /// Faults for some turns only: from `Mode::Pass`, `plan([(n, mode), …])` lets n turns begin,
    /// sets the mode for the turns that begin next, and goes on from there with the rest. What is
    /// no turn passes, so that a client can reconnect between its turns.
    ///
    /// `plan([(1, Mode::CutReplies), (1, Mode::Pass)])` loses the reply of the second turn only.
    pub(crate) fn plan(&self, steps: impl IntoIterator<Item = (usize, Mode)>) {
        let steps: VecDeque<_> = steps.into_iter().collect();
        assert!(steps.iter().all(|(_, mode)| *mode != Mode::Refuse), "no turn can be refused");
        self.set(Mode::Pass);
        self.shared.traffic().plan(steps);
    }

    /// Closes every open connection, once; they are closed when this returns.
    pub(crate) fn cut(&self) {
        self.order(Order::Cut);
    }

    /// Makes black holes of the connections that are open now; new ones follow the mode.
    pub(crate) fn half_open(&self) {
        self.shared.traffic().half_open();
    }

    /// Turns since the start or the last `reset`.
    pub(crate) fn turns(&self) -> usize {
        self.shared.traffic().turns()
    }

    /// Runs `work` and tells how many turns it took.
    pub(crate) async fn turns_of<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
        let before = self.turns();
        let output = work.await;
        (output, self.turns() - before)
    }

    /// The commands since the start or the last `reset`, in the order in which they came; without
    /// those that set a connection up or keep it alive.
    pub(crate) fn commands(&self) -> Vec<Seen> {
        self.shared.traffic().commands().filter(|seen| !seen.is_upkeep()).cloned().collect()
    }

    /// The same with set-up and PING.
    pub(crate) fn all_commands(&self) -> Vec<Seen> {
        self.shared.traffic().commands().cloned().collect()
    }

    /// How often each command came, by its name in upper case; with set-up and PING.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for seen in self.shared.traffic().commands() {
            *counts.entry(seen.name.clone()).or_default() += 1;
        }
        counts
    }

    /// How often one command came, such as `SUBSCRIBE`.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.shared.traffic().commands().filter(|seen| seen.name == name).count()
    }

    /// Every connection since the start, in the order in which they came, closed ones too.
    pub(crate) fn links(&self) -> Vec<Link> {
        self.shared.traffic().links().cloned().collect()
    }

    /// How many connections are open now.
    pub(crate) fn open_links(&self) -> usize {
        self.shared.traffic().links().filter(|link| link.open).count()
    }

    /// Forgets the turns and the commands seen so far, those of each connection too.
    pub(crate) fn reset(&self) {
        self.shared.traffic().reset();
    }

    fn order(&self, order: impl FnOnce(mpsc::Sender<()>) -> Order) {
        let (done, wait) = mpsc::channel();
        let orders = self.orders.as_ref().expect("the proxy runs until it is dropped");
        orders.send(order(done)).expect("the proxy's thread runs");
        wait.recv().expect("the proxy's thread answers");
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(
    port: u16,
    listener: net::TcpListener,
    shared: Arc<Shared>,
    mut orders: UnboundedReceiver<Order>,
) {
    let register =
        |listener| TcpListener::from_std(listener).expect("the runtime takes a listener");
    let mut listener = Some(register(listener));
    let mut links = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                None => break,
                Some(Order::Cut(done)) => {
                    links.shutdown().await;
                    let _ = done.send(());
                }
                Some(Order::Listen(done)) => {
                    if shared.traffic().mode() == Mode::Refuse {
                        listener = None;
                    } else if listener.is_none() {
                        listener = Some(register(listen(port).expect("the port is the proxy's own")));
                    }
                    let _ = done.send(());
                }
            },
            Ok((client, _)) = accepted => {
                links.spawn(link::run(client, shared.clone()));
            }
            Some(_) = links.join_next(), if !links.is_empty() => {}
        }
    }
}

fn listen(port: u16) -> io::Result<net::TcpListener> {
    let listener = net::TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Does without a runtime, as the caller may be inside one.
fn listen_anywhere() -> (u16, net::TcpListener) {
    loop {
        let port = free_port();
        if let Ok(listener) = listen(port) {
            return (port, listener);
        }
    }
}

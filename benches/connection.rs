//! What the link is worth: against a plain multiplexed connection, redis's `ConnectionManager` and a
//! deadpool-redis pool of 16, each with its own defaults, on one server and in turns, with our own link
//! to a cluster of three and on an application's pool beside them; and what each does when the server is killed, comes back, or hangs.
//!
//! ```sh
//! cargo bench --bench connection             # everything, in about three minutes
//! cargo bench --bench connection -- --quick  # a look
//! cargo bench --bench connection -- faults   # a part: HGETALL, script or faults
//! ```

mod support;

use std::{
    env,
    fmt::Display,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use support::{RedisServer, run, servers::cluster::RedisCluster};
use tokio::{runtime::Runtime, task::JoinSet};
use towerkeep::connection::{
    Config, Connection, Script, deadpool_redis,
    redis::{
        self, RedisError, Value,
        aio::{ConnectionManager, MultiplexedConnection},
    },
};

const TASKS: [usize; 4] = [1, 8, 64, 512];

/// The one that the others are told as a ratio to.
const BASELINE: &str = "deadpool-redis, 16";

/// One field counted and the key kept alive, as a limiter or a session does.
static SCRIPT: Script = Script::new(
    "local n = redis.call('HINCRBY', KEYS[1], 'n', ARGV[1]) \
     redis.call('PEXPIRE', KEYS[1], 60000) return n",
)
.named("count");

/// How much is done of each.
struct Effort {
    rounds: usize,
    /// How long a subject's turn lasts.
    turn: Duration,
    fault_rounds: usize,
    down: Duration,
    hang: Duration,
    /// Who is not back by then counts as lost.
    patience: Duration,
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    // `cargo test --benches` only wants to see it run, and says neither.
    let quick = args.iter().any(|arg| arg == "--quick") || !args.iter().any(|arg| arg == "--bench");
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| filters.is_empty() || filters.iter().any(|&filter| filter == part);
    let effort = effort(quick);

    let server = RedisServer::start();
    let fields = (0..20).flat_map(|n| [format!("field{n}"), format!("value {n} of this hash")]);
    let hash: Vec<_> = ["HSET".to_owned(), "hash".to_owned()].into_iter().chain(fields).collect();
    server.command(&hash);
    let cluster = RedisCluster::start();
    cluster.command_for("hash", &hash);

    let runtime = Runtime::new().expect("a runtime can be built");
    for (part, what) in [("HGETALL", What::Read), ("script", What::Script)] {
        if wanted(part) {
            let mut subjects = runtime.block_on(subjects(&server)).to_vec();
            let more = runtime.block_on(other_ways(&server, &cluster));
            subjects.splice(1..1, more);
            throughput(&runtime, &subjects, part, what, &effort);
        }
    }
    if wanted("faults") {
        faults(&runtime, &server, &effort);
    }
}

fn effort(quick: bool) -> Effort {
    let ms = Duration::from_millis;
    let (rounds, turn, fault_rounds) = if quick { (3, ms(20), 1) } else { (21, ms(60), 5) };
    let (down, hang, patience) = (ms(1000), ms(3000), ms(5000));
    Effort { rounds, turn, fault_rounds, down, hang, patience }
}

#[derive(Clone, Copy)]
enum What {
    Read,
    Script,
}

#[derive(Clone)]
enum Subject {
    Link(Connection),
    Plain(MultiplexedConnection),
    Manager(ConnectionManager),
    Pool(deadpool_redis::Pool),
}

async fn subjects(server: &RedisServer) -> [(&'static str, Subject); 4] {
    let client = redis::Client::open(server.url()).expect("the URL is right");
    let link = Connection::connect(Config::new(server.url())).await.expect("the server runs");
    let plain = client.get_multiplexed_async_connection().await.expect("the server runs");
    let manager = ConnectionManager::new(client).await.expect("the server runs");
    let pool = deadpool_redis::Config::from_url(server.url())
        .builder()
        .expect("the URL is right")
        .max_size(16)
        .runtime(deadpool_redis::Runtime::Tokio1)
        .build()
        .expect("it has a runtime");
    [
        ("towerkeep's link", Subject::Link(link)),
        ("plain multiplexed", Subject::Plain(plain)),
        ("ConnectionManager", Subject::Manager(manager)),
        (BASELINE, Subject::Pool(pool)),
    ]
}

/// Our own link where it has more to do.
async fn other_ways(server: &RedisServer, cluster: &RedisCluster) -> [(&'static str, Subject); 2] {
    let sharded = Connection::connect(Config::new(cluster.url())).await.expect("it runs");
    let pool = deadpool_redis::Config::from_url(server.url())
        .create_pool(Some(deadpool_redis::Runtime::Tokio1))
        .expect("the URL is right");
    let through = Connection::through(pool, Config::new("")).expect("the defaults are right");
    [
        ("the same to a cluster", Subject::Link(sharded)),
        ("the same on a pool", Subject::Link(through)),
    ]
}

impl Subject {
    /// One operation, whose answer is left as it came.
    async fn call(&self, what: What, task: usize) -> Result<Value, String> {
        match (self, what) {
            (Self::Link(link), What::Read) => {
                let reply = link.cmd(redis::cmd("HGETALL").arg("hash").take(), link.deadline());
                reply.await.map_err(text)
            }
            (Self::Link(link), What::Script) => {
                let call = SCRIPT.keys([format!("count:{task}")]).arg(1);
                link.script(call, link.deadline()).await.map_err(text)
            }
            (Self::Plain(plain), _) => ask(&mut plain.clone(), what, task).await.map_err(text),
            (Self::Manager(manager), _) => {
                ask(&mut manager.clone(), what, task).await.map_err(text)
            }
            (Self::Pool(pool), _) => {
                let mut own = pool.get().await.map_err(text)?;
                ask(&mut own, what, task).await.map_err(text)
            }
        }
    }
}

async fn ask(
    connection: &mut impl redis::aio::ConnectionLike,
    what: What,
    task: usize,
) -> Result<Value, RedisError> {
    match what {
        What::Read => redis::cmd("HGETALL").arg("hash").query_async(connection).await,
        What::Script => {
            let mut call = redis::cmd("EVALSHA");
            call.arg(SCRIPT.hash()).arg(1).arg(format!("count:{task}")).arg(1);
            call.query_async(connection).await
        }
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Lets the subjects take turns, and tells each as a ratio to the baseline of the same round.
fn throughput(
    runtime: &Runtime,
    subjects: &[(&str, Subject)],
    name: &str,
    what: What,
    effort: &Effort,
) {
    // The link sends the text of a script that the server does not know.
    runtime.block_on(subjects[0].1.call(What::Script, 0)).expect("the server runs");

    let mut table = vec![Vec::new(); subjects.len()];
    for tasks in TASKS {
        let turn = |subject: &Subject, count: u64| {
            let subject = subject.clone();
            let op = move |task| {
                let subject = subject.clone();
                async move {
                    subject.call(what, task).await.expect("the server answers");
                }
            };
            runtime.block_on(run(tasks, count, &op)).as_secs_f64() / count as f64
        };
        let counts = subjects.iter().map(|(_, subject)| {
            turn(subject, 4 * tasks as u64);
            let seconds = turn(subject, 200.max(4 * tasks as u64));
            ((effort.turn.as_secs_f64() / seconds) as u64).max(tasks as u64)
        });
        let counts: Vec<_> = counts.collect();
        let mut rates = vec![Vec::new(); subjects.len()];
        for round in 0..effort.rounds {
            for turns in 0..subjects.len() {
                // Nobody always follows the same one.
                let at = (round + turns) % subjects.len();
                rates[at].push(1.0 / turn(&subjects[at].1, counts[at]));
            }
        }
        let baseline = rates[subjects.len() - 1].clone();
        for (row, rates) in table.iter_mut().zip(rates) {
            let ratios = rates.iter().zip(&baseline).map(|(rate, base)| rate / base).collect();
            row.push((median(ratios), median(rates)));
        }
    }
    println!(
        "\n{name}: operations a second, as a ratio to {BASELINE} (median of {} rounds)",
        effort.rounds
    );
    println!("{:<22}{}", "tasks at a time", TASKS.map(|tasks| format!("{tasks:>20}")).concat());
    for ((name, _), row) in subjects.iter().zip(table) {
        let cells = row.iter().map(|(ratio, rate)| format!("{ratio:>8.2} {:>9.0}/s", rate));
        println!("{name:<22}{}", cells.map(|cell| format!("{cell:>20}")).collect::<String>());
    }
}

/// How many call at a time while the server fails, and their pause between two calls.
const CALLERS: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);

/// One call: when it began and ended, and whether it had its answer.
type Seen = (Instant, Instant, bool);

/// The callers of one subject.
struct Watch {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Watch {
    fn begin(runtime: &Runtime, subject: &Subject) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        for task in 0..CALLERS {
            let (subject, seen, stop) = (subject.clone(), seen.clone(), stop.clone());
            let calls = async move {
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    let answered = subject.call(What::Read, task).await.is_ok();
                    let call = (began, Instant::now(), answered);
                    seen.lock().expect("nobody panics").push(call);
                    tokio::time::sleep(PAUSE).await;
                }
            };
            callers.spawn_on(calls, runtime.handle());
        }
        Self { seen, stop, callers }
    }

    /// The first answer to a call that began after `since`.
    fn answered(&self, since: Instant) -> Option<Instant> {
        let seen = self.seen.lock().expect("nobody panics");
        seen.iter().filter(|call| call.2 && call.0 >= since).map(|call| call.1).min()
    }

    /// What was seen, when the last call has ended.
    fn end(mut self, runtime: &Runtime) -> Vec<Seen> {
        self.stop.store(true, Relaxed);
        runtime.block_on(async { while self.callers.join_next().await.is_some() {} });
        std::mem::take(&mut *self.seen.lock().expect("nobody panics"))
    }
}

/// In milliseconds; infinite is never.
#[derive(Default)]
struct Faults {
    noticed: Vec<f64>,
    failed: Vec<f64>,
    longest: Vec<f64>,
    back: Vec<f64>,
    hung: Vec<f64>,
    resumed: Vec<f64>,
}

/// All subjects live through the same faults at the same time.
fn faults(runtime: &Runtime, server: &RedisServer, effort: &Effort) {
    let mut table: [Faults; 4] = Default::default();
    let mut names = [""; 4];
    for _ in 0..effort.fault_rounds {
        let begin = || {
            server.command(&["HSET", "hash", "field", "value"]);
            let subjects = runtime.block_on(subjects(server));
            let watches = subjects.each_ref().map(|(_, one)| Watch::begin(runtime, one));
            thread::sleep(Duration::from_millis(300));
            (subjects.map(|(name, _)| name), watches)
        };
        let wait = |watches: &[Watch; 4], since: Instant| {
            while since.elapsed() < effort.patience
                && watches.iter().any(|watch| watch.answered(since).is_none())
            {
                thread::sleep(PAUSE);
            }
        };

        let (subjects, watches) = begin();
        names = subjects;
        let killed = Instant::now();
        server.kill();
        thread::sleep(effort.down);
        let restarted = Instant::now();
        server.restart();
        let listens = Instant::now();
        wait(&watches, listens);
        for (figures, watch) in table.iter_mut().zip(watches) {
            let seen = watch.end(runtime);
            let failed = seen.iter().filter(|call| !call.2 && call.1 > killed);
            let noticed = failed.map(|call| call.1).min();
            let known = noticed.unwrap_or(killed);
            let took: Vec<_> = seen
                .iter()
                .filter(|call| call.0 >= known && call.0 < restarted)
                .map(|call| millis(call.1 - call.0))
                .collect();
            let back = seen.iter().filter(|call| call.2 && call.1 >= restarted).map(|call| call.1);
            figures.noticed.push(noticed.map_or(f64::INFINITY, |at| millis(at - killed)));
            figures.longest.push(took.iter().copied().fold(0.0, f64::max));
            figures.failed.push(median(took));
            let since_listening = |at: Instant| millis(at.saturating_duration_since(listens));
            figures.back.push(back.min().map_or(f64::INFINITY, since_listening));
        }

        let (_, watches) = begin();
        let paused = Instant::now();
        server.pause();
        thread::sleep(effort.hang);
        let resumed = Instant::now();
        server.resume();
        wait(&watches, resumed);
        for (figures, watch) in table.iter_mut().zip(watches) {
            let back = watch.answered(resumed);
            let seen = watch.end(runtime);
            let hung = seen.iter().filter(|call| call.1 > paused && call.0 < resumed);
            figures.hung.push(hung.map(|call| millis(call.1 - call.0)).fold(0.0, f64::max));
            figures.resumed.push(back.map_or(f64::INFINITY, |at| millis(at - resumed)));
        }
    }
    let Effort { fault_rounds, down, hang, patience, .. } = effort;
    println!(
        "\nfaults, ms (median of {fault_rounds}; {CALLERS} callers each; killed for {down:?}, then \
         stopped for {hang:?}; never: not within {patience:?})"
    );
    let heads =
        ["kill noticed", "call, down", "longest", "usable again", "longest, hung", "and again"];
    println!("{:<22}{}", "", heads.map(|head| format!("{head:>15}")).concat());
    for (name, of) in names.iter().zip(table) {
        let cells = [of.noticed, of.failed, of.longest, of.back, of.hung, of.resumed].map(|all| {
            let figure = median(all);
            let figure = if figure.is_finite() { format!("{figure:.3}") } else { "never".into() };
            format!("{figure:>15}")
        });
        println!("{name:<22}{}", cells.concat());
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// NaN if there is none: nothing was seen.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

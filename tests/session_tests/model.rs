//! Several clients whose requests overlap, some of them with the same cookie, against a naive model.

use crate::{browser::settled, harness::Harness};
use http::{HeaderMap, Request, Response, StatusCode, header};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::session::{LazySession, Session, SessionLayer};

const COOKIE: &str = "__Host-sid";
const CLIENTS: usize = 3;
const HOUR: Duration = Duration::from_secs(3_600);
/// Time passes in whole hours, and no timeout ends on one, so that real time never decides.
const IDLE: Duration = Duration::from_secs(4 * 3_600 + 1_800);
const ABSOLUTE: Duration = Duration::from_secs(9 * 3_600 + 1_800);

#[derive(Clone, Debug)]
enum Op {
    /// A client's request begins, and loads its session. It takes another one's cookie before.
    Begin(usize, Option<usize>),
    Act(usize, Act),
    Finish(usize, Status),
    Advance(u32),
}

#[derive(Clone, Debug)]
enum Act {
    Set(u8, u8),
    Remove(u8),
    Incr(u8, i64),
    Clear,
    Login(u8),
    Rotate,
    Destroy,
    /// Saves in the middle.
    Commit,
}

#[derive(Clone, Copy, Debug)]
enum Status {
    Ok,
    Failed,
}

const VALUES: [&str; 4] = ["1", "-7", "\"x\"", "[]"];

fn histories() -> impl Strategy<Value = Vec<Op>> {
    let act = prop_oneof![
        4 => (0u8..3, 0u8..4).prop_map(|(field, value)| Act::Set(field, value)),
        2 => (0u8..3).prop_map(Act::Remove),
        4 => (0u8..3, -2i64..5).prop_map(|(field, by)| Act::Incr(field, by)),
        1 => Just(Act::Clear),
        2 => (0u8..2).prop_map(Act::Login),
        1 => Just(Act::Rotate),
        1 => Just(Act::Destroy),
        1 => Just(Act::Commit),
    ];
    let client = 0..CLIENTS;
    let op = prop_oneof![
        4 => (client.clone(), proptest::option::weighted(0.4, client.clone()))
            .prop_map(|(client, other)| Op::Begin(client, other)),
        8 => (client.clone(), act).prop_map(|(client, act)| Op::Act(client, act)),
        4 => (client, proptest::bool::weighted(0.15))
            .prop_map(|(client, fails)| Op::Finish(client, if fails { Status::Failed } else { Status::Ok })),
        1 => (1u32..4).prop_map(Op::Advance),
    ];
    proptest::collection::vec(op, 1..60)
}

type Fields = BTreeMap<String, String>;

/// What a cookie is in the model: a session, and which of its cookies.
type Key = (usize, u32);

struct Stored {
    key: Key,
    /// When the cookie before this one was replaced.
    rotated: Option<Duration>,
    user: Option<u8>,
    fields: Fields,
    ends: Duration,
    deadline: Duration,
}

impl Stored {
    fn slide(&mut self, now: Duration) {
        self.ends = (now + IDLE).min(self.deadline);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Nothing,
    Live(Key, Option<u8>),
    Stale(Key),
    /// It ended under this request.
    Gone,
}

/// A request on its way, as the model sees it.
struct Draft {
    loaded: Loaded,
    user: Option<u8>,
    view: Fields,
    /// What is to be done, in order, since the last save; those since the login apart.
    acts: Vec<Act>,
    since: Vec<Act>,
    login: Option<u8>,
    rotate: bool,
    /// It was cleared when there was nothing in it: that goes along with another change.
    besides: bool,
    ends: bool,
    destroys: bool,
    cookie: Cookie,
    /// Whether enough of the idle timeout was used up for a slide.
    slide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cookie {
    None,
    Set(Key),
    Removed,
}

/// A request on its way.
struct Open {
    session: Session,
    go: oneshot::Sender<StatusCode>,
    response: JoinHandle<(StatusCode, HeaderMap)>,
    draft: Draft,
}

#[derive(Default)]
struct Model {
    sessions: Vec<Option<Stored>>,
}

/// The rules of the store in the model, in the words of the documentation.
impl Model {
    fn expire(&mut self, now: Duration) {
        for session in &mut self.sessions {
            session.take_if(|session| session.ends <= now);
        }
    }

    fn load(&self, key: Option<Key>) -> Draft {
        let stored = key.and_then(|(at, _)| self.sessions[at].as_ref());
        let (loaded, user, view) = match (key, stored) {
            (Some(key), Some(stored)) if stored.key == key => {
                (Loaded::Live(key, stored.user), stored.user, stored.fields.clone())
            }
            (Some(key), Some(stored)) if stored.key.1 == key.1 + 1 => {
                (Loaded::Stale(key), None, Fields::new())
            }
            _ => (Loaded::Nothing, None, Fields::new()),
        };
        Draft {
            loaded,
            user,
            view,
            acts: Vec::new(),
            since: Vec::new(),
            login: None,
            rotate: false,
            besides: false,
            ends: false,
            destroys: false,
            cookie: Cookie::None,
            slide: matches!(loaded, Loaded::Live(..)),
        }
    }

    fn create(&mut self, user: Option<u8>, fields: Fields, now: Duration) -> Key {
        let key = (self.sessions.len(), 0);
        let (ends, deadline) = (now + IDLE, now + ABSOLUTE);
        self.sessions.push(Some(Stored { key, rotated: None, user, fields, ends, deadline }));
        key
    }

    /// Saves a draft. `Err` if a field that is to be incremented is no integer by now.
    fn save(&mut self, draft: &mut Draft, presented: bool, now: Duration) -> Result<(), ()> {
        let mut acts = std::mem::take(&mut draft.acts);
        let besides = std::mem::take(&mut draft.besides);
        let since = std::mem::take(&mut draft.since);
        let login = draft.login.take();
        let rotate = std::mem::take(&mut draft.rotate);
        let (ends, destroys) =
            (std::mem::take(&mut draft.ends), std::mem::take(&mut draft.destroys));
        let (key, user) = match draft.loaded {
            Loaded::Live(key, user) => (key, user),
            Loaded::Gone => {
                if destroys && presented {
                    draft.cookie = Cookie::Removed;
                }
                if login.is_some() {
                    self.begin(draft, login, &since, now);
                }
                return Ok(());
            }
            Loaded::Nothing | Loaded::Stale(_) => {
                if destroys && presented {
                    draft.cookie = Cookie::Removed;
                }
                let made = made_of(&acts);
                if login.is_none() && made.is_empty() {
                    return Ok(());
                }
                if let (Loaded::Stale((at, _)), None) = (draft.loaded, login) {
                    let stored = self.sessions[at].as_ref();
                    let lately = |stored: &Stored| {
                        Loaded::Stale((at, stored.key.1.wrapping_sub(1))) == draft.loaded
                            && stored.rotated.is_some_and(|at| now - at < Duration::from_secs(60))
                    };
                    if stored.is_some_and(lately) {
                        draft.gone();
                        return Ok(());
                    }
                }
                self.begin(draft, login, &acts, now);
                return Ok(());
            }
        };
        if ends {
            let may =
                |stored: &mut Stored| stored.key == key || (user.is_some() && stored.user == user);
            self.sessions[key.0].take_if(may);
            draft.loaded = Loaded::Nothing;
            draft.cookie = Cookie::Removed;
            draft.slide = false;
            if login.is_some() || !made_of(&acts).is_empty() {
                self.begin(draft, login, &acts, now);
            }
            return Ok(());
        }
        if acts.is_empty() && login.is_none() && !rotate {
            return Ok(());
        }
        if besides {
            acts.insert(0, Act::Clear);
        }
        let stored = self.sessions[key.0].as_mut();
        let stored = stored.filter(|stored| {
            stored.key == key && !(login.is_some() && stored.user.is_some() && stored.user != login)
        });
        let Some(stored) = stored else {
            draft.gone();
            if login.is_some() {
                self.begin(draft, login, &since, now);
                draft.view = self.sessions.last().unwrap().as_ref().unwrap().fields.clone();
            }
            return Ok(());
        };
        stored.fields = play(&stored.fields, &acts)?;
        if login.is_some() {
            stored.user = login;
            stored.deadline = now + ABSOLUTE;
        }
        if login.is_some() || rotate {
            stored.key.1 += 1;
            stored.rotated = Some(now);
            draft.cookie = Cookie::Set(stored.key);
        }
        stored.slide(now);
        draft.slide = false;
        draft.loaded = Loaded::Live(stored.key, stored.user);
        for act in &acts {
            if let Act::Incr(field, _) = act
                && let Some(sum) = stored.fields.get(&name(*field))
            {
                draft.view.insert(name(*field), sum.clone());
            }
        }
        Ok(())
    }

    fn begin(&mut self, draft: &mut Draft, login: Option<u8>, acts: &[Act], now: Duration) {
        let key = self.create(login, made_of(acts), now);
        draft.cookie = Cookie::Set(key);
        draft.loaded = Loaded::Live(key, login);
        draft.user = login;
        draft.slide = false;
    }
}

impl Draft {
    fn gone(&mut self) {
        self.loaded = Loaded::Gone;
        self.user = None;
        self.view.clear();
        self.slide = false;
        // One that an earlier save of the same request had set is of no use any more.
        self.cookie = Cookie::None;
    }

    /// Does it to the view. Whether the real one is to say yes.
    fn act(&mut self, act: &Act) -> bool {
        match act {
            Act::Set(field, value) => {
                self.view.insert(name(*field), VALUES[usize::from(*value)].into());
            }
            Act::Remove(field) => {
                if self.view.remove(&name(*field)).is_none() {
                    return true;
                }
            }
            Act::Incr(field, by) => match self.view.get(&name(*field)).map(|held| held.parse()) {
                Some(Err(_)) => return false,
                held => {
                    let held: i64 = held.map_or(0, Result::unwrap);
                    self.view.insert(name(*field), (held + by).to_string());
                }
            },
            Act::Clear => {
                if self.view.is_empty() {
                    self.besides = true;
                    return true;
                }
                self.view.clear();
            }
            Act::Login(user) => {
                if self.user.is_some_and(|other| other != *user) {
                    self.start_over();
                }
                if self.login.is_none() {
                    self.since.clear();
                }
                (self.user, self.login) = (Some(*user), Some(*user));
                return true;
            }
            Act::Rotate => {
                self.rotate = true;
                return true;
            }
            Act::Destroy => {
                self.start_over();
                self.destroys = true;
                return true;
            }
            Act::Commit => return true,
        }
        self.acts.push(act.clone());
        self.since.push(act.clone());
        true
    }

    fn start_over(&mut self) {
        self.acts.clear();
        self.since.clear();
        (self.login, self.rotate, self.besides, self.ends) = (None, false, false, true);
        self.user = None;
        self.view.clear();
    }

    /// What a failed request does not save; a logout holds.
    fn discard(&mut self) {
        let destroys = self.destroys;
        self.start_over();
        (self.ends, self.destroys) = (destroys, destroys);
    }
}

fn name(field: u8) -> String {
    format!("f{field}")
}

/// The fields after these acts; `Err` if one of them is not to be incremented.
fn play(fields: &Fields, acts: &[Act]) -> Result<Fields, ()> {
    let mut fields = fields.clone();
    for act in acts {
        match act {
            Act::Set(field, value) => {
                fields.insert(name(*field), VALUES[usize::from(*value)].into());
            }
            Act::Remove(field) => {
                fields.remove(&name(*field));
            }
            Act::Incr(field, by) => {
                let held = fields.get(&name(*field)).map_or(Ok(0), |held| held.parse::<i64>());
                fields.insert(name(*field), (held.map_err(drop)? + by).to_string());
            }
            Act::Clear => fields.clear(),
            _ => {}
        }
    }
    Ok(fields)
}

/// The fields that these acts make where there was nothing.
fn made_of(acts: &[Act]) -> Fields {
    play(&Fields::new(), acts).unwrap_or_default()
}

pub(crate) async fn run(harness: &Harness, rounds: usize) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    for _ in 0..rounds {
        let history = histories().new_tree(&mut runner).unwrap().current();
        replay(harness, &history).await;
    }
}

async fn replay(harness: &Harness, history: &[Op]) {
    let other = harness.another().await;
    let layers = [&harness.backend, &other].map(|backend| {
        SessionLayer::new(backend.clone())
            .idle_timeout(IDLE)
            .absolute_timeout(ABSOLUTE)
            .slide_throttle(HOUR / 2)
    });
    let mut model = Model::default();
    let mut cookies: [Option<String>; CLIENTS] = Default::default();
    let mut keys: HashMap<String, Key> = HashMap::new();
    let mut open: [Option<Open>; CLIENTS] = Default::default();
    for (step, op) in history.iter().enumerate() {
        let now = harness.clock.now();
        model.expire(now);
        let told = || format!("step {step} of {history:#?}");
        match op {
            Op::Advance(hours) => harness.advance(HOUR * *hours),
            Op::Begin(client, other) => {
                if open[*client].is_some() {
                    continue;
                }
                if let Some(other) = other {
                    cookies[*client] = cookies[*other].clone();
                }
                let cookie = cookies[*client].clone();
                let mut draft = model.load(cookie.as_ref().map(|cookie| keys[cookie]));
                if let Loaded::Live((at, _), _) = draft.loaded {
                    let stored = model.sessions[at].as_ref().unwrap();
                    let longest = (now + IDLE).min(stored.deadline);
                    draft.slide = longest - stored.ends >= HOUR / 2;
                }
                let begun = begin(&layers[client % 2], cookie, draft).await;
                compare(&begun, &told());
                open[*client] = Some(begun);
            }
            Op::Act(client, act) => {
                let Some(open) = &mut open[*client] else { continue };
                let agreed = open.draft.act(act);
                let presented = cookies[*client].is_some();
                let said = perform(&open.session, act).await;
                if let Act::Commit = act {
                    let gone = open.draft.loaded;
                    let saved = model.save(&mut open.draft, presented, now);
                    let lost = gone != Loaded::Gone && open.draft.loaded == Loaded::Gone;
                    assert_eq!(said, saved.is_ok() && !lost, "{}", told());
                } else {
                    assert_eq!(said, agreed, "{}", told());
                }
                compare(open, &told());
            }
            Op::Finish(client, status) => {
                let Some(mut done) = open[*client].take() else { continue };
                let expected = match status {
                    Status::Ok => StatusCode::OK,
                    Status::Failed => {
                        done.draft.discard();
                        StatusCode::BAD_GATEWAY
                    }
                };
                let presented = cookies[*client].is_some();
                let saved = model.save(&mut done.draft, presented, now);
                let expected =
                    if saved.is_ok() { expected } else { StatusCode::INTERNAL_SERVER_ERROR };
                done.go
                    .send(match status {
                        Status::Ok => StatusCode::OK,
                        Status::Failed => StatusCode::BAD_GATEWAY,
                    })
                    .unwrap();
                let (status, headers) = done.response.await.unwrap();
                assert_eq!(status, expected, "{}", told());
                let sent = headers.get(header::SET_COOKIE).map(|line| {
                    let line = line.to_str().unwrap().strip_prefix(COOKIE).unwrap();
                    line[1..].split(';').next().unwrap().to_owned()
                });
                match (done.draft.cookie, sent) {
                    (Cookie::None, None) => {}
                    (Cookie::Removed, Some(value)) if value.is_empty() => cookies[*client] = None,
                    (Cookie::Set(key), Some(value)) if !value.is_empty() => {
                        keys.insert(value.clone(), key);
                        cookies[*client] = Some(value);
                    }
                    other => panic!("{other:?} at {}", told()),
                }
                if let (true, Loaded::Live(key, _), true) =
                    (done.draft.slide, done.draft.loaded, saved.is_ok())
                    && let Some(stored) = &mut model.sessions[key.0]
                    && stored.key == key
                {
                    stored.slide(now);
                }
                for backend in [&harness.backend, &other] {
                    settled(backend).await;
                }
            }
        }
    }
    for done in open.into_iter().flatten() {
        done.response.abort();
    }
}

async fn begin(layer: &SessionLayer, cookie: Option<String>, draft: Draft) -> Open {
    let (session, loaded) = oneshot::channel();
    let (go, wait) = oneshot::channel();
    let gates = Arc::new(Mutex::new(Some((session, wait))));
    let service = service_fn(move |request: Request<String>| {
        let (session, wait) = gates.lock().unwrap().take().unwrap();
        let lazy: LazySession = request.extensions().get().cloned().unwrap();
        async move {
            session.send(lazy.load().await.unwrap()).unwrap();
            let mut response = Response::new(String::new());
            *response.status_mut() = wait.await.unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    let mut request = Request::new(String::new());
    if let Some(cookie) = cookie {
        let line = format!("{COOKIE}={cookie}");
        request.headers_mut().insert(header::COOKIE, line.parse().unwrap());
    }
    let service = layer.layer(service);
    let response = tokio::spawn(async move {
        let (head, _) = service.oneshot(request).await.unwrap().into_parts();
        (head.status, head.headers)
    });
    Open { session: loaded.await.unwrap(), go, response, draft }
}

async fn perform(session: &Session, act: &Act) -> bool {
    let done = match act {
        Act::Set(field, value) => {
            let value: serde_json::Value =
                serde_json::from_str(VALUES[usize::from(*value)]).unwrap();
            session.set(&name(*field), &value)
        }
        Act::Remove(field) => session.remove(name(*field)),
        Act::Incr(field, by) => session.incr(name(*field), *by).map(drop),
        Act::Clear => session.clear(),
        Act::Login(user) => session.login(user.to_string()),
        Act::Rotate => {
            session.rotate();
            Ok(())
        }
        Act::Destroy => {
            session.destroy();
            Ok(())
        }
        Act::Commit => session.commit().await,
    };
    done.is_ok()
}

fn compare(open: &Open, told: &str) {
    let user = open.session.user().map(|user| user.to_string());
    assert_eq!(user, open.draft.user.map(|user| user.to_string()), "{told}");
    let seen: BTreeMap<String, serde_json::Value> = open.session.read().unwrap();
    let seen: Fields = seen.into_iter().map(|(name, value)| (name, value.to_string())).collect();
    assert_eq!(seen, open.draft.view, "{told}");
}

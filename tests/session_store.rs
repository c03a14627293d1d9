//! The verbs of the session store, the same on memory and Redis: by example, in races, and against a
//! naive model.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::harness::{Harness, PREFIX};
use bytes::Bytes;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{collections::BTreeMap, time::Duration};
use tokio::task::JoinSet;
use towerkeep::{
    Backend, StoreError, UserId,
    session::{
        Absolute, Change, Committed, Created, Delta, Destroyed, Fields, Limit, Limits, NewSession,
        Note, Record, SessionStore, Swap, Swapped, Token, VerifierHash,
    },
};

on_every_backend! {
    a_session_is_read_as_it_was_created,
    a_delta_changes_what_it_names_and_nothing_else,
    a_delta_that_is_refused_changes_nothing,
    another_proof_reads_but_changes_and_destroys_nothing,
    a_rotation_kills_the_old_proof_at_once,
    for_a_minute_the_proof_before_a_rotation_is_known,
    fields_of_another_version_are_not_the_users,
    concurrent_swaps_of_one_field_are_all_made,
    a_session_ends_when_idle_and_a_slide_prevents_it,
    a_session_ends_at_its_deadline_however_busy_it_is,
    a_login_restarts_the_lifetime,
    concurrent_increments_and_fields_are_all_kept,
    what_was_destroyed_never_comes_back,
    histories_agree_with_a_naive_model,
}

/// Long, so that the real time that a test takes decides nothing.
const IDLE: Duration = Duration::from_secs(3_600);

fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).into(), Bytes::from((*value).to_owned()))).collect()
}

fn set(value: &str) -> Change {
    Change::Set(value.to_owned().into())
}

fn delta(changes: &[(&str, Change)]) -> Delta {
    let mut delta = Delta::default();
    delta.changes = changes.iter().map(|(name, change)| ((*name).into(), change.clone())).collect();
    delta
}

/// The store with the arguments that most calls share.
struct Store<S>(S);

impl<S: SessionStore> Store<S> {
    async fn create(&self, token: &Token, pairs: &[(&str, &str)]) -> Created {
        let mut new = NewSession::new(token.hash(), IDLE);
        new.fields = fields(pairs);
        self.create_new(token, new).await
    }

    async fn create_new(&self, token: &Token, new: NewSession) -> Created {
        self.0.create(&token.selector(), new, Limits::default()).await.unwrap()
    }

    async fn load(&self, token: &Token) -> Option<Record> {
        self.0.load(&token.selector()).await.unwrap()
    }

    async fn commit(&self, token: &Token, delta: Delta) -> Committed {
        self.try_commit(token, delta).await.unwrap()
    }

    async fn try_commit(&self, token: &Token, delta: Delta) -> Result<Committed, StoreError> {
        self.0.commit(&token.selector(), &token.hash(), delta, Limits::default()).await
    }

    async fn destroy(&self, token: &Token, user: Option<&str>) -> Destroyed {
        let user = user.map(UserId::new);
        self.0.destroy(&token.selector(), &token.hash(), user.as_ref()).await.unwrap()
    }
}

fn done(sums: &[i64]) -> Committed {
    Committed::Done { ttl: IDLE, persistent: false, sums: sums.to_vec(), note: None }
}

async fn a_session_is_read_as_it_was_created(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    assert!(store.load(&token).await.is_none());
    let mut new = NewSession::new(token.hash(), IDLE);
    new.user = Some(UserId::new("ann"));
    new.absolute = Some(IDLE / 2);
    new.fields = fields(&[("cart", "[1]"), ("theme", "\"dark\"")]);
    assert_eq!(store.create_new(&token, new).await, Created::Done { ttl: IDLE / 2 });

    let record = store.load(&token).await.unwrap();
    assert_eq!(record.verifier, token.hash());
    assert_eq!(record.user, Some(UserId::new("ann")));
    assert_eq!(record.idle, IDLE);
    assert_eq!(record.longest_ttl, IDLE / 2);
    assert_eq!(record.created.as_millis(), harness.clock.now().as_millis());
    assert!(record.ttl.unwrap() <= IDLE / 2 && record.ttl.unwrap() > IDLE / 4);
    assert_eq!(*record.fields, fields(&[("cart", "[1]"), ("theme", "\"dark\"")]));

    let other = Token::random();
    let taken =
        harness.create(&token.selector(), NewSession::new(other.hash(), IDLE), Limits::default());
    assert_eq!(taken.await.unwrap(), Created::Taken);
    let tight =
        |limits| harness.create(&other.selector(), NewSession::new(other.hash(), IDLE), limits);
    assert!(matches!(tight(Limits::new(0, 0)).await.unwrap(), Created::Done { .. }));
}

async fn a_delta_changes_what_it_names_and_nothing_else(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    store.create(&token, &[("a", "1"), ("b", "2"), ("c", "3")]).await;
    let changes = delta(&[
        ("a", Change::Increment(41)),
        ("b", Change::Remove),
        ("d", set("\"new\"")),
        ("e", Change::Increment(-5)),
        ("f", Change::Remove),
    ]);
    assert_eq!(store.commit(&token, changes).await, done(&[42, -5]));
    let expected = fields(&[("a", "42"), ("c", "3"), ("d", "\"new\""), ("e", "-5")]);
    assert_eq!(*store.load(&token).await.unwrap().fields, expected);

    let mut cleared = delta(&[("a", Change::Increment(1)), ("z", set("true"))]);
    cleared.clear = true;
    assert_eq!(store.commit(&token, cleared).await, done(&[1]));
    let record = store.load(&token).await.unwrap();
    assert_eq!(*record.fields, fields(&[("a", "1"), ("z", "true")]));

    // Large numbers leave the store as they came in.
    let large = 9_007_199_254_740_991;
    let changes = delta(&[("n", Change::Increment(large))]);
    assert_eq!(store.commit(&token, changes).await, done(&[large]));
    assert_eq!(store.load(&token).await.unwrap().fields["n"], large.to_string());
}

async fn a_delta_that_is_refused_changes_nothing(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    let mut new = NewSession::new(token.hash(), IDLE);
    new.user = Some(UserId::new("ann"));
    new.fields = fields(&[("list", "[]"), ("n", "1")]);
    store.create_new(&token, new).await;
    let before = store.load(&token).await.unwrap();

    let not_an_integer = [("a", set("1")), ("list", Change::Increment(1)), ("n", Change::Remove)];
    let refused = store.commit(&token, delta(&not_an_integer)).await;
    assert_eq!(refused, Committed::NotAnInteger("list".into()));
    let beyond = [("a", set("1")), ("n", Change::Increment(9_007_199_254_740_991))];
    let refused = store.commit(&token, delta(&beyond)).await;
    assert_eq!(refused, Committed::NotAnInteger("n".into()));

    let limited = |changes: &[(&str, Change)], limits| {
        let commit = harness.commit(&token.selector(), &token.hash(), delta(changes), limits);
        async { commit.await.unwrap() }
    };
    let one_more = [("a", set("1")), ("n", set("2"))];
    let refused = limited(&one_more, Limits::new(2, 1_000)).await;
    assert_eq!(refused, Committed::TooLarge(Limit::Fields));
    let refused = limited(&one_more, Limits::new(3, 9)).await;
    assert_eq!(refused, Committed::TooLarge(Limit::Bytes));

    let mut other_user = delta(&[("a", set("1"))]);
    other_user.user = Some(UserId::new("bob"));
    assert_eq!(store.commit(&token, other_user).await, Committed::OtherUser);

    let after = store.load(&token).await.unwrap();
    assert_eq!((after.fields, after.user), (before.fields, before.user));
    // Exactly at the limits there is room: "list[]", "n2" and "a1".
    assert_eq!(limited(&one_more, Limits::new(3, 10)).await, done(&[]));
}

async fn another_proof_reads_but_changes_and_destroys_nothing(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    let forged = token.rotated();
    store.create(&token, &[("a", "1")]).await;
    assert_eq!(store.commit(&forged, delta(&[("a", set("2"))])).await, Committed::Gone);
    assert_eq!(store.commit(&forged, Delta::default()).await, Committed::Gone);
    assert_eq!(store.destroy(&forged, None).await, Destroyed::Nothing);
    assert_eq!(store.destroy(&forged, Some("ann")).await, Destroyed::Nothing);
    assert_eq!(store.load(&token).await.unwrap().fields["a"], "1");

    let mut bind = Delta::default();
    bind.user = Some(UserId::new("ann"));
    store.commit(&token, bind).await;
    assert_eq!(store.destroy(&forged, Some("bob")).await, Destroyed::Nothing);
    let destroyed = store.destroy(&forged, Some("ann")).await;
    assert_eq!(destroyed, Destroyed::Done { user: Some(UserId::new("ann")) });
    assert_eq!(store.destroy(&token, None).await, Destroyed::Nothing);
}

async fn a_rotation_kills_the_old_proof_at_once(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    let rotated = token.rotated();
    store.create(&token, &[("a", "1")]).await;
    let mut rotation = delta(&[("a", set("2"))]);
    rotation.verifier = Some(rotated.hash());
    assert_eq!(store.commit(&token, rotation).await, done(&[]));
    assert_eq!(store.load(&token).await.unwrap().verifier, rotated.hash());
    assert_eq!(store.commit(&token, delta(&[("a", set("3"))])).await, Committed::Rotated);
    assert_eq!(store.commit(&rotated, delta(&[("b", set("4"))])).await, done(&[]));
    let expected = fields(&[("a", "2"), ("b", "4")]);
    assert_eq!(*store.load(&token).await.unwrap().fields, expected);
}

async fn for_a_minute_the_proof_before_a_rotation_is_known(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    store.create(&token, &[]).await;
    let rotate = |to: &Token| {
        let mut rotation = Delta::default();
        rotation.verifier = Some(to.hash());
        rotation
    };
    let (second, third) = (token.rotated(), token.rotated());
    store.commit(&token, rotate(&second)).await;
    assert_eq!(store.load(&token).await.unwrap().previous, Some(token.hash()));
    harness.advance(Duration::from_millis(59_999));
    assert_eq!(store.commit(&token, delta(&[("a", set("1"))])).await, Committed::Rotated);
    harness.advance(Duration::from_millis(1));
    assert_eq!(store.commit(&token, delta(&[("a", set("1"))])).await, Committed::Gone);
    store.commit(&second, rotate(&third)).await;
    assert_eq!(store.commit(&second, Delta::default()).await, Committed::Rotated);
    assert_eq!(store.commit(&token, Delta::default()).await, Committed::Gone);
    assert_eq!(store.destroy(&second, None).await, Destroyed::Nothing, "it proves nothing");
    assert!(store.load(&token).await.unwrap().fields.is_empty());
}

async fn fields_of_another_version_are_not_the_users(harness: Harness) {
    if !harness.is_shared() {
        return;
    }
    let store = Store(harness.backend.clone());
    let token = Token::random();
    store.create(&token, &[("a", "1")]).await;
    let key = format!("{PREFIX}:session:{}", token.selector());
    harness.command(&["HSET", &key, ".new", "1", ".newer", "2"]);
    let two = delta(&[("a", set("2")), ("b", set("1"))]);
    let limits = Limits::new(2, 100);
    let commit = harness.commit(&token.selector(), &token.hash(), two, limits).await.unwrap();
    assert_eq!(commit, done(&[]), "they took the place of fields");
    let third = delta(&[("c", set("1"))]);
    let commit = harness.commit(&token.selector(), &token.hash(), third, limits).await.unwrap();
    assert_eq!(commit, Committed::TooLarge(Limit::Fields));
    let mut clear = Delta::default();
    clear.clear = true;
    assert_eq!(store.commit(&token, clear).await, done(&[]));
    assert!(store.load(&token).await.unwrap().fields.is_empty());
    assert_eq!(harness.command(&["HGET", &key, ".new"]).text(), "1");
}

async fn concurrent_swaps_of_one_field_are_all_made(harness: Harness) {
    let backends = [harness.backend.clone(), harness.another().await];
    let token = Token::random();
    Store(backends[0].clone()).create(&token, &[]).await;
    let mut swaps = JoinSet::new();
    for n in 0..16 {
        let backend = backends[n % 2].clone();
        swaps.spawn(async move {
            let mut seen: Option<Bytes> = None;
            loop {
                let held = seen.as_ref().map_or(0, |held| held.len());
                let swap = Swap::new("list", seen.clone(), vec![b'1'; held + 1].into());
                let swap = backend.swap(&token.selector(), &token.hash(), swap, Limits::default());
                match swap.await.unwrap() {
                    Swapped::Done { ttl, .. } => break assert_eq!(ttl, IDLE),
                    Swapped::Changed(held) => seen = held,
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    swaps.join_all().await;
    let record = Store(harness.backend.clone()).load(&token).await.unwrap();
    assert_eq!(record.fields["list"].len(), 16);
}

async fn a_session_ends_when_idle_and_a_slide_prevents_it(harness: Harness) {
    let store = Store(harness.backend.clone());
    let (busy, idle) = (Token::random(), Token::random());
    store.create(&busy, &[]).await;
    store.create(&idle, &[]).await;
    harness.advance(IDLE / 2);
    assert_eq!(store.commit(&busy, Delta::default()).await, done(&[]));
    harness.advance(IDLE / 2 + Duration::from_secs(1));
    assert!(store.load(&busy).await.is_some());
    assert!(store.load(&idle).await.is_none());
    assert_eq!(store.commit(&idle, delta(&[("a", set("1"))])).await, Committed::Gone);
    assert!(store.load(&idle).await.is_none());
}

async fn a_session_ends_at_its_deadline_however_busy_it_is(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    let mut new = NewSession::new(token.hash(), IDLE);
    new.absolute = Some(IDLE * 2);
    store.create_new(&token, new).await;
    for _ in 0..3 {
        harness.advance(IDLE / 2);
        assert!(matches!(store.commit(&token, Delta::default()).await, Committed::Done { .. }));
    }
    harness.advance(IDLE / 4);
    let last = store.commit(&token, Delta::default()).await;
    assert_eq!(
        last,
        Committed::Done { ttl: IDLE / 4, persistent: false, sums: vec![], note: None }
    );
    assert_eq!(store.load(&token).await.unwrap().longest_ttl, IDLE / 4);
    harness.advance(IDLE / 4);
    assert_eq!(store.commit(&token, Delta::default()).await, Committed::Gone);
    assert!(store.load(&token).await.is_none());
}

async fn a_login_restarts_the_lifetime(harness: Harness) {
    let store = Store(harness.backend.clone());
    let token = Token::random();
    let mut new = NewSession::new(token.hash(), IDLE);
    new.absolute = Some(IDLE);
    store.create_new(&token, new).await;
    harness.advance(IDLE / 2);
    let mut login = Delta::default();
    login.idle = Some(IDLE * 2);
    login.absolute = Absolute::In(IDLE * 3);
    let committed = store.commit(&token, login).await;
    assert_eq!(
        committed,
        Committed::Done { ttl: IDLE * 2, persistent: false, sums: vec![], note: None }
    );
    let mut forever = Delta::default();
    forever.absolute = Absolute::Never;
    harness.advance(IDLE);
    let committed = store.commit(&token, forever).await;
    assert_eq!(
        committed,
        Committed::Done { ttl: IDLE * 2, persistent: false, sums: vec![], note: None }
    );
}

async fn concurrent_increments_and_fields_are_all_kept(harness: Harness) {
    let backends = [harness.backend.clone(), harness.another().await];
    let token = Token::random();
    Store(backends[0].clone()).create(&token, &[]).await;
    let mut commits = JoinSet::new();
    for n in 0..63 {
        let store = Store(backends[n % 2].clone());
        commits.spawn(async move {
            let name = format!("field-{n}");
            store.commit(&token, delta(&[("n", Change::Increment(1)), (&name, set("0"))])).await
        });
    }
    for commit in commits.join_all().await {
        assert!(matches!(commit, Committed::Done { .. }), "{commit:?}");
    }
    let record = Store(harness.backend.clone()).load(&token).await.unwrap();
    assert_eq!(record.fields["n"], "63");
    assert_eq!(record.fields.len(), 64);
    if harness.is_shared() {
        let key = format!("{PREFIX}:session:{}", token.selector());
        let bytes = harness.command(&["HGET", &key, ".b"]).text().parse::<usize>().unwrap();
        let weighed: usize =
            record.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert_eq!(bytes, weighed, "the limit is measured by what is there");
    }
}

async fn what_was_destroyed_never_comes_back(harness: Harness) {
    let backends = [harness.backend.clone(), harness.another().await];
    for round in 0..300 {
        let token = Token::random();
        Store(backends[0].clone()).create(&token, &[]).await;
        let mut race = JoinSet::new();
        for n in 0..3 {
            let store = Store(backends[(n + round) % 2].clone());
            race.spawn(async move {
                let mut changes = delta(&[("a", set("1")), ("n", Change::Increment(1))]);
                changes.verifier = (n == 0).then(|| token.rotated().hash());
                store.commit(&token, changes).await;
                None
            });
        }
        let store = Store(backends[round % 2].clone());
        race.spawn(async move { Some(store.destroy(&token, None).await) });
        let destroyed = race.join_all().await.into_iter().flatten().next().unwrap();
        let left = Store(backends[0].clone()).load(&token).await;
        // A rotation that came first makes the destroyer's proof an old one.
        let expected = destroyed == Destroyed::Nothing;
        assert_eq!(left.is_some(), expected, "round {round}: {destroyed:?}, then {left:?}");
        if harness.is_shared() {
            let key = format!("{PREFIX}:session:{}", token.selector());
            assert_eq!(harness.command(&["EXISTS", &key]).int(), i64::from(expected));
        }
    }
}

/// One step of a random history over two sessions.
#[derive(Clone, Debug)]
enum Op {
    Create { session: usize, absolute: Option<u64>, fields: Vec<(u8, u8)> },
    Load { session: usize },
    Commit { session: usize, step: Step },
    Swap { session: usize, stale: bool, field: u8, seen: Option<u8>, value: u8 },
    Revoke { session: usize, user: u8 },
    Destroy { session: usize, stale: bool, user: Option<u8> },
    Advance { hours: u64 },
}

#[derive(Clone, Debug)]
struct Step {
    stale: bool,
    rotate: bool,
    user: Option<u8>,
    idle: Option<u64>,
    absolute: Option<Option<u64>>,
    persistent: Option<bool>,
    device: Option<u8>,
    clear: bool,
    changes: BTreeMap<u8, Kind>,
}

#[derive(Clone, Debug)]
enum Kind {
    Set(u8),
    Remove,
    RemoveIf(u8),
    Increment(i64),
}

/// What a field may hold: integers, and what looks like one.
const VALUES: [&str; 8] = [
    "0",
    "-3",
    "9007199254740990",
    "9007199254740992",
    "\"7\"",
    "1.0",
    "[]",
    "\"0123456789abcdef\"",
];
const LIMITS: Limits = Limits::new(3, 40);
const HOUR: Duration = Duration::from_secs(3_600);

/// Time passes in whole hours and every timeout is half an hour off, so that the real time that passes
/// meanwhile never decides.
fn after(hours: u64) -> Duration {
    HOUR * hours as u32 + HOUR / 2
}

fn histories() -> impl Strategy<Value = Vec<Op>> {
    let session = 0usize..2;
    let by = prop_oneof![-3i64..3, Just(1), Just(9_007_199_254_740_991), Just(i64::MAX)];
    let kind = prop_oneof![
        (0u8..8).prop_map(Kind::Set),
        Just(Kind::Remove),
        (0u8..8).prop_map(Kind::RemoveIf),
        by.prop_map(Kind::Increment),
    ];
    let step = (
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.2),
        proptest::option::weighted(0.2, 0u8..2),
        proptest::option::weighted(0.2, 1u64..20),
        proptest::option::weighted(0.2, proptest::option::of(1u64..20)),
        proptest::option::weighted(0.2, any::<bool>()),
        proptest::option::weighted(0.2, 0u8..8),
        proptest::bool::weighted(0.2),
        proptest::collection::btree_map(0u8..5, kind, 0..4),
    )
        .prop_map(
            |(stale, rotate, user, idle, absolute, persistent, device, clear, changes)| Step {
                stale,
                rotate,
                user,
                idle,
                absolute,
                persistent,
                device,
                clear,
                changes,
            },
        );
    let swap = (
        session.clone(),
        proptest::bool::weighted(0.2),
        0u8..5,
        proptest::option::of(0u8..8),
        0u8..8,
    )
        .prop_map(|(session, stale, field, seen, value)| Op::Swap {
            session,
            stale,
            field,
            seen,
            value,
        });
    let op = prop_oneof![
        3 => (session.clone(), proptest::option::of(1u64..30), proptest::collection::vec((0u8..5, 0u8..8), 0..4))
            .prop_map(|(session, absolute, fields)| Op::Create { session, absolute, fields }),
        3 => session.clone().prop_map(|session| Op::Load { session }),
        8 => (session.clone(), step).prop_map(|(session, step)| Op::Commit { session, step }),
        3 => swap,
        1 => (session.clone(), 0u8..2).prop_map(|(session, user)| Op::Revoke { session, user }),
        1 => (session, any::<bool>(), proptest::option::of(0u8..2))
            .prop_map(|(session, stale, user)| Op::Destroy { session, stale, user }),
        2 => (1u64..12).prop_map(|hours| Op::Advance { hours }),
    ];
    proptest::collection::vec(op, 1..40)
}

/// The naive model: every rule again, from the words of the documentation.
struct Naive {
    proof: VerifierHash,
    /// The proof before, and when it was replaced.
    previous: Option<(VerifierHash, Duration)>,
    user: Option<UserId>,
    persistent: bool,
    device: Option<Bytes>,
    noted: Duration,
    idle: Duration,
    deadline: Option<Duration>,
    ends: Duration,
    fields: BTreeMap<String, String>,
}

impl Naive {
    fn bytes(fields: &BTreeMap<String, String>) -> usize {
        fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    fn limit(fields: &BTreeMap<String, String>) -> Option<Limit> {
        match () {
            () if fields.len() > LIMITS.fields => Some(Limit::Fields),
            () if Self::bytes(fields) > LIMITS.bytes => Some(Limit::Bytes),
            () => None,
        }
    }

    fn slide(&mut self, now: Duration) -> Duration {
        let left = self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(now));
        let ttl = self.idle.min(left);
        self.ends = now + ttl;
        ttl
    }

    /// Why the proof does not hold.
    fn refusal(&self, proof: &VerifierHash, now: Duration) -> Option<Committed> {
        match self.previous {
            _ if self.proof == *proof => None,
            Some((previous, at)) if previous == *proof && now - at < Duration::from_secs(60) => {
                Some(Committed::Rotated)
            }
            _ => Some(Committed::Gone),
        }
    }

    /// Every timeout here is longer than the 20 minutes of which a minute is the twentieth.
    fn note(&mut self, now: Duration) -> Option<Note> {
        let due = self.user.is_some() && now - self.noted >= Duration::from_secs(60);
        due.then(|| {
            self.noted = now;
            Note::new(self.user.clone().unwrap(), self.idle)
        })
    }

    fn swap(&mut self, proof: &VerifierHash, swap: &Swap, now: Duration) -> Swapped {
        match self.refusal(proof, now) {
            None => {}
            Some(Committed::Rotated) => return Swapped::Rotated,
            Some(_) => return Swapped::Gone,
        }
        let field = swap.field.to_string();
        let held = self.fields.get(&field).cloned().map(Bytes::from);
        if held != swap.seen {
            return Swapped::Changed(held);
        }
        let mut fields = self.fields.clone();
        fields.insert(field, String::from_utf8(swap.value.to_vec()).unwrap());
        if let Some(limit) = Self::limit(&fields) {
            return Swapped::TooLarge(limit);
        }
        self.fields = fields;
        Swapped::Done { ttl: self.slide(now), note: self.note(now) }
    }

    fn commit(&mut self, proof: &VerifierHash, delta: &Delta, now: Duration) -> Committed {
        if let Some(refusal) = self.refusal(proof, now) {
            return refusal;
        }
        if self.user.is_some() && delta.user.is_some() && self.user != delta.user {
            return Committed::OtherUser;
        }
        let mut fields = if delta.clear { BTreeMap::new() } else { self.fields.clone() };
        let mut sums = Vec::new();
        let mut grows = false;
        for (name, change) in &delta.changes {
            let name = name.to_string();
            match change {
                Change::Set(value) => {
                    grows = true;
                    fields.insert(name, String::from_utf8(value.to_vec()).unwrap());
                }
                Change::Increment(by) => {
                    grows = true;
                    const MAX: i128 = 9_007_199_254_740_991;
                    let was = fields.get(&name).map_or(Ok(0), |value| value.parse::<i128>());
                    let exact = |n: i128| n.abs() <= MAX;
                    let sum = match was {
                        Ok(was) if exact(was) && exact((*by).into()) => was + i128::from(*by),
                        _ => return Committed::NotAnInteger(name.into()),
                    };
                    if !exact(sum) {
                        return Committed::NotAnInteger(name.into());
                    }
                    fields.insert(name, sum.to_string());
                    sums.push(sum as i64);
                }
                Change::RemoveIf(value) => {
                    fields.retain(|held, was| *held != name || was.as_bytes() != &value[..]);
                }
                _ => {
                    fields.remove(&name);
                }
            }
        }
        if let (true, Some(limit)) = (grows, Self::limit(&fields)) {
            return Committed::TooLarge(limit);
        }
        self.fields = fields;
        if let Some(verifier) = delta.verifier {
            self.previous = Some((self.proof, now));
            self.proof = verifier;
        }
        if delta.user.is_some() {
            self.user = delta.user.clone();
            self.noted = now;
        }
        self.persistent = delta.persistent.unwrap_or(self.persistent);
        self.device = delta.device.clone().or(self.device.take());
        self.idle = delta.idle.unwrap_or(self.idle);
        match delta.absolute {
            Absolute::In(life) => self.deadline = Some(now + life),
            Absolute::Never => self.deadline = None,
            _ => {}
        }
        let (ttl, persistent) = (self.slide(now), self.persistent);
        Committed::Done { ttl, persistent, sums, note: self.note(now) }
    }
}

fn name(field: u8) -> String {
    format!("f{field}")
}

fn user(n: u8) -> UserId {
    UserId::new(format!("user-{n}"))
}

fn delta_of(step: &Step, rotated: VerifierHash) -> Delta {
    let mut delta = Delta::default();
    delta.verifier = step.rotate.then_some(rotated);
    delta.user = step.user.map(user);
    delta.idle = step.idle.map(after);
    delta.absolute = step.absolute.map_or(Absolute::Keep, |life| life.map(after).into());
    delta.persistent = step.persistent;
    delta.device = step.device.map(|value| VALUES[usize::from(value)].into());
    delta.clear = step.clear;
    delta.changes = step
        .changes
        .iter()
        .map(|(field, kind)| {
            let change = match kind {
                Kind::Set(value) => set(VALUES[usize::from(*value)]),
                Kind::Remove => Change::Remove,
                Kind::RemoveIf(value) => Change::RemoveIf(VALUES[usize::from(*value)].into()),
                Kind::Increment(by) => Change::Increment(*by),
            };
            (name(*field).into(), change)
        })
        .collect();
    delta
}

/// The cookies of one session: the one that holds, and the last that did.
#[derive(Clone, Copy)]
struct Cookies {
    current: Token,
    stale: Token,
}

async fn histories_agree_with_a_naive_model(harness: Harness) {
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    for _ in 0..80 {
        let history = histories().new_tree(&mut runner).unwrap().current();
        replay(&harness, &history).await;
    }
}

async fn replay(harness: &Harness, history: &[Op]) {
    let backend: &Backend = harness;
    let mut cookies = [0, 1].map(|_| {
        let current = Token::random();
        Cookies { current, stale: current.rotated() }
    });
    let mut model: [Option<Naive>; 2] = [None, None];
    for op in history {
        let now = Duration::from_millis(harness.clock.now().as_millis() as u64);
        for session in &mut model {
            session.take_if(|session| session.ends <= now);
        }
        match op {
            Op::Advance { hours } => harness.advance(HOUR * *hours as u32),
            Op::Load { session } => {
                let read = backend.load(&cookies[*session].current.selector()).await.unwrap();
                compare(read, model[*session].as_ref(), now, history);
                let selector = cookies[*session].current.selector();
                for field in 0..5 {
                    let read = backend.load_field(&selector, &name(field)).await.unwrap();
                    compare_field(read, model[*session].as_ref(), &name(field), history);
                }
            }
            Op::Create { session, absolute, fields } => {
                let token = cookies[*session].current;
                let mut new = NewSession::new(token.hash(), after(9));
                new.absolute = absolute.map(after);
                new.fields = fields
                    .iter()
                    .map(|(field, value)| {
                        (name(*field).into(), Bytes::from(VALUES[usize::from(*value)]))
                    })
                    .collect();
                let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
                let made: BTreeMap<String, String> = new
                    .fields
                    .iter()
                    .map(|(name, value)| (name.to_string(), text(value)))
                    .collect();
                let expected = match (&model[*session], Naive::limit(&made)) {
                    (Some(_), _) => Created::Taken,
                    (None, Some(limit)) => Created::TooLarge(limit),
                    (None, None) => {
                        let mut naive = Naive {
                            proof: token.hash(),
                            previous: None,
                            user: None,
                            persistent: false,
                            device: None,
                            noted: Duration::ZERO,
                            idle: after(9),
                            deadline: absolute.map(|life| now + after(life)),
                            ends: now,
                            fields: made,
                        };
                        let ttl = naive.slide(now);
                        model[*session] = Some(naive);
                        Created::Done { ttl }
                    }
                };
                let created = backend.create(&token.selector(), new, LIMITS).await.unwrap();
                assert_eq!(created, expected, "{op:?} in {history:?}");
            }
            Op::Commit { session, step } => {
                let Cookies { current, stale } = cookies[*session];
                let token = if step.stale { stale } else { current };
                let rotated = token.rotated();
                let delta = delta_of(step, rotated.hash());
                let expected = match &mut model[*session] {
                    Some(naive) => naive.commit(&token.hash(), &delta, now),
                    None => Committed::Gone,
                };
                if step.rotate && matches!(expected, Committed::Done { .. }) {
                    cookies[*session] = Cookies { current: rotated, stale: current };
                }
                let commit = backend.commit(&token.selector(), &token.hash(), delta, LIMITS);
                assert_eq!(commit.await.unwrap(), expected, "{op:?} in {history:?}");
            }
            Op::Swap { session, stale, field, seen, value } => {
                let Cookies { current, stale: last } = cookies[*session];
                let token = if *stale { last } else { current };
                let value_of = |value: &u8| Bytes::from(VALUES[usize::from(*value)]);
                let mut swap =
                    Swap::new(name(*field), seen.as_ref().map(value_of), value_of(value));
                // As often as not the caller knows what is there.
                if let (Some(naive), 0..4) = (&model[*session], value) {
                    swap.seen = naive.fields.get(&name(*field)).cloned().map(Bytes::from);
                }
                let expected = match &mut model[*session] {
                    Some(naive) => naive.swap(&token.hash(), &swap, now),
                    None => Swapped::Gone,
                };
                let swapped = backend.swap(&token.selector(), &token.hash(), swap, LIMITS);
                assert_eq!(swapped.await.unwrap(), expected, "{op:?} in {history:?}");
            }
            Op::Revoke { session, user: by } => {
                let by = user(*by);
                let revoke = backend.revoke(&cookies[*session].current.selector(), &by);
                let expected = match model[*session].take_if(|naive| naive.user == Some(by)) {
                    Some(naive) => Destroyed::Done { user: naive.user },
                    None => Destroyed::Nothing,
                };
                assert_eq!(revoke.await.unwrap(), expected, "{op:?} in {history:?}");
            }
            Op::Destroy { session, stale, user: by } => {
                let cookies = cookies[*session];
                let token = if *stale { cookies.stale } else { cookies.current };
                let by = by.map(user);
                let may = |naive: &mut Naive| {
                    naive.proof == token.hash() || (by.is_some() && naive.user == by)
                };
                let expected = match model[*session].take_if(may) {
                    Some(naive) => Destroyed::Done { user: naive.user },
                    None => Destroyed::Nothing,
                };
                let destroy = backend.destroy(&token.selector(), &token.hash(), by.as_ref());
                assert_eq!(destroy.await.unwrap(), expected, "{op:?} in {history:?}");
            }
        }
    }
}

fn compare_field(read: Option<Record>, naive: Option<&Naive>, field: &str, history: &[Op]) {
    let (Some(read), Some(naive)) = (&read, naive) else {
        assert!(read.is_none() && naive.is_none(), "{read:?} in {history:?}");
        return;
    };
    assert_eq!((read.verifier, read.idle), (naive.proof, naive.idle));
    assert_eq!(read.previous, naive.previous.map(|(proof, _)| proof));
    let expected = naive.fields.get(field).map(|value| Bytes::from(value.clone()));
    assert_eq!(read.fields.get(field), expected.as_ref(), "{history:?}");
    assert_eq!(read.fields.len(), usize::from(expected.is_some()));
    assert!(read.user.is_none() && read.device.is_none());
    assert_eq!(read.persistent, naive.persistent);
}

fn compare(read: Option<Record>, naive: Option<&Naive>, now: Duration, history: &[Op]) {
    let Some(naive) = naive else {
        assert!(read.is_none(), "{read:?} in {history:?}");
        return;
    };
    let read = read.unwrap_or_else(|| panic!("a live session is missing in {history:?}"));
    assert_eq!(read.verifier, naive.proof);
    assert_eq!(read.previous, naive.previous.map(|(proof, _)| proof));
    assert_eq!(read.user, naive.user);
    assert_eq!((read.persistent, &read.device), (naive.persistent, &naive.device), "{history:?}");
    assert_eq!(read.noted, naive.noted, "{history:?}");
    assert_eq!(read.idle, naive.idle);
    let left = naive.deadline.map_or(Duration::MAX, |deadline| deadline - now);
    assert_eq!(read.longest_ttl, naive.idle.min(left), "{history:?}");
    // The real time goes on in Redis, however little of it the test takes.
    let (ttl, most) = (read.ttl.unwrap(), naive.ends - now);
    assert!(ttl <= most && most - ttl < HOUR / 3, "{ttl:?} of {most:?}");
    let fields: BTreeMap<String, String> = read
        .fields
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8(value.to_vec()).unwrap()))
        .collect();
    assert_eq!(fields, naive.fields, "{history:?}");
}

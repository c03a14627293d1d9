//! The store for tower-sessions and axum-login: its verbs on memory and Redis, and the real layers over
//! it.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;

use crate::{
    harness::{Harness, PREFIX},
    support::{
        http::{browser::Browser, client::HttpClient, server::HttpServer},
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use axum::{Router, extract::Path, routing::get};
use axum_login::{
    AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend,
    tower_sessions::{
        SessionManagerLayer as SessionManagerLayer14, SessionStore as SessionStore14,
    },
};
use serde_json::json;
use std::{collections::HashSet, convert::Infallible, time::Duration};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tower_sessions::{
    Session, SessionManagerLayer, SessionStore,
    session::{Id, Record},
    session_store::Error,
};
use towerkeep::Backend;

on_every_backend! {
    a_record_is_read_as_it_was_created,
    an_id_that_is_taken_is_never_overwritten,
    of_concurrent_creations_each_gets_an_id_of_its_own,
    a_save_replaces_the_whole_record_and_its_life,
    what_was_deleted_is_not_saved_again,
    a_deletion_wins_over_every_save_that_races_it,
    a_record_ends_when_it_expires,
    a_record_that_is_over_is_not_kept,
    tower_sessions_keeps_its_sessions_in_it,
    axum_login_keeps_its_logins_in_it,
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A record that expires so long from the harness's now.
fn record(harness: &Harness, life: Duration) -> Record {
    let expiry_date = OffsetDateTime::UNIX_EPOCH + harness.clock.now() + life;
    let data = [("n".to_owned(), json!(1)), ("name".to_owned(), json!("ann"))].into();
    Record { id: Id::default(), data, expiry_date }
}

async fn created(store: &impl SessionStore, record: &Record) -> Record {
    let mut record = record.clone();
    store.create(&mut record).await.unwrap();
    record
}

async fn a_record_is_read_as_it_was_created(harness: Harness) {
    let store = &harness.backend;
    let record = created(store, &record(&harness, HOUR)).await;
    assert_eq!(SessionStore::load(store, &record.id).await.unwrap(), Some(record.clone()));
    let other = harness.another().await;
    assert_eq!(SessionStore::load(&other, &record.id).await.unwrap(), Some(record));
    assert_eq!(SessionStore::load(store, &Id::default()).await.unwrap(), None);
    SessionStore::delete(store, &Id::default()).await.unwrap();
}

async fn an_id_that_is_taken_is_never_overwritten(harness: Harness) {
    let store = &harness.backend;
    let first = created(store, &record(&harness, HOUR)).await;
    let mut second = first.clone();
    second.data = [("n".to_owned(), json!(2))].into();
    SessionStore::create(store, &mut second).await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(SessionStore::load(store, &first.id).await.unwrap(), Some(first));
    assert_eq!(SessionStore::load(store, &second.id).await.unwrap(), Some(second));
}

async fn of_concurrent_creations_each_gets_an_id_of_its_own(harness: Harness) {
    let stores = [harness.backend.clone(), harness.another().await];
    let record = record(&harness, HOUR);
    let creations: JoinSet<_> = (0..32)
        .map(|n| {
            let (store, record) = (stores[n % 2].clone(), record.clone());
            async move { created(&store, &record).await.id.0 }
        })
        .collect();
    let ids: HashSet<_> = creations.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 32);
    assert!(ids.contains(&record.id.0), "nobody got the id that they all asked for");
}

async fn a_save_replaces_the_whole_record_and_its_life(harness: Harness) {
    let store = &harness.backend;
    let mut saved = created(store, &record(&harness, HOUR)).await;
    saved.data = [("only".to_owned(), json!({"deep": [1, null]}))].into();
    saved.expiry_date += HOUR;
    SessionStore::save(store, &saved).await.unwrap();
    harness.advance(HOUR + HOUR / 2);
    assert_eq!(SessionStore::load(store, &saved.id).await.unwrap(), Some(saved));
}

async fn what_was_deleted_is_not_saved_again(harness: Harness) {
    let store = &harness.backend;
    let record = created(store, &record(&harness, HOUR)).await;
    SessionStore::delete(store, &record.id).await.unwrap();
    SessionStore::save(store, &record).await.unwrap();
    assert_eq!(SessionStore::load(store, &record.id).await.unwrap(), None);
}

async fn a_deletion_wins_over_every_save_that_races_it(harness: Harness) {
    let stores = [harness.backend.clone(), harness.another().await];
    for round in 0..100 {
        let record = created(&stores[0], &record(&harness, HOUR)).await;
        let mut race = JoinSet::new();
        for n in 0..4 {
            let (store, record) = (stores[(n + round) % 2].clone(), record.clone());
            race.spawn(async move {
                match n {
                    2 => SessionStore::delete(&store, &record.id).await.unwrap(),
                    _ => SessionStore::save(&store, &record).await.unwrap(),
                }
            });
        }
        race.join_all().await;
        let left = SessionStore::load(&stores[0], &record.id).await.unwrap();
        assert_eq!(left, None, "round {round}");
    }
}

async fn a_record_ends_when_it_expires(harness: Harness) {
    let store = &harness.backend;
    let record = created(store, &record(&harness, HOUR)).await;
    harness.advance(HOUR - Duration::from_secs(60));
    assert!(SessionStore::load(store, &record.id).await.unwrap().is_some());
    harness.advance(Duration::from_secs(61));
    assert_eq!(SessionStore::load(store, &record.id).await.unwrap(), None);
    SessionStore::save(store, &record).await.unwrap();
    assert_eq!(SessionStore::load(store, &record.id).await.unwrap(), None);
}

async fn a_record_that_is_over_is_not_kept(harness: Harness) {
    let store = &harness.backend;
    let over = created(store, &record(&harness, Duration::ZERO)).await;
    assert_eq!(SessionStore::load(store, &over.id).await.unwrap(), None);
    let mut ended = created(store, &record(&harness, HOUR)).await;
    ended.expiry_date = OffsetDateTime::UNIX_EPOCH;
    SessionStore::save(store, &ended).await.unwrap();
    assert_eq!(SessionStore::load(store, &ended.id).await.unwrap(), None);
    // One that never ends fits in, too.
    let mut endless = record(&harness, HOUR);
    endless.expiry_date = OffsetDateTime::now_utc().saturating_add(time::Duration::MAX);
    let endless = created(store, &endless).await;
    assert_eq!(SessionStore::load(store, &endless.id).await.unwrap(), Some(endless));
}

async fn visit(session: Session) -> String {
    let visits = session.get::<u32>("visits").await.unwrap().unwrap_or_default() + 1;
    session.insert("visits", visits).await.unwrap();
    visits.to_string()
}

fn visits(store: impl SessionStore + Clone) -> Router {
    Router::new()
        .route("/", get(visit))
        .route("/cycle", get(async |session: Session| session.cycle_id().await.unwrap()))
        .route("/logout", get(async |session: Session| session.flush().await.unwrap()))
        .layer(SessionManagerLayer::new(store))
}

async fn tower_sessions_keeps_its_sessions_in_it(harness: Harness) {
    let nodes = [
        HttpServer::start(visits(harness.backend.clone())).await,
        HttpServer::start(visits(harness.another().await)).await,
    ];
    for http in [HttpClient::http1(), HttpClient::http2()] {
        let browser = Browser::with(http, nodes[0].addr(), true);
        let id = || browser.jar().get("id").map(|cookie| cookie.value.clone());
        assert_eq!(browser.get("/").await.text(), "1");
        assert_eq!(browser.get("/").await.text(), "2");
        let (before, stale) = (id(), browser.at(nodes[1].addr()));
        assert_eq!(stale.get("/").await.text(), "3", "another node knows the session");
        browser.get("/cycle").await;
        assert_ne!(id(), before);
        assert_eq!(browser.get("/").await.text(), "4");
        assert_eq!(
            stale.get("/").await.text(),
            "1",
            "an id that was changed still leads somewhere"
        );
        browser.get("/logout").await;
        assert_eq!(id(), None);
        assert_eq!(browser.get("/").await.text(), "1");
    }
}

/// Users of an application that everybody may log in to under any name.
#[derive(Clone, Debug)]
struct Users;

#[derive(Clone, Debug)]
struct User(String);

impl AuthUser for User {
    type Id = String;

    fn id(&self) -> String {
        self.0.clone()
    }

    fn session_auth_hash(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AuthnBackend for Users {
    type User = User;
    type Credentials = String;
    type Error = Infallible;

    async fn authenticate(&self, name: String) -> Result<Option<User>, Infallible> {
        Ok(Some(User(name)))
    }

    async fn get_user(&self, name: &String) -> Result<Option<User>, Infallible> {
        Ok(Some(User(name.clone())))
    }
}

async fn login(mut auth: AuthSession<Users>, Path(name): Path<String>) {
    let user = auth.authenticate(name).await.unwrap().unwrap();
    auth.login(&user).await.unwrap();
}

fn logins(store: impl SessionStore14 + Clone) -> Router {
    let sessions = SessionManagerLayer14::new(store);
    let show =
        async |auth: AuthSession<Users>| auth.user.map_or("nobody".to_owned(), |user| user.0);
    Router::new()
        .route("/", get(show))
        .route("/login/{name}", get(login))
        .route("/logout", get(async |mut auth: AuthSession<Users>| drop(auth.logout().await)))
        .layer(AuthManagerLayerBuilder::new(Users, sessions).build())
}

async fn axum_login_keeps_its_logins_in_it(harness: Harness) {
    let nodes = [
        HttpServer::start(logins(harness.backend.clone())).await,
        HttpServer::start(logins(harness.another().await)).await,
    ];
    let browser = Browser::new(nodes[0].addr());
    assert_eq!(browser.get("/").await.text(), "nobody");
    browser.get("/login/ann").await;
    assert_eq!(browser.get("/").await.text(), "ann");
    let elsewhere = browser.at(nodes[1].addr());
    assert_eq!(elsewhere.get("/").await.text(), "ann");
    browser.get("/logout").await;
    assert_eq!(elsewhere.get("/").await.text(), "nobody");
}

async fn behind_proxy(deadline: Duration) -> (RedisServer, FaultProxy, Backend) {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let builder = Backend::builder().prefix(PREFIX).deadline(deadline);
    let backend = builder.redis(proxy.url()).await.unwrap();
    (server, proxy, backend)
}

fn lasting() -> Record {
    let expiry_date = OffsetDateTime::now_utc() + HOUR;
    Record { id: Id::default(), data: [("n".to_owned(), json!(1))].into(), expiry_date }
}

#[tokio::test]
async fn each_call_is_one_command_and_the_key_lives_as_long_as_the_record() {
    let (server, proxy, store) = behind_proxy(HOUR).await;
    proxy.reset();
    let record = created(&store, &lasting()).await;
    SessionStore::save(&store, &record).await.unwrap();
    SessionStore::load(&store, &record.id).await.unwrap().unwrap();
    let keys = server.command(&["KEYS", "*"]).texts();
    let ttl = server.command(&["PTTL", &keys[0]]).int();
    assert!(ttl > 3_500_000 && ttl <= 3_600_000, "{ttl}");
    SessionStore::delete(&store, &record.id).await.unwrap();
    let names: Vec<_> = proxy.commands().into_iter().map(|seen| seen.name).collect();
    assert_eq!(names, ["SET", "SET", "GET", "UNLINK"]);
    assert_eq!(proxy.turns(), 4);
}

#[tokio::test]
async fn a_record_is_json_for_others_and_its_id_is_nowhere_in_the_store() {
    let (server, _proxy, store) = behind_proxy(HOUR).await;
    let record = created(&store, &lasting()).await;
    let id = record.id.to_string();
    let keys = server.command(&["KEYS", "*"]).texts();
    let value = server.command(&["GET", &keys[0]]).text();
    assert!(keys[0].starts_with(&format!("{PREFIX}:tower-session:")), "{keys:?}");
    assert!(!keys[0].contains(&id) && !value.contains(&id));
    let value: serde_json::Value = serde_json::from_str(&value).unwrap();
    assert_eq!(value["data"], json!({ "n": 1 }));
    // Written by something else, it is an error, and neither a panic nor a session.
    server.command(&["SET", &keys[0], "{}"]);
    let error = SessionStore::load(&store, &record.id).await.unwrap_err();
    assert!(matches!(&error, Error::Decode(why) if why.contains("version")), "{error:?}");
}

#[tokio::test]
async fn a_store_that_fails_is_an_error_within_its_deadline() {
    let (server, proxy, store) = behind_proxy(Duration::from_millis(100)).await;
    let site = HttpServer::start(visits(store.clone())).await;
    let browser = Browser::new(site.addr());
    assert_eq!(browser.get("/").await.text(), "1");
    proxy.set(Mode::BlackHole);
    let error = SessionStore::load(&store, &Id::default()).await.unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    server.kill();
    let error = SessionStore::save(&store, &lasting()).await.unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
}

#[tokio::test]
async fn a_full_memory_refuses_new_sessions_and_keeps_those_that_there_are() {
    let backend = Backend::builder().max_session_bytes(5_000).memory();
    let mut held = Vec::new();
    let error = loop {
        let mut record = lasting();
        match SessionStore::create(&backend, &mut record).await {
            Ok(()) => held.push(record),
            Err(error) => break error,
        }
        assert!(held.len() < 100, "5,000 bytes hold so many records");
    };
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    for record in held {
        assert!(SessionStore::load(&backend, &record.id).await.unwrap().is_some());
    }
}

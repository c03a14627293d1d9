//! What becomes of the fields of a session: concurrent changes, single fields, fields that expire,
//! messages; what a request costs; and random interleavings of several clients against a naive model.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;
#[path = "session_tests/browser.rs"]
mod browser;
#[path = "session_tests/model.rs"]
mod model;

use crate::{
    browser::{Browser, settled},
    harness::{Harness, PREFIX},
    support::{proxy::FaultProxy, server::RedisServer},
};
use http::{Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, convert::Infallible, env, time::Duration};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::{
    Backend, PeerAddr,
    rate_limit::{Policy, Quota, RateLimitLayer, by},
    session::{
        Change, Committed, Delta, Destroyed, Error, Key, LazySession, Limits, NewSession,
        OnStoreError, Session, SessionLayer, SessionStore, Token,
    },
};

on_every_backend! {
    concurrent_updates_of_one_list_are_all_kept,
    two_thousand_concurrent_increments_are_exact,
    an_update_is_done_at_once_and_leaves_the_rest_for_the_end,
    an_update_begins_with_the_default_also_where_there_is_no_session,
    an_update_that_cannot_be_done_changes_nothing,
    one_field_is_read_and_set_without_the_rest,
    a_field_alone_makes_a_session_and_slides_it,
    a_field_may_expire_before_the_session_does,
    what_has_expired_is_dropped_and_nothing_newer_is,
    a_field_that_expires_is_updated_and_counted_anew,
    a_value_that_looks_like_one_that_expires_stays,
    messages_are_shown_once_and_none_is_lost,
    the_whole_session_is_a_struct,
    a_busy_session_ends_at_its_deadline,
    a_session_that_is_asked_for_early_is_the_same,
    routes_have_settings_of_their_own_over_one_session,
    what_was_destroyed_never_comes_back,
    clients_in_each_others_way_agree_with_a_naive_model,
}

const HOUR: Duration = Duration::from_secs(3_600);
const LIST: Key<Vec<u32>> = Key::new("list");

fn layer(store: &Backend) -> SessionLayer {
    SessionLayer::new(store.clone()).idle_timeout(HOUR)
}

fn quick() -> bool {
    env::var_os("TOWERKEEP_QUICK").is_some()
}

/// The fields of the browser's session.
async fn fields(browser: &Browser) -> BTreeMap<String, Value> {
    browser.request(async |session| session.read().unwrap()).await.value.unwrap()
}

async fn set(browser: &Browser, field: &'static str, value: Value) {
    let done = browser.request(async move |session| session.set(field, &value).unwrap()).await;
    assert_eq!(done.status, StatusCode::OK);
}

/// The hash, for those tests that look at it.
fn hash(harness: &Harness, browser: &Browser) -> Option<BTreeMap<String, String>> {
    let key = format!("{PREFIX}:session:{}", browser.token().selector());
    harness.is_shared().then(|| harness.command(&["HGETALL", &key]).map().into_iter().collect())
}

async fn concurrent_updates_of_one_list_are_all_kept(harness: Harness) {
    let layers = [layer(&harness.backend), layer(&harness.another().await)];
    let first = Browser::new(&layers[0]);
    set(&first, "other", json!(1)).await;
    let mut updates = JoinSet::new();
    for n in 0..64 {
        let browser = first.through(&layers[n as usize % 2]);
        updates.spawn(async move {
            let update = browser.request(async move |session: Session| {
                session.update(LIST, |list| list.push(n)).await.unwrap();
            });
            update.await.status
        });
    }
    assert!(updates.join_all().await.iter().all(StatusCode::is_success));
    let list = first.request(async |session| session.get(LIST).unwrap().unwrap());
    let mut list = list.await.value.unwrap();
    list.sort_unstable();
    assert_eq!(list, (0..64).collect::<Vec<_>>());
}

async fn two_thousand_concurrent_increments_are_exact(harness: Harness) {
    let layers = [layer(&harness.backend), layer(&harness.another().await)];
    let first = Browser::new(&layers[0]);
    first.set("other").await;
    let mut requests = JoinSet::new();
    for n in 0..2_000 {
        let browser = first.through(&layers[n % 2]);
        requests.spawn(async move {
            let done = browser.request(async |session: Session| {
                session.incr("n", 1).unwrap();
                session.commit().await
            });
            done.await.value.unwrap()
        });
    }
    for done in requests.join_all().await {
        done.unwrap();
    }
    assert_eq!(fields(&first).await["n"], 2_000);
}

async fn an_update_is_done_at_once_and_leaves_the_rest_for_the_end(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    set(&browser, "list", json!([1])).await;
    let other = browser.copy();
    let failed = browser.answer(async move |lazy: LazySession| {
        let session = lazy.load().await.unwrap();
        session.set("late", &1).unwrap();
        set(&other, "list", json!([1, 2])).await;
        let add = |list: &mut Vec<u32>| {
            list.push(3);
            list.len()
        };
        assert_eq!(session.update(LIST, add).await.unwrap(), 3, "what another has written is seen");
        assert_eq!(session.get(LIST).unwrap().unwrap(), [1, 2, 3]);
        assert_eq!(fields(&other).await["list"], json!([1, 2, 3]), "it is saved at once");
        // What this request did to the field before counts, too.
        session.set(LIST, &vec![7]).unwrap();
        session.update(LIST, add).await.unwrap();
        (StatusCode::INTERNAL_SERVER_ERROR, fields(&other).await)
    });
    let seen = failed.await.value.unwrap();
    assert_eq!(seen["list"], json!([7, 3]));
    let list_first = json!({"late": 1, "list": [7, 3]});
    assert_eq!(json!(fields(&browser).await), list_first, "it was saved before the field");

    let failed = browser.answer(async |lazy: LazySession| {
        let session = lazy.load().await.unwrap();
        session.set("never", &1).unwrap();
        session.update(LIST, |list| list.clear()).await.unwrap();
        (StatusCode::INTERNAL_SERVER_ERROR, ())
    });
    failed.await;
    assert_eq!(json!(fields(&browser).await), json!({"late": 1, "list": []}));
}

async fn an_update_begins_with_the_default_also_where_there_is_no_session(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let made = browser.request(async |session: Session| {
        session.set("a", &1).unwrap();
        session.update(LIST, |list| list.push(1)).await.unwrap();
        session.update(LIST, |list| list.push(2)).await.unwrap();
    });
    assert!(made.await.set_cookie().is_some());
    assert_eq!(json!(fields(&browser).await), json!({"a": 1, "list": [1, 2]}));
    // After a login in the same request, it is the new cookie's session.
    let login = browser.request(async |session: Session| {
        session.login("ann").unwrap();
        session.update(LIST, |list| list.push(3)).await.unwrap();
    });
    assert!(login.await.set_cookie().is_some());
    assert_eq!(fields(&browser).await["list"], json!([1, 2, 3]));
    let next = browser.request(async |session: Session| {
        session.destroy();
        session.update(LIST, |list| list.push(9)).await.unwrap();
    });
    next.await;
    assert_eq!(json!(fields(&browser).await), json!({"list": [9]}));
}

async fn an_update_that_cannot_be_done_changes_nothing(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend).max_bytes(40));
    set(&browser, "list", json!("text")).await;
    let other = browser.copy();
    let done = browser.request(async move |session: Session| {
        let push = |list: &mut Vec<u32>| list.push(1);
        assert!(session.update(LIST, push).await.unwrap_err().is_decode());
        assert!(session.update(".v", push).await.is_err());
        let grow = |text: &mut String| *text = "x".repeat(50);
        assert!(session.update("list", grow).await.unwrap_err().is_too_large());
        assert_eq!(session.get::<String>("list").unwrap().unwrap(), "text");
        other.logout().await;
        let late = |text: &mut String| text.push('!');
        assert!(session.update("list", late).await.unwrap_err().is_gone());
        assert!(session.update("list", late).await.unwrap_err().is_gone());
    });
    let done = done.await;
    assert_eq!((done.status, done.set_cookie()), (StatusCode::OK, None));
    assert!(fields(&browser).await.is_empty());
}

async fn one_field_is_read_and_set_without_the_rest(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let other = browser.copy();
    let untouched = other.lazy(async |_| ()).await;
    assert!(!untouched.touched);
    let visitor = other.lazy(async |lazy: LazySession| lazy.get_field(LIST).await.unwrap());
    let visitor = visitor.await;
    assert_eq!(visitor.value, Some(None));
    assert!(visitor.touched, "what depends on the visitor is not everyone's");

    set(&browser, "list", json!([1])).await;
    let done = browser.lazy(async |lazy: LazySession| {
        assert_eq!(lazy.get_field(LIST).await.unwrap(), Some(vec![1]));
        assert_eq!(lazy.get_field::<u8>("none").await.unwrap(), None);
        assert!(lazy.get_field::<u8>("list").await.unwrap_err().is_decode());
        assert!(lazy.get_field::<u8>(".v").await.is_err(), "that is no field");
        assert!(lazy.set_field(".v", &1).await.is_err());
        let large = "x".repeat(70_000);
        assert!(lazy.set_field("large", &large).await.unwrap_err().is_too_large());
        lazy.set_field("new", &2).await.unwrap();
        assert_eq!(lazy.get_field::<u8>("new").await.unwrap(), Some(2));
        // It is the same session when it is loaded after all.
        let session = lazy.load().await.unwrap();
        session.set("list", &"buffered").unwrap();
        assert_eq!(lazy.get_field::<String>("list").await.unwrap().unwrap(), "buffered");
        lazy.set_field("at once", &3).await.unwrap();
        assert_eq!(session.get::<u8>("at once").unwrap(), Some(3));
    });
    assert!(done.await.touched);
    let expected = json!({"at once": 3, "list": "buffered", "new": 2});
    assert_eq!(json!(fields(&browser).await), expected);

    let old = browser.copy();
    browser.login("ann").await;
    let late = old.lazy(async |lazy: LazySession| {
        assert_eq!(lazy.get_field::<u8>("new").await.unwrap(), None);
        lazy.set_field("late", &1).await.unwrap_err()
    });
    let late = late.await;
    assert!(late.value.as_ref().unwrap().is_gone() && late.set_cookie().is_none());
    assert_eq!(json!(fields(&browser).await), expected);
}

async fn a_field_alone_makes_a_session_and_slides_it(harness: Harness) {
    let backend = &harness.backend;
    let browser = Browser::new(&layer(backend).max_age(HOUR));
    let set_alone = async || {
        browser.lazy(async |lazy: LazySession| lazy.set_field("a", &1).await.unwrap()).await
    };
    let get_alone = async || {
        browser.lazy(async |lazy: LazySession| lazy.get_field::<u8>("a").await.unwrap()).await
    };
    assert!(set_alone().await.set_cookie().is_some());
    let stranger = Browser::new(&browser.layer);
    stranger.plant(&Token::random().encode());
    let made = stranger.lazy(async |lazy: LazySession| lazy.set_field("b", &1).await.unwrap());
    assert!(made.await.set_cookie().is_some(), "a cookie that means nothing is replaced");
    let handle = browser.token().selector();
    for round in 0..4 {
        harness.advance(HOUR / 2);
        let answer = match round % 2 {
            0 => get_alone().await.set_cookie().map(str::to_owned),
            _ => set_alone().await.set_cookie().map(str::to_owned),
        };
        assert!(answer.unwrap().contains("Max-Age=3600"), "the cookie slides, too");
        settled(backend).await;
    }
    assert_eq!(browser.token().selector(), handle, "a new one has taken its place");
    assert_eq!(get_alone().await.set_cookie(), None, "nothing is due");
    // A session that is written so often that no slide is ever due keeps its cookie, too.
    for _ in 0..3 {
        harness.advance(Duration::from_secs(1));
        let set = browser.request(async |session| session.set("a", &1).unwrap());
        assert!(set.await.set_cookie().is_some());
        let update = browser.request(async |session: Session| {
            session.update("a", |n: &mut u8| *n = 1).await.unwrap();
        });
        assert!(update.await.set_cookie().is_some());
        // One that is remembered has a longer one, which nothing shortens.
        let remembered = Browser::new(&browser.layer);
        let remember = remembered.request(async |session: Session| {
            session.set("a", &1).unwrap();
            session.remember(HOUR * 100).unwrap();
        });
        assert!(remember.await.set_cookie().unwrap().contains("Max-Age=360000"));
        let set = remembered.request(async |session| session.set("a", &1).unwrap());
        assert_eq!(set.await.set_cookie(), None);
        let set = remembered.lazy(async |lazy: LazySession| lazy.set_field("a", &1).await.unwrap());
        assert_eq!(set.await.set_cookie(), None);
    }
    assert_eq!(fields(&browser).await["a"], 1);
    harness.advance(HOUR);
    assert_eq!(get_alone().await.value, Some(None));
}

async fn a_field_may_expire_before_the_session_does(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let minute = Duration::from_secs(60);
    let done = browser.request(async move |session: Session| {
        session.set_for("code", "1234", minute).unwrap();
        session.set("name", "ann").unwrap();
        assert_eq!(session.get::<String>("code").unwrap().unwrap(), "1234");
    });
    done.await;
    let expires = (harness.clock.now() + minute).as_millis();
    if let Some(hash) = hash(&harness, &browser) {
        assert_eq!(hash["code"], format!("{{\".expires\":{expires},\".value\":\"1234\"}}"));
        assert_eq!(hash["name"], "\"ann\"");
    }
    harness.advance(minute - Duration::from_millis(1));
    assert_eq!(json!(fields(&browser).await), json!({"code": "1234", "name": "ann"}));
    let clock = harness.clock.clone();
    let late = browser.request(async move |session: Session| {
        clock.advance(Duration::from_millis(1));
        session.get::<String>("code").unwrap()
    });
    assert_eq!(late.await.value, Some(None), "its time may be over while a request is handled");
    assert_eq!(json!(fields(&browser).await), json!({"name": "ann"}));
    let gone = browser.lazy(async |lazy: LazySession| lazy.get_field::<String>("code").await);
    assert_eq!(gone.await.value.unwrap().unwrap(), None);
    let taken = browser.request(async |session| session.take::<String>("code").unwrap());
    assert_eq!(taken.await.value, Some(None));
}

async fn what_has_expired_is_dropped_and_nothing_newer_is(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let second = Duration::from_secs(1);
    let make = browser.request(async move |session: Session| {
        session.set_for("a", &1, second).unwrap();
        session.set_for("b", &1, second).unwrap();
    });
    make.await;
    harness.advance(second);
    browser.request(async |session| session.names()).await;
    let held = |field: &str| hash(&harness, &browser).is_none_or(|hash| hash.contains_key(field));
    assert!(held("a") && held("b"), "a read writes nothing");
    let other = browser.copy();
    let late = browser.request(async move |session: Session| {
        assert!(session.names().is_empty());
        set(&other, "b", json!("new")).await;
        session.set("c", &1).unwrap();
    });
    late.await;
    assert_eq!(json!(fields(&browser).await), json!({"b": "new", "c": 1}));
    if let Some(hash) = hash(&harness, &browser) {
        assert!(!hash.contains_key("a"), "{hash:?}");
        let weighed: usize = hash
            .iter()
            .filter(|(name, _)| !name.starts_with('.'))
            .map(|(name, value)| name.len() + value.len())
            .sum();
        assert_eq!(hash[".b"], weighed.to_string());
    }
}

async fn a_field_that_expires_is_updated_and_counted_anew(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let second = Duration::from_secs(1);
    let make = browser.request(async move |session: Session| {
        session.set_for("n", &7, second).unwrap();
        session.set_for(LIST, &vec![1], second).unwrap();
        assert!(session.incr("n", 1).unwrap_err().is_not_an_integer());
    });
    make.await;
    let push = async || {
        let update = browser.request(async |session: Session| {
            session.update(LIST, |list| list.push(2)).await.unwrap();
        });
        assert_eq!(update.await.status, StatusCode::OK);
    };
    push().await;
    assert_eq!(json!(fields(&browser).await), json!({"list": [1, 2], "n": 7}));
    harness.advance(second);
    assert!(fields(&browser).await.is_empty(), "an update keeps the time to live");
    push().await;
    let again = browser.request(async |session| session.incr("n", 1).unwrap()).await;
    assert_eq!((again.status, again.value), (StatusCode::OK, Some(1)));
    harness.advance(second);
    assert_eq!(json!(fields(&browser).await), json!({"list": [2], "n": 1}));
}

async fn a_value_that_looks_like_one_that_expires_stays(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let value = json!({".expires": 1, ".value": 2});
    set(&browser, "a", value.clone()).await;
    let alone = value.clone();
    let done = browser.lazy(async move |lazy: LazySession| {
        lazy.set_field("b", &alone).await.unwrap();
        lazy.get_field::<Value>("b").await.unwrap()
    });
    assert_eq!(done.await.value.unwrap(), Some(value.clone()));
    let update = browser.request(async |session: Session| {
        session.update("a", |held: &mut Value| assert_eq!(held[".value"], 2)).await.unwrap();
    });
    update.await;
    assert_eq!(json!(fields(&browser).await), json!({"a": value, "b": value}));
}

async fn messages_are_shown_once_and_none_is_lost(harness: Harness) {
    let layers = [layer(&harness.backend), layer(&harness.another().await)];
    let browser = Browser::new(&layers[0]);
    let flash = browser.request(async |session: Session| {
        session.flash("first").unwrap();
        session.set("flashy", &1).unwrap();
    });
    flash.await;
    harness.advance(Duration::from_millis(1));
    let mut requests = JoinSet::new();
    for n in 0..8 {
        let browser = browser.through(&layers[n % 2]);
        requests.spawn(async move {
            browser.request(async move |session| session.flash(&n.to_string()).unwrap()).await;
        });
    }
    requests.join_all().await;
    let flashes = async || {
        let shown = browser.request(async |session| session.flashes::<String>().unwrap());
        shown.await.value.unwrap()
    };
    let mut shown = flashes().await;
    assert_eq!(shown.remove(0), "first");
    shown.sort();
    assert_eq!(shown, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert!(flashes().await.is_empty());
    assert_eq!(json!(fields(&browser).await), json!({"flashy": 1}));
    browser.request(async |session| session.flash(&1).unwrap()).await;
    let wrong = browser.request(async |session| session.flashes::<String>().is_err());
    assert_eq!(wrong.await.value, Some(true));
    assert!(flashes().await.is_empty(), "a message that cannot be read does not stay for ever");
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Whole {
    theme: String,
    #[serde(default)]
    visits: u64,
    note: Option<String>,
}

async fn the_whole_session_is_a_struct(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let write = browser.request(async |session: Session| {
        assert!(session.read::<Whole>().unwrap_err().is_decode(), "there is no theme yet");
        assert!(session.write(&[1]).is_err(), "a list is no session");
        session.set("other", &1).unwrap();
        let whole = Whole { theme: "dark".into(), visits: 1, note: Some("x".into()) };
        session.write(&whole).unwrap();
        assert_eq!(session.read::<Whole>().unwrap(), whole);
    });
    write.await;
    let expected = json!({"note": "x", "other": 1, "theme": "dark", "visits": 1});
    assert_eq!(json!(fields(&browser).await), expected);
    let other = browser.copy();
    let change = browser.request(async move |session: Session| {
        let mut whole: Whole = session.read().unwrap();
        other.request(async |session| session.incr("visits", 1).map(drop).unwrap()).await;
        (whole.theme, whole.note) = ("light".into(), None);
        session.write(&whole).unwrap();
    });
    change.await;
    let expected = json!({"other": 1, "theme": "light", "visits": 2});
    assert_eq!(json!(fields(&browser).await), expected, "what did not change is not written");
}

async fn a_busy_session_ends_at_its_deadline(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend).absolute_timeout(HOUR * 2));
    browser.set("a").await;
    for minute in 0..12 {
        harness.advance(HOUR / 6);
        let alive = minute < 11;
        assert_eq!(fields(&browser).await.contains_key("a"), alive, "after {minute} steps");
        settled(&harness.backend).await;
        if alive {
            browser.request(async |session| session.incr("n", 1).map(drop).unwrap()).await;
        }
    }
}

async fn a_session_that_is_asked_for_early_is_the_same(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend).eager(true));
    browser.set("a").await;
    let unused = browser.lazy(async |_| ()).await;
    assert!(!unused.touched && !unused.headers.contains_key(header::VARY));
    let twice = browser.lazy(async |lazy: LazySession| {
        let first = lazy.load().await.unwrap().names();
        (first, lazy.load().await.unwrap().names())
    });
    let names = vec!["a".to_owned()];
    assert_eq!(twice.await.value.unwrap(), (names.clone(), names.clone()));
    let alone = browser.lazy(async |lazy: LazySession| lazy.get_field::<u8>("a").await.unwrap());
    assert_eq!(alone.await.value.unwrap(), Some(1));
    browser.login("ann").await;
    assert_eq!(browser.user().await.unwrap(), "ann");
    browser.plant(&Token::random().encode());
    assert!(fields(&browser).await.is_empty());
}

async fn routes_have_settings_of_their_own_over_one_session(harness: Harness) {
    let small = layer(&harness.backend).max_fields(1);
    let large = layer(&harness.backend).idle_timeout(HOUR * 5).save_on_server_error(true);
    let browser = Browser::new(&small);
    browser.set("a").await;
    let refused = browser.request(async |session| session.set("b", &1).unwrap_err());
    assert!(refused.await.value.unwrap().is_too_large());
    let wide = browser.through(&large);
    let failed = wide.answer(async |lazy: LazySession| {
        lazy.load().await.unwrap().set("b", &1).unwrap();
        (StatusCode::BAD_GATEWAY, ())
    });
    assert_eq!(failed.await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(fields(&browser).await.len(), 2);
    let shrunk = browser.request(async |session: Session| session.remove("b").unwrap());
    assert_eq!(shrunk.await.status, StatusCode::OK);
    // A session keeps the timeout under which it was made, until a login elsewhere.
    wide.login("ann").await;
    harness.advance(HOUR * 4);
    assert_eq!(wide.user().await.unwrap(), "ann");
}

async fn what_was_destroyed_never_comes_back(harness: Harness) {
    const AT_A_TIME: usize = 20;
    let backends = [harness.backend.clone(), harness.another().await];
    let rounds = if quick() { 500 } else { 10_000 };
    let mut alive = 0;
    for round in 0..rounds / AT_A_TIME {
        let mut races = JoinSet::new();
        for n in 0..AT_A_TIME {
            let backends = backends.clone();
            races.spawn(async move {
                let token = Token::random();
                let (selector, hash) = (token.selector(), token.hash());
                let new = NewSession::new(hash, HOUR);
                backends[0].create(&selector, new, Limits::default()).await.unwrap();
                let commit = |backend: Backend, rotates: bool| async move {
                    let mut delta = Delta::default();
                    delta.changes.insert("a".into(), Change::Increment(1));
                    delta.verifier = rotates.then(|| token.rotated().hash());
                    backend.commit(&selector, &hash, delta, Limits::default()).await.unwrap();
                };
                let [one, other] = &backends;
                let destroy = async { one.destroy(&selector, &hash, None).await.unwrap() };
                // One after another on one connection, at the same time on two.
                let ((), destroyed, ()) = match (round + n) % 3 {
                    0 => tokio::join!(
                        commit(other.clone(), true),
                        destroy,
                        commit(one.clone(), false)
                    ),
                    1 => tokio::join!(
                        commit(one.clone(), false),
                        destroy,
                        commit(other.clone(), false)
                    ),
                    _ => tokio::join!(
                        commit(other.clone(), false),
                        destroy,
                        commit(other.clone(), true)
                    ),
                };
                let there = one.load(&selector).await.unwrap().is_some();
                // A rotation that came first makes the destroyer's proof an old one.
                let expected = destroyed == Destroyed::Nothing;
                assert_eq!(there, expected, "{destroyed:?}");
                let late = other.commit(&selector, &hash, Delta::default(), Limits::default());
                assert!(there || late.await.unwrap() == Committed::Gone);
                usize::from(there)
            });
        }
        alive += races.join_all().await.into_iter().sum::<usize>();
    }
    if harness.is_shared() {
        assert_eq!(harness.keys("*").len(), alive, "not even a trace");
    }
}

async fn clients_in_each_others_way_agree_with_a_naive_model(harness: Harness) {
    let rounds = if quick() { 40 } else { 250 };
    model::run(&harness, rounds).await;
}

/// A backend behind a proxy that counts.
async fn counted() -> (RedisServer, FaultProxy, Backend) {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let builder = Backend::builder().prefix(PREFIX).deadline(HOUR);
    let backend = builder.redis(proxy.url()).await.unwrap();
    (server, proxy, backend)
}

#[tokio::test]
async fn the_round_trips_of_fields() {
    let (_server, proxy, backend) = counted().await;
    let browser = Browser::new(&layer(&backend));
    let push = || {
        browser.request(async |session: Session| {
            session.update(LIST, |list| list.push(1)).await.unwrap();
        })
    };
    let get = || browser.lazy(async |lazy: LazySession| lazy.get_field(LIST).await.unwrap());
    let set = || browser.lazy(async |lazy: LazySession| lazy.set_field("a", &1).await.unwrap());
    proxy.reset();
    let (made, turns) = proxy.turns_of(set()).await;
    assert!(made.set_cookie().is_some() && (1..=2).contains(&turns), "the script may be new");
    for _ in 0..2 {
        push().await;
        set().await;
    }
    assert_eq!(proxy.turns_of(get()).await.1, 1);
    assert_eq!(proxy.turns_of(set()).await.1, 1);
    assert_eq!(proxy.turns_of(push()).await.1, 2, "the load and the swap");
    browser.plant("garbage");
    assert_eq!(proxy.turns_of(get()).await.1, 0);
    let visitor = Browser::new(&browser.layer);
    let nothing = visitor.lazy(async |lazy: LazySession| lazy.get_field(LIST).await.unwrap());
    assert_eq!(proxy.turns_of(nothing).await.1, 0);
    settled(&backend).await;
}

#[tokio::test]
async fn an_early_load_and_a_rate_limit_are_one_round_trip() {
    let (_server, proxy, backend) = counted().await;
    // One thread: nobody moves bytes while the layers are at it, so that the count does not depend on
    // who is faster.
    for (eager, expected) in [(false, 2), (true, 1)] {
        let sessions = layer(&backend).eager(eager);
        let policy = Policy::gcra("address", Quota::per_day(1_000)).key(by::ip());
        let limit = RateLimitLayer::new(backend.clone(), policy).deadline(HOUR);
        let handler = service_fn(async |request: Request<String>| {
            let session = request.extensions().get::<LazySession>().unwrap().clone();
            let names = session.load().await.unwrap().names();
            Ok::<_, Infallible>(Response::new(names.join(" ")))
        });
        let service = sessions.layer(limit.layer(handler));
        let browser = Browser::new(&sessions);
        browser.set("a").await;
        let request = || {
            let mut request = Request::new(String::new());
            let address = PeerAddr::new(([127, 0, 0, 1], 1).into());
            request.extensions_mut().insert(address);
            let cookie = format!("__Host-sid={}", browser.cookie().unwrap());
            request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
            service.clone().oneshot(request)
        };
        request().await.unwrap();
        let (response, turns) = proxy.turns_of(request()).await;
        assert_eq!((response.unwrap().status(), turns), (StatusCode::OK, expected), "{eager}");
    }
}

#[tokio::test]
async fn an_early_load_that_fails_concerns_only_those_who_want_it() {
    let (server, _proxy, backend) = counted().await;
    let strict = Browser::new(&layer(&backend).eager(true));
    strict.set("a").await;
    let lenient =
        strict.through(&layer(&backend).eager(true).on_store_error(OnStoreError::Anonymous));
    server.kill();
    assert_eq!(strict.lazy(async |_| ()).await.status, StatusCode::OK);
    let error = strict.lazy(async |lazy: LazySession| lazy.load().await.map(drop)).await;
    let error: Error = error.value.unwrap().unwrap_err();
    assert!(error.is_unavailable());
    assert!(fields(&lenient).await.is_empty());
    for browser in [&strict, &lenient] {
        let alone = browser.lazy(async |lazy: LazySession| {
            (lazy.get_field::<u8>("a").await, lazy.set_field("a", &1).await)
        });
        let (get, set) = alone.await.value.unwrap();
        assert_eq!(get.is_ok(), std::ptr::eq(browser, &lenient));
        assert!(set.unwrap_err().is_unavailable(), "nothing is said to be set that is not");
    }
    let update = lenient.request(async |session: Session| {
        session.update(LIST, |list| list.push(1)).await.unwrap_err()
    });
    assert!(update.await.value.unwrap().is_unavailable());
}

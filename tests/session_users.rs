//! Whose sessions they are: login, "remember me", the list of devices, revoking, the limit, the trail;
//! over memory and Redis.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;
#[macro_use]
mod harness;
#[path = "session_tests/browser.rs"]
mod browser;

use crate::{
    browser::{Browser, settled},
    harness::{Harness, PREFIX},
    support::{cluster::RedisCluster, proxy::FaultProxy, server::RedisServer},
};
use futures_util::future::join_all;
use http::StatusCode;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use towerkeep::{
    Backend, UserId,
    session::{
        Activity, CookieKey, Device, Error, LazySession, Limits, NewSession, OnGone, OnMaxSessions,
        Session, SessionLayer, SessionStore, Sessions, Token, Trail, UserStore,
    },
};

on_every_backend! {
    a_login_is_listed_with_what_the_application_says_of_the_device,
    a_session_is_revoked_by_its_user_and_nobody_else,
    all_other_devices_are_logged_out_at_once,
    a_browser_that_changes_its_user_changes_lists,
    what_has_ended_leaves_the_list_and_what_is_just_made_stays,
    a_session_is_listed_as_long_as_it_lives,
    the_device_that_was_not_seen_for_longest_makes_room,
    a_login_too_many_is_refused_if_that_is_wished,
    logins_at_the_same_moment_pass_the_limit_until_the_next,
    a_remembered_session_outlives_both_timeouts_and_its_cookie_the_browser,
    the_next_login_forgets_that_it_was_remembered,
    a_visitor_may_be_remembered_too,
    a_login_may_drop_what_a_visitor_left,
    a_cookie_from_before_the_login_writes_nothing_and_clobbers_nothing,
    a_login_with_a_cookie_from_before_the_login_makes_a_session,
    what_a_user_did_is_kept_in_order_and_within_bounds,
    a_change_that_is_lost_may_be_told,
    a_user_has_any_name,
    a_login_under_way_stays_in_the_list_that_is_revoked,
    a_read_sends_no_cookie_again_that_a_login_has_replaced_meanwhile,
    what_ended_long_ago_leaves_a_list_that_is_kept_alive,
}

const HOUR: Duration = Duration::from_secs(3_600);

fn layer(store: &Backend) -> SessionLayer {
    SessionLayer::new(store.clone()).idle_timeout(HOUR)
}

fn ann() -> UserId {
    UserId::new("ann")
}

async fn list(sessions: &Sessions) -> Vec<Device> {
    sessions.list(&ann()).await.unwrap()
}

async fn a_login_is_listed_with_what_the_application_says_of_the_device(harness: Harness) {
    let layer = layer(&harness.backend);
    let sessions = layer.sessions();
    let (phone, laptop) = (Browser::new(&layer), Browser::new(&layer));
    phone.set("cart").await;
    assert!(list(&sessions).await.is_empty());
    let started = harness.clock.now();
    phone
        .request(async |session: Session| {
            session.set_device(&("phone", "Helsinki")).unwrap();
            session.login("ann").unwrap();
            assert!(session.set_device(&"x".repeat(2_000)).unwrap_err().is_too_large());
        })
        .await;
    harness.advance(Duration::from_secs(10));
    laptop.login("ann").await;

    let devices = list(&sessions).await;
    let handles: Vec<_> = devices.iter().map(|device| device.handle).collect();
    assert_eq!(handles, [laptop.token().selector(), phone.token().selector()]);
    assert_eq!(devices[1].info::<(String, String)>().unwrap().unwrap().1, "Helsinki");
    assert!(devices[1].info::<u8>().unwrap_err().is_decode());
    assert!(devices[0].info::<String>().unwrap().is_none());
    assert_eq!(
        devices[1].last_seen.duration_since(UNIX_EPOCH).unwrap().as_millis(),
        started.as_millis()
    );
    assert!(devices[1].expires_in <= HOUR - Duration::from_secs(10));
    assert!(!devices[1].remembered && devices[1].created <= devices[0].created);
    // Its handle stays when the cookie changes, and is a form's field.
    let handle = phone.request(async |session| {
        session.rotate();
        session.handle().unwrap().to_string()
    });
    assert_eq!(handle.await.value.unwrap().parse(), Ok(devices[1].handle));
    assert_eq!(list(&sessions).await[1].handle, devices[1].handle);
    // Any process may ask.
    assert_eq!(Sessions::new(harness.another().await).list(&ann()).await.unwrap().len(), 2);
}

async fn a_session_is_revoked_by_its_user_and_nobody_else(harness: Harness) {
    let layer = layer(&harness.backend);
    let sessions = layer.sessions();
    let (phone, laptop) = (Browser::new(&layer), Browser::new(&layer));
    phone.login("ann").await;
    laptop.login("ann").await;
    let handle = phone.token().selector();
    assert!(!sessions.revoke(&UserId::new("bob"), handle).await.unwrap());
    assert_eq!(phone.user().await.unwrap(), "ann");
    assert!(sessions.revoke(&ann(), handle).await.unwrap());
    assert!(!sessions.revoke(&ann(), handle).await.unwrap());
    assert_eq!((phone.user().await, laptop.user().await.unwrap().as_str()), (None, "ann"));
    assert_eq!(list(&sessions).await.len(), 1);
    // A visitor's session is nobody's.
    let visitor = Browser::new(&layer);
    visitor.set("cart").await;
    assert!(!sessions.revoke(&ann(), visitor.token().selector()).await.unwrap());
    assert_eq!(visitor.names().await, ["cart"]);
}

async fn all_other_devices_are_logged_out_at_once(harness: Harness) {
    let layer = layer(&harness.backend);
    let browsers: Vec<_> = (0..5).map(|_| Browser::new(&layer)).collect();
    for browser in &browsers[..4] {
        browser.login("ann").await;
    }
    browsers[4].login("bob").await;
    let ended = browsers[0].request(async |session: Session| {
        let user = session.user().unwrap();
        session.sessions().revoke_all(&user, session.handle()).await.unwrap()
    });
    assert_eq!(ended.await.value, Some(3));
    let users = join_all(browsers.iter().map(Browser::user)).await;
    let expected = [Some("ann"), None, None, None, Some("bob")];
    assert_eq!(users.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    assert_eq!(layer.sessions().revoke_all(&ann(), None).await.unwrap(), 1);
    assert_eq!(browsers[0].user().await, None);
    assert_eq!(layer.sessions().revoke_all(&ann(), None).await.unwrap(), 0);
}

async fn a_browser_that_changes_its_user_changes_lists(harness: Harness) {
    let layer = layer(&harness.backend);
    let sessions = layer.sessions();
    let browser = Browser::new(&layer);
    browser.login("ann").await;
    let first = browser.token().selector();
    browser.login("bob").await;
    assert!(list(&sessions).await.is_empty());
    assert_eq!(sessions.list(&UserId::new("bob")).await.unwrap().len(), 1);
    // A list that names another's session by mistake does nobody any harm.
    harness.enlist(&ann(), &browser.token().selector(), HOUR).await.unwrap();
    harness.enlist(&ann(), &first, HOUR).await.unwrap();
    assert!(list(&sessions).await.is_empty());
    harness.advance(Duration::from_secs(60));
    assert_eq!(sessions.revoke_all(&ann(), None).await.unwrap(), 0);
    assert_eq!(browser.user().await.unwrap(), "bob");
    // That it was seen is noted after the response, and would be noted after the logout.
    settled(&harness.backend).await;
    browser.logout().await;
    assert!(sessions.list(&UserId::new("bob")).await.unwrap().is_empty());
    settled(&harness.backend).await;
    if harness.is_shared() {
        assert_eq!(harness.keys("*"), Vec::<String>::new(), "nothing is left");
    }
}

async fn what_has_ended_leaves_the_list_and_what_is_just_made_stays(harness: Harness) {
    let (layer, user) = (layer(&harness.backend), ann());
    let token = Token::random();
    harness.enlist(&user, &token.selector(), HOUR).await.unwrap();
    assert!(list(&layer.sessions()).await.is_empty());
    settled(&harness.backend).await;
    let listed = async || harness.listed(&user).await.unwrap().len();
    assert_eq!(listed().await, 1, "it is bound in a moment");
    harness.advance(Duration::from_secs(60));
    assert!(list(&layer.sessions()).await.is_empty());
    settled(&harness.backend).await;
    assert_eq!(listed().await, 0);
    // A list that nobody reads does not grow without end, either.
    for _ in 0..200 {
        Browser::new(&layer).login("ann").await;
        harness.advance(HOUR + Duration::from_secs(1));
        settled(&harness.backend).await;
    }
    assert!(listed().await <= 33, "{}", listed().await);
}

async fn a_session_is_listed_as_long_as_it_lives(harness: Harness) {
    let layer = layer(&harness.backend).absolute_timeout(None);
    let (reader, writer, pusher) =
        (Browser::new(&layer), Browser::new(&layer), Browser::new(&layer));
    for browser in [&reader, &writer, &pusher] {
        browser.login("ann").await;
    }
    for _ in 0..6 {
        harness.advance(HOUR / 2);
        reader.names().await;
        writer.set("a").await;
        pusher
            .request(async |session: Session| {
                session.update("list", |list: &mut Vec<u8>| list.push(1)).await.unwrap();
            })
            .await;
        settled(&harness.backend).await;
    }
    let devices = list(&layer.sessions()).await;
    assert_eq!(devices.len(), 3);
    let now = UNIX_EPOCH + harness.clock.now();
    for device in devices {
        let ago = now.duration_since(device.last_seen).unwrap_or_default();
        assert!(ago < Duration::from_secs(60), "{ago:?}");
    }
}

async fn the_device_that_was_not_seen_for_longest_makes_room(harness: Harness) {
    let layer = layer(&harness.backend).max_sessions(2, OnMaxSessions::EvictOldest);
    let browsers: Vec<_> = (0..4).map(|_| Browser::new(&layer)).collect();
    let mut seen = Vec::new();
    for browser in &browsers {
        assert_eq!(browser.login("ann").await.status, StatusCode::OK);
        harness.advance(Duration::from_secs(61));
        // The first one is in use all the time.
        browsers[0].set("a").await;
        settled(&harness.backend).await;
        seen.push(list(&layer.sessions()).await.len());
    }
    assert_eq!(seen, [1, 2, 2, 2]);
    let users = join_all(browsers.iter().map(Browser::user)).await;
    assert_eq!(users.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true]);
    // Logging in again is no further session.
    browsers[0].login("ann").await;
    assert!(browsers[3].user().await.is_some());
    // Nor is one that has ended, though it is still listed.
    harness.advance(HOUR);
    for browser in &browsers[1..3] {
        browser.login("ann").await;
    }
    assert!(browsers[1].user().await.is_some() && browsers[2].user().await.is_some());
}

async fn a_login_too_many_is_refused_if_that_is_wished(harness: Harness) {
    let layer = layer(&harness.backend).max_sessions(2, OnMaxSessions::Reject);
    let browsers: Vec<_> = (0..3).map(|_| Browser::new(&layer)).collect();
    for browser in &browsers[..2] {
        assert_eq!(browser.login("ann").await.status, StatusCode::OK);
        assert_eq!(browser.login("ann").await.status, StatusCode::OK);
    }
    browsers[2].set("cart").await;
    let refused = browsers[2].login("ann").await;
    assert_eq!((refused.status, refused.set_cookie()), (StatusCode::CONFLICT, None));
    assert_eq!((browsers[2].user().await, browsers[2].names().await), (None, vec!["cart".into()]));
    let error = browsers[2].request(async |session: Session| {
        session.login("ann").unwrap();
        session.commit().await.unwrap_err()
    });
    assert!(error.await.value.unwrap().is_too_many_sessions());
    assert_eq!(browsers[2].login("bob").await.status, StatusCode::OK);
    browsers[0].logout().await;
    assert_eq!(browsers[2].login("ann").await.status, StatusCode::OK);
}

async fn logins_at_the_same_moment_pass_the_limit_until_the_next(harness: Harness) {
    let layer = layer(&harness.backend).max_sessions(3, OnMaxSessions::EvictOldest);
    let browsers: Vec<_> = (0..10).map(|_| Browser::new(&layer)).collect();
    let logins = join_all(browsers.iter().map(|browser| browser.login("ann"))).await;
    assert!(logins.iter().all(|login| login.status == StatusCode::OK));
    let last = Browser::new(&layer);
    last.login("ann").await;
    let devices = list(&layer.sessions()).await;
    assert_eq!(devices.len(), 3);
    assert!(last.user().await.is_some());
}

const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);

async fn a_remembered_session_outlives_both_timeouts_and_its_cookie_the_browser(harness: Harness) {
    let layer = layer(&harness.backend).absolute_timeout(HOUR * 2);
    let browser = Browser::new(&layer);
    let login = browser
        .request(async |session: Session| {
            session.remember(MONTH).unwrap();
            session.login("ann").unwrap();
        })
        .await;
    assert!(login.set_cookie().unwrap().contains("; Max-Age=2592000"), "{:?}", login.set_cookie());
    harness.advance(MONTH / 2);
    let read = browser.request(async |session| session.user()).await;
    assert_eq!(read.value, Some(Some(ann())));
    assert_eq!(read.set_cookie(), None, "its end stays, so the cookie does");
    settled(&harness.backend).await;
    let device = list(&layer.sessions()).await.remove(0);
    assert!(device.remembered);
    let now = UNIX_EPOCH + harness.clock.now();
    let ago = now.duration_since(device.last_seen).unwrap_or_default();
    assert!(ago < Duration::from_secs(60), "a read says that it is in use");
    // A new cookie lasts as long as the session yet.
    let rotated = browser.request(async |session| session.rotate()).await;
    let line = rotated.set_cookie().unwrap().to_owned();
    let left: u64 =
        line.split("Max-Age=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    assert!((1_295_990..=1_296_000).contains(&left), "{line}");
    browser.set("a").await;
    harness.advance(MONTH / 2);
    assert_eq!(browser.user().await, None);
}

async fn the_next_login_forgets_that_it_was_remembered(harness: Harness) {
    let layer = layer(&harness.backend);
    let browser = Browser::new(&layer);
    browser
        .request(async |session: Session| {
            session.login("ann").unwrap();
            session.remember(MONTH).unwrap();
        })
        .await;
    let again = browser.login("ann").await;
    assert!(!again.set_cookie().unwrap().contains("Max-Age"), "{:?}", again.set_cookie());
    assert!(!list(&layer.sessions()).await[0].remembered);
    harness.advance(HOUR);
    assert_eq!(browser.user().await, None);
}

async fn a_visitor_may_be_remembered_too(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend));
    let nothing = browser.request(async |session| session.remember(MONTH).unwrap()).await;
    assert_eq!(nothing.set_cookie(), None, "there is nothing to remember");
    browser.set("cart").await;
    let kept = browser.request(async |session| session.remember(MONTH).unwrap()).await;
    assert!(kept.set_cookie().unwrap().contains("Max-Age=2592000"));
    harness.advance(MONTH - HOUR);
    assert_eq!(browser.names().await, ["cart"]);
    let new = Browser::new(&browser.layer);
    let made = new.request(async |session: Session| {
        session.set("cart", &1).unwrap();
        session.remember(Duration::ZERO).unwrap();
    });
    assert!(made.await.set_cookie().unwrap().contains("Max-Age=1"), "0 would take it back");
}

async fn a_login_may_drop_what_a_visitor_left(harness: Harness) {
    let browser = Browser::new(&layer(&harness.backend).clear_on_login(true));
    browser.set("planted").await;
    browser
        .request(async |session: Session| {
            session.login("ann").unwrap();
            session.set("own", &1).unwrap();
        })
        .await;
    assert_eq!(browser.names().await, ["own"]);
    browser.login("ann").await;
    assert_eq!(browser.names().await, ["own"], "nobody else has put that there");
}

async fn a_cookie_from_before_the_login_writes_nothing_and_clobbers_nothing(harness: Harness) {
    let layer = layer(&harness.backend);
    let browser = Browser::new(&layer);
    browser.set("cart").await;
    let old = browser.copy();
    browser.login("ann").await;
    // It was on its way when the login was done.
    let late = old.set("late").await;
    assert_eq!((late.status, late.set_cookie()), (StatusCode::OK, None));
    let told = old.request(async |session: Session| {
        assert!(session.user().is_none() && session.names().is_empty());
        session.set("late", &1).unwrap();
        session.commit().await.unwrap_err()
    });
    let told = told.await;
    assert!(told.value.as_ref().unwrap().is_gone() && told.set_cookie().is_none());
    assert_eq!(browser.names().await, ["cart"]);
    // Beside the right cookie, as after a change of the path, it does not matter.
    let strict = old.through(&layer.on_gone(OnGone::Reject));
    assert_eq!(strict.set("late").await.status, StatusCode::CONFLICT);
    harness.advance(Duration::from_secs(60));
    let unknown = old.set("new").await;
    assert!(unknown.set_cookie().is_some(), "after a minute it is a cookie like any other");
    assert_eq!(old.names().await, ["new"]);
}

async fn a_login_with_a_cookie_from_before_the_login_makes_a_session(harness: Harness) {
    let layer = layer(&harness.backend);
    let browser = Browser::new(&layer);
    browser.set("cart").await;
    let old = browser.copy();
    browser.login("ann").await;
    old.login("bob").await;
    assert_eq!(old.user().await.unwrap(), "bob");
    assert_eq!(browser.user().await.unwrap(), "ann");
    assert_ne!(old.token().selector(), browser.token().selector());
}

async fn what_a_user_did_is_kept_in_order_and_within_bounds(harness: Harness) {
    let trail = Trail::new(5, Duration::from_secs(24 * 3_600));
    let layer = layer(&harness.backend).trail(trail);
    let browser = Browser::new(&layer);
    let nobody = browser.request(async |session: Session| session.record("hello").is_err());
    assert_eq!(nobody.await.value, Some(true));
    let at = harness.clock.now();
    browser
        .request(async |session: Session| {
            session.login("ann").unwrap();
            session.record("login").unwrap();
            session.record(&("paid", 7)).unwrap();
            assert!(session.recent(10).await.unwrap().is_empty(), "it is saved with the session");
        })
        .await;
    let events = async |count| layer.sessions().recent(&ann(), count).await.unwrap();
    let recent = events(10).await;
    assert_eq!(recent.len(), 2);
    assert_eq!(recent[0].event::<(String, u8)>().unwrap(), ("paid".into(), 7));
    assert_eq!(recent[0].at.duration_since(UNIX_EPOCH).unwrap().as_millis(), at.as_millis());
    assert!(recent[0].event::<u8>().unwrap_err().is_decode());

    for n in 0..6 {
        browser.request(move |session| async move { session.record(&n).unwrap() }).await;
    }
    let numbers = |recent: Vec<Activity>| -> Vec<u8> {
        recent.iter().map(|activity| activity.event().unwrap()).collect()
    };
    assert_eq!(numbers(events(3).await), [5, 4, 3]);
    assert_eq!(numbers(events(100).await), [5, 4, 3, 2, 1]);
    assert!(events(0).await.is_empty());
    browser
        .request(async |session: Session| {
            for n in 0..5 {
                session.record(&n).unwrap();
            }
            assert!(session.record(&5).unwrap_err().is_too_large());
            session.record(&"x".repeat(5_000)).unwrap_err()
        })
        .await;
    // A logout is something that the user did, and logging in as another does not change who did it.
    browser
        .request(async |session: Session| {
            session.record("logout").unwrap();
            session.destroy();
            session.login("bob").unwrap();
            session.record("login").unwrap();
        })
        .await;
    assert_eq!(events(1).await[0].event::<String>().unwrap(), "logout");
    let bob = layer.sessions().recent(&UserId::new("bob"), 9).await.unwrap();
    assert_eq!(bob.len(), 1);
    harness.advance(trail.ttl);
    assert!(events(10).await.is_empty());
}

async fn a_change_that_is_lost_may_be_told(harness: Harness) {
    let layer = layer(&harness.backend);
    for (layer, expected) in
        [(layer.clone(), StatusCode::OK), (layer.on_gone(OnGone::Reject), StatusCode::CONFLICT)]
    {
        let browser = Browser::new(&layer);
        browser.login("ann").await;
        let sessions = layer.sessions();
        let late = browser.request(async move |session: Session| {
            sessions.revoke_all(&ann(), None).await.unwrap();
            session.set("late", &1).unwrap();
        });
        let late = late.await;
        assert_eq!((late.status, late.set_cookie()), (expected, None));
        assert_eq!(browser.names().await, Vec::<String>::new());
    }
}

async fn a_user_has_any_name(harness: Harness) {
    let layer = layer(&harness.backend);
    for name in ["}{", "a b\r\n*", "ünï", "{}", ":", "\0"] {
        let browser = Browser::new(&layer);
        browser.login(name).await;
        browser.request(async |session: Session| session.record("x").unwrap()).await;
        let user = UserId::new(name);
        assert_eq!(layer.sessions().list(&user).await.unwrap().len(), 1, "{name:?}");
        assert_eq!(layer.sessions().recent(&user, 9).await.unwrap().len(), 1, "{name:?}");
        assert_eq!(layer.sessions().revoke_all(&user, None).await.unwrap(), 1, "{name:?}");
    }
}

#[tokio::test]
async fn a_list_longer_than_a_page_is_revoked_to_its_end() {
    let harness = Harness::redis().await;
    let creates = (0..1_100).map(|_| {
        let token = Token::random();
        let mut new = NewSession::new(token.hash(), HOUR);
        new.user = Some(ann());
        let backend = harness.backend.clone();
        async move {
            backend.enlist(&ann(), &token.selector(), HOUR).await.unwrap();
            backend.create(&token.selector(), new, Limits::default()).await.unwrap();
            token.selector()
        }
    });
    let made = join_all(creates).await;
    let sessions = Sessions::new(harness.backend.clone());
    assert_eq!(list(&sessions).await.len(), 1_000);
    assert_eq!(sessions.revoke_all(&ann(), Some(made[7])).await.unwrap(), 1_099);
    let left: Vec<_> = list(&sessions).await.into_iter().map(|device| device.handle).collect();
    assert_eq!(left, [made[7]]);
}

#[tokio::test]
async fn what_users_have_is_readable_by_others_and_expires() {
    let harness = Harness::redis().await;
    let layer = layer(&harness.backend);
    let browser = Browser::new(&layer);
    browser
        .request(async |session: Session| {
            session.login("ann").unwrap();
            session.set_device(&"phone").unwrap();
            session.record("login").unwrap();
        })
        .await;
    let (index, trail) = (format!("{PREFIX}:user:ann"), format!("{PREFIX}:activity:ann"));
    let members = harness.command(&["ZRANGE", &index, "0", "-1"]).texts();
    assert_eq!(members, [browser.token().selector().to_string()]);
    let key = format!("{PREFIX}:session:{}", members[0]);
    assert_eq!(harness.command(&["HGET", &key, ".d"]).text(), "\"phone\"");
    let events = harness.command(&["LRANGE", &trail, "0", "-1"]).texts();
    assert!(events[0].starts_with("{\"at\":") && events[0].ends_with(",\"event\":\"login\"}"));
    let ttl = |key: &str| Duration::from_millis(harness.command(&["PTTL", key]).int() as u64);
    assert!(ttl(&index) > HOUR && ttl(&index) <= HOUR * 2, "it outlives its sessions");
    assert!(ttl(&trail) > MONTH - HOUR && ttl(&trail) <= MONTH);
    // What something else has put into a trail or a list is shown as it is, or not at all.
    harness.command(&["LPUSH", &trail, "?"]);
    harness.command(&["ZADD", &index, "1", "not-a-selector"]);
    let recent = layer.sessions().recent(&ann(), 1).await.unwrap();
    assert!(recent[0].at == UNIX_EPOCH && recent[0].event::<String>().is_err());
    assert_eq!(list(&layer.sessions()).await.len(), 1);
}

#[tokio::test]
async fn the_round_trips_of_users() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.port());
    let backend = Backend::builder().deadline(HOUR).redis(proxy.url()).await.unwrap();
    let layer = layer(&backend);
    let browser = Browser::new(&layer);
    let login = || {
        browser.request(async |session: Session| {
            session.login("ann").unwrap();
            session.record("login").unwrap();
        })
    };
    // The server learns the scripts.
    for _ in 0..2 {
        login().await;
        browser.set("a").await;
        browser.logout().await;
        layer.sessions().revoke(&ann(), Token::random().selector()).await.unwrap();
    }
    browser.set("a").await;
    assert_eq!(proxy.turns_of(login()).await.1, 2, "the list and the trail ride along");
    let record = browser.request(async |session: Session| session.record("x").unwrap());
    assert_eq!(proxy.turns_of(record).await.1, 2);
    assert_eq!(proxy.turns_of(list(&layer.sessions())).await.1, 2);
    assert_eq!(proxy.turns_of(layer.sessions().recent(&ann(), 9)).await.1, 1);
    let (sessions, nobodys) = (layer.sessions(), Token::random().selector());
    assert_eq!(proxy.turns_of(sessions.revoke(&ann(), nobodys)).await.1, 1);
    assert_eq!(proxy.turns_of(browser.logout()).await.1, 2);
    settled(&backend).await;
}

#[tokio::test]
async fn a_session_that_could_not_be_listed_is_given_to_nobody() {
    let harness = Harness::redis().await;
    let layer = layer(&harness.backend);
    let browser = Browser::new(&layer);
    browser.set("a").await;
    // Something else has taken the key.
    harness.command(&["SET", &format!("{PREFIX}:user:ann"), "?"]);
    let login = browser.login("ann").await;
    assert_eq!((login.status, login.set_cookie()), (StatusCode::SERVICE_UNAVAILABLE, None));
    assert_eq!(browser.user().await, None, "there would be no way to revoke it");
    let error: Error = layer.sessions().list(&ann()).await.unwrap_err();
    assert!(error.is_unavailable());
}

#[tokio::test]
async fn a_session_that_could_not_be_ended_stays_in_the_list() {
    let harness = Arc::new(Harness::redis().await);
    let layer = layer(&harness.backend);
    let (sessions, browser) = (layer.sessions(), Browser::new(&layer));
    browser.login("ann").await;
    let handle = browser.token().selector();
    let (key, aside) = (format!("{PREFIX}:session:{handle}"), format!("{PREFIX}:aside"));
    // The server that has the session fails; the one that has the list does not.
    for _ in 0..3 {
        harness.command(&["RENAME", &key, &aside]);
        harness.command(&["SET", &key, "?"]);
        assert!(sessions.revoke(&ann(), handle).await.is_err());
        assert!(sessions.revoke_all(&ann(), None).await.is_err());
        settled(&harness.backend).await;
        harness.command(&["RENAME", &aside, &key]);
        assert_eq!(list(&sessions).await.len(), 1, "it lives on where nobody finds it");
    }
    let busy = browser.copy();
    let logout = busy.request({
        let harness = harness.clone();
        async move |session: Session| {
            harness.command(&["RENAME", &key, &aside]);
            harness.command(&["SET", &key, "?"]);
            session.destroy();
            let failed = session.commit().await.is_err();
            harness.command(&["RENAME", &aside, &key]);
            failed
        }
    });
    assert_eq!(logout.await.value, Some(true));
    settled(&harness.backend).await;
    assert_eq!(sessions.revoke_all(&ann(), None).await.unwrap(), 1);
    assert_eq!(browser.user().await, None);
}

async fn a_login_under_way_stays_in_the_list_that_is_revoked(harness: Harness) {
    let (backend, sessions) = (&harness.backend, Sessions::new(harness.backend.clone()));
    let token = Token::random();
    backend.enlist(&ann(), &token.selector(), HOUR).await.unwrap();
    assert_eq!(sessions.revoke_all(&ann(), None).await.unwrap(), 0);
    let mut new = NewSession::new(token.hash(), HOUR);
    new.user = Some(ann());
    backend.create(&token.selector(), new, Limits::default()).await.unwrap();
    assert_eq!(list(&sessions).await.len(), 1, "it is bound, and nobody could revoke it");
}

async fn what_ended_long_ago_leaves_a_list_that_is_kept_alive(harness: Harness) {
    let backend = &harness.backend;
    backend.enlist(&ann(), &Token::random().selector(), HOUR).await.unwrap();
    let kept = Token::random().selector();
    let mut listed = 0;
    for _ in 0..9 {
        harness.advance(HOUR);
        listed = backend.enlist(&ann(), &kept, HOUR).await.unwrap();
    }
    assert_eq!(listed, 1, "it would stay for as long as somebody logs in");
}

async fn a_read_sends_no_cookie_again_that_a_login_has_replaced_meanwhile(harness: Harness) {
    let keys = |of: &[u8]| of.iter().map(|n| CookieKey::new([*n; 32])).collect::<Vec<_>>();
    let slides = layer(&harness.backend).max_age(HOUR);
    let before = layer(&harness.backend).signing_keys(keys(&[1]));
    let after = layer(&harness.backend).signing_keys(keys(&[2, 1]));
    for (before, after) in [(slides.clone(), slides), (before, after)] {
        let visitor = Browser::new(&before);
        visitor.set("a").await;
        harness.advance(HOUR / 2);
        let browser = visitor.through(&after);
        let login = browser.copy();
        let read = browser.request(async move |session: Session| {
            assert_eq!(session.get("a").unwrap(), Some(1));
            login.login("ann").await
        });
        let read = read.await;
        assert!(read.value.as_ref().unwrap().set_cookie().is_some());
        assert_eq!(read.set_cookie(), None, "it would log the user out");

        let browser = Browser::new(&before);
        browser.set("a").await;
        harness.advance(HOUR / 2);
        let browser = browser.through(&after);
        let login = browser.copy();
        let read = browser.lazy(async move |lazy: LazySession| {
            assert_eq!(lazy.get_field("a").await.unwrap(), Some(1));
            login.login("ann").await.set_cookie().is_some()
        });
        let read = read.await;
        assert_eq!((read.value, read.set_cookie()), (Some(true), None), "a field alone");
    }
}

#[tokio::test]
async fn users_sessions_lie_anywhere_in_a_cluster() {
    let cluster = RedisCluster::start();
    let builder = Backend::builder().prefix(PREFIX).deadline(HOUR);
    let backend = builder.redis(cluster.url()).await.unwrap();
    let layer = layer(&backend).max_sessions(8, OnMaxSessions::EvictOldest);
    let browsers: Vec<_> = (0..12).map(|_| Browser::new(&layer)).collect();
    for browser in &browsers {
        let done = browser.request(async |session: Session| {
            session.login("ann").unwrap();
            session.record("login").unwrap();
            session.update("list", |list: &mut Vec<u8>| list.push(1)).await.unwrap();
            session.set("a", &1).unwrap();
        });
        assert_eq!(done.await.status, StatusCode::OK);
    }
    let key = |browser: &Browser| format!("{PREFIX}:session:{}", browser.token().selector());
    let servers: BTreeSet<_> =
        browsers.iter().map(|browser| cluster.owner_of(&key(browser)).port()).collect();
    assert!(servers.len() > 1, "the test needs sessions on several servers");
    assert_eq!(list(&layer.sessions()).await.len(), 8);
    let users = join_all(browsers.iter().map(Browser::user)).await;
    assert_eq!(users.iter().filter(|user| user.is_some()).count(), 8);
    assert_eq!(layer.sessions().recent(&ann(), 99).await.unwrap().len(), 12);
    let last = browsers[11].token().selector();
    assert_eq!(layer.sessions().revoke_all(&ann(), Some(last)).await.unwrap(), 7);
    assert!(browsers[11].user().await.is_some() && browsers[10].user().await.is_none());
    browsers[11].logout().await;
    assert!(list(&layer.sessions()).await.is_empty());
    assert_eq!(cluster.keys("*:session:*"), Vec::<String>::new());
}

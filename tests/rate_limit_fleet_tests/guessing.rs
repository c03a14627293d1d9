//! Guesses at a password, spread over two processes.

use super::app::{self, PATIENT};
use crate::{
    harness::PREFIX,
    support::{
        http::client::{HttpClient, Reply},
        process::ChildApp,
        server::RedisServer,
    },
};
use axum::http::Request;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

struct Site {
    redis: RedisServer,
    apps: Vec<ChildApp>,
    client: HttpClient,
}

impl Site {
    fn open() -> Self {
        let redis = RedisServer::start();
        // As it is by default.
        let envs = [vec![("DENY_CACHE", "on")], vec![("DENY_CACHE", "on")]];
        let apps = app::spawn_all(&redis, &envs);
        Self { redis, apps, client: HttpClient::http2() }
    }

    /// A login at either process by turns.
    fn login(
        &self,
        n: usize,
        user: &str,
        password: &'static str,
    ) -> impl Future<Output = Reply> + Send + use<> {
        let request = Request::post(self.apps[n % 2].url("/login")).header("x-user", user);
        let (client, request) = (self.client.clone(), request.body(password.into()).unwrap());
        async move { client.send(request).await }
    }

    async fn at_once(
        &self,
        user: &str,
        password: &'static str,
        times: usize,
    ) -> BTreeMap<u16, usize> {
        let logins: JoinSet<_> = (0..times).map(|n| self.login(n, user, password)).collect();
        let mut statuses = BTreeMap::new();
        for reply in logins.join_all().await {
            *statuses.entry(reply.status.as_u16()).or_default() += 1;
        }
        statuses
    }

    async fn statuses(&self, user: &str, passwords: &[&'static str]) -> Vec<u16> {
        let mut statuses = Vec::new();
        for (n, password) in passwords.iter().enumerate() {
            statuses.push(self.login(n, user, password).await.status.as_u16());
        }
        statuses
    }

    fn reached(&self) -> String {
        self.redis.command(&["GET", "guesses"]).text()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_guesses_at_two_processes_reach_the_handler_exactly_five_times() {
    let site = Site::open();
    let statuses = site.at_once("ann", "wrong", 1_000).await;
    assert_eq!(statuses, BTreeMap::from([(401, 5), (429, 995)]));
    assert_eq!(site.reached(), "5");
    assert_eq!(site.statuses("ann", &["right"; 2]).await, [429; 2], "the guesses were counted");
    assert_eq!(site.statuses("bob", &["right"; 2]).await, [200; 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_passwords_lock_nobody_out_at_either_process() {
    let site = Site::open();
    assert_eq!(site.statuses("ann", &["right"; 20]).await, [200; 20]);
    assert_eq!(site.statuses("ann", &["wrong"; 4]).await, [401; 4]);
    assert_eq!(site.statuses("ann", &["right"; 20]).await, [200; 20], "the fifth is free yet");
    assert_eq!(site.statuses("ann", &["wrong", "right", "right"]).await, [401, 429, 429]);

    // Of many at once some may be denied, while those that are being looked at count.
    let statuses = site.at_once("bob", "right", 100).await;
    assert!(statuses[&200] >= 5 && statuses.keys().all(|code| [200, 429].contains(code)));
    let key = site.redis.command(&["KEYS", &format!("{PREFIX}:limit:*bob*")]).texts();
    assert!(key.is_empty(), "all of it was given back: {key:?}");
    // What another process gave back is known when the denial is not believed any more.
    let again = async {
        while site.statuses("bob", &["right"; 2]).await != [200; 2] {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENT, again).await.expect("nobody is locked out by right passwords");
}

//! Lookups raced by purges, fills and changes of `Vary`, on two processes.

use super::app::{PATIENCE, Site};
use crate::harness::Harness;
use axum::body::Body;
use http::{Request, Response};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};
use towerkeep::{
    Backend,
    cache::{Policy, Purge},
};

on_every_backend! { nobody_who_asks_after_a_purge_gets_what_was_read_before_it }

const PAGES: usize = 3;
const CLIENTS: usize = 4;
const PURGES: usize = 200;

/// What the pages are made of, and what of it each is known to show at least.
#[derive(Default)]
struct Data {
    version: AtomicU64,
    purged: [AtomicU64; PAGES],
    hits: AtomicUsize,
    replies: AtomicUsize,
    done: AtomicBool,
}

fn site(backend: &Backend, data: &Arc<Data>) -> Site {
    let data = data.clone();
    let settings = |layer: towerkeep::cache::CacheLayer| layer.policy(Policy::proxy());
    Site::new(backend, settings, move |run, request: &Request<Body>, cache| {
        cache.tag("data");
        let version = data.version.load(SeqCst);
        let response = Response::builder().header("cache-control", "max-age=600");
        // Sometimes in one page what it varies by changes, which moves its variants.
        let vary = if run % 3 == 0 { "x-lang" } else { "accept" };
        let response = match request.uri().path() {
            "/x/0" => response,
            _ => response.header("vary", vary),
        };
        response.body(Body::from(version.to_string())).unwrap()
    })
}

/// Changes the data, purges, and only then asks for what is new.
async fn purge(sites: &[Site; 2], data: &Data) {
    for turn in 1..=PURGES {
        // After so many more lookups, from none to many.
        let due = data.replies.load(SeqCst) + turn % 20;
        while data.replies.load(SeqCst) < due {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        let version = data.version.fetch_add(1, SeqCst) + 1;
        let cache = &sites[turn % 2].cache;
        let kind = if turn % 3 == 0 { Purge::Soft } else { Purge::Hard };
        let page = turn % PAGES;
        let uri = format!("/x/{page}").parse().unwrap();
        let purged = match turn % 7 {
            0 => cache.purge_all(kind).await,
            1 | 2 => cache.purge_prefix("/x", kind).await,
            3 => cache.purge_key(&uri, kind).await,
            _ => cache.purge_tag("data", kind).await,
        };
        purged.unwrap();
        let shown = if turn % 7 == 3 { page..page + 1 } else { 0..PAGES };
        data.purged[shown].iter().for_each(|least| least.store(version, SeqCst));
    }
    data.done.store(true, SeqCst);
}

async fn ask(site: Site, client: usize, data: Arc<Data>) {
    let mut number = client;
    while !data.done.load(SeqCst) {
        number += 1;
        let page = number % PAGES;
        let least = data.purged[page].load(SeqCst);
        let request = Request::get(format!("/x/{page}"))
            .header("x-lang", (number % 2).to_string())
            .header("accept", "a")
            .body(Body::empty())
            .unwrap();
        let reply = site.send(request).await;
        let shown: u64 = reply.text.parse().unwrap();
        assert!(shown >= least, "page {page} shows {shown} after the purge of {least}: {reply:?}");
        data.hits.fetch_add(usize::from(reply.is_hit()), SeqCst);
        data.replies.fetch_add(1, SeqCst);
        tokio::task::yield_now().await;
    }
}

async fn nobody_who_asks_after_a_purge_gets_what_was_read_before_it(harness: Harness) {
    let backends = harness.two_live().await;
    let data = Arc::new(Data::default());
    let sites = [site(&backends[0], &data), site(&backends[1], &data)];
    let mut tasks = JoinSet::new();
    for client in 0..2 * CLIENTS {
        tasks.spawn(ask(sites[client % 2].clone(), client, data.clone()));
    }
    let clients = async {
        while let Some(client) = tasks.join_next().await {
            client.unwrap();
        }
    };
    // So that purges come while responses are made.
    let pace = async {
        sites.iter().for_each(Site::close);
        loop {
            sites.iter().for_each(|site| site.let_go(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let all = async { tokio::join!(clients, purge(&sites, &data)) };
    let raced = async {
        tokio::select! {
            ((), ()) = all => {}
            () = pace => {}
        }
    };
    timeout(4 * PATIENCE, raced).await.expect("nobody waits for ever");
    let (hits, replies) = (data.hits.load(SeqCst), data.replies.load(SeqCst));
    assert!(hits > PURGES && replies > 5 * PURGES, "{hits} of {replies} are hits");
}

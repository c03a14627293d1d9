//! What a client sees of a purge.

use super::{
    app::{Reply, Site, fresh},
    verbs::is_gone,
};
use crate::harness::Harness;
use axum::body::Body;
use http::{HeaderName, Method, Request, Response, StatusCode};
use std::time::Duration;
use tower::{Layer, ServiceExt, service_fn};
use towerkeep::cache::{CacheControl, CacheKey, CacheLayer, Policy, Purge, Query};

on_every_backend! {
    each_purge_takes_what_it_names_and_nothing_else,
    a_key_is_purged_with_all_values_of_the_declared_headers,
    a_key_is_purged_as_its_layer_reads_queries,
    a_soft_purge_leaves_an_answer_until_there_is_a_new_one,
    what_was_begun_before_a_purge_answers_nobody_who_asks_after_it,
    what_is_validated_after_a_soft_purge_is_fresh_unless_it_is_purged_meanwhile,
    the_handler_says_how_long_it_is_fresh_unless_it_fails,
    a_response_that_no_purge_would_find_is_not_stored,
    a_cache_further_out_is_purged_by_the_tags_of_what_one_further_in_had_stored,
    names_and_prefixes_that_are_none_are_refused,
    the_groups_of_another_host_are_left_alone,
    what_a_post_gives_is_purged_by_its_tags_and_by_a_purge_meanwhile,
}

const GROUPS: HeaderName = HeaderName::from_static("cache-groups");
const INVALIDATES: HeaderName = HeaderName::from_static("cache-group-invalidation");

const HOST: &str = "http://shop.example";

const PAGES: [&str; 6] = ["/posts/7", "/posts/7?full=1", "/posts/7/x", "/posts/70", "/posts", "/"];

async fn each_purge_takes_what_it_names_and_nothing_else(harness: Harness) {
    let site = Site::new(
        &harness,
        |layer| layer,
        |run, request, cache| {
            cache.tags(["page", request.uri().path()]);
            fresh(run)
        },
    );
    let ask_all = async || {
        let mut replies = Vec::new();
        for page in PAGES {
            replies.push(site.get(&format!("{HOST}{page}")).await);
        }
        replies
    };
    let uri = |page| format!("{HOST}{page}").parse().unwrap();
    for purge in [Purge::Hard, Purge::Soft] {
        for (what, expected) in [
            ("tag", vec!["/posts/7", "/posts/7?full=1"]),
            ("tags", vec!["/posts/70", "/"]),
            ("no tag", vec![]),
            ("key", vec!["/posts/7?full=1"]),
            ("prefix", vec!["/posts/7", "/posts/7?full=1", "/posts/7/x"]),
            ("prefix of all", PAGES[..5].to_vec()),
            ("all", PAGES.to_vec()),
        ] {
            ask_all().await;
            let cache = &site.cache;
            match what {
                "tag" => cache.purge_tag("/posts/7", purge).await,
                "tags" => cache.purge_tags(["/posts/70", "/", "nobody's"], purge).await,
                "no tag" => cache.purge_tags([""; 0], purge).await,
                "key" => cache.purge_key(&uri("/posts/7?full=1"), purge).await,
                "prefix" => cache.purge_prefix("/posts/7/", purge).await,
                "prefix of all" => cache.purge_prefix("/posts", purge).await,
                _ => cache.purge_all(purge).await,
            }
            .unwrap();
            let replies = PAGES.into_iter().zip(ask_all().await);
            let purged = replies.filter(|(_, reply)| !reply.is_hit()).map(|(page, _)| page);
            assert_eq!(purged.collect::<Vec<_>>(), expected, "{what}, {purge:?}");
        }
    }
}

async fn a_key_is_purged_with_all_values_of_the_declared_headers(harness: Harness) {
    let key = CacheKey::default().header("x-tenant");
    let site = Site::new(&harness, |layer| layer.key(key.clone()), |run, _, _| fresh(run));
    let ask = async |tenant| {
        let request = Request::get("https://Shop.example/p?x").header("x-tenant", tenant);
        let reply = site.send(request.body(Body::empty()).unwrap()).await;
        site.settle().await;
        reply
    };
    ask("1").await;
    ask("2").await;
    assert!(ask("1").await.is_hit() && ask("2").await.is_hit());
    site.cache.purge_key(&"http://SHOP.example/p?x".parse().unwrap(), Purge::Hard).await.unwrap();
    assert!(!ask("1").await.is_hit() && !ask("2").await.is_hit());
}

/// What the key leaves out of the query, the purge leaves out too.
async fn a_key_is_purged_as_its_layer_reads_queries(harness: Harness) {
    let key = CacheKey::default().query(Query::sorted().drop(["utm_*"]));
    let site = Site::new(&harness, |layer| layer.key(key.clone()), |run, _, _| fresh(run));
    let page = |query: &str| format!("{HOST}/p?{query}");
    for purged in ["a=1&b=2", "b=2&a=1&utm_x=9"] {
        site.get(&page("b=2&utm_x=1&a=1")).await;
        assert!(site.get(&page("a=1&b=2")).await.is_hit());
        site.cache.purge_key(&page(purged).parse().unwrap(), Purge::Hard).await.unwrap();
        assert!(!site.get(&page("a=1&b=2")).await.is_hit(), "{purged}");
    }
}

async fn a_soft_purge_leaves_an_answer_until_there_is_a_new_one(harness: Harness) {
    let windows = |layer: CacheLayer| {
        let window = Duration::from_secs(30);
        layer.stale_while_revalidate(window).stale_if_error(window)
    };
    let site = Site::new(&harness, windows, |run, _, cache| {
        cache.tag("a");
        if run == 3 { error() } else { fresh(run) }
    });
    let seen = async || site.get("/a").await.text;
    assert_eq!(seen().await, "run 1");
    site.cache.purge_tag("a", Purge::Soft).await.unwrap();
    assert_eq!(seen().await, "run 1", "stale while a new one is made");
    assert_eq!(seen().await, "run 2", "the new one");
    // Beyond the first window and within none: a new one has to be made.
    site.cache.purge_tag("a", Purge::Soft).await.unwrap();
    harness.advance(Duration::from_secs(29));
    assert_eq!(seen().await, "run 2", "the third run fails behind its back");
    assert_eq!((seen().await.as_str(), site.runs()), ("run 2", 4));
    assert_eq!(seen().await, "run 4");
    site.cache.purge_tag("a", Purge::Soft).await.unwrap();
    harness.advance(Duration::from_secs(30));
    assert_eq!(seen().await, "run 5", "the windows began with the purge");
    site.cache.purge_tag("a", Purge::Hard).await.unwrap();
    assert_eq!(seen().await, "run 6", "a hard one leaves nothing");
}

fn error() -> Response<Body> {
    let mut response = Response::new(Body::from("down"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

async fn what_was_begun_before_a_purge_answers_nobody_who_asks_after_it(harness: Harness) {
    let [backend, other] = harness.two_live().await;
    let answer = |run, _: &Request<Body>, cache: CacheControl| {
        cache.tag("a");
        fresh(run)
    };
    let site = Site::new(&backend, |layer| layer, answer);
    let elsewhere = Site::new(
        &other,
        |layer| layer,
        |run, _, cache| {
            cache.tag("a");
            fresh(100 + run)
        },
    );
    for (round, purge) in [Purge::Hard, Purge::Soft].into_iter().enumerate() {
        let page = format!("/{round}");
        let runs = site.runs();
        site.close();
        let old = site.spawn(&page);
        site.has_run(runs + 1).await;
        let follower = site.spawn(&page);
        elsewhere.cache.purge_tag("a", purge).await.unwrap();
        // The process that makes it hears of the purge before it is stored.
        assert!(is_gone(&backend, "nothing").await);
        let late = site.spawn(&page);
        let late_elsewhere = elsewhere.spawn(&page);
        site.let_go(usize::from(u16::MAX));
        assert_eq!(old.await.unwrap().text, format!("run {}", runs + 1));
        follower.await.unwrap();
        for late in [late.await.unwrap(), late_elsewhere.await.unwrap()] {
            assert_ne!(late.text, format!("run {}", runs + 1), "it asked after the purge");
        }
        site.settle().await;
        elsewhere.settle().await;
        let [here, there] = [site.get(&page).await, elsewhere.get(&page).await];
        assert!(here.is_hit() && here.text == there.text, "{here:?} {there:?}");
        assert_ne!(here.text, format!("run {}", runs + 1));
    }
}

async fn what_is_validated_after_a_soft_purge_is_fresh_unless_it_is_purged_meanwhile(
    harness: Harness,
) {
    let site = Site::new(
        &harness,
        |layer| layer.policy(Policy::proxy()),
        |run, request, cache| {
            if request.headers().contains_key("if-none-match") {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                return response;
            }
            cache.tag("a");
            let mut response = fresh(run);
            response.headers_mut().insert("etag", "\"1\"".parse().unwrap());
            response
        },
    );
    let verdict = async || {
        let reply = site.get("/a").await;
        assert_eq!(reply.text, "run 1");
        reply.verdict
    };
    verdict().await;
    site.cache.purge_tag("a", Purge::Soft).await.unwrap();
    assert_eq!(verdict().await, "fwd=stale; fwd-status=304; stored");
    assert_eq!(verdict().await, "hit");
    site.cache.purge_tag("a", Purge::Soft).await.unwrap();
    let runs = site.runs();
    site.close();
    let validated = site.spawn("/a");
    site.has_run(runs + 1).await;
    // By the tag of the first response, which the 304 did not name again.
    site.cache.purge_tag("a", Purge::Soft).await.unwrap();
    site.let_go(usize::from(u16::MAX));
    assert_eq!(validated.await.unwrap().verdict, "fwd=stale; fwd-status=304; stored");
    site.settle().await;
    assert_eq!(verdict().await, "fwd=stale; fwd-status=304; stored", "purged meanwhile");
    assert_eq!(verdict().await, "hit");
    site.cache.purge_tag("a", Purge::Hard).await.unwrap();
    assert_eq!(site.get("/a").await.verdict, "fwd=uri-miss; stored");
}

async fn the_handler_says_how_long_it_is_fresh_unless_it_fails(harness: Harness) {
    for policy in [Policy::application(), Policy::fixed(Duration::from_secs(1)), Policy::proxy()] {
        let site = Site::new(
            &harness,
            |layer| layer.policy(policy.clone()),
            |run, request, cache| {
                cache.ttl(Duration::from_secs(5));
                match request.uri().path() {
                    "/error" => error(),
                    "/private" => {
                        let private = Response::builder().header("cache-control", "private");
                        private.body(Body::empty()).unwrap()
                    }
                    _ => {
                        let headers = [("cache-control", "max-age=0"), ("age", "100")];
                        let response = headers
                            .into_iter()
                            .fold(Response::builder(), |response, (name, value)| {
                                response.header(name, value)
                            });
                        response.body(Body::from(format!("run {run}"))).unwrap()
                    }
                }
            },
        );
        site.cache.purge_all(Purge::Hard).await.unwrap();
        site.get("/a").await;
        harness.advance(Duration::from_secs(4));
        assert!(site.get("/a").await.is_hit(), "{policy:?}");
        harness.advance(Duration::from_secs(1));
        assert!(!site.get("/a").await.is_hit(), "{policy:?}");
        for page in ["/error", "/private"] {
            site.get(page).await;
            assert!(!site.get(page).await.is_hit(), "{policy:?} {page}");
        }
    }
}

async fn a_response_that_no_purge_would_find_is_not_stored(harness: Harness) {
    let tagged = |tags: Vec<String>| {
        Site::new(
            &harness,
            |layer| layer,
            move |run, _, cache| {
                cache.tags(&tags);
                fresh(run)
            },
        )
    };
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    for (page, tags) in
        [("/many", many(65)), ("/empty", vec![String::new()]), ("/long", vec!["x".repeat(257)])]
    {
        let reply = tagged(tags).get(page).await;
        assert_eq!(reply.verdict, "fwd=uri-miss; detail=tags", "{page}");
        assert_eq!(reply.text, "run 1");
    }
    let site = tagged(many(64));
    assert_eq!(site.get("/enough").await.verdict, "fwd=uri-miss; stored");
    assert!(site.get("/enough").await.is_hit());
    site.cache.purge_tag("63", Purge::Hard).await.unwrap();
    assert!(!site.get("/enough").await.is_hit());
}

/// Two layers with different keys: each may store what the other has answered with.
async fn a_cache_further_out_is_purged_by_the_tags_of_what_one_further_in_had_stored(
    harness: Harness,
) {
    let inner = CacheLayer::new(harness.backend.clone()).key(CacheKey::default().header("x-b"));
    let handler = service_fn(async |request: Request<Body>| {
        CacheControl::of(request.extensions()).tag("a");
        Ok::<_, std::convert::Infallible>(fresh(1))
    });
    let outer = CacheLayer::new(harness.backend.clone()).key(CacheKey::default().header("x-a"));
    let handle = outer.handle();
    let app = outer.layer(inner.layer(handler));
    let ask = async |a: &str| {
        let request = Request::get("/a").header("x-a", a).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let told = response.headers().get_all("cache-status").iter().next_back().unwrap().clone();
        drop(response);
        harness.tasks().drain(super::app::PATIENCE).await;
        told.to_str().unwrap().contains("; hit")
    };
    assert!(!ask("1").await);
    // The second one is made of what the inner cache has stored.
    assert!(!ask("2").await);
    assert!(ask("1").await && ask("2").await);
    handle.purge_tag("a", Purge::Hard).await.unwrap();
    assert!(!ask("2").await && !ask("1").await);
}

async fn names_and_prefixes_that_are_none_are_refused(harness: Harness) {
    let site = Site::new(
        &harness,
        |layer| layer,
        |run, _, cache| {
            cache.tag("a");
            fresh(run)
        },
    );
    site.get("/a").await;
    let (hard, cache) = (Purge::Hard, &site.cache);
    for refused in [
        cache.purge_tag("", hard).await,
        cache.purge_tags(["a".to_owned(), "x".repeat(257)], hard).await,
        cache.purge_prefix("a", hard).await,
        cache.purge_prefix("/a?x", hard).await,
        cache.purge_prefix(&"/a".repeat(9), hard).await,
    ] {
        assert!(refused.unwrap_err().is_refused());
    }
    let reply: Reply = site.get("/a").await;
    assert!(reply.is_hit() && reply.status == StatusCode::OK, "nothing was purged");
}

/// RFC 9875, section 2.1: the same group of another origin is another group.
async fn the_groups_of_another_host_are_left_alone(harness: Harness) {
    let site = Site::new(
        &harness,
        |layer| layer.policy(Policy::proxy()),
        |run, request, _| {
            let mut response = fresh(run);
            let name = if request.method() == Method::GET { GROUPS } else { INVALIDATES };
            response.headers_mut().insert(name, "\"a\"".parse().unwrap());
            response
        },
    );
    let change = async |uri: &str| {
        let request = Request::post(uri).body(Body::empty()).unwrap();
        site.send(request).await;
    };
    for (page, changed, gone) in [
        ("http://a.example/1", "http://b.example/x", false),
        ("http://a.example/2", "http://a.example:8080/x", false),
        ("http://a.example/3", "https://a.example/x", false),
        ("http://a.example/4", "http://A.example/x", true),
    ] {
        site.get(page).await;
        change(changed).await;
        assert_eq!(site.get(page).await.is_hit(), !gone, "{page} after {changed}");
    }
}

async fn what_a_post_gives_is_purged_by_its_tags_and_by_a_purge_meanwhile(harness: Harness) {
    let site = Site::new(
        &harness,
        |layer| layer.policy(Policy::proxy()),
        |run, _, cache| {
            cache.tag("a");
            let mut response = fresh(run);
            response.headers_mut().insert("content-location", "/a".parse().unwrap());
            response
        },
    );
    let post = || Request::post("/a").body(Body::empty()).unwrap();
    assert_eq!(site.send(post()).await.verdict, "fwd=method; stored");
    site.settle().await;
    assert_eq!((site.get("/a").await.verdict.as_str(), site.runs()), ("hit", 1));
    site.cache.purge_tag("a", Purge::Hard).await.unwrap();
    assert_eq!(site.get("/a").await.text, "run 2");
    site.close();
    let (asked, request) = (site.clone(), post());
    let posted = tokio::spawn(async move { asked.send(request).await });
    site.has_run(3).await;
    site.cache.purge_tag("a", Purge::Hard).await.unwrap();
    site.let_go(usize::from(u16::MAX));
    assert_eq!(posted.await.unwrap().text, "run 3");
    site.settle().await;
    assert_eq!(site.get("/a").await.text, "run 4", "run 3 was begun before the purge");
}

//! A sequence that loses its end, as after a failover, or all of it.

use super::{
    app::{Site, fresh},
    verbs::{is_fresh, is_gone, make, tag},
};
use crate::harness::Harness;
use towerkeep::cache::{CacheStore, Purge};

on_every_server! {
    a_sequence_that_is_deleted_purges_everything_and_goes_on,
    a_sequence_that_has_lost_its_end_purges_everything_and_goes_on,
    a_process_that_has_not_heard_of_the_lost_purge_notices_by_a_response_that_has,
    a_purge_does_not_hide_that_the_sequence_has_lost_another,
    what_is_flushed_is_gone_and_what_follows_is_stored,
    who_cannot_hear_of_purges_is_not_answered_from_the_store,
}

const TAGS: &str = "test:cache:tags";

/// Leaves the server as if it had never heard of purges after this one.
fn forget_after(harness: &Harness, last: u64) {
    harness.command(&["ZREMRANGEBYSCORE", TAGS, &format!("({last}"), "+inf"]);
    harness.command(&["ZADD", TAGS, &(last + 1).to_string(), "."]);
}

async fn goes_on(harness: &Harness) {
    let elsewhere = harness.another().await;
    make(&**harness, "new", "1", &["a"]).await;
    assert!(is_fresh(&**harness, "new").await && is_fresh(&elsewhere, "new").await);
    elsewhere.purge_tags(&[tag("a")], Purge::Hard).await.unwrap();
    assert!(is_gone(&**harness, "new").await && is_gone(&elsewhere, "new").await);
}

async fn a_sequence_that_is_deleted_purges_everything_and_goes_on(harness: Harness) {
    harness.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    make(&*harness, "old", "1", &["a"]).await;
    harness.command(&["DEL", TAGS]);
    assert!(is_gone(&*harness, "old").await, "it may have been purged");
    goes_on(&harness).await;
}

/// The purge that is lost was made by a server whose clock was ahead of its heir's.
async fn a_sequence_that_has_lost_its_end_purges_everything_and_goes_on(harness: Harness) {
    harness.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    make(&*harness, "old", "1", &["a"]).await;
    let kept = harness.last_purge();
    harness.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    assert!(is_fresh(&*harness, "old").await);
    assert!(harness.last_purge() > kept);
    forget_after(&harness, kept);
    assert!(is_gone(&*harness, "old").await, "it may have been purged");
    goes_on(&harness).await;
}

async fn a_process_that_has_not_heard_of_the_lost_purge_notices_by_a_response_that_has(
    harness: Harness,
) {
    let elsewhere = harness.another().await;
    harness.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    assert!(is_gone(&elsewhere, "e").await && is_gone(&*harness, "e").await);
    let kept = elsewhere.last_purge();
    elsewhere.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    make(&elsewhere, "e", "1", &["a"]).await;
    forget_after(&harness, kept);
    assert!(is_gone(&*harness, "e").await, "a purge with a lower number would not be about it");
    assert!(harness.last_purge() > elsewhere.last_purge());
    goes_on(&harness).await;
}

async fn a_purge_does_not_hide_that_the_sequence_has_lost_another(harness: Harness) {
    harness.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    for lose in [0, 1] {
        make(&*harness, "old", &format!("{lose}"), &["a"]).await;
        let kept = harness.last_purge();
        harness.purge_tags(&[tag("a")], Purge::Hard).await.unwrap();
        assert!(is_gone(&*harness, "old").await);
        match lose {
            0 => drop(harness.command(&["DEL", TAGS])),
            _ => forget_after(&harness, kept),
        }
        // Nobody has looked meanwhile.
        harness.purge_tags(&[tag("b")], Purge::Hard).await.unwrap();
        let elsewhere = harness.another().await;
        assert!(is_gone(&elsewhere, "old").await, "it was purged, and is back");
    }
    goes_on(&harness).await;
}

async fn what_is_flushed_is_gone_and_what_follows_is_stored(harness: Harness) {
    harness.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    make(&*harness, "old", "1", &["a"]).await;
    for key in harness.keys("*") {
        harness.command(&["DEL", &key]);
    }
    assert!(is_gone(&*harness, "old").await);
    goes_on(&harness).await;
}

/// As in a cluster that has lost the server with the tags: the response is there, and may be purged.
async fn who_cannot_hear_of_purges_is_not_answered_from_the_store(harness: Harness) {
    let site = Site::new(&harness, |layer| layer, |run, _, _| fresh(run));
    site.get("/a").await;
    assert!(site.get("/a").await.is_hit());
    harness.command(&["SET", TAGS, "no sorted set"]);
    let reply = site.get("/a").await;
    assert_eq!(reply.verdict, "fwd=bypass; detail=store-unavailable");
    assert_eq!(reply.text, "run 2");
    assert!(site.cache.purge_tag("a", Purge::Hard).await.unwrap_err().is_refused());
    harness.command(&["DEL", TAGS]);
    assert_eq!(site.get("/a").await.text, "run 1");
}

//! What a purge means for the responses in a store.

use super::verbs::{begin, is_fresh, is_gone, look, make, tag};
use crate::harness::Harness;
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::{Config, TestRunner},
};
use std::{collections::HashMap, time::Duration};
use towerkeep::cache::{CacheStore, Purge, Tag};

on_every_backend! {
    a_hard_purge_takes_what_has_the_tag_and_nothing_else,
    a_soft_purge_makes_stale_from_then_on,
    what_was_begun_before_a_purge_is_purged_however_late_it_is_stored,
    what_was_made_anew_after_a_soft_purge_is_fresh_unless_it_is_purged_meanwhile,
    every_process_hears_of_a_purge_with_its_next_lookup,
    a_clock_that_is_set_back_hides_no_purge,
    beyond_ten_thousand_tags_the_oldest_purges_are_about_everything,
    too_many_tags_at_a_time_are_refused_and_purge_nothing,
    histories_agree_with_a_naive_model,
}

async fn a_hard_purge_takes_what_has_the_tag_and_nothing_else(harness: Harness) {
    make(&*harness, "one", "1", &["a", "b"]).await;
    make(&*harness, "two", "1", &["b"]).await;
    make(&*harness, "three", "1", &[]).await;
    harness.purge_tags(&[tag("a"), tag("nobody's")], Purge::Hard).await.unwrap();
    assert!(is_gone(&*harness, "one").await);
    assert!(is_fresh(&*harness, "two").await && is_fresh(&*harness, "three").await);
    harness.purge_tags(&[Tag::ALL], Purge::Hard).await.unwrap();
    assert!(is_gone(&*harness, "two").await && is_gone(&*harness, "three").await);
    make(&*harness, "one", "2", &["a", "b"]).await;
    assert!(is_fresh(&*harness, "one").await);
}

async fn a_soft_purge_makes_stale_from_then_on(harness: Harness) {
    make(&*harness, "e", "1", &["a"]).await;
    harness.advance(Duration::from_secs(10));
    harness.purge_tags(&[tag("a")], Purge::Soft).await.unwrap();
    harness.advance(Duration::from_secs(5));
    let found = look(&*harness, "e").await.unwrap();
    assert_eq!((found.age.as_secs(), found.fresh_for), (15, Duration::ZERO));
    assert_eq!(found.stale_for.as_secs(), 5, "since the purge");
    assert_eq!(found.tags.iter().collect::<Vec<_>>(), [tag("a")]);
    // A hard one afterwards is not softened by another.
    for purge in [Purge::Hard, Purge::Soft] {
        harness.purge_tags(&[tag("a")], purge).await.unwrap();
        assert!(is_gone(&*harness, "e").await);
    }
}

async fn what_was_begun_before_a_purge_is_purged_however_late_it_is_stored(harness: Harness) {
    let elsewhere = harness.another().await;
    for purge in [Purge::Hard, Purge::Soft] {
        let begun = begin(&*harness, "e", "old").await;
        elsewhere.purge_tags(&[tag("a")], purge).await.unwrap();
        begun.end(&*harness, &["a"]).await;
        assert!(!is_fresh(&*harness, "e").await && !is_fresh(&elsewhere, "e").await);
        make(&*harness, "e", "new", &["a"]).await;
        assert!(is_fresh(&*harness, "e").await && is_fresh(&elsewhere, "e").await);
        harness.purge(&["e".into()]).await.unwrap();
    }
}

async fn what_was_made_anew_after_a_soft_purge_is_fresh_unless_it_is_purged_meanwhile(
    harness: Harness,
) {
    make(&*harness, "e", "1", &["a"]).await;
    harness.purge_tags(&[tag("a")], Purge::Soft).await.unwrap();
    let renewed = begin(&*harness, "e", "2").await;
    renewed.end(&*harness, &["a"]).await;
    assert!(is_fresh(&*harness, "e").await);
    harness.purge_tags(&[tag("a")], Purge::Soft).await.unwrap();
    let renewed = begin(&*harness, "e", "3").await;
    harness.purge_tags(&[tag("a")], Purge::Soft).await.unwrap();
    renewed.end(&*harness, &["a"]).await;
    assert_eq!(look(&*harness, "e").await.unwrap().fresh_for, Duration::ZERO);
}

async fn every_process_hears_of_a_purge_with_its_next_lookup(harness: Harness) {
    let elsewhere = harness.another().await;
    for round in 0..20 {
        let token = round.to_string();
        make(&elsewhere, "e", &token, &["a"]).await;
        assert!(is_fresh(&*harness, "e").await && is_fresh(&elsewhere, "e").await);
        harness.purge_tags(&[tag("a")], Purge::Hard).await.unwrap();
        assert!(is_gone(&elsewhere, "e").await && is_gone(&*harness, "e").await);
    }
    make(&*harness, "e", "last", &["a"]).await;
    harness.purge_tags(&[tag("a")], Purge::Hard).await.unwrap();
    let born_later = harness.another().await;
    assert!(is_gone(&born_later, "e").await, "it reads what was purged before it was there");
}

async fn a_clock_that_is_set_back_hides_no_purge(harness: Harness) {
    harness.purge_tags(&[tag("x")], Purge::Hard).await.unwrap();
    make(&*harness, "e", "1", &["a"]).await;
    harness.clock.set_back(Duration::from_secs(5));
    harness.purge_tags(&[tag("a")], Purge::Hard).await.unwrap();
    assert!(is_gone(&*harness, "e").await);
    make(&*harness, "e", "2", &["a"]).await;
    assert!(is_fresh(&*harness, "e").await);
}

async fn beyond_ten_thousand_tags_the_oldest_purges_are_about_everything(harness: Harness) {
    let reader = harness.another().await;
    make(&*harness, "before", "1", &["x"]).await;
    assert!(is_fresh(&reader, "before").await);
    harness.purge_tags(&[tag("the oldest")], Purge::Soft).await.unwrap();
    make(&*harness, "after", "1", &["x"]).await;
    for hundred in 0..10 {
        let tags: Vec<_> = (0..1_000).map(|n| tag(&format!("{hundred}-{n}"))).collect();
        assert!(is_fresh(&*harness, "before").await, "there is room for {hundred}");
        harness.purge_tags(&tags, Purge::Hard).await.unwrap();
    }
    // One that is remembered already: nothing is forgotten for it, and nothing comes back.
    harness.purge_tags(&[tag("9-0")], Purge::Hard).await.unwrap();
    for store in [&*harness, &reader, &harness.another().await] {
        assert!(is_gone(store, "before").await, "nobody knows what was purged after it");
        assert!(is_fresh(store, "after").await);
    }
    if harness.is_shared() {
        // With the floor and the end.
        assert_eq!(harness.command(&["ZCARD", "test:cache:tags"]).int(), 10_002);
    }
}

async fn too_many_tags_at_a_time_are_refused_and_purge_nothing(harness: Harness) {
    make(&*harness, "e", "1", &["0"]).await;
    let tags: Vec<_> = (0..1_001).map(|n| tag(&n.to_string())).collect();
    let error = harness.purge_tags(&tags, Purge::Hard).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("1000"), "{error}");
    assert!(is_fresh(&*harness, "e").await);
    harness.purge_tags(&tags[..1_000], Purge::Hard).await.unwrap();
    assert!(is_gone(&*harness, "e").await);
}

#[derive(Clone, Debug)]
enum Step {
    Begin {
        entry: u8,
    },
    End {
        entry: u8,
        tags: Vec<u8>,
    },
    /// By a clock that is set back for as long, in microseconds.
    Purge {
        tags: Vec<u8>,
        purge: Purge,
        back: u64,
    },
    Look {
        entry: u8,
    },
}

fn history() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let tags = || proptest::collection::vec(0u8..4, 0..3);
    let purge = prop_oneof![Just(Purge::Soft), Just(Purge::Hard)];
    let step = prop_oneof![
        (0u8..2).prop_map(|entry| Step::Begin { entry }),
        (0u8..2, tags()).prop_map(|(entry, tags)| Step::End { entry, tags }),
        (tags(), purge, 0u64..900).prop_map(|(tags, purge, back)| Step::Purge {
            tags,
            purge,
            back
        }),
        (0u8..2).prop_map(|entry| Step::Look { entry }),
    ];
    proptest::collection::vec((any::<bool>(), step), 1..40)
}

/// What purges have left of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Fresh,
    Stale,
    Gone,
}

/// A response is what the purges of its tags since its beginning have left of it.
#[derive(Default)]
struct Model {
    purges: Vec<(Vec<u8>, Purge)>,
    begun: HashMap<u8, usize>,
    stored: HashMap<u8, (usize, Vec<u8>)>,
}

impl Model {
    fn left(&self, entry: u8) -> Left {
        let Some((seen, held)) = self.stored.get(&entry) else { return Left::Gone };
        let about = |(tags, purge): &(Vec<u8>, Purge)| {
            // 3 stands for all.
            tags.iter().any(|tag| *tag == 3 || held.contains(tag)).then_some(*purge)
        };
        match self.purges[*seen..].iter().filter_map(about).max() {
            Some(Purge::Hard) => Left::Gone,
            Some(_) => Left::Stale,
            None => Left::Fresh,
        }
    }
}

/// Two processes, a clock that goes back, and purges at any moment between the beginning of a response
/// and its end.
async fn histories_agree_with_a_naive_model(harness: Harness) {
    let elsewhere = harness.another().await;
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for round in 0..60 {
        let history = history().new_tree(&mut runner).unwrap().current();
        let mut model = Model::default();
        let mut begun = HashMap::new();
        for (number, (here, step)) in history.iter().enumerate() {
            let store = if *here { &*harness } else { &elsewhere };
            let name = |entry: u8| format!("{round}-{entry}");
            match step {
                Step::Begin { entry } => {
                    // Whoever began it before loses the right to end it.
                    let held = begun.remove(entry).is_some();
                    if held || model.stored.contains_key(entry) {
                        harness.purge(&[name(*entry)]).await.unwrap();
                        model.stored.remove(entry);
                    }
                    begun.insert(*entry, begin(store, &name(*entry), &number.to_string()).await);
                    model.begun.insert(*entry, model.purges.len());
                }
                Step::End { entry, tags } => {
                    if let Some(response) = begun.remove(entry) {
                        let held: Vec<_> = tags.iter().filter(|tag| **tag != 3).copied().collect();
                        let names: Vec<_> = held.iter().map(u8::to_string).collect();
                        let names: Vec<_> = names.iter().map(String::as_str).collect();
                        response.end(store, &names).await;
                        model.stored.insert(*entry, (model.begun[entry], held));
                    }
                }
                Step::Purge { tags, purge, back } => {
                    let tag =
                        |name: &u8| if *name == 3 { Tag::ALL } else { tag(&name.to_string()) };
                    let named: Vec<_> = tags.iter().map(tag).collect();
                    harness.clock.set_back(Duration::from_micros(*back));
                    store.purge_tags(&named, *purge).await.unwrap();
                    harness.clock.advance(Duration::from_micros(*back));
                    model.purges.push((tags.clone(), *purge));
                }
                Step::Look { entry } => {
                    let left = match look(store, &name(*entry)).await {
                        None => Left::Gone,
                        Some(found) if found.fresh_for.is_zero() => Left::Stale,
                        Some(_) => Left::Fresh,
                    };
                    assert_eq!(left, model.left(*entry), "step {number} of {history:?}");
                }
            }
        }
    }
}

//! A process that is cut off from its Redis at each step of a request, for good or for one reply.

use super::site::{Answer, LEASE, Site, made, pay, pay_aside, replayed, settle, wait_for};
use crate::support::proxy::Mode;
use tokio::time::sleep;

/// A lease that does not end while a test lasts.
const HOUR: (&str, &str) = ("LEASE", "3600000");

impl Site {
    fn cut_off(&self) {
        self.proxy.set(Mode::Refuse);
        self.proxy.cut();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cut_off_before_it_asks_runs_nothing() {
    let site = Site::open();
    let [cut, other] = site.spawn_all([
        Box::new(|site| site.victim("before_begin", &[HOUR])),
        Box::new(|site| site.app(&[HOUR])),
    ]);
    let refused = pay_aside(&cut, "k");
    wait_for(&cut, "AT before_begin");
    site.cut_off();
    site.go("before_begin");
    assert_eq!(refused.await.unwrap(), Some(Answer::Problem(503, "about:blank".into())));
    assert_eq!(site.runs("k"), []);
    assert_eq!(pay(&other, "k").await, made("attempt 1"));
    site.proxy.set(Mode::Pass);
    while pay(&cut, "k").await != replayed("attempt 1") {
        sleep(LEASE / 100).await;
    }
    assert_eq!(site.runs("k").len(), 1);
}

/// It was granted and nobody was told. What was granted is given back, or sent for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_whose_reply_is_lost_blocks_nobody() {
    for lost in [Mode::CutReplies, Mode::DropReplies] {
        let site = Site::open();
        let [cut, other] = site.spawn_all([
            Box::new(|site| site.victim("before_begin", &[HOUR])),
            Box::new(|site| site.app(&[HOUR])),
        ]);
        // The scripts are known from here on: one turn is one step.
        assert_eq!(pay(&other, "before").await, made("attempt 1"));
        let first = pay_aside(&cut, "k");
        wait_for(&cut, "AT before_begin");
        site.proxy.plan([(0, lost), (1, Mode::Pass)]);
        site.go("before_begin");
        let first = first.await.unwrap().unwrap();
        let retry = settle(&other, "k").await;
        let answers = [first, retry];
        let once = [made("attempt 1"), replayed("attempt 1")];
        let later = [Answer::Problem(503, "about:blank".into()), made("attempt 1")];
        assert!(answers == once || answers == later, "{lost:?}: {answers:?}");
        assert_eq!(site.runs("k").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cut_off_in_its_handler_is_told_of_its_loss_and_answers_and_stores_nothing() {
    let site = Site::open();
    let [cut, other] = site
        .spawn_all([Box::new(|site| site.victim("during", &[])), Box::new(|site| site.app(&[]))]);
    let stale = pay_aside(&cut, "k");
    wait_for(&cut, "AT during");
    site.cut_off();
    assert_eq!(settle(&other, "k").await, made("attempt 2"));
    wait_for(&cut, "LOST true");
    site.go("during");
    assert_eq!(stale.await.unwrap(), Some(made("attempt 1")), "its client is answered");
    wait_for(&cut, "COMPLETED Err");
    site.proxy.set(Mode::Pass);
    while pay(&cut, "k").await != replayed("attempt 2") {
        sleep(LEASE / 100).await;
    }
    assert_eq!(site.runs("k").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cut_off_before_it_stores_its_answer_sends_it_and_stores_it_later() {
    let site = Site::open();
    let [cut, other] = site.spawn_all([
        Box::new(|site| site.victim("before_complete", &[HOUR])),
        Box::new(|site| site.app(&[HOUR])),
    ]);
    let first = pay_aside(&cut, "k");
    wait_for(&cut, "AT before_complete");
    site.cut_off();
    site.go("before_complete");
    assert_eq!(first.await.unwrap(), Some(made("attempt 1")));
    let busy = Answer::Problem(409, "InFlight".into());
    assert_eq!(pay(&other, "k").await, busy, "it is not given up");
    site.proxy.set(Mode::Pass);
    assert_eq!(settle(&other, "k").await, replayed("attempt 1"));
    assert_eq!(site.runs("k").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_whose_reply_is_lost_is_sent_again_and_stays() {
    for lost in [Mode::CutReplies, Mode::DropReplies] {
        let site = Site::open();
        let [cut, other] = site.spawn_all([
            Box::new(|site| site.victim("before_complete", &[HOUR])),
            Box::new(|site| site.app(&[HOUR])),
        ]);
        assert_eq!(pay(&other, "before").await, made("attempt 1"));
        let first = pay_aside(&cut, "k");
        wait_for(&cut, "AT before_complete");
        site.proxy.plan([(0, lost), (1, Mode::Pass)]);
        site.go("before_complete");
        wait_for(&cut, "COMPLETED Ok(Already)");
        assert_eq!(first.await.unwrap(), Some(made("attempt 1")));
        assert_eq!(pay(&other, "k").await, replayed("attempt 1"));
        assert_eq!(site.runs("k").len(), 1);
    }
}

//! A process that is killed at each step of a request.

use super::{
    app::STEPS,
    runs,
    site::{Answer, LEASE, Site, made, pay, pay_aside, replayed, settle, wait_for},
};
use tokio::time::sleep;

/// Kills a process at each step, one request and one process for each, and asks another process what
/// became of the request. `table` has the answers, and how many runs there were.
async fn kill_at_each_step(envs: &[(&str, &str)], table: [(Answer, usize); 5]) {
    let site = Site::open();
    let [survivor, victims @ ..] = site.spawn_all([
        Box::new(|site| site.app(envs)),
        Box::new(|site| site.victim(STEPS[0], envs)),
        Box::new(|site| site.victim(STEPS[1], envs)),
        Box::new(|site| site.victim(STEPS[2], envs)),
        Box::new(|site| site.victim(STEPS[3], envs)),
        Box::new(|site| site.victim(STEPS[4], envs)),
    ]);
    for (victim, step) in victims.iter().zip(STEPS) {
        let lost = pay_aside(victim, step);
        wait_for(victim, "AT ");
        victim.kill();
        assert_eq!(lost.await.unwrap(), None, "{step}: its client has no answer");
    }
    for (step, (answer, count)) in STEPS.into_iter().zip(table) {
        assert_eq!(settle(&survivor, step).await, answer, "{step}");
        let runs = site.runs(step);
        assert_eq!(runs.len(), count, "{step}: {runs:?}");
        let again = pay(&survivor, step).await;
        match answer {
            Answer::Made(status, text) => assert_eq!(again, Answer::Replayed(status, text)),
            answer => assert_eq!(again, answer, "{step}: and so it stays"),
        }
        assert_eq!(site.runs(step).len(), count, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_kill_is_the_first_the_second_or_a_replay_by_what_was_done() {
    let table = [
        (made("attempt 1"), 1),
        // Its handler never began, which nobody can know.
        (made("attempt 2"), 1),
        (made("attempt 2"), 2),
        (made("attempt 2"), 2),
        (replayed("attempt 1"), 1),
    ];
    kill_at_each_step(&[], table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_orphans_are_rejected_a_kill_ends_a_request_whose_outcome_is_unknown() {
    let orphan = || Answer::Problem(409, "Orphan".into());
    let table = [
        (made("attempt 1"), 1),
        (orphan(), 0),
        (orphan(), 1),
        (orphan(), 1),
        (replayed("attempt 1"), 1),
    ];
    kill_at_each_step(&[("REJECT", "1")], table).await;
}

/// That the notes of these tests show two runs at a time where there are two: nobody renews, and the
/// handler takes longer than its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_renewal_a_slow_handler_is_run_beside() {
    let site = Site::open();
    let [slow, other] = site.spawn_all([
        Box::new(|site| site.victim("during", &[("IDLE", "1")])),
        Box::new(|site| site.app(&[])),
    ]);
    let first = pay_aside(&slow, "k");
    wait_for(&slow, "AT during");
    assert_eq!(settle(&other, "k").await, made("attempt 2"));
    site.go("during");
    assert_eq!(first.await.unwrap(), Some(made("attempt 1")));
    let runs = site.runs("k");
    assert_eq!((runs.len(), runs::overlaps(&runs)), (2, 1), "{runs:?}");
    assert_eq!(pay(&other, "k").await, replayed("attempt 2"));
}

/// And that they would show one that nobody may have: its record is taken from a holder that lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_lost_under_a_run_is_seen_as_two_at_a_time() {
    let site = Site::open();
    let hour = [("LEASE", "3600000")];
    let [slow, other] = site.spawn_all([
        Box::new(|site| site.victim("during", &hour)),
        Box::new(|site| site.app(&hour)),
    ]);
    let _first = pay_aside(&slow, "k");
    wait_for(&slow, "AT during");
    let records = site.redis.command(&["KEYS", "*:idempotency:{*}*"]).texts();
    assert_eq!(records.len(), 2, "{records:?}");
    records.iter().for_each(|record| drop(site.redis.command(&["DEL", record])));
    assert_eq!(pay(&other, "k").await, made("attempt 1"));
    let runs = runs::of(&site.redis, "k");
    assert_eq!((runs.len(), runs::violations(&runs)), (2, 1), "{runs:?}");
    assert!(runs[1].fence > runs[0].fence, "and even so the fence rises");
}

/// A handler that takes several leases is not run beside while its process lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_that_lives_keeps_its_lease() {
    let site = Site::open();
    let [slow, other] = site
        .spawn_all([Box::new(|site| site.victim("during", &[])), Box::new(|site| site.app(&[]))]);
    let first = pay_aside(&slow, "k");
    wait_for(&slow, "AT during");
    let asking = tokio::spawn(async move { settle(&other, "k").await });
    sleep(LEASE * 2).await;
    for _ in 0..3 {
        wait_for(&slow, "RENEWED Ok(true)");
    }
    site.go("during");
    assert_eq!(first.await.unwrap(), Some(made("attempt 1")));
    assert_eq!(asking.await.unwrap(), replayed("attempt 1"));
    assert_eq!(site.runs("k").len(), 1);
}

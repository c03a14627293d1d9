//! A process that is told to end, as by a deployment, while it handles a request.

use super::{
    app::PATIENT,
    site::{Answer, Site, made, pay, pay_aside, replayed, wait_for},
};
use rustix::process::Signal;
use tokio::task::block_in_place;

/// A lease that does not end while a test lasts: nobody takes over.
const HOUR: (&str, &str) = ("LEASE", "3600000");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_told_to_end_finishes_what_it_has_begun_whether_its_client_stays_or_not() {
    let site = Site::open();
    let [ending, other] = site.spawn_all([
        Box::new(|site| site.victim("during", &[HOUR])),
        Box::new(|site| site.app(&[HOUR])),
    ]);
    let (left, stays) = (pay_aside(&ending, "left"), pay_aside(&ending, "stays"));
    wait_for(&ending, "AT during");
    wait_for(&ending, "AT during");
    left.abort();
    ending.signal(Signal::TERM);
    wait_for(&ending, "ENDING");
    let busy = Answer::Problem(409, "InFlight".into());
    for key in ["left", "stays"] {
        assert_eq!(pay(&other, key).await, busy);
    }
    site.go("during");
    wait_for(&ending, "ENDED 0");
    assert!(block_in_place(|| ending.wait(PATIENT)).success());
    assert_eq!(stays.await.unwrap(), Some(made("attempt 1")));
    for key in ["left", "stays"] {
        assert_eq!(pay(&other, key).await, replayed("attempt 1"));
        assert_eq!(site.runs(key).len(), 1);
    }
    assert_eq!(pay(&other, "next").await, made("attempt 1"));
}

//! Requests that wait for the answer to the first, in several processes.

use super::{
    app::PATIENT,
    site::{Answer, Site, made, pay, pay_aside, replayed, settle, wait_for},
};
use crate::support::{process::ChildApp, proxy::FaultProxy};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const WAIT: (&str, &str) = ("WAIT", "60000");

/// How often the processes behind a proxy asked for the right to run.
fn asked(proxy: &FaultProxy) -> usize {
    proxy.counts().get("EVALSHA").copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_in_three_processes_one_runs_and_one_of_each_process_looks() {
    let site = Site::open();
    let proxies = [(); 3].map(|()| FaultProxy::start(site.redis.port()));
    // Nobody's renewals are among what is counted.
    let envs = [WAIT, ("AT", "during"), ("LEASE", "3600000")];
    let app = |at: usize| -> Box<dyn Fn(&Site) -> ChildApp + Sync + '_> {
        let url = proxies[at].url();
        Box::new(move |site| site.app_at(&url, &envs))
    };
    let apps = site.spawn_all([app(0), app(1), app(2)]);
    let requests: Vec<_> = (0..64).map(|n| pay_aside(&apps[n % 3], "k")).collect();
    let began = Instant::now();
    while proxies.iter().map(asked).sum::<usize>() < 64 {
        assert!(began.elapsed() < PATIENT, "not all of them have asked");
        sleep(Duration::from_millis(10)).await;
    }
    // Those that have asked wait now, or are about to. From here on one of each process looks, at most
    // every half a second.
    sleep(Duration::from_millis(500)).await;
    proxies.iter().for_each(FaultProxy::reset);
    let quiet = Instant::now();
    sleep(Duration::from_secs(3)).await;
    for proxy in &proxies {
        let most = 2 + 2 * quiet.elapsed().as_secs() as usize;
        assert!(asked(proxy) <= most, "{} looks in {:?}", asked(proxy), quiet.elapsed());
    }
    site.go("during");
    let mut found = Vec::new();
    for request in requests {
        found.push(request.await.unwrap().unwrap());
    }
    found.sort_by_key(|answer| matches!(answer, Answer::Replayed(..)));
    assert_eq!(found[0], made("attempt 1"));
    assert!(found[1..].iter().all(|answer| *answer == replayed("attempt 1")), "{found:?}");
    assert_eq!(site.runs("k").len(), 1);
    for proxy in &proxies {
        assert!(proxy.count("SUBSCRIBE") <= 1, "{:?}", proxy.counts());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_those_who_wait_takes_over_when_the_first_is_killed() {
    let site = Site::open();
    let [first, second, third] = site.spawn_all([
        Box::new(|site| site.victim("during", &[WAIT])),
        Box::new(|site| site.app(&[WAIT])),
        Box::new(|site| site.app(&[WAIT])),
    ]);
    let lost = pay_aside(&first, "k");
    wait_for(&first, "AT during");
    let waiting: Vec<_> =
        [&second, &third, &second, &third].map(|app| pay_aside(app, "k")).into_iter().collect();
    sleep(Duration::from_millis(300)).await; // most of them wait by now
    first.kill();
    assert_eq!(lost.await.unwrap(), None);
    let mut found = Vec::new();
    for request in waiting {
        found.push(request.await.unwrap().unwrap());
    }
    found.sort_by_key(|answer| matches!(answer, Answer::Replayed(..)));
    assert_eq!(found[0], made("attempt 2"));
    assert!(found[1..].iter().all(|answer| *answer == replayed("attempt 2")), "{found:?}");
    assert_eq!(site.runs("k").len(), 2);
    assert_eq!(settle(&second, "k").await, pay(&third, "k").await);
}

//! What the processes noted, and the property that all of this is about.

use crate::support::server::RedisServer;

/// One run of a handler, all times in µs of the server that has the records.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    /// Also when its lease was granted: the counter is far behind the time.
    pub(super) fence: u64,
    pub(super) attempt: u32,
    /// Until when its lease lasts at least.
    leased: u64,
    /// When its handler had ended; it may have been earlier, and never later.
    ended: Option<u64>,
}

/// The runs of a key, by their fences.
pub(super) fn of(redis: &RedisServer, key: &str) -> Vec<Run> {
    let read = |list: &str| redis.command(&["LRANGE", &format!("notes:{list}"), "0", "-1"]).texts();
    parse(&read("leases"), &read(key))
}

fn parse(leases: &[String], notes: &[String]) -> Vec<Run> {
    let number = |word: &str| -> u64 { word.parse().unwrap() };
    let words = |line: &'_ String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (leases, notes): (Vec<_>, Vec<_>) =
        (leases.iter().map(words).collect(), notes.iter().map(words).collect());
    let of_kind = |kind: &'static str| notes.iter().filter(move |note| note[0] == kind);
    let run = |start: &Vec<String>| {
        let begun =
            leases.iter().find(|lease| lease[0] == "begun" && lease[2] == start[1]).unwrap();
        let renewals = leases.iter().filter(|lease| lease[0] == "renewed" && lease[1] == begun[1]);
        let last = renewals.map(|renewal| number(&renewal[2])).max();
        let fence = number(&start[1]);
        let ended = of_kind("end").find(|end| end[1] == start[1]).map(|end| number(&end[2]));
        let leased = last.unwrap_or(fence).max(fence) + number(&begun[3]);
        Run { fence, attempt: number(&start[2]) as u32, leased, ended }
    };
    let mut runs: Vec<_> = of_kind("start").map(run).collect();
    runs.sort_by_key(|run| run.fence);
    runs
}

/// How many pairs of runs were under way at the same time.
pub(super) fn overlaps(runs: &[Run]) -> usize {
    pairs(runs).filter(|(first, second)| first.ended.is_none_or(|end| end > second.fence)).count()
}

/// How many of those began while the lease of the first had not ended, which must not be.
pub(super) fn violations(runs: &[Run]) -> usize {
    pairs(runs)
        .filter(|(first, second)| {
            first.leased > second.fence && first.ended.is_none_or(|end| end > second.fence)
        })
        .count()
}

fn pairs(runs: &[Run]) -> impl Iterator<Item = (&Run, &Run)> {
    runs.iter()
        .enumerate()
        .flat_map(|(at, first)| runs[at + 1..].iter().map(move |second| (first, second)))
}

#[test]
fn a_run_beside_one_whose_lease_lasts_is_a_violation_and_one_after_it_is_not() {
    let lines = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    let leases = |renewed: &str| {
        lines(&["begun a 100 50", &format!("renewed a {renewed}"), "begun b 180 50"])
    };
    let two = ["start 100 1", "start 180 2", "end 180 190"];
    let ended = |end: &'static str| lines(&[&two[..], &[end]].concat());
    for (renewed, notes, found) in [
        ("140", lines(&two), (1, 1)),
        ("130", lines(&two), (1, 0)),
        ("140", ended("end 100 181"), (1, 1)),
        ("140", ended("end 100 180"), (0, 0)),
    ] {
        let runs = parse(&leases(renewed), &notes);
        assert_eq!((overlaps(&runs), violations(&runs)), found, "{runs:?}");
    }
}

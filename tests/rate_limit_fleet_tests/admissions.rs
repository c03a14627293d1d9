//! What a fleet admitted, and whether that is within the bounds that the documentation states.

use super::app::{AT_ONCE, LIMIT, PERIOD};
use crate::support::server::RedisServer;
use std::collections::BTreeMap;

/// One request that was let through: it was decided at some time between these two, by the server's
/// clock, in µs.
#[derive(Clone, Copy, Debug)]
struct Admission {
    before: u64,
    after: u64,
    /// A window's start, or the time of the decision.
    receipt: u64,
}

/// What was noted under an algorithm, as many numbers as there were requests.
pub(super) fn count(redis: &RedisServer, algorithm: &str) -> usize {
    notes(redis, algorithm).len()
}

/// How the admissions break the bounds of their algorithm, if they do.
///
/// Times are known as intervals, so what is said to be within a span was so for certain.
pub(super) fn breach(redis: &RedisServer, algorithm: &str) -> Option<String> {
    let notes = notes(redis, algorithm);
    if algorithm == "concurrency" {
        let most = notes.iter().map(|note| note[0]).max()?;
        return (most > u64::from(AT_ONCE)).then(|| format!("{most} at a time"));
    }
    let noted = |note: &Vec<u64>| Admission { before: note[0], after: note[1], receipt: note[2] };
    let admissions: Vec<Admission> = notes.iter().map(noted).collect();
    let (limit, period) = (u64::from(LIMIT), PERIOD.as_micros() as u64);
    match algorithm {
        "gcra" | "token_bucket" => {
            // The receipt is the time of the decision, which leaves no doubt.
            let exact = admissions.iter().map(|&Admission { receipt, .. }| Admission {
                before: receipt,
                after: receipt,
                receipt,
            });
            let most = |span| Some(limit + span * limit / period);
            in_any_span(&admissions, most).or_else(|| in_any_span(&exact.collect::<Vec<_>>(), most))
        }
        "sliding_log" => in_any_span(&admissions, |span| (span < period).then_some(limit)),
        "fixed_window" => in_each_window(&admissions, limit, period)
            .or_else(|| in_any_span(&admissions, |span| (span < period).then_some(2 * limit))),
        "sliding_window" => in_each_window(&admissions, limit, period / 1_000)
            .or_else(|| in_any_span(&admissions, |span| (span < period).then_some(2 * limit))),
        other => panic!("no bounds are known of {other}"),
    }
}

/// Looks at every span from one admission to another; `most` says how many may be in one of a length.
fn in_any_span(admissions: &[Admission], most: impl Fn(u64) -> Option<u64>) -> Option<String> {
    for first in admissions {
        let from = first.before;
        let mut ends: Vec<u64> = admissions
            .iter()
            .filter(|admission| admission.before >= from)
            .map(|admission| admission.after)
            .collect();
        ends.sort_unstable();
        for (count, end) in (1..).zip(ends) {
            let span = end - from;
            match most(span) {
                Some(most) if count > most => {
                    return Some(format!("{count} in {span} µs, of which {most} were allowed"));
                }
                Some(_) => {}
                None => break,
            }
        }
    }
    None
}

/// Windows do not overlap, and none admits more than the limit.
fn in_each_window(admissions: &[Admission], limit: u64, length: u64) -> Option<String> {
    let mut windows: BTreeMap<u64, u64> = BTreeMap::new();
    for admission in admissions {
        *windows.entry(admission.receipt).or_default() += 1;
    }
    if let Some((start, count)) = windows.iter().find(|(_, count)| **count > limit) {
        return Some(format!("{count} in the window of {start}"));
    }
    let starts: Vec<&u64> = windows.keys().collect();
    let overlap = starts.windows(2).find(|pair| pair[1] - pair[0] < length)?;
    Some(format!("the windows {overlap:?} overlap"))
}

fn notes(redis: &RedisServer, algorithm: &str) -> Vec<Vec<u64>> {
    let list = redis.command(&["LRANGE", &format!("admitted:{algorithm}"), "0", "-1"]).texts();
    let numbers = |note: &String| note.split(' ').map(|number| number.parse().unwrap()).collect();
    list.iter().map(numbers).collect()
}

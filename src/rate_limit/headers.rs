//! The response headers that tell a client where it stands.

use crate::{
    problem::whole_seconds,
    rate_limit::{
        layer::{Config, Headers},
        outcome::Outcome,
        partition::PartitionKeys,
        rule::Rule,
        store::Charge,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use std::{io::Write, time::Duration};

/// A value in the making: one of a few policies is no allocation.
type Line = SmallVec<[u8; 256]>;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The largest Integer of RFC 9651, section 3.3.1.
const LARGEST: u64 = 999_999_999_999_999;

/// Adds what each policy was charged and said. What a rate limit further in has added already stays.
pub(crate) fn write<'a>(
    config: &Config,
    said: impl Iterator<Item = (&'a Charge, &'a Outcome)> + Clone,
    headers: &mut HeaderMap,
) {
    if matches!(config.headers, Headers::Draft | Headers::Both) {
        write_draft(config.partition.as_ref(), said.clone(), headers);
    }
    if matches!(config.headers, Headers::Legacy | Headers::Both) {
        write_legacy(said, headers);
    }
}

/// Lists of Strings with parameters, after draft-ietf-httpapi-ratelimit-headers-10.
fn write_draft<'a>(
    partition: Option<&PartitionKeys>,
    said: impl Iterator<Item = (&'a Charge, &'a Outcome)>,
    headers: &mut HeaderMap,
) {
    let (mut policies, mut limits) = (Line::new(), Line::new());
    for (charge, outcome) in said {
        let (name, rule) = (&charge.policy, charge.rule);
        let comma = if policies.is_empty() { "" } else { ", " };
        // Writing to memory cannot fail.
        let _ = write!(policies, "{comma}\"{name}\";q={}", rule.limit().min(LARGEST));
        if let Some(window) = rule.window() {
            let _ = write!(policies, ";w={}", seconds(window));
        }
        let _ = write!(limits, "{comma}\"{name}\";r={}", outcome.remaining.min(LARGEST));
        if let Some(wait) = until_more(rule, outcome) {
            let _ = write!(limits, ";t={}", seconds(wait));
        }
        if let Some(keys) = partition {
            let key = keys.of(&charge.key);
            let _ = write!(policies, ";pk={key}");
            let _ = write!(limits, ";pk={key}");
        }
    }
    append(headers, POLICY, policies);
    append(headers, LIMIT, limits);
}

fn seconds(duration: Duration) -> u64 {
    whole_seconds(duration).min(LARGEST)
}

/// How long until there is more: `None` when there is nothing more to come.
fn until_more(rule: Rule, outcome: &Outcome) -> Option<Duration> {
    if !outcome.allowed {
        return outcome.retry_after;
    }
    if outcome.reset.is_zero() {
        return None;
    }
    match rule {
        Rule::Gcra(rule) => Some(next(outcome.reset, rule.interval())),
        Rule::TokenBucket(rule) => Some(next(outcome.reset, rule.interval())),
        // Nobody knows when a lease is given back.
        Rule::Concurrency(_) => None,
        _ => Some(outcome.reset),
    }
}

/// A bucket fills by one an interval, and `reset` is when it is full.
fn next(reset: Duration, interval: Duration) -> Duration {
    let missing = u64::try_from(reset.as_micros()).unwrap_or(u64::MAX);
    let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX).max(1);
    // A store of somebody else's may count more finely.
    Duration::from_micros(missing.saturating_sub(1) % interval + 1)
}

/// The de-facto headers, for the policy with the least left.
fn write_legacy<'a>(
    said: impl Iterator<Item = (&'a Charge, &'a Outcome)>,
    headers: &mut HeaderMap,
) {
    let Some((charge, outcome)) = said.min_by_key(|(.., outcome)| outcome.remaining) else {
        return;
    };
    let told = headers.get(LEGACY_REMAINING).and_then(|value| value.to_str().ok()?.parse().ok());
    if told.is_some_and(|told: u64| told <= outcome.remaining) {
        return;
    }
    headers.insert(LEGACY_LIMIT, HeaderValue::from(charge.rule.limit()));
    headers.insert(LEGACY_REMAINING, HeaderValue::from(outcome.remaining));
    headers.insert(LEGACY_RESET, HeaderValue::from(whole_seconds(outcome.reset)));
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: Line) {
    if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(&value)) {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Backend,
        rate_limit::{Policy, Quota, RateLimitLayer},
    };

    fn write_one(style: Headers, policy: &Policy, outcome: Outcome, headers: &mut HeaderMap) {
        let layer = RateLimitLayer::new(Backend::memory(), policy.clone()).headers(style);
        let charge = Charge::new(policy, "key", 1);
        write(&layer.config, [(&charge, &outcome)].into_iter(), headers);
    }

    fn written(style: Headers, remaining: u64, reset_ms: u64) -> HeaderMap {
        let policy = Policy::gcra("burst", Quota::per_second(20).burst(40));
        let outcome = Outcome::from_micros(true, remaining, reset_ms * 1_000, Some(0));
        let mut headers = HeaderMap::new();
        write_one(style, &policy, outcome, &mut headers);
        headers
    }

    #[test]
    fn the_draft_headers_name_quota_window_and_what_remains() {
        let headers = written(Headers::Draft, 39, 50);
        assert_eq!(headers[POLICY], "\"burst\";q=40;w=2");
        assert_eq!(headers[LIMIT], "\"burst\";r=39;t=1");
        assert!(!headers.contains_key(LEGACY_LIMIT));
        assert_eq!(written(Headers::Draft, 40, 0)[LIMIT], "\"burst\";r=40");
    }

    #[test]
    fn t_is_when_there_is_more_not_when_there_is_all() {
        let rule = Rule::gcra(Quota::per_minute(6)).unwrap();
        let outcome = Outcome::from_micros(true, 3, 25_000_000, Some(0));
        assert_eq!(until_more(rule, &outcome), Some(Duration::from_secs(5)));
        let outcome = Outcome::from_micros(true, 4, 20_000_000, Some(0));
        assert_eq!(until_more(rule, &outcome), Some(Duration::from_secs(10)));
    }

    #[test]
    fn the_legacy_headers_tell_of_the_tightest_policy_of_all_layers() {
        let mut headers = written(Headers::Legacy, 39, 50);
        assert_eq!(headers[LEGACY_REMAINING], "39");
        let daily = Policy::gcra("daily", Quota::per_day(10));
        let said = |remaining| Outcome::from_micros(true, remaining, 1, Some(0));
        write_one(Headers::Legacy, &daily, said(50), &mut headers);
        assert_eq!(headers[LEGACY_REMAINING], "39");
        write_one(Headers::Legacy, &daily, said(7), &mut headers);
        assert_eq!(
            (&headers[LEGACY_REMAINING], &headers[LEGACY_LIMIT]),
            (&"7".parse().unwrap(), &"10".parse().unwrap())
        );
    }

    #[test]
    fn whatever_a_store_says_is_an_integer_of_a_structured_field() {
        let policies = [
            Policy::gcra("gcra", Quota::per_second(20)),
            Policy::token_bucket("bucket", Quota::per_second(u32::MAX)),
            Policy::fixed_window("window", Quota::per_day(u32::MAX)),
        ];
        let extremes = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
        for (policy, reset) in policies.iter().flat_map(|p| extremes.map(|reset| (p, reset))) {
            for outcome in [
                Outcome::new(true, u64::MAX, reset, None),
                Outcome::new(false, 0, reset, Some(reset)),
                Outcome::new(false, 0, reset, None),
            ] {
                let mut headers = HeaderMap::new();
                write_one(Headers::Both, policy, outcome, &mut headers);
                for name in [POLICY, LIMIT] {
                    let list: Result<sfv::List, _> = sfv::Parser::new(&headers[&name]).parse();
                    list.unwrap_or_else(|error| panic!("{:?}: {error}", headers[&name]));
                }
            }
        }
    }
}

//! Whether a stored response answers a request (RFC 9111, sections 4.2 and 5.2.1, and RFC 5861).

use crate::cache::http::directives::{Directives, RequestDirectives};
use std::time::Duration;

/// How old a stored response is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) age: Duration,
    /// Zero once it is stale.
    pub(crate) fresh_for: Duration,
    /// Zero while it is fresh.
    pub(crate) stale_for: Duration,
}

/// What is allowed beyond what a response says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
}

impl Windows {
    /// These, or what the response says itself.
    pub(crate) fn of(self, directives: &Directives) -> Self {
        let seconds = |told: Option<u32>, default| {
            told.map_or(default, |seconds| Duration::from_secs(seconds.into()))
        };
        match directives.forbids_stale() {
            true => Self::default(),
            false => Self {
                stale_while_revalidate: seconds(
                    directives.stale_while_revalidate,
                    self.stale_while_revalidate,
                ),
                stale_if_error: seconds(directives.stale_if_error, self.stale_if_error),
            },
        }
    }

    pub(crate) fn longest(self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }
}

/// What a stored response is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is the answer.
    Answer,
    /// It is the answer, and is to be renewed behind the client's back.
    AnswerAndRefresh,
    /// It may be the answer once the origin has said so.
    Validate,
}

/// Decides it.
pub(crate) fn decide(
    stored: &Directives,
    request: &RequestDirectives,
    times: Times,
    windows: Windows,
) -> Use {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    if stored.no_cache.is_whole() || request.no_cache {
        return Use::Validate;
    }
    // Whole seconds, as `Age` has them: with `max-age=0` nothing stored will do.
    let too_old = |limit| limit == 0 || times.age.as_secs() > u64::from(limit);
    if request.max_age.is_some_and(too_old) {
        return Use::Validate;
    }
    if !times.fresh_for.is_zero() {
        let too_short = |wanted| times.fresh_for < seconds(wanted);
        return match request.min_fresh.is_some_and(too_short) {
            true => Use::Validate,
            false => Use::Answer,
        };
    }
    if stored.forbids_stale() || request.min_fresh.is_some() {
        return Use::Validate;
    }
    if request.max_stale.is_some_and(|limit| times.stale_for <= seconds(limit)) {
        return Use::Answer;
    }
    match times.stale_for < windows.of(stored).stale_while_revalidate {
        true => Use::AnswerAndRefresh,
        false => Use::Validate,
    }
}

/// Whether it may be the answer because the origin fails.
pub(crate) fn stands_in(
    stored: &Directives,
    request: &RequestDirectives,
    times: Times,
    windows: Windows,
) -> bool {
    if stored.forbids_stale() || request.no_cache {
        return false;
    }
    let asked = Duration::from_secs(request.stale_if_error.unwrap_or(0).into());
    times.stale_for < windows.of(stored).stale_if_error.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, header::CACHE_CONTROL};

    fn headers(line: &str) -> HeaderMap {
        HeaderMap::from_iter([(CACHE_CONTROL, line.parse().unwrap())])
    }

    /// Of a response that was fresh for 60 seconds.
    fn times(age: u64) -> Times {
        let second = Duration::from_secs;
        let (fresh_for, stale_for) = (60u64.saturating_sub(age), age.saturating_sub(60));
        Times { age: second(age), fresh_for: second(fresh_for), stale_for: second(stale_for) }
    }

    fn ask(stored: &str, request: &str, age: u64) -> Use {
        let (stored, request) = (headers(stored), headers(request));
        let windows = Windows::default();
        decide(&Directives::of(&stored), &RequestDirectives::of(&request), times(age), windows)
    }

    #[test]
    fn the_request_and_the_response_decide_together() {
        for (stored, request, age, expected) in [
            ("", "", 59, Use::Answer),
            ("", "", 60, Use::Validate),
            ("no-cache", "", 0, Use::Validate),
            ("no-cache=\"x\"", "", 0, Use::Answer),
            ("", "no-cache", 0, Use::Validate),
            ("", "max-age=0", 0, Use::Validate),
            ("", "max-age=9", 9, Use::Answer),
            ("", "max-age=9", 10, Use::Validate),
            ("", "min-fresh=10", 50, Use::Answer),
            ("", "min-fresh=10", 51, Use::Validate),
            ("", "min-fresh=10, max-stale=99", 70, Use::Validate),
            ("", "max-stale", 9_999, Use::Answer),
            ("", "max-stale=10", 70, Use::Answer),
            ("", "max-stale=10", 71, Use::Validate),
            ("", "max-stale=x", 61, Use::Validate),
            ("must-revalidate", "max-stale", 61, Use::Validate),
            ("proxy-revalidate", "max-stale", 61, Use::Validate),
            ("s-maxage=60", "max-stale", 61, Use::Validate),
            ("stale-while-revalidate=10", "", 69, Use::AnswerAndRefresh),
            ("stale-while-revalidate=10", "", 70, Use::Validate),
            ("stale-while-revalidate=10, must-revalidate", "", 61, Use::Validate),
            ("stale-while-revalidate=10", "max-age=60", 61, Use::Validate),
        ] {
            assert_eq!(ask(stored, request, age), expected, "{stored:?} {request:?} at {age}");
        }
    }

    #[test]
    fn a_stale_response_stands_in_only_as_long_as_it_may() {
        let ask = |stored: &str, request: &str, age| {
            let (stored, request) = (headers(stored), headers(request));
            let windows = Windows { stale_if_error: Duration::from_secs(5), ..Windows::default() };
            stands_in(
                &Directives::of(&stored),
                &RequestDirectives::of(&request),
                times(age),
                windows,
            )
        };
        for (stored, request, age, expected) in [
            ("", "", 64, true),
            ("", "", 65, false),
            ("stale-if-error=20", "", 79, true),
            ("stale-if-error=0", "", 61, false),
            ("", "stale-if-error=20", 79, true),
            ("", "no-cache", 61, false),
            ("must-revalidate", "", 61, false),
            ("proxy-revalidate", "", 61, false),
            ("no-cache", "", 61, false),
            ("s-maxage=60, stale-if-error=20", "", 61, false),
        ] {
            assert_eq!(ask(stored, request, age), expected, "{stored:?} {request:?} at {age}");
        }
    }
}

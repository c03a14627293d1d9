//! The names of every span and metric, and the one place that emits them.
//!
//! With the feature `tracing`, events go to the target `towerkeep`: decisions at `debug`; where the
//! state lives, and a link that is up again, at `info`; failures of the store, a link that is down and
//! a layer that is set up wrongly at `warn`. A task that outlives its request runs in a span
//! [`TASK_SPAN`], a child of the request's. With the feature `metrics`, decisions and failures are
//! counted through the `metrics` facade. Without them nothing is compiled in.
//!
//! | metric | labels | counts |
//! | --- | --- | --- |
//! | [`SESSION_TOTAL`] | `outcome` | `created`, `modified`, `touched`, `destroyed`, `revoked`, `evicted`, `gone` |
//! | [`CACHE_TOTAL`] | `outcome` | `hit`, `miss`, `collapsed`, `stored`, `bypass`, `refused`, `purge` |
//! | [`RATE_LIMIT_TOTAL`] | `outcome` | `allowed`, `denied` |
//! | [`IDEMPOTENCY_TOTAL`] | `outcome` | `acquired`, `replayed`, `busy`, `mismatch`, `orphan`, `tombstone`, `completed`, `abandoned`, `lost` |
//! | [`COALESCE_TOTAL`] | `outcome` | `led`, `shared`, `unshared`, `gave_up` |
//! | [`LOCK_TOTAL`] | `outcome` | `acquired`, `contended`, `timed_out`, `released`, `lost` |
//! | [`STORE_ERRORS_TOTAL`] | `middleware`, `reason` | failed store calls by middleware (`session`, `tower_sessions`, `cache`, `rate_limit`, `idempotency`, `coalesce`, `lock`) and [`StoreError::reason`] |
//!
//! [`StoreError::reason`]: crate::StoreError::reason

use crate::store::StoreError;
use std::{fmt, future::Future};

/// What became of sessions.
pub const SESSION_TOTAL: &str = "towerkeep_session_outcomes_total";
/// What the cache did with a request.
pub const CACHE_TOTAL: &str = "towerkeep_cache_outcomes_total";
/// What the limiter decided.
pub const RATE_LIMIT_TOTAL: &str = "towerkeep_rate_limit_decisions_total";
/// What became of requests with an idempotency key.
pub const IDEMPOTENCY_TOTAL: &str = "towerkeep_idempotency_outcomes_total";
/// What became of requests that may be coalesced.
pub const COALESCE_TOTAL: &str = "towerkeep_coalesce_outcomes_total";
/// What became of locks.
pub const LOCK_TOTAL: &str = "towerkeep_lock_outcomes_total";
/// Store calls that failed.
pub const STORE_ERRORS_TOTAL: &str = "towerkeep_store_errors_total";

/// The span of a task that outlives its request: a cache fill or an idempotent handler.
pub const TASK_SPAN: &str = "towerkeep.task";

/// Counts one outcome of a middleware.
pub(crate) fn count(metric: &'static str, outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!(metric, "outcome" => outcome).increment(1);
    #[cfg(feature = "tracing")]
    tracing::debug!(target: "towerkeep", metric, outcome);
    let _ = (metric, outcome);
}

/// Counts and logs a store call that failed.
pub(crate) fn store_failed(middleware: &'static str, error: &StoreError) {
    #[cfg(feature = "metrics")]
    metrics::counter!(STORE_ERRORS_TOTAL, "middleware" => middleware, "reason" => error.reason())
        .increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "towerkeep", middleware, reason = error.reason(), %error, "store call failed");
    let _ = (middleware, error);
}

/// Logs a change that an operator wants to see once.
pub(crate) fn notice(message: fmt::Arguments<'_>) {
    #[cfg(feature = "tracing")]
    tracing::info!(target: "towerkeep", "{message}");
    let _ = message;
}

/// Logs a misuse or a fault that a developer should look at.
pub(crate) fn warn(message: fmt::Arguments<'_>) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "towerkeep", "{message}");
    let _ = message;
}

/// The future with a child of the caller's span around it.
pub(crate) fn in_task_span<F: Future>(future: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "tracing")]
    let future = {
        use tracing::Instrument;
        future.instrument(tracing::debug_span!(target: "towerkeep", TASK_SPAN))
    };
    future
}

#[cfg(all(test, feature = "metrics"))]
pub(crate) mod tests {
    use super::*;
    use ::metrics::{
        Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };
    use std::sync::{Arc, Mutex};

    /// Writes down what is counted.
    #[derive(Clone, Default)]
    pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

    impl Notes {
        pub(crate) fn lines(&self) -> Vec<String> {
            self.0.lock().expect("no panic while counting").clone()
        }
    }

    struct Line(Notes, String);

    impl CounterFn for Line {
        fn increment(&self, by: u64) {
            self.0.0.lock().expect("no panic while counting").push(format!("{} +{by}", self.1));
        }

        fn absolute(&self, _: u64) {}
    }

    impl Recorder for Notes {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels: Vec<_> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let line = format!("{} {}", key.name(), labels.join(" "));
            Counter::from_arc(Arc::new(Line(self.clone(), line)))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn outcomes_and_failures_are_counted_under_their_names_and_labels() {
        let notes = Notes::default();
        ::metrics::with_local_recorder(&notes, || {
            count(RATE_LIMIT_TOTAL, "denied");
            store_failed("cache", &StoreError::unavailable("the link is down"));
        });
        let expected = [
            "towerkeep_rate_limit_decisions_total outcome=denied +1",
            "towerkeep_store_errors_total middleware=cache reason=unavailable +1",
        ];
        assert_eq!(notes.lines(), expected);
    }
}

//! What is leased: how many units at once, and for how long.

use crate::rate_limit::{quota::QuotaError, rule::Rule, store::Charge};
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(60);

/// How many units a process takes at once, and how long it may keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalLease {
    units: u64,
    pub(super) length_us: u64,
}

impl LocalLease {
    pub(crate) fn new(rule: Rule, units: u32, length: Duration) -> Result<Self, QuotaError> {
        let refused = |why: String| Err(QuotaError(why));
        match rule {
            Rule::Concurrency(_) => {
                return refused(
                    "a concurrency limit counts who is at it, which nothing that was taken ahead of \
                     time can be; leave local_lease out"
                        .into(),
                );
            }
            Rule::SlidingLog(_) => {
                return refused(
                    "a sliding log is exact in any period, and units that are spent after they were \
                     taken are not; leave local_lease out, or use Policy::sliding_window or \
                     Policy::gcra"
                        .into(),
                );
            }
            _ => {}
        }
        let units = u64::from(units);
        if units < 2 || units > rule.limit() {
            return refused(format!(
                "a local lease of {units} is not 2 to the limit, {}; a tenth of the limit divided by \
                 the number of processes strands little",
                rule.limit()
            ));
        }
        if length < SHORTEST || length > LONGEST {
            return refused(format!(
                "a local lease for {length:?} is outside {SHORTEST:?} to {LONGEST:?}"
            ));
        }
        Ok(Self { units, length_us: length.as_micros() as u64 })
    }
}

/// How many are taken at once.
pub(super) fn units(charge: &Charge) -> u64 {
    let lease = charge.local_lease.filter(|_| !charge.shadow);
    lease.map_or(0, |lease| lease.units.min(charge.rule.limit()))
}

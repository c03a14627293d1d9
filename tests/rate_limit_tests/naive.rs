//! A naive model of the rate limits: what each algorithm admits, in plain integers without bounds.
//!
//! It only says whether a request is allowed, and what one that is changes. What remains, when it is
//! all back and when a retry succeeds, is found by trying: so the stores' answers are known to be
//! exact, to the last unit and to the microsecond.

use std::{collections::BTreeMap, time::Duration};
use towerkeep::rate_limit::{Policy, Quota, Rule};

/// A rule in the model's terms; times are in µs.
#[derive(Clone, Debug)]
pub(crate) enum Naive {
    Gcra { burst: i128, interval: i128 },
    Bucket { burst: i128, limit: i128, period: i128 },
    Fixed { limit: i128, period: i128, aligned: bool },
    Sliding { limit: i128, period_ms: i128 },
    Log { limit: i128, period: i128 },
    Leases { limit: i128, lease: i128 },
}

/// What the model knows of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The TAT; or the debt, in `period`ths of a token, and its time; or the window and its counts.
    numbers: Option<(i128, i128, i128)>,
    log: Vec<i128>,
    leases: BTreeMap<u64, i128>,
}

/// What the model knows against one key; times are in µs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// How many denials make a ban, within how long, of which length; nothing does if there is none.
    pub(crate) ban_after: Option<(u32, i128, i128)>,
    banned_until: i128,
    /// How many there were, and when they are forgotten.
    denials: (u32, i128),
}

impl Record {
    /// How long a ban lasts yet.
    pub(crate) fn banned(&self, now: i128) -> Option<Duration> {
        let left = self.banned_until - now;
        (left > 0).then(|| Duration::from_micros(left as u64))
    }

    /// A denial that counts.
    pub(crate) fn deny(&mut self, now: i128) {
        let Some((most, within, length)) = self.ban_after else { return };
        let (count, until) = self.denials;
        let (count, until) = if until > now { (count, until) } else { (0, now + within) };
        self.denials = (count + 1, until.min(now + within));
        if count + 1 == most {
            self.clear();
            self.ban_for(length, now);
        }
    }

    pub(crate) fn ban_for(&mut self, length: i128, now: i128) {
        self.banned_until = now + length;
    }

    pub(crate) fn clear(&mut self) {
        (self.banned_until, self.denials) = (0, (0, 0));
    }

    /// Forgets what has ended; `true` if there was something.
    pub(crate) fn sweep(&mut self, now: i128) -> bool {
        let (banned, (count, until)) = (self.banned_until, self.denials);
        let ended = (banned > 0 || count > 0) && banned <= now && until <= now;
        if ended {
            self.clear();
        }
        ended
    }
}

/// What the model says of a request.
#[derive(Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) allowed: bool,
    pub(crate) banned: bool,
    pub(crate) remaining: u64,
    pub(crate) reset: Duration,
    pub(crate) retry: Option<Duration>,
}

impl Naive {
    /// A rule by its algorithm's name, and the policy that is to do the same.
    pub(crate) fn make(
        algorithm: usize,
        name: &str,
        limit: u32,
        ms: u64,
        extra: u32,
    ) -> (Self, Policy) {
        let quota = Quota::new(limit, Duration::from_millis(ms)).unwrap();
        let (l, period) = (i128::from(limit), i128::from(ms) * 1_000);
        let burst = i128::from(extra);
        let (naive, rule) = match algorithm {
            0 => (
                Self::Gcra { burst, interval: (period + l - 1) / l },
                Rule::gcra(quota.burst(extra)),
            ),
            1 => (Self::Bucket { burst, limit: l, period }, Rule::token_bucket(quota.burst(extra))),
            2 => (Self::Fixed { limit: l, period, aligned: false }, Rule::fixed_window(quota)),
            3 => (Self::Fixed { limit: l, period, aligned: true }, Rule::aligned_window(quota)),
            4 => {
                (Self::Sliding { limit: l, period_ms: period / 1_000 }, Rule::sliding_window(quota))
            }
            5 => (Self::Log { limit: l, period }, Rule::sliding_log(quota)),
            _ => {
                let lease = Duration::from_millis(ms);
                let rule = Rule::concurrency(limit).unwrap().lease(lease);
                (Self::Leases { limit: l, lease: period }, rule)
            }
        };
        (naive, Policy::new(name, rule.unwrap()).unwrap())
    }

    pub(crate) fn most(&self) -> u64 {
        let most = match self {
            Self::Gcra { burst, .. } | Self::Bucket { burst, .. } => *burst,
            Self::Fixed { limit, .. } | Self::Sliding { limit, .. } => *limit,
            Self::Log { limit, .. } | Self::Leases { limit, .. } => *limit,
        };
        most as u64
    }

    pub(crate) fn is_leases(&self) -> bool {
        matches!(self, Self::Leases { .. })
    }

    /// Everything a client is told of a key.
    pub(crate) fn say(&self, known: &Known, now: i128, cost: u64, id: u64) -> Said {
        let horizon = 4 * self.longest() + 1;
        let allowed = cost == 0 || self.allows(known, now, cost, id);
        let retry = match () {
            () if allowed => Some(0),
            () if cost > self.most() && !self.is_leases() => None,
            () => Some(least(horizon, |wait| self.allows(known, now + wait, cost, id))),
        };
        let nobody = u64::MAX;
        let remaining = match self {
            Self::Leases { limit, .. } => (limit - live(known, now)).max(0),
            _ => least(i128::from(self.most()) + 1, |left| {
                !self.allows(known, now, left as u64 + 1, nobody)
            }),
        };
        let reset = least(horizon, |wait| self.is_vacant(known, now + wait));
        let micros = |us: i128| Duration::from_micros(us as u64);
        Said {
            allowed,
            banned: false,
            remaining: remaining as u64,
            reset: micros(reset),
            retry: retry.map(micros),
        }
    }

    /// How long a full allowance takes to come back at the longest.
    pub(crate) fn longest(&self) -> i128 {
        match self {
            Self::Gcra { burst, interval } => burst * interval,
            Self::Bucket { burst, limit, period } => burst * period / limit + 1,
            Self::Fixed { period, .. } | Self::Log { period, .. } => *period,
            Self::Sliding { period_ms, .. } => period_ms * 1_000,
            Self::Leases { lease, .. } => *lease,
        }
    }

    fn allows(&self, known: &Known, now: i128, cost: u64, id: u64) -> bool {
        let cost = i128::from(cost);
        match self {
            Self::Gcra { burst, interval } => {
                let tat = known.numbers.map_or(now, |it| it.0.max(now));
                tat + cost * interval <= now + burst * interval
            }
            Self::Bucket { burst, period, .. } => {
                self.debt(known, now) + cost * period <= burst * period
            }
            Self::Fixed { limit, .. } => self.window(known, now).1 + cost <= *limit,
            Self::Sliding { limit, period_ms } => {
                let (start, current, previous) = self.windows(known, now);
                let passed = (now.div_euclid(1_000) - start).max(0);
                previous * (period_ms - passed) + (current + cost) * period_ms <= limit * period_ms
            }
            Self::Log { limit, .. } => self.entries(known, now).len() as i128 + cost <= *limit,
            Self::Leases { limit, .. } => {
                live(known, now) < *limit || known.leases.get(&id).is_some_and(|&ends| ends > now)
            }
        }
    }

    fn is_vacant(&self, known: &Known, now: i128) -> bool {
        match self {
            Self::Gcra { .. } => known.numbers.is_none_or(|it| it.0 <= now),
            Self::Bucket { .. } => self.debt(known, now) == 0,
            Self::Fixed { .. } => self.window(known, now).1 == 0,
            Self::Sliding { .. } => {
                let (_, current, previous) = self.windows(known, now);
                current + previous == 0
            }
            Self::Log { .. } => self.entries(known, now).is_empty(),
            Self::Leases { .. } => live(known, now) == 0,
        }
    }

    /// Forgets what has ended; `true` if there was something.
    pub(crate) fn sweep(&self, known: &mut Known, now: i128) -> bool {
        let vacant = self.is_vacant(known, now);
        if vacant {
            *known = Known::default();
        }
        vacant
    }

    /// What a clock that went back must not make anyone wait for.
    pub(crate) fn heal(&self, known: &mut Known, now: i128) {
        match self {
            Self::Gcra { .. } => {
                known.numbers = known.numbers.map(|it| (it.0.min(now + self.longest()), 0, 0));
            }
            Self::Bucket { burst, period, .. } => {
                if self.debt(known, now) > burst * period {
                    known.numbers = Some((burst * period, now, 0));
                }
            }
            Self::Fixed { .. } => {
                if let Some((start, count, _)) = known.numbers
                    && start > now
                {
                    known.numbers = Some((self.start(now), count, 0));
                }
            }
            Self::Sliding { period_ms, .. } => {
                let ms = now.div_euclid(1_000);
                if let Some((start, current, previous)) = known.numbers
                    && start > ms + period_ms
                {
                    known.numbers = Some((ms, current, previous));
                }
            }
            Self::Log { period, .. } => {
                if known.log.last().is_some_and(|newest| *newest > now + period) {
                    known.log = vec![now; self.entries(known, now).len()];
                }
            }
            Self::Leases { lease, .. } => {
                known.leases.values_mut().for_each(|ends| *ends = (*ends).min(now + lease));
            }
        }
    }

    /// Takes what is left of `cost`, and returns the receipt.
    pub(crate) fn take(&self, known: &mut Known, now: i128, cost: u64, id: u64) -> u64 {
        let cost = i128::from(cost.min(self.most()));
        match self {
            Self::Gcra { interval, .. } => {
                let tat = known.numbers.map_or(now, |it| it.0.max(now)) + cost * interval;
                known.numbers = Some((tat.min(now + self.longest()), 0, 0));
                now as u64
            }
            Self::Bucket { burst, period, .. } => {
                let debt = (self.debt(known, now) + cost * period).min(burst * period);
                known.numbers = Some((debt, now, 0));
                now as u64
            }
            Self::Fixed { limit, .. } => {
                let (start, count) = self.window(known, now);
                known.numbers = Some((start, (count + cost).min(*limit), 0));
                start as u64
            }
            Self::Sliding { limit, .. } => {
                let (start, current, previous) = self.windows(known, now);
                known.numbers = Some((start, (current + cost).min(*limit), previous));
                start as u64
            }
            Self::Log { limit, .. } => {
                let at = known.log.last().map_or(now, |newest| (*newest).max(now));
                let mut entries = self.entries(known, now);
                entries.extend((0..cost).map(|_| at));
                let surplus = entries.len().saturating_sub(*limit as usize);
                known.log = entries.split_off(surplus);
                at as u64
            }
            Self::Leases { limit, lease } => {
                let held = known.leases.get(&id).is_some_and(|&ends| ends > now);
                if held || live(known, now) < *limit {
                    known.leases.retain(|_, ends| *ends > now);
                    known.leases.insert(id, now + lease);
                }
                id
            }
        }
    }

    pub(crate) fn give(&self, known: &mut Known, now: i128, cost: u64, receipt: u64) {
        let cost = i128::from(cost.min(self.most()));
        let since = (now - i128::from(receipt)).max(0);
        match self {
            Self::Gcra { interval, .. } => {
                let tat = known.numbers.map_or(now, |it| it.0.max(now));
                let back = (cost * interval - since).max(0);
                known.numbers = Some(((tat - back).max(now), 0, 0));
            }
            Self::Bucket { limit, period, .. } => {
                let back = (cost * period - since * limit).max(0);
                known.numbers = Some(((self.debt(known, now) - back).max(0), now, 0));
            }
            Self::Fixed { .. } => {
                let (start, count) = self.window(known, now);
                if start == i128::from(receipt) {
                    known.numbers = Some((start, (count - cost).max(0), 0));
                }
            }
            Self::Sliding { period_ms, .. } => {
                let (start, mut current, mut previous) = self.windows(known, now);
                if start == i128::from(receipt) {
                    current = (current - cost).max(0);
                } else if start == i128::from(receipt) + period_ms {
                    previous = (previous - cost).max(0);
                }
                known.numbers = Some((start, current, previous));
            }
            Self::Log { .. } => {
                for _ in 0..cost {
                    if let Some(at) = known.log.iter().position(|&it| it == i128::from(receipt)) {
                        known.log.remove(at);
                    }
                }
            }
            Self::Leases { .. } => drop(known.leases.remove(&receipt)),
        }
    }

    /// `false` if the lease has ended.
    pub(crate) fn renew(&self, known: &mut Known, now: i128, id: u64) -> bool {
        let Self::Leases { lease, .. } = self else { return true };
        let held = known.leases.get(&id).is_some_and(|&ends| ends > now);
        if held {
            known.leases.retain(|_, ends| *ends > now);
            known.leases.insert(id, now + lease);
        }
        held
    }

    /// What is owed; what is owed from the future on has not begun to be paid.
    fn debt(&self, known: &Known, now: i128) -> i128 {
        let Self::Bucket { limit, .. } = self else { unreachable!("only buckets owe") };
        known.numbers.map_or(0, |(debt, at, _)| (debt - (now - at) * limit).max(0))
    }

    fn start(&self, now: i128) -> i128 {
        match self {
            Self::Fixed { period, aligned: true, .. } => now - now.rem_euclid(*period),
            _ => now,
        }
    }

    fn window(&self, known: &Known, now: i128) -> (i128, i128) {
        let fits = |it: &(i128, i128, i128)| it.1 > 0 && now < it.0 + self.longest();
        let window = known.numbers.filter(fits);
        window.map_or((self.start(now), 0), |(start, count, _)| (start, count))
    }

    fn windows(&self, known: &Known, now: i128) -> (i128, i128, i128) {
        let Self::Sliding { period_ms, .. } = self else { unreachable!("only these slide") };
        let ms = now.div_euclid(1_000);
        match known.numbers {
            Some((start, current, previous))
                if ms < start + period_ms && current + previous > 0 =>
            {
                (start, current, previous)
            }
            Some((start, current, _)) if ms < start + 2 * period_ms && current > 0 => {
                (start + period_ms, 0, current)
            }
            _ => (ms, 0, 0),
        }
    }

    fn entries(&self, known: &Known, now: i128) -> Vec<i128> {
        let Self::Log { period, .. } = self else { unreachable!("only logs have entries") };
        let at = known.log.last().map_or(now, |newest| (*newest).max(now));
        known.log.iter().copied().filter(|entry| *entry > at - period).collect()
    }
}

fn live(known: &Known, now: i128) -> i128 {
    known.leases.values().filter(|ends| **ends > now).count() as i128
}

/// The least number up to `most` that is `enough`, where all above it are, too.
fn least(most: i128, enough: impl Fn(i128) -> bool) -> i128 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high) / 2;
        if enough(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

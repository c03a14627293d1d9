//! Random histories on memory, on Redis (a server, a Cluster) and on a naive model: all answer alike.

use super::spy::two;
use crate::harness::Harness;
use proptest::{collection::vec, prelude::*, test_runner::Config};
use std::{collections::HashMap, time::Duration};
use tokio::runtime::Runtime;
use towerkeep::{
    Backend,
    lock::{Attempt, LockStore},
};

#[derive(Clone, Debug)]
enum Step {
    Acquire { name: usize, token: usize, ttl: Duration },
    Renew { name: usize, token: usize, ttl: Duration },
    Release { name: usize, token: usize },
    ForceRelease { name: usize },
    Holder { name: usize },
    Advance(Duration),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (name, token) = (0..2usize, 0..3usize);
    let ttl = prop_oneof![
        Just(Duration::from_millis(10)),
        (10..5_000u64).prop_map(Duration::from_millis),
        Just(Duration::from_secs(86_400)),
    ];
    let by = prop_oneof![
        Just(Duration::from_millis(10)),
        (0..3_000_000u64).prop_map(Duration::from_micros),
        // Past every lock and the memory of its fence.
        Just(Duration::from_secs(3 * 86_400)),
    ];
    let step = prop_oneof![
        4 => (name.clone(), token.clone(), ttl.clone())
            .prop_map(|(name, token, ttl)| Step::Acquire { name, token, ttl }),
        2 => (name.clone(), token.clone(), ttl)
            .prop_map(|(name, token, ttl)| Step::Renew { name, token, ttl }),
        2 => (name.clone(), token).prop_map(|(name, token)| Step::Release { name, token }),
        1 => name.clone().prop_map(|name| Step::ForceRelease { name }),
        2 => name.prop_map(|name| Step::Holder { name }),
        3 => by.prop_map(Step::Advance),
    ];
    vec(step, 1..40)
}

/// A lock as one would explain it: who holds it until when, and the highest fence so far.
#[derive(Default)]
struct Naive {
    now: Duration,
    held: HashMap<String, (String, Duration, u64)>,
    highest: HashMap<String, u64>,
}

impl Naive {
    fn forget_expired(&mut self) {
        let now = self.now;
        self.held.retain(|_, (_, until, _)| *until > now);
    }

    fn acquire(&mut self, name: &str, token: &str, ttl: Duration) -> Attempt {
        self.forget_expired();
        let fence = match self.held.get(name) {
            Some((holder, until, _)) if holder != token => {
                return Attempt::Held { left: *until - self.now };
            }
            Some((_, _, fence)) => *fence,
            None => {
                let highest = self.highest.entry(name.into()).or_default();
                *highest = u64::max(*highest + 1, self.now.as_micros() as u64);
                *highest
            }
        };
        self.held.insert(name.into(), (token.into(), self.now + ttl, fence));
        Attempt::Acquired { fence }
    }

    fn renew(&mut self, name: &str, token: &str, ttl: Duration) -> bool {
        self.forget_expired();
        match self.held.get_mut(name) {
            Some((holder, until, _)) if holder == token => {
                *until = self.now + ttl;
                true
            }
            _ => false,
        }
    }

    fn release(&mut self, name: &str, token: &str) -> bool {
        self.forget_expired();
        let ours = self.held.get(name).is_some_and(|(holder, _, _)| holder == token);
        ours && self.held.remove(name).is_some()
    }

    fn force_release(&mut self, name: &str) -> bool {
        self.forget_expired();
        self.held.remove(name).is_some()
    }

    fn holder(&mut self, name: &str) -> Option<(Option<String>, u64, Duration)> {
        self.forget_expired();
        self.held.get(name).map(|(token, until, fence)| {
            let owner = token.find('@').map(|at| token[at + 1..].to_owned());
            (owner, *fence, *until - self.now)
        })
    }
}

#[test]
fn memory_redis_and_the_model_agree_reply_for_reply() {
    agree(Harness::redis());
}

#[test]
fn memory_a_cluster_and_the_model_agree_reply_for_reply() {
    agree(Harness::cluster());
}

fn agree(harness: impl Future<Output = Harness>) {
    let runtime = Runtime::new().unwrap();
    let (harness, redis) = runtime.block_on(async {
        let harness = harness.await;
        let redis = two(&harness).await;
        (harness, redis)
    });
    let clock = &harness.clock;
    let memory = Backend::builder().clock(clock.clone()).memory();
    let history = std::cell::Cell::new(0);
    let config = Config { cases: 96, failure_persistence: None, ..Config::default() };
    proptest!(config, |(steps in steps())| {
        history.set(history.get() + 1);
        let names = [0, 1].map(|name| format!("{}-{name}", history.get()));
        let tokens = ["a", "b@web-3", "c@"];
        let mut naive = Naive::default();
        runtime.block_on(async {
            for (at, step) in steps.iter().enumerate() {
                naive.now = clock.now();
                let stores = [&memory, &redis[at % 2]];
                match step {
                    Step::Acquire { name, token, ttl } => {
                        let (name, token) = (&names[*name], tokens[*token]);
                        let expected = naive.acquire(name, token, *ttl);
                        for store in stores {
                            let attempt = store.acquire(name, token, *ttl).await.unwrap();
                            prop_assert_eq!(attempt, expected, "step {}", at);
                        }
                    }
                    Step::Renew { name, token, ttl } => {
                        let (name, token) = (&names[*name], tokens[*token]);
                        let expected = naive.renew(name, token, *ttl);
                        for store in stores {
                            let ours = store.renew(name, token, *ttl).await.unwrap();
                            prop_assert_eq!(ours, expected, "step {}", at);
                        }
                    }
                    Step::Release { name, token } => {
                        let (name, token) = (&names[*name], tokens[*token]);
                        let expected = naive.release(name, token);
                        for store in stores {
                            let ours = store.release(name, token).await.unwrap();
                            prop_assert_eq!(ours, expected, "step {}", at);
                        }
                    }
                    Step::ForceRelease { name } => {
                        let expected = naive.force_release(&names[*name]);
                        for store in stores {
                            let held = store.force_release(&names[*name]).await.unwrap();
                            prop_assert_eq!(held, expected, "step {}", at);
                        }
                    }
                    Step::Holder { name } => {
                        let expected = naive.holder(&names[*name]);
                        for store in stores {
                            let holder = store.holder(&names[*name]).await.unwrap();
                            let holder = holder.map(|of| (of.owner, of.fence, of.left));
                            prop_assert_eq!(&holder, &expected, "step {}", at);
                        }
                    }
                    // The clock is one for both; the server's keys age with it.
                    Step::Advance(by) => harness.advance(*by),
                }
            }
            Ok(())
        })?;
    });
}

//! What a limit answers while its Redis is hung, dead or cut off, and what is left of that afterwards.

use super::app::PATIENT;
use crate::{
    harness::PREFIX,
    support::{
        proxy::{FaultProxy, Mode},
        server::RedisServer,
    },
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::Full;
use std::{
    convert::Infallible,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};
use towerkeep::{
    Backend,
    rate_limit::{OnStoreError, Policy, Quota, RateLimitLayer, by},
};

/// Many times a layer's deadline of 100 ms; a request that takes as long hangs.
const HANGS: Duration = Duration::from_secs(10);

/// How a server goes away, and comes back.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Hung,
    Dead,
    CutOff,
}

struct Site {
    redis: RedisServer,
    proxy: FaultProxy,
    backend: Backend,
}

impl Site {
    async fn open() -> Self {
        let redis = RedisServer::start();
        let proxy = FaultProxy::start(redis.port());
        let backend = Backend::builder().prefix(PREFIX).redis(proxy.url()).await.unwrap();
        Self { redis, proxy, backend }
    }

    fn fail(&self, fault: Fault) {
        match fault {
            Fault::Hung => self.redis.pause(),
            Fault::Dead => self.redis.kill(),
            Fault::CutOff => {
                self.proxy.set(Mode::Refuse);
                self.proxy.cut();
            }
        }
    }

    /// Returns when the server is there again and a limit that denies without it lets a request pass.
    async fn mend(&self, fault: Fault) {
        match fault {
            Fault::Hung => self.redis.resume(),
            Fault::Dead => self.redis.restart(),
            Fault::CutOff => self.proxy.set(Mode::Pass),
        }
        let probe = Policy::gcra("probe", Quota::per_second(10_000));
        let probe = self.limit(probe, OnStoreError::Deny);
        let back = async {
            while ask(&probe).await.status() != 200 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENT, back).await.expect("it recovers by itself");
    }

    fn limit(&self, policy: Policy, on_store_error: OnStoreError) -> RateLimitLayer {
        RateLimitLayer::new(self.backend.clone(), policy.key(by::everyone()))
            .on_store_error(on_store_error)
    }
}

/// A request through the limit; panics if it hangs.
async fn ask(limit: &RateLimitLayer) -> Response<impl Sized + use<>> {
    let hello = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let started = Instant::now();
    let mut service = limit.layer(hello);
    let response = service.ready().await.unwrap().call(Request::new(())).await.unwrap();
    assert!(started.elapsed() < HANGS, "a request took {:?}", started.elapsed());
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_policy_answers_in_every_outage_in_time_and_recovers() {
    let site = Site::open().await;
    let hourly = |name: &str| Policy::fixed_window(name, Quota::per_hour(4));
    for fault in [Fault::Hung, Fault::Dead, Fault::CutOff] {
        let name = |policy| format!("{policy}-{fault:?}");
        let allow = site.limit(hourly(&name("allow")), OnStoreError::Allow);
        let deny = site.limit(hourly(&name("deny")), OnStoreError::Deny);
        let own = OnStoreError::LocalFallback { shares: 2 };
        let own = site.limit(hourly(&name("own")), own);
        for limit in [&allow, &deny, &own] {
            assert_eq!(ask(limit).await.status(), 200, "{fault:?}");
        }

        site.fail(fault);
        for n in 0..6 {
            let allowed = ask(&allow).await;
            assert_eq!(allowed.status(), 200, "{fault:?}");
            assert!(!allowed.headers().contains_key("ratelimit"), "nothing is known to be told");
            let denied = ask(&deny).await;
            assert_eq!(denied.status(), StatusCode::SERVICE_UNAVAILABLE, "{fault:?}");
            assert!(denied.headers().contains_key(RETRY_AFTER));
            // Half of four an hour.
            let expected = if n < 2 { 200 } else { 429 };
            assert_eq!(ask(&own).await.status(), expected, "{fault:?}, {n}");
        }

        site.mend(fault).await;
        // Where the counts go on depends on what came through meanwhile; a dead server begins anew.
        assert!([200, 429].contains(&ask(&deny).await.status().as_u16()), "{fault:?}");
        let left = deny.peek(&name("deny"), ["everyone"]).await.unwrap().remaining;
        assert!(left <= 3, "{fault:?}: it counts again, {left}");
    }
}

/// What a hung server was asked it does when it goes on, and never more than was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hung_server_was_asked_is_counted_once_at_most() {
    let site = Site::open().await;
    let limit = site.limit(Policy::sliding_log("p", Quota::per_hour(100)), OnStoreError::Allow);
    assert_eq!(ask(&limit).await.status(), 200);
    site.fail(Fault::Hung);
    for _ in 0..20 {
        assert_eq!(ask(&limit).await.status(), 200);
    }
    site.mend(Fault::Hung).await;
    let left = limit.peek("p", ["everyone"]).await.unwrap().remaining;
    assert!((79..100).contains(&left), "{left} are left of 100 after 21 requests");
    // A retry that is still on its way would count more.
    assert_eq!(ask(&limit).await.status(), 200);
    assert_eq!(limit.peek("p", ["everyone"]).await.unwrap().remaining, left - 1);
}

/// The lease that a hung server gives later, to a request that is long over, goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_a_hung_server_gave_too_late_goes_back() {
    let site = Site::open().await;
    // A lease of a day: within this test it does not end by itself.
    let policy = Policy::concurrency("p", 1).lease(Duration::from_secs(24 * 60 * 60));
    let limit = site.limit(policy, OnStoreError::Allow);
    drop(ask(&limit).await);
    site.fail(Fault::Hung);
    assert_eq!(ask(&limit).await.status(), 200, "nobody knows how many there are");
    site.mend(Fault::Hung).await;
    let given_back = async {
        while limit.peek("p", ["everyone"]).await.unwrap().remaining == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENT, given_back).await.expect("the lease goes back");
}

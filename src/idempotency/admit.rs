//! What happens to a request with a key before its handler runs. Everything here ends with the
//! client: nothing has been run yet, and a lease that was granted meanwhile is given back.

use crate::{
    body::{Buffered, RequestBody, ResponseBody, buffer},
    detached::Detached,
    idempotency::{
        claim,
        fingerprint::{content_key, fingerprint},
        handle::Idempotent,
        layer::{Config, InFlight, Scope},
        rejection::Rejection,
        run::{Run, run},
        store::{Begun, Claim, Fingerprint, Terms},
        stored::{Stored, replay},
    },
    key::digest,
    lease::Lease,
    marks::UserId,
    pubsub::Subscription,
    store::StoreError,
    telemetry::{self, IDEMPOTENCY_TOTAL},
    token,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body::Body;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tower::Service;

/// How soon one who waits without hints looks by itself, as most handlers are quick; each further
/// pause is twice as long, up to the last one.
const FIRST_LOOK: Duration = Duration::from_millis(25);

/// How often one who waits for hints looks by itself, in case one was lost.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// How long one who waits for hints waits for the subscription. Without it, it only looks.
const SUBSCRIBED_WITHIN: Duration = Duration::from_millis(100);

/// What becomes of a request with a key.
#[expect(clippy::large_enum_variant, reason = "it is matched where it is made")]
pub(crate) enum Verdict<B: Body, E> {
    Answer(Response<ResponseBody<B>>),
    Run(Detached<B, E>),
}

/// What tells a request from others of its scope.
pub(crate) enum Key {
    /// What the client says.
    Sent(String),
    /// What it asks.
    Content,
}

/// Decides, and starts the handler if that is the decision.
pub(crate) async fn admit<S, Q, R>(
    config: Arc<Config>,
    inner: S,
    request: Request<Q>,
    key: Key,
) -> Verdict<R, S::Error>
where
    S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Q: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    match decide(&config, &mut parts, body, key).await {
        Ok(Admitted::Replay(response)) => Verdict::Answer(response),
        Ok(Admitted::Run(granted)) => {
            let Granted { lease, claim, key, fence, attempt, body: (data, trailers), terms } =
                granted;
            let handle = Idempotent::new(key, claim.id().into(), fence, attempt, lease.watch());
            parts.extensions.insert(handle.clone());
            let request = Request::from_parts(parts, RequestBody::buffered(data, trailers));
            let tasks = config.tasks.clone();
            let this = Run { config, claim, lease, handle, terms };
            Verdict::Run(Detached::new(|head| tasks.spawn(run(this, inner, request, head))))
        }
        Err(rejection) => Verdict::Answer(config.rejection.respond(rejection)),
    }
}

#[expect(clippy::large_enum_variant, reason = "it is matched where it is made")]
enum Admitted<B: Body> {
    Replay(Response<ResponseBody<B>>),
    Run(Granted),
}

/// The right to run.
struct Granted {
    lease: Lease,
    claim: Claim,
    key: String,
    fence: u64,
    attempt: u32,
    body: (Bytes, Option<HeaderMap>),
    /// How the outcome is kept.
    terms: Terms,
}

async fn decide<Q: Body<Data = Bytes>, B: Body>(
    config: &Config,
    parts: &mut Parts,
    body: Q,
    key: Key,
) -> Result<Admitted<B>, Rejection> {
    let by_content = matches!(key, Key::Content);
    let (kind, scope) = scope(config, parts, by_content).await?;
    let body = receive(config, body).await?;
    let fingerprint = fingerprint(parts, &body.0, config.canonical.as_deref());
    let key = match key {
        Key::Sent(key) => key,
        Key::Content => content_key(&fingerprint),
    };
    let id = digest([kind.as_bytes(), scope.as_bytes(), key.as_bytes()]);
    let (held, kept) = config.terms_of(by_content);
    Ok(match enter(config, id, &fingerprint, held).await? {
        Entered::Replay(outcome) => Admitted::Replay(replayed(outcome)?),
        Entered::Run { lease, claim, fence, attempt } => {
            Admitted::Run(Granted { lease, claim, key, fence, attempt, body, terms: kept })
        }
    })
}

/// What the key belongs to.
async fn scope(
    config: &Config,
    parts: &mut Parts,
    by_content: bool,
) -> Result<(&'static str, String), Rejection> {
    let scope = config.scope_of(by_content);
    if !matches!(scope, Scope::Everyone) {
        let user = UserId::of(&parts.extensions).await.map_err(|error| unavailable(&error))?;
        if let Some(user) = user {
            parts.extensions.insert(user);
        }
    }
    scope.of(parts).ok_or(Rejection::ScopeMissing)
}

/// The whole body. No lease is held meanwhile: a client may be slow.
async fn receive<Q: Body<Data = Bytes>>(
    config: &Config,
    body: Q,
) -> Result<(Bytes, Option<HeaderMap>), Rejection> {
    let limit = config.request_limit;
    match timeout(config.request_timeout, buffer(body, limit)).await {
        Ok(Buffered::Complete { data, trailers }) => Ok((data, trailers)),
        Ok(Buffered::TooLarge) => Err(Rejection::BodyTooLarge { limit }),
        Ok(Buffered::Broken(_)) => Err(Rejection::BodyBroken),
        Err(_) => Err(Rejection::BodyTimeout),
    }
}

enum Entered {
    Replay(Bytes),
    Run { lease: Lease, claim: Claim, fence: u64, attempt: u32 },
}

/// Asks the store until it has an answer other than "busy", or the wait is over.
async fn enter(
    config: &Config,
    id: String,
    fingerprint: &Fingerprint,
    terms: Terms,
) -> Result<Entered, Rejection> {
    let claim = Claim::new(id, token::token());
    let mut wait = None;
    loop {
        let (begun, lease) = begin(config, &claim, fingerprint, terms).await?;
        let left = match begun {
            Begun::Acquired { fence, attempts } => {
                telemetry::count(IDEMPOTENCY_TOTAL, "acquired");
                return Ok(Entered::Run { lease, claim, fence, attempt: attempts });
            }
            Begun::Replay(outcome) => return Ok(Entered::Replay(outcome)),
            Begun::Mismatch => {
                telemetry::count(IDEMPOTENCY_TOTAL, "mismatch");
                return Err(Rejection::Mismatch);
            }
            Begun::Orphan { attempts } => {
                telemetry::count(IDEMPOTENCY_TOTAL, "orphan");
                return Err(Rejection::Orphan { attempts });
            }
            Begun::Busy { left } => left,
        };
        if wait.is_none() {
            wait = Wait::begin(config, claim.id());
        }
        let waited = match &mut wait {
            Some(wait) => wait.once(left).await,
            None => false,
        };
        if !waited {
            telemetry::count(IDEMPOTENCY_TOTAL, "busy");
            return Err(Rejection::InFlight { left });
        }
    }
}

/// One `begin`. The lease is made first: if the caller leaves, or no answer comes, dropping it gives
/// back what the store may have granted.
async fn begin(
    config: &Config,
    claim: &Claim,
    fingerprint: &Fingerprint,
    terms: Terms,
) -> Result<(Begun, Lease), Rejection> {
    let mut lease = claim::lease(config, claim, terms);
    let begun = config.store.begin(claim, fingerprint, terms).await;
    if !matches!(&begun, Ok(Begun::Acquired { .. }))
        && !begun.as_ref().is_err_and(StoreError::is_timeout)
    {
        lease.disarm();
    }
    match begun {
        Ok(begun) => Ok((begun, lease)),
        Err(error) if error.is_corrupt() => {
            telemetry::store_failed("idempotency", &error);
            Err(Rejection::Unreadable)
        }
        Err(error) => Err(unavailable(&error)),
    }
}

fn replayed<B: Body>(outcome: Bytes) -> Result<Response<ResponseBody<B>>, Rejection> {
    match Stored::decode(outcome) {
        Ok(Stored::Response { snapshot, trailers }) => {
            telemetry::count(IDEMPOTENCY_TOTAL, "replayed");
            Ok(replay(snapshot, trailers))
        }
        Ok(Stored::Tombstone { status }) => {
            telemetry::count(IDEMPOTENCY_TOTAL, "tombstone");
            Err(Rejection::Tombstone { status })
        }
        Err(unreadable) => {
            telemetry::store_failed("idempotency", &unreadable.into());
            Err(Rejection::Unreadable)
        }
    }
}

fn unavailable(error: &StoreError) -> Rejection {
    telemetry::store_failed("idempotency", error);
    Rejection::Unavailable
}

/// The wait for another's answer. Waking means: look again.
struct Wait {
    until: Instant,
    /// None from a store that sends no hints.
    hints: Option<Subscription>,
    /// Between two looks; `None` before the first.
    pause: Option<Duration>,
    _place: OwnedSemaphorePermit,
}

impl Wait {
    /// `None` if requests do not wait here, or too many do.
    fn begin(config: &Config, id: &str) -> Option<Self> {
        let InFlight::Wait { max } = config.in_flight else { return None };
        let place = config.waiters.clone().try_acquire_owned().ok()?;
        let until = Instant::now() + max;
        Some(Self { until, hints: config.store.watch(id), pause: None, _place: place })
    }

    /// Waits until it is worth looking again; `false` once the wait is over. `left` is what the
    /// other's lease has.
    async fn once(&mut self, left: Duration) -> bool {
        let rest = self.until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return false;
        }
        let Some(pause) = self.pause else {
            // What came before the subscription is seen by the look that follows; what comes after it
            // is told.
            let told = match &mut self.hints {
                Some(hints) => hints.ready(SUBSCRIBED_WITHIN.min(rest)).await,
                None => false,
            };
            self.pause = Some(if told { LAST_LOOKS } else { FIRST_LOOK });
            return true;
        };
        self.pause = Some((pause * 2).min(LAST_LOOKS));
        let pause = jittered(pause).min(left).min(rest);
        match &mut self.hints {
            // Either end means the same: look again.
            Some(hints) => drop(timeout(pause, hints.recv()).await),
            None => sleep(pause).await,
        }
        true
    }
}

/// Half of it to one and a half, so that those who wait together do not look together.
fn jittered(pause: Duration) -> Duration {
    let spread = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
    pause / 2 + Duration::from_micros(token::jitter(spread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::Hints;

    const LONG: Duration = Duration::from_secs(3_600);

    fn waiting(hints: &Hints, max: Duration, pause: Option<Duration>) -> Wait {
        let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        Wait {
            until: Instant::now() + max,
            hints: Some(hints.subscribe("id")),
            pause,
            _place: place,
        }
    }

    #[tokio::test]
    async fn a_hint_ends_a_pause_long_before_the_next_look() {
        let hints = Hints::memory();
        let mut wait = waiting(&hints, LONG, None);
        assert!(wait.once(LONG).await);
        assert_eq!(wait.pause, Some(LAST_LOOKS), "whoever is told need not look often");
        wait.pause = Some(LONG);
        hints.publish("id", Bytes::new()).await.unwrap();
        assert!(timeout(Duration::from_secs(20), wait.once(LONG)).await.unwrap());
    }

    #[tokio::test]
    async fn of_a_store_without_hints_a_wait_looks_by_itself() {
        let mut wait = Wait { hints: None, ..waiting(&Hints::memory(), LONG, None) };
        assert!(wait.once(LONG).await);
        assert_eq!(wait.pause, Some(FIRST_LOOK), "nobody tells, so it looks soon");
        assert!(timeout(Duration::from_secs(20), wait.once(LONG)).await.unwrap());
    }

    #[tokio::test]
    async fn a_pause_ends_with_the_lease_and_with_the_wait_when_no_hint_comes() {
        let hints = Hints::memory();
        let brief = Duration::from_millis(5);
        let patience = Duration::from_secs(20);
        let mut wait = waiting(&hints, LONG, Some(LONG));
        assert!(timeout(patience, wait.once(brief)).await.unwrap());
        let mut wait = waiting(&hints, brief, Some(LONG));
        assert!(timeout(patience, wait.once(LONG)).await.unwrap(), "there is one last look");
        assert!(!wait.once(LONG).await);
    }
}

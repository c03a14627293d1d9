//! What happens to a request with a key before its handler runs. Everything here ends with the
//! client: nothing has been run yet, and a lease that was granted meanwhile is given back.

use crate::{
    body::{Buffered, RequestBody, ResponseBody, buffer},
    detached::Detached,
    idempotency::{
        claim,
        fingerprint::fingerprint,
        handle::Idempotent,
        layer::{Config, Scope},
        rejection::Rejection,
        run::{Run, run},
        store::{Begun, Claim, Fingerprint},
        stored::{Stored, replay},
        wait::Wait,
    },
    key::digest,
    lease::Lease,
    marks::UserId,
    store::StoreError,
    telemetry::{self, IDEMPOTENCY_TOTAL},
    token,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body::Body;
use std::sync::Arc;
use tokio::time::timeout;
use tower::Service;

/// What becomes of a request with a key.
#[expect(clippy::large_enum_variant, reason = "it is matched where it is made")]
pub(crate) enum Verdict<B: Body, E> {
    Answer(Response<ResponseBody<B>>),
    Run(Detached<B, E>),
}

/// Decides, and starts the handler if that is the decision.
pub(crate) async fn admit<S, Q, R>(
    config: Arc<Config>,
    inner: S,
    request: Request<Q>,
    key: String,
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
    let admitted = match identify(&config, &mut parts, &key).await {
        Ok(id) => match receive(&config, body).await {
            Ok(body) => enter(&config, id, &parts, body).await,
            Err(rejection) => Err(rejection),
        },
        Err(rejection) => Err(rejection),
    };
    match admitted {
        Ok(Admitted::Replay(response)) => Verdict::Answer(response),
        Ok(Admitted::Run { lease, claim, fence, attempt, body: (data, trailers) }) => {
            let handle = Idempotent::new(key, claim.id().into(), fence, attempt, lease.watch());
            parts.extensions.insert(handle.clone());
            let request = Request::from_parts(parts, RequestBody::buffered(data, trailers));
            let tasks = config.tasks.clone();
            let this = Run { config, claim, lease, handle };
            Verdict::Run(Detached::new(|head| tasks.spawn(run(this, inner, request, head))))
        }
        Err(rejection) => Verdict::Answer(config.rejection.respond(rejection)),
    }
}

enum Admitted<B: Body> {
    Replay(Response<ResponseBody<B>>),
    Run { lease: Lease, claim: Claim, fence: u64, attempt: u32, body: (Bytes, Option<HeaderMap>) },
}

/// The id of the record: the scope and the key, hashed.
async fn identify(config: &Config, parts: &mut Parts, key: &str) -> Result<String, Rejection> {
    if !matches!(config.scope, Scope::Everyone) {
        let user = UserId::of(&parts.extensions).await.map_err(|error| unavailable(&error))?;
        if let Some(user) = user {
            parts.extensions.insert(user);
        }
    }
    let (kind, scope) = config.scope.of(parts).ok_or(Rejection::ScopeMissing)?;
    Ok(digest([kind.as_bytes(), scope.as_bytes(), key.as_bytes()]))
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

/// Asks the store until it has an answer other than "busy", or the wait is over.
async fn enter<B: Body>(
    config: &Config,
    id: String,
    parts: &Parts,
    body: (Bytes, Option<HeaderMap>),
) -> Result<Admitted<B>, Rejection> {
    let fingerprint = fingerprint(parts, &body.0);
    let claim = Claim::new(id, token::token());
    let mut wait = None;
    loop {
        let (begun, lease) = begin(config, &claim, &fingerprint).await?;
        let left = match begun {
            Begun::Acquired { fence, attempts } => {
                telemetry::count(IDEMPOTENCY_TOTAL, "acquired");
                return Ok(Admitted::Run { lease, claim, fence, attempt: attempts, body });
            }
            Begun::Replay(outcome) => return replayed(outcome).map(Admitted::Replay),
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
) -> Result<(Begun, Lease), Rejection> {
    let mut lease = claim::lease(config, claim);
    let begun = config.store.begin(claim, fingerprint, config.terms).await;
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

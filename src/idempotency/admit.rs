//! What happens to a request with a key before its handler runs. Everything here ends with the
//! client: nothing has been run yet, and a lease that was granted meanwhile is given back.

use crate::{
    body::{Buffered, RequestBody, ResponseBody, buffer},
    detached::Detached,
    idempotency::{
        claim,
        fingerprint::{content_key, fingerprint},
        handle::Idempotent,
        layer::{Config, Scope},
        rejection::Rejection,
        run::{Run, run},
        store::{Begun, Claim, Fingerprint, Terms},
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

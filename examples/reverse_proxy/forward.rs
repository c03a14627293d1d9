//! One request, asked of the upstream.

use super::{
    fields,
    interim::Interim,
    options::{Options, Upstream},
    upload::{self, BoxError, Progress, Upload},
};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, HOST},
    uri::{PathAndQuery, Scheme},
};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::json;
use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tower::{Service, ServiceBuilder};
use towerkeep::{
    Backend, PeerAddr,
    cache::{Cache, CacheLayer, Policy},
};

/// Shorter than servers keep a connection open that nobody uses (5 s is common): a request that is
/// written to one that is just being closed is lost.
const IDLE: Duration = Duration::from_secs(4);

/// A response of the upstream, or the proxy's word about it.
type ForwardBody = Either<Incoming, Full<Bytes>>;

/// The cache, and the upstream behind it.
pub(crate) fn proxy(options: &Options, backend: &Backend) -> Cache<Forward> {
    let cache = CacheLayer::new(backend.clone()).policy(Policy::proxy()).select_language(true);
    ServiceBuilder::new().layer(cache).service(Forward::new(options))
}

/// Asks the upstream. It answers always: if the upstream does not, with what is wrong.
#[derive(Clone)]
pub(crate) struct Forward {
    client: Client<HttpConnector, Upload>,
    upstream: Upstream,
    timeout: Duration,
}

impl Forward {
    fn new(options: &Options) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { client, upstream: options.upstream.clone(), timeout: options.timeout }
    }

    async fn ask(
        self,
        request: Request<Upload>,
        progress: Progress,
    ) -> Result<Response<Incoming>, Failure> {
        let answer = tokio::select! {
            answer = self.client.request(request) => answer.map_err(Failure::Client)?,
            () = progress.stalled(self.timeout) => return Err(Failure::Slow(self.timeout)),
        };
        if answer.status().is_informational() {
            return Err(Failure::Switched);
        }
        Ok(answer)
    }
}

impl<B> Service<Request<B>> for Forward
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ForwardBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let upstream = this.upstream.clone();
            let answer = match outgoing(request, &this.upstream) {
                Ok((request, progress)) => this.ask(request, progress).await,
                Err(failure) => Err(failure),
            };
            Ok(match answer {
                Ok(mut response) => {
                    let version = response.version();
                    fields::forward_response(response.headers_mut(), version);
                    *response.version_mut() = Version::HTTP_11;
                    response.map(Either::Left)
                }
                Err(failure) => {
                    eprintln!("{upstream}: {failure}");
                    failure.into_response()
                }
            })
        })
    }
}

/// The request as the upstream gets it.
fn outgoing<B>(
    request: Request<B>,
    upstream: &Upstream,
) -> Result<(Request<Upload>, Progress), Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = request.into_parts();
    if head.method == Method::CONNECT {
        return Err(Failure::Tunnel);
    }
    // Where the target names a host, that one holds (RFC 9112, section 3.2.2).
    let named = head.uri.authority().and_then(|named| HeaderValue::from_str(named.as_str()).ok());
    if let Some(named) = named {
        head.headers.insert(HOST, named);
    }
    let peer = head.extensions.get::<PeerAddr>().map(|peer| peer.address().ip());
    fields::forward_request(&mut head.headers, head.version, peer);

    let (body, progress) = Upload::new(body, &head.headers);
    let mut request = Request::new(body);
    *request.uri_mut() = target(head.uri, upstream)?;
    *request.method_mut() = head.method;
    let interim = head.extensions.remove::<Interim>();
    let asks = upload::expects(&head.headers);
    *request.headers_mut() = head.headers;
    let go_on = progress.clone();
    hyper::ext::on_informational(&mut request, move |response| {
        // hyper tells a client that asked to go on as soon as its body is read.
        if asks && response.status() == StatusCode::CONTINUE {
            go_on.go_on();
        } else if let Some(interim) = &interim {
            let mut headers = response.headers().clone();
            fields::strip_connection(&mut headers);
            interim.send(response.status(), &headers);
        }
    });
    Ok((request, progress))
}

/// Path and query as the client sent them, at the upstream.
fn target(uri: Uri, upstream: &Upstream) -> Result<Uri, Failure> {
    let path = uri.into_parts().path_and_query;
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(upstream.0.clone())
        .path_and_query(path.unwrap_or(PathAndQuery::from_static("/")))
        .build()
        .map_err(|_| Failure::Target)
}

/// Why there is no response of the upstream.
#[derive(Debug)]
enum Failure {
    Client(legacy::Error),
    Slow(Duration),
    Switched,
    Target,
    Tunnel,
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Client(error) if timed_out(error) => StatusCode::GATEWAY_TIMEOUT,
            Self::Client(_) | Self::Switched => StatusCode::BAD_GATEWAY,
            Self::Slow(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Target => StatusCode::BAD_REQUEST,
            Self::Tunnel => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// Without the upstream's address, which is not the client's business.
    fn into_response(self) -> Response<ForwardBody> {
        let status = self.status();
        let problem = json!({
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
        });
        let mut response = Response::new(Either::Right(Full::from(problem.to_string())));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) if error.is_connect() => {
                write!(f, "the upstream cannot be reached: {}", root(error))
            }
            Self::Client(error) => {
                write!(f, "the upstream did not answer with HTTP: {}", root(error))
            }
            Self::Slow(limit) => write!(f, "the upstream did not begin to answer in {limit:?}"),
            Self::Switched => f.write_str("the upstream changed the protocol without being asked"),
            Self::Target => f.write_str("the request's target is not a path"),
            Self::Tunnel => f.write_str("CONNECT is not for a reverse proxy"),
        }
    }
}

fn timed_out(error: &legacy::Error) -> bool {
    let io = root(error).downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    std::iter::successors(Some(error), |&error| error.source()).last().unwrap_or(error)
}

//! A plain HTTP client.

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::BoxError;

/// How long an exchange may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client with a connection pool; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient(Client<HttpConnector, Body>);

/// A response that was read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl HttpClient {
    pub(crate) fn http1() -> Self {
        Self::new(false)
    }

    /// HTTP/2 without TLS, by prior knowledge: all requests share one connection.
    pub(crate) fn http2() -> Self {
        Self::new(true)
    }

    fn new(http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).http2_only(http2).build(connector))
    }

    /// GET; panics if no whole response comes.
    pub(crate) async fn get(&self, url: &str) -> Reply {
        self.send(Request::get(url).body(Body::empty()).expect("the URL is valid")).await
    }

    /// Sends a request and reads the response; panics if no whole response comes.
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let what = format!("{} {}", request.method(), request.uri());
        match timeout(PATIENCE, self.try_send(request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => panic!("{what}: {error:?}"),
            Err(_) => panic!("{what}: no answer in {PATIENCE:?}"),
        }
    }

    /// Sends a request and reads the response. Dropping the future leaves in the middle: HTTP/1
    /// closes the connection, HTTP/2 resets the stream.
    pub(crate) async fn try_send(&self, request: Request<Body>) -> Result<Reply, BoxError> {
        let (head, body) = self.open(request).await?.into_parts();
        let body = body.collect().await?;
        Ok(Reply {
            status: head.status,
            version: head.version,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    }

    /// Sends a request and returns at the response's head. Dropping it leaves in the middle of the
    /// body.
    pub(crate) async fn open(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, BoxError> {
        Ok(self.0.request(request).await?)
    }
}

impl Reply {
    /// The body as text; panics if it is none.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The first value of a header, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is text"))
    }

    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("the header is text")).collect()
    }
}

/// Writes bytes to a new connection, whole requests or parts of one; dropping the stream leaves.
pub(crate) async fn write_raw(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("the server listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.write_all(bytes.as_ref()).await.expect("the server reads");
    stream
}

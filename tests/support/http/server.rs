//! Serves a tower service on a free port.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::extract::ConnectInfo;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tower::{Service, ServiceExt};

use super::BoxError;

/// How long a graceful stop may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server of HTTP/1 and HTTP/2 (prior knowledge) on one port, with upgrades. Dropped, it closes
/// its connections in the middle of what they do.
#[derive(Debug)]
pub(crate) struct HttpServer {
    addr: SocketAddr,
    stop: oneshot::Sender<Infallible>,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Serves an axum `Router` or any other tower service, in the caller's runtime. Each request
    /// carries the peer's address as axum's `ConnectInfo<SocketAddr>` in its extensions.
    pub(crate) async fn start<S, B>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let addr = listener.local_addr().expect("the port is known");
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let graceful = GracefulShutdown::new();
            let mut links = JoinSet::new();
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    Ok((stream, peer)) = listener.accept() => {
                        links.spawn(serve(stream, peer, service.clone(), &graceful));
                    }
                    Some(_) = links.join_next(), if !links.is_empty() => {}
                }
            }
            drop(listener);
            graceful.shutdown().await;
        });
        Self { addr, stop, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A URL of this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Stops gracefully: no new connections, and those that are open finish their requests.
    pub(crate) async fn stop(mut self) {
        let (unused, _) = oneshot::channel();
        drop(std::mem::replace(&mut self.stop, unused));
        let end = timeout(PATIENCE, &mut self.task).await.expect("the server stops in time");
        end.expect("the server does not panic");
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve<S, B>(
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let _ = stream.set_nodelay(true);
    let service = service.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    });
    let watcher = graceful.watcher();
    async move {
        let builder = auto::Builder::new(TokioExecutor::new());
        let link = builder.serve_connection_with_upgrades(
            TokioIo::new(stream),
            TowerToHyperService::new(service),
        );
        // A client that leaves in the middle is an error here and what a test may want.
        let _ = watcher.watch(link.into_owned()).await;
    }
}

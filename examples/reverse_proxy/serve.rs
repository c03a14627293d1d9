//! The side of the clients: connections in, requests out of them.

use super::{interim::InterimIo, upload::BoxError};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use std::{future::Future, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tower::{Service, ServiceExt};
use towerkeep::PeerAddr;

/// Serves until `end`; then requests that are under way have `farewell` to finish.
pub(crate) async fn until<S, B>(
    end: impl Future<Output = ()>,
    listener: TcpListener,
    service: S,
    farewell: Duration,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let graceful = GracefulShutdown::new();
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => _ = tokio::spawn(link(stream, peer, service.clone(), &graceful)),
            Err(error) => {
                // Of one client that left, or no file descriptor is left: both pass.
                eprintln!("cannot accept a connection: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if timeout(farewell, graceful.shutdown()).await.is_err() {
        eprintln!("some requests did not end in {farewell:?}");
    }
}

/// One connection, with all its requests.
fn link<S, B>(
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // First bytes, interim responses among them, go out at once.
    let _ = stream.set_nodelay(true);
    let (io, link) = InterimIo::new(stream);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(PeerAddr::new(peer));
        let open = link.begin(request.version()).map(|(interim, open)| {
            request.extensions_mut().insert(interim);
            open
        });
        let service = service.clone();
        async move {
            let response = service.oneshot(request).await;
            drop(open);
            response
        }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(io), service);
    let served = graceful.watch(served);
    async move {
        // A client that left, or one that sent something else than HTTP.
        if let Err(error) = served.await {
            eprintln!("{peer}: {error}");
        }
    }
}

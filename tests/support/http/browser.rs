//! A client that keeps cookies, as a browser does.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
};

use axum::body::Body;
use http::{HeaderValue, Request, header};

use super::{
    client::{HttpClient, Reply},
    cookies::CookieJar,
};

/// One user's browser, on one server. Its requests may overlap.
#[derive(Debug)]
pub(crate) struct Browser {
    http: HttpClient,
    addr: SocketAddr,
    jar: Mutex<CookieJar>,
}

impl Browser {
    /// A browser that treats plain HTTP over loopback as secure, over HTTP/1.
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self::with(HttpClient::http1(), addr, true)
    }

    /// A browser over a given client; `secure` as in `CookieJar::new`.
    pub(crate) fn with(http: HttpClient, addr: SocketAddr, secure: bool) -> Self {
        Self { http, addr, jar: Mutex::new(CookieJar::new(&addr.ip().to_string(), secure)) }
    }

    /// The same user, cookies and all, at another server of the fleet.
    pub(crate) fn at(&self, addr: SocketAddr) -> Self {
        Self { http: self.http.clone(), addr, jar: Mutex::new(self.jar().clone()) }
    }

    /// The cookies. Do not hold it across an await.
    pub(crate) fn jar(&self) -> MutexGuard<'_, CookieJar> {
        self.jar.lock().expect("no panic while the jar changes")
    }

    /// GET a path.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).expect("the path is valid")).await
    }

    /// POST to a path.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(Request::post(path).body(body.into()).expect("the path is valid")).await
    }

    /// Sends a request whose URI is a path, with the jar's cookies, and keeps what it sets.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Reply {
        let path = request.uri().path().to_owned();
        let url = format!("http://{}{}", self.addr, request.uri());
        *request.uri_mut() = url.parse().expect("the path is valid");
        if let Some(cookies) = self.jar().header(&path) {
            let cookies = HeaderValue::try_from(cookies).expect("cookies are text");
            request.headers_mut().insert(header::COOKIE, cookies);
        }
        let reply = self.http.send(request).await;
        self.jar().store(&path, &reply.headers);
        reply
    }
}

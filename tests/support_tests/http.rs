use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{
        ConnectInfo, Path,
        ws::{WebSocket, WebSocketUpgrade},
    },
    response::AppendHeaders,
    routing::get,
};
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::{
    io::AsyncReadExt,
    sync::{Notify, mpsc},
    time::timeout,
};
use tower::service_fn;

use crate::support::http::{
    browser::Browser,
    client::{HttpClient, write_raw},
    cookies::CookieJar,
    server::HttpServer,
};

#[tokio::test]
async fn a_router_is_served_over_both_versions() {
    let peer = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
    let server = HttpServer::start(Router::new().route("/", get(peer))).await;
    for (client, version) in
        [(HttpClient::http1(), Version::HTTP_11), (HttpClient::http2(), Version::HTTP_2)]
    {
        let reply = client.get(&server.url("/")).await;
        assert_eq!((reply.status.as_u16(), reply.version), (200, version));
        assert_eq!(reply.text(), "127.0.0.1");
    }
    assert_eq!(HttpClient::http1().get(&server.url("/nothing")).await.status.as_u16(), 404);
}

#[tokio::test]
async fn a_plain_service_is_served_over_both_versions() {
    let service = service_fn(|request: Request<Incoming>| async move {
        assert!(request.extensions().get::<ConnectInfo<SocketAddr>>().is_some());
        let mut response = Response::new(Full::<&[u8]>::from(b"plain".as_slice()));
        response.headers_mut().insert("x-path", request.uri().path().parse().unwrap());
        Ok::<_, Infallible>(response)
    });
    let server = HttpServer::start(service).await;
    for client in [HttpClient::http1(), HttpClient::http2()] {
        let reply = client.get(&server.url("/here")).await;
        assert_eq!((reply.text(), reply.header("x-path")), ("plain", Some("/here")));
    }
}

#[tokio::test]
async fn an_upgrade_passes() {
    let greet = async |mut socket: WebSocket| socket.send("hello".into()).await.unwrap();
    let upgrade = async move |socket: WebSocketUpgrade| socket.on_upgrade(greet);
    let server = HttpServer::start(Router::new().route("/", get(upgrade))).await;
    let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = write_raw(server.addr(), request).await;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    assert!(answer.windows(7).any(|frame| frame == b"\x81\x05hello"));
}

#[tokio::test]
async fn a_graceful_stop_lets_a_request_finish_and_refuses_new_ones() {
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, go_on) = (entered.clone(), go_on.clone());
        async move || {
            entered.notify_one();
            go_on.notified().await;
            "done"
        }
    };
    let server = HttpServer::start(Router::new().route("/", get(handler))).await;
    let (addr, url) = (server.addr(), server.url("/"));
    let request = tokio::spawn(async move { HttpClient::http1().get(&url).await });
    entered.notified().await;

    let stop = tokio::spawn(server.stop());
    while tokio::net::TcpStream::connect(addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!stop.is_finished());
    go_on.notify_one();
    assert_eq!(request.await.unwrap().text(), "done");
    stop.await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_breaks_its_connections() {
    let server = HttpServer::start(Router::new().route("/", get(std::future::pending::<()>))).await;
    let mut stream = write_raw(server.addr(), "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(timeout(Duration::from_millis(100), stream.read_u8()).await.is_err());
    drop(server);
    let end = timeout(Duration::from_secs(5), stream.read_u8()).await;
    assert!(end.expect("the connection is closed").is_err());
}

/// Tells on drop, as the handler's future is dropped when the client leaves.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn who_leaves_in_the_middle_cancels_the_handler() {
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let entered = Arc::new(Notify::new());
    let handler = {
        let entered = entered.clone();
        async move || {
            let _guard = Dropped(sender);
            entered.notify_one();
            std::future::pending::<()>().await;
        }
    };
    let server = HttpServer::start(Router::new().route("/", get(handler))).await;
    let mut cancelled = async || {
        timeout(Duration::from_secs(5), dropped.recv()).await.expect("the handler is cancelled");
    };

    for client in [HttpClient::http1(), HttpClient::http2()] {
        let request = Request::get(server.url("/")).body(Body::empty()).unwrap();
        tokio::select! {
            _ = client.try_send(request) => panic!("the handler never answers"),
            () = entered.notified() => {}
        }
        cancelled().await;
    }

    let stream = write_raw(server.addr(), "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    entered.notified().await;
    drop(stream);
    cancelled().await;
}

#[tokio::test]
async fn a_browser_keeps_its_cookies_and_shows_them_to_the_fleet() {
    let app = || {
        let set = |Path(value): Path<String>| async move {
            AppendHeaders([
                (header::SET_COOKIE, format!("__Host-id={value}; Path=/; Secure; HttpOnly")),
                (header::SET_COOKIE, format!("theme={value}; Path=/set")),
            ])
        };
        let show = async |headers: HeaderMap| {
            headers
                .get(header::COOKIE)
                .map_or(String::new(), |value| value.to_str().unwrap().into())
        };
        Router::new().route("/set/{value}", get(set)).route("/show", get(show).post(show))
    };
    let (one, two) = (HttpServer::start(app()).await, HttpServer::start(app()).await);
    let browser = Browser::new(one.addr());
    assert_eq!(browser.get("/set/a?q=1").await.all("set-cookie").len(), 2);
    assert_eq!(browser.get("/show").await.text(), "__Host-id=a");
    assert_eq!(browser.at(two.addr()).post("/show", "").await.text(), "__Host-id=a");
    assert_eq!(browser.jar().len(), 2);

    let naive = Browser::with(HttpClient::http2(), one.addr(), false);
    naive.get("/set/b").await;
    assert_eq!(naive.get("/show").await.text(), "");
}

fn jar() -> CookieJar {
    CookieJar::new("example.org", true)
}

fn stored(jar: &mut CookieJar, path: &str, lines: &[&str]) {
    let values = lines.iter().map(|line| HeaderValue::from_str(line).unwrap());
    jar.store(path, &values.map(|value| (header::SET_COOKIE, value)).collect());
}

#[test]
fn a_cookie_goes_to_its_path_and_below() {
    let mut jar = jar();
    stored(&mut jar, "/shop/cart", &["a=1", "b=2; Path=/", "c=3; Path=/shop/cart"]);
    assert_eq!(jar.header("/shop/cart/x").unwrap(), "c=3; a=1; b=2");
    assert_eq!(jar.header("/shop").unwrap(), "a=1; b=2");
    assert_eq!(jar.header("/shopping").unwrap(), "b=2");
    assert_eq!(jar.get("a").unwrap().path, "/shop");
}

#[test]
fn a_cookie_is_replaced_by_its_name_and_path() {
    let mut jar = jar();
    stored(&mut jar, "/", &["a=1; Path=/", "b=2; Path=/", "a=3; Path=/", "a=4; Path=/deep"]);
    assert_eq!(jar.header("/deep").unwrap(), "a=4; a=3; b=2");
}

#[test]
fn a_cookie_of_another_domain_or_partition_is_another_cookie() {
    let mut jar = jar();
    let lines = ["a=1", "a=2; Domain=example.org", "a=3; Partitioned; Secure"];
    stored(&mut jar, "/", &lines);
    assert_eq!(jar.len(), 3);
    stored(&mut jar, "/", &["a=; Max-Age=0", "a=; Domain=EXAMPLE.org; Max-Age=0"]);
    assert_eq!(jar.header("/").unwrap(), "a=3");
}

#[test]
fn max_age_removes_and_wins_over_expires() {
    let past = "Expires=Thu, 01 Jan 1970 00:00:00 GMT";
    let mut jar = jar();
    stored(&mut jar, "/", &["a=1", "b=1", "c=1", "d=1"]);
    stored(&mut jar, "/", &["a=; Max-Age=0", "b=; Max-Age=-1", &format!("c=; {past}")]);
    stored(&mut jar, "/", &[&format!("d=2; Max-Age=60; {past}")]);
    assert_eq!(jar.header("/").unwrap(), "d=2");

    jar.advance(Duration::from_secs(59));
    assert!(!jar.is_empty());
    jar.advance(Duration::from_secs(2));
    assert!(jar.is_empty());
}

#[test]
fn a_closed_browser_forgets_session_cookies_only() {
    let mut jar = jar();
    stored(&mut jar, "/", &["session=1", "kept=1; Max-Age=60"]);
    jar.close();
    assert_eq!(jar.header("/").unwrap(), "kept=1");
}

#[test]
fn what_a_browser_refuses_is_not_stored() {
    let mut jar = jar();
    stored(
        &mut jar,
        "/",
        &[
            "__Host-a=1; Secure; Path=/deep",
            "__Host-b=1; Path=/",
            "__Host-c=1; Secure; Path=/; Domain=example.org",
            "__Secure-d=1",
            "__Http-d=1; Secure",
            "__Host-Http-d=1; Secure; Path=/",
            "d=1; Partitioned",
            "e=1; SameSite=None",
            "f=1; Domain=example.com",
            "nonsense",
        ],
    );
    assert!(jar.is_empty(), "{jar:?}");
    stored(&mut jar, "/", &["__Host-a=1; Secure; Path=/", "g=1; Domain=.example.org"]);
    assert_eq!(jar.len(), 2);

    let mut insecure = CookieJar::new("example.org", false);
    stored(&mut insecure, "/", &["a=1; Secure", "b=2"]);
    assert_eq!(insecure.header("/").unwrap(), "b=2");
}

#[test]
fn attributes_are_there_to_be_asserted() {
    let mut jar = jar();
    stored(&mut jar, "/", &["a=1; HttpOnly; samesite=Lax; SECURE"]);
    let cookie = jar.get("a").unwrap();
    assert!(cookie.http_only && cookie.secure && cookie.expires.is_none());
    assert_eq!(cookie.same_site.as_deref(), Some("Lax"));
    jar.set("a", "forged");
    assert_eq!(jar.get("a").unwrap().value, "forged");
}

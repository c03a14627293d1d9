//! The example `reverse_proxy` as a process of its own, between clients and origins that the tests play.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod support;

#[expect(dead_code, reason = "its `main` is not called here")]
#[path = "../examples/reverse_proxy/main.rs"]
mod example;

use crate::{
    example::{
        interim::InterimIo,
        options::{Command, Options},
    },
    support::{
        http::{
            client::{HttpClient, Reply},
            wire::{Origin, Wire},
        },
        process::{self, ChildApp},
        server::RedisServer,
    },
};
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, Version, header::TE};
use http_body_util::BodyExt;
use rustix::process::Signal;
use std::{env, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use towerkeep::Backend;

/// Words of the command line, for the child.
const WORDS: &str = "PROXY_WORDS";

/// The child's `main`, with a port that the test learns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy() {
    if !process::is_child("proxy") {
        return;
    }
    let words = env::var(WORDS).unwrap();
    let words = words.split_whitespace().map(Into::into);
    let Ok(Command::Serve(options)) = Options::parse(words, |_| None) else {
        panic!("the words are a command");
    };
    let listener = example::bind(&options).await.unwrap();
    process::announce(listener.local_addr().unwrap());
    example::serve(listener, &options, Backend::from_env().await.unwrap()).await;
}

fn start(upstream: SocketAddr, words: &str, redis: &str) -> ChildApp {
    let words = format!("--upstream http://{upstream} --listen 127.0.0.1:0 {words}");
    ChildApp::spawn("proxy", &[(WORDS, &words), ("REDIS_URL", redis)])
}

/// A proxy with a cache of its own, and the origin behind it.
async fn pair() -> (ChildApp, Origin) {
    let origin = Origin::start().await;
    (start(origin.addr(), "", ""), origin)
}

/// The last response on its connection, so that each request comes on one of its own.
fn response(fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    )
}

const FRESH: &str = "Cache-Control: max-age=600\r\n";

/// What a proxy that is asked this way answers, and what the origin was asked.
async fn exchange(proxy: &ChildApp, origin: &Origin, request: &str, answer: &str) -> [String; 2] {
    let mut client = Wire::client(proxy.addr(), request).await;
    let (_wire, asked) = origin.answer(answer).await;
    [client.head().await, asked]
}

async fn get(proxy: &ChildApp, path: &str) -> Reply {
    HttpClient::http1().get(&proxy.url(path)).await
}

/// A stored answer. A response is stored after its client has it, and who comes in between waits for
/// that: what is fresh is not asked of the origin twice.
async fn hit(proxy: &ChildApp, path: &str) -> Reply {
    let reply = get(proxy, path).await;
    let status = reply.header("cache-status").unwrap();
    let stored = status.starts_with("towerkeep; hit") || status.ends_with("; collapsed");
    assert!(stored, "{status}");
    reply
}

fn has(head: &str, line: &str) -> bool {
    head.lines().any(|found| found == line)
}

#[tokio::test]
async fn the_origin_is_asked_once_for_what_is_fresh() {
    let (proxy, origin) = pair().await;
    let (first, _origin) = tokio::join!(
        get(&proxy, "/page?a=1"),
        origin.answer(response("Cache-Control: no-store\r\n", "page")),
    );
    assert_eq!(first.text(), "page");
    let (first, _origin) = tokio::join!(
        get(&proxy, "/other"),
        origin.answer(response(&format!("{FRESH}Age: 7\r\n"), "other")),
    );
    let status = first.header("cache-status").unwrap();
    assert!(status.starts_with("towerkeep; fwd=uri-miss; ttl=59") && status.ends_with("; stored"));
    // Nobody plays the origin any more: a request that gets there is not answered.
    let second = hit(&proxy, "/other").await;
    assert_eq!(second.text(), "other");
    assert!(second.header("age").unwrap().parse::<u32>().unwrap() >= 7);
    assert_eq!(second.header("via"), Some("1.1 towerkeep"));
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent() {
    let (proxy, origin) = pair().await;
    let request = "PATCH /a//b%2F/../%c3%a9?x=%20&&y;'z HTTP/1.1\r\nHost: shop.example\r\n\
        X-Twice: 1\r\nX-Twice: 2\r\nCookie: a=b\r\nX-Forwarded-For: 192.0.2.1\r\nVia: 1.0 edge\r\n\
        Connection: close, X-Mine\r\nX-Mine: secret\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\
        Proxy-Authorization: x\r\nTE: gzip\r\nUpgrade: foo\r\nContent-Length: 4\r\n\r\nbody";
    let mut client = Wire::client(proxy.addr(), request).await;
    let (mut wire, asked) = origin.asked().await;
    assert_eq!(wire.exactly(4).await, b"body");
    let answer = "HTTP/1.1 404 Gone Fishing\r\nConnection: close, X-Own\r\nX-Own: 1\r\nKeep-Alive: 5\r\n\
        Set-Cookie: c=d\r\nSet-Cookie: e=f\r\nContent-Length: 2\r\n\r\nno";
    wire.send(answer).await;
    let got = client.head().await;
    assert_eq!(client.rest().await, b"no");

    assert_eq!(asked.lines().next(), Some("PATCH /a//b%2F/../%c3%a9?x=%20&&y;'z HTTP/1.1"));
    for line in [
        "host: shop.example",
        "x-twice: 1",
        "x-twice: 2",
        "cookie: a=b",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-for: 127.0.0.1",
        "via: 1.0 edge",
        "via: 1.1 towerkeep",
        "content-length: 4",
    ] {
        assert!(has(&asked, line), "{line} in {asked}");
    }
    for name in ["connection", "x-mine", "keep-alive", "proxy-", "te", "upgrade", "transfer-"] {
        let name = format!("\n{name}");
        assert!(!asked.contains(&name), "{name} in {asked}");
    }
    assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
    assert!(has(&got, "set-cookie: c=d") && has(&got, "set-cookie: e=f"), "{got}");
    assert!(!got.contains("x-own") && !got.contains("keep-alive"), "{got}");

    // Without `Host`, an upstream would answer for another site.
    for target in ["/x", "http://shop.example/x"] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close, HOST\r\n\r\n"
        );
        let [_, asked] = exchange(&proxy, &origin, &request, &response("", "")).await;
        assert!(has(&asked, "host: shop.example"), "{asked}");
    }

    // A target with a host says more than `Host` does.
    let request = "GET http://named.example/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
    let [_, asked] = exchange(&proxy, &origin, request, &response("", "")).await;
    assert!(asked.starts_with("GET /x HTTP/1.1\r\n"), "{asked}");
    assert!(has(&asked, "host: named.example"), "{asked}");
}

#[tokio::test]
async fn bytes_that_are_no_text_pass_unchanged() {
    let (proxy, origin) = pair().await;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Raw: \xe9\xff\"\r\nTE: \xff\r\n\r\n";
    let mut client = Wire::client(proxy.addr(), request).await;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Raw: \xff\xe9\r\nVary: \xff\r\n\
        Cache-Control: max-age=9, x=\xff\r\nETag: \"\xe9\"\r\nConnection: \xff\r\n\r\n";
    let (_wire, asked) = origin.answer(answer).await;
    assert!(has(&asked, "x-raw: \u{e9}\u{ff}\""), "{asked}");
    let got = client.head().await;
    assert!(has(&got, "x-raw: \u{ff}\u{e9}") && has(&got, "etag: \"\u{e9}\""), "{got}");
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (proxy, origin) = pair().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = Wire::client(proxy.addr(), request).await;
    let answer = |body| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}");
    let (mut wire, _) = origin.answer(answer("1")).await;
    client.head().await;
    assert_eq!(client.exactly(1).await, b"1");
    client.send(request).await;
    // On the same connection: nobody accepts another one.
    wire.head().await;
    wire.send(answer("2")).await;
    client.head().await;
    assert_eq!(client.exactly(1).await, b"2");
}

#[tokio::test]
async fn the_first_bytes_of_a_body_do_not_wait_for_the_last() {
    let (proxy, origin) = pair().await;
    for (path, fields) in [("/stored", FRESH), ("/passed", "Cache-Control: no-store\r\n")] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut client = Wire::client(proxy.addr(), request).await;
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n{fields}\r\n");
        let (mut wire, _) = origin.answer(format!("{head}first")).await;
        client.head().await;
        assert_eq!(client.exactly(5).await, b"first");
        wire.send("-last").await;
        assert_eq!(client.rest().await, b"-last");
    }
}

#[tokio::test]
async fn a_body_is_sent_up_as_it_comes() {
    let (proxy, origin) = pair().await;
    let request =
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
    let mut client = Wire::client(proxy.addr(), format!("{request}5\r\nfirst\r\n")).await;
    let (mut wire, asked) = origin.asked().await;
    assert!(has(&asked, "transfer-encoding: chunked"), "{asked}");
    assert_eq!(wire.exactly(10).await, b"5\r\nfirst\r\n");
    client.send("4\r\nlast\r\n0\r\nx-sum: 7\r\n\r\n").await;
    let end = wire.until(b"\r\n\r\n").await;
    assert_eq!(String::from_utf8(end).unwrap(), "4\r\nlast\r\n0\r\nx-sum: 7\r\n\r\n");
    wire.send(response("", "got it")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(client.exactly(6).await, b"got it");
}

#[tokio::test]
async fn trailers_come_after_the_body() {
    let (proxy, origin) = pair().await;
    let request = Request::get(proxy.url("/")).header(TE, "trailers").body(Body::empty()).unwrap();
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
        4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n";
    let client = HttpClient::http1();
    let (reply, (_, asked)) = tokio::join!(client.send(request), origin.answer(answer));
    assert!(has(&asked, "te: trailers"), "{asked}");
    assert_eq!(reply.text(), "body");
    assert_eq!(reply.trailers.unwrap()["x-sum"], "7");
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-own\r\n\
    X-Own: 1\r\n\r\n";

#[tokio::test]
async fn interim_responses_are_passed_on_at_once() {
    let (proxy, origin) = pair().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.addr());
    let mut client = Wire::client(proxy.addr(), request).await;
    let (mut wire, _) = origin.answer("HTTP/1.1 102 Processing\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 102 Processing\r\n\r\n");
    wire.send(HINTS).await;
    assert_eq!(
        client.head().await,
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
    );
    // With the final one in the same segment.
    wire.send(format!("{HINTS}{}", response(FRESH, "page"))).await;
    assert!(client.head().await.starts_with("HTTP/1.1 103 "));
    let last = client.head().await;
    assert!(last.starts_with("HTTP/1.1 200 ") && !last.contains("a.css"), "{last}");
    assert_eq!(client.exactly(4).await, b"page");

    // What is stored is the final response, alone.
    assert_eq!(hit(&proxy, "/").await.text(), "page");
    let old = "GET /old HTTP/1.0\r\nHost: x\r\n\r\n";
    let [got, _] = exchange(&proxy, &origin, old, &format!("{HINTS}{}", response("", ""))).await;
    assert!(got.starts_with("HTTP/1.0 200 "), "HTTP/1.0 has no interim responses: {got}");
}

/// What hyper writes, and when it flushes, without hyper.
#[tokio::test]
async fn interim_responses_never_get_into_the_middle_of_a_message() {
    let (mut client, server) = tokio::io::duplex(4096);
    let (mut io, link) = InterimIo::new(server);
    io.write_all(b"one-").await.unwrap();
    let (early, open) = link.begin(Version::HTTP_11).unwrap();
    early.send(StatusCode::PROCESSING, &HeaderMap::new());
    // The rest of the last response; then hyper has nothing left.
    io.write_all(b"more").await.unwrap();
    io.flush().await.unwrap();
    early.send(StatusCode::EARLY_HINTS, &HeaderMap::new());
    drop(open);
    io.write_all(b"two-").await.unwrap();
    early.send(StatusCode::EARLY_HINTS, &HeaderMap::new());
    let (late, open) = link.begin(Version::HTTP_11).unwrap();
    late.send(StatusCode::EARLY_HINTS, &HeaderMap::new());
    drop(open);
    io.write_all(b"three").await.unwrap();
    io.flush().await.unwrap();
    assert!(link.begin(Version::HTTP_10).is_none());
    drop(io);

    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    let hints = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
    assert_eq!(got, format!("one-more{hints}two-three"));
}

#[tokio::test]
async fn who_asks_before_a_body_is_answered_by_the_origin() {
    let (proxy, origin) = pair().await;
    let request = "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut client = Wire::client(proxy.addr(), request).await;
    let (mut wire, asked) = origin.asked().await;
    assert!(has(&asked, "expect: 100-continue"), "{asked}");
    wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert_eq!(wire.exactly(4).await, b"body");
    wire.send(response("", "thanks")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    drop((client, wire));

    // No means no: the client is never told to send it.
    let refusal = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n";
    let [got, _] = exchange(&proxy, &origin, request, refusal).await;
    assert!(got.starts_with("HTTP/1.1 417 "), "{got}");
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_body() {
    let (proxy, origin) = pair().await;
    let request = |path| {
        format!("HEAD {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", proxy.addr())
    };
    let mut client = Wire::client(proxy.addr(), request("/")).await;
    let (_wire, asked) =
        origin.answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n").await;
    assert!(asked.starts_with("HEAD / "), "{asked}");
    assert!(has(&client.head().await, "content-length: 4"));
    assert_eq!(client.rest().await, b"");

    let (_, _origin) = tokio::join!(get(&proxy, "/"), origin.answer(response(FRESH, "page")));
    hit(&proxy, "/").await;
    let mut client = Wire::client(proxy.addr(), request("/")).await;
    let got = client.head().await;
    assert!(has(&got, "content-length: 4") && got.contains("towerkeep; hit"), "{got}");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_long_body_arrives_whole_in_both_directions() {
    const LONG: usize = 8 * 1024 * 1024;
    let body: String = (0..LONG / 8).map(|number| format!("{number:08}")).collect();
    let (proxy, origin) = pair().await;
    let request = Request::post(proxy.url("/")).body(Body::from(body.clone())).unwrap();
    let client = HttpClient::http1();
    let (reply, ()) = tokio::join!(client.send(request), async {
        let (mut wire, _) = origin.asked().await;
        assert_eq!(wire.exactly(LONG).await, body.as_bytes());
        wire.send(response(FRESH, &body)).await;
    });
    assert_eq!(reply.text(), body);
}

#[tokio::test]
async fn what_is_wrong_with_the_origin_is_said() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = start(gone, "", "");
    let reply = get(&proxy, "/").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert!(reply.text().contains("cannot be reached"), "{}", reply.text());
    assert!(!reply.text().contains(&gone.port().to_string()), "it is not the client's business");

    let (proxy, origin) = pair().await;
    for bytes in ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n"] {
        let (reply, _) = tokio::join!(get(&proxy, "/"), async {
            // Dropped, the connection is closed.
            origin.answer(bytes).await.1
        });
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{bytes:?}: {}", reply.text());
    }
    let request = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut client = Wire::client(proxy.addr(), request).await;
    assert!(client.head().await.starts_with("HTTP/1.1 501 "));

    let origin = Origin::start().await;
    let proxy = start(origin.addr(), "--timeout 0.1", "");
    let (reply, _wire) = tokio::join!(get(&proxy, "/"), origin.asked());
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(reply.text().contains("100ms"), "{}", reply.text());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_whole_one_and_is_not_stored() {
    let (proxy, origin) = pair().await;
    for head in ["Content-Length: 99", "Transfer-Encoding: chunked"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{FRESH}{head}\r\n\r\n5\r\nfirst\r\n");
        let request = Request::get(proxy.url("/")).body(Body::empty()).unwrap();
        let client = HttpClient::http1();
        let (opened, wire) = tokio::join!(client.open(request), origin.answer(answer));
        let mut body = opened.unwrap().into_body();
        // The head and the first bytes were there before the break.
        body.frame().await.unwrap().unwrap();
        drop(wire);
        assert!(body.collect().await.is_err(), "{head}: a part is taken for the whole");
    }
    let (reply, _wire) = tokio::join!(get(&proxy, "/"), origin.answer(response(FRESH, "whole")));
    assert_eq!(reply.text(), "whole");
}

#[tokio::test]
async fn a_client_that_leaves_is_not_worked_for() {
    let (proxy, origin) = pair().await;
    let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let client = Wire::client(proxy.addr(), request).await;
    let (mut wire, _) = origin.asked().await;
    drop(client);
    assert_eq!(wire.rest().await, b"", "the origin's connection is closed as well");
}

#[tokio::test]
async fn proxies_over_one_redis_have_one_cache() {
    let origin = Origin::start().await;
    let redis = RedisServer::start();
    let [one, two] = [0, 1].map(|_| start(origin.addr(), "", &redis.url()));
    let made = tokio::spawn(async move {
        for made in 1.. {
            origin
                .answer(response(&format!("{FRESH}Connection: close\r\n"), &made.to_string()))
                .await;
        }
    });
    // The host is part of the key, and these two have one name in front of them.
    let request = "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    let hit = async |proxy: &ChildApp| loop {
        let mut client = Wire::client(proxy.addr(), request).await;
        if client.head().await.contains("towerkeep; hit") {
            return client.rest().await;
        }
    };
    let stored = hit(&one).await;
    assert_eq!(hit(&two).await, stored);
    made.abort();
}

#[tokio::test]
async fn told_to_end_it_finishes_what_it_does() {
    let (proxy, origin) = pair().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = Wire::client(proxy.addr(), request).await;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let (mut wire, _) = origin.answer(format!("{head}first")).await;
    client.head().await;
    proxy.signal(Signal::TERM);
    while TcpStream::connect(proxy.addr()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wire.send("-last").await;
    assert_eq!(client.rest().await, b"first-last");
    assert!(proxy.wait(Duration::from_secs(20)).success());
}

#[tokio::test]
async fn wrong_arguments_are_explained() {
    let parse = |words: &str, origin: Option<&str>| {
        let env = |name: &str| origin.filter(|_| name == "ORIGIN_URL").map(Into::into);
        Options::parse(words.split_whitespace().map(Into::into), env)
    };
    for (words, reason) in [
        ("", "ORIGIN_URL"),
        ("--upstream", "needs a value"),
        ("--upstream https://x", "TLS"),
        ("--upstream x:80", "http://"),
        ("--upstream http://", "not a URL"),
        ("--upstream http://x/api", "path"),
        ("--upstream http://me@x", "user name"),
        ("--upstream http://x --listen 8080", "HOST:PORT"),
        ("--upstream http://x --listen x:99999", "HOST:PORT"),
        ("--upstream http://x --timeout soon", "seconds"),
        ("--upstream http://x --timeout=-1", "seconds"),
        ("--upstream http://x --verbose", "--verbose"),
    ] {
        let error = parse(words, None).unwrap_err();
        assert!(error.contains(reason), "{words}: {error}");
    }
    assert!(matches!(parse("--help", None), Ok(Command::Help)));
    let Ok(Command::Serve(options)) = parse("--listen=127.0.0.1:0", Some("http://[::1]:81/"))
    else {
        panic!("the environment completes the command line");
    };
    assert_eq!(options.upstream.to_string(), "http://[::1]:81");

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = example::bind(&Options { listen: address.clone(), ..options }).await.unwrap_err();
    assert!(error.contains(&address) && error.contains("--listen"), "{error}");
}

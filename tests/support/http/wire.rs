//! HTTP/1 by hand, on either side: what goes over the connection, byte by byte.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::client::write_raw;

/// How long the other side may take for its next bytes before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// An origin server that the test plays itself.
#[derive(Debug)]
pub(crate) struct Origin(TcpListener);

impl Origin {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port is free"))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("the port is known")
    }

    /// The next connection, and the head of its first request.
    pub(crate) async fn asked(&self) -> (Wire, String) {
        let accepted = timeout(PATIENCE, self.0.accept()).await.expect("somebody connects in time");
        let (stream, _) = accepted.expect("the listener works");
        stream.set_nodelay(true).expect("a socket option");
        let mut wire = Wire { stream, unread: Vec::new() };
        let head = wire.head().await;
        (wire, head)
    }

    /// Answers one request on a new connection.
    pub(crate) async fn answer(&self, response: impl AsRef<[u8]>) -> (Wire, String) {
        let (mut wire, head) = self.asked().await;
        wire.send(response).await;
        (wire, head)
    }
}

/// One connection; dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    /// A client that has sent these bytes.
    pub(crate) async fn client(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        Self { stream: write_raw(addr, bytes).await, unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the other side reads");
    }

    /// The next head, with names in lower case as hyper writes them; bytes that are no UTF-8 are
    /// characters of Latin-1.
    pub(crate) async fn head(&mut self) -> String {
        let head = self.until(b"\r\n\r\n").await;
        head.into_iter().map(char::from).collect()
    }

    /// The next so many bytes.
    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            assert!(self.more().await, "the connection ends after {:?}", self.unread.len());
        }
        self.unread.drain(..count).collect()
    }

    /// All bytes until the other side closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.unread)
    }

    /// The bytes up to a mark, with it.
    pub(crate) async fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            let found = self.unread.windows(mark.len()).position(|window| window == mark);
            if let Some(at) = found {
                return self.unread.drain(..at + mark.len()).collect();
            }
            let text = String::from_utf8_lossy(&self.unread).into_owned();
            assert!(self.more().await, "the connection ends after {text:?}");
        }
    }

    async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.unread);
        // A reset is an end, too.
        timeout(PATIENCE, read).await.expect("the other side goes on in time").unwrap_or(0) > 0
    }
}

//! One connection through the proxy.

use std::{
    future::pending,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
    time::sleep_until,
};

use super::{Shared, traffic::Verdict};

/// What is read before it is passed on: a pipeline should arrive as the one write that it was.
const CHUNK: usize = 1 << 20;

/// Serves one client until a side closes or the proxy cuts.
pub(super) async fn run(client: TcpStream, shared: Arc<Shared>) {
    let index = shared.traffic().opened();
    let open = Open { index, shared };
    let _ = open.pump(client).await;
}

/// Marks the connection closed when it ends, aborted or not.
struct Open {
    index: usize,
    shared: Arc<Shared>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.traffic().closed(self.index);
    }
}

impl Open {
    async fn pump(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.into_split();
        let server = match TcpStream::connect(("127.0.0.1", self.shared.upstream)).await {
            Ok(server) => server,
            // A black hole swallows with nobody behind it, too; else a dead server is noticed.
            Err(error) if !self.hides_the_end() => return Err(error),
            Err(_) => loop {
                if read(&mut from_client).await?.is_empty() {
                    return Ok(());
                }
            },
        };
        server.set_nodelay(true)?;
        let (mut from_server, mut to_server) = server.into_split();

        // Delayed requests wait in this queue, so that none waits for the delay of another.
        let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
        let requests = async move {
            loop {
                let bytes = read(&mut from_client).await?;
                if bytes.is_empty() {
                    return io::Result::Ok(());
                }
                let verdict = self.shared.traffic().request(self.index, &bytes);
                match verdict {
                    Verdict::Forward(delay) => {
                        let _ = queue.send((Instant::now() + delay, bytes));
                    }
                    Verdict::Swallow => {}
                    Verdict::Close => return Ok(()),
                }
            }
        };
        let forward = async {
            while let Some((at, bytes)) = queued.recv().await {
                if at.saturating_duration_since(Instant::now()) > Duration::ZERO {
                    sleep_until(at.into()).await;
                }
                if let Err(error) = to_server.write_all(&bytes).await {
                    return self.end(Err(error)).await;
                }
            }
            Ok(())
        };
        let replies = async {
            loop {
                let bytes = match read(&mut from_server).await {
                    Ok(bytes) if !bytes.is_empty() => bytes,
                    end => return self.end(end.map(drop)).await,
                };
                let verdict = self.shared.traffic().reply(self.index);
                match verdict {
                    Verdict::Forward(_) => to_client.write_all(&bytes).await?,
                    Verdict::Swallow => {}
                    Verdict::Close => return Ok(()),
                }
            }
        };
        // A client may write and leave: what it wrote still goes out.
        let client_side = async { tokio::try_join!(requests, forward).map(drop) };
        tokio::select! {
            end = client_side => end,
            end = replies => end,
        }
    }

    /// The end of the server's side, which a client in a black hole never hears of.
    async fn end(&self, end: io::Result<()>) -> io::Result<()> {
        if self.hides_the_end() { pending().await } else { end }
    }

    fn hides_the_end(&self) -> bool {
        self.shared.traffic().hides_the_end(self.index)
    }
}

/// Waits for bytes and takes all that are there; empty at the end of the stream.
async fn read(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(16 * 1024);
    loop {
        from.readable().await?;
        match from.try_read_buf(&mut bytes) {
            Ok(0) => return Ok(bytes),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    while bytes.len() < CHUNK {
        bytes.reserve(16 * 1024);
        match from.try_read_buf(&mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    Ok(bytes)
}

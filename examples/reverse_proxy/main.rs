//! A caching reverse proxy: one cache for a fleet of proxies, in front of any HTTP server.
//!
//! ```sh
//! cargo run --example reverse_proxy -- --upstream http://127.0.0.1:8000
//! curl -i http://127.0.0.1:8080/              # twice: see Age and Cache-Status
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example reverse_proxy -- --upstream http://127.0.0.1:8000
//! ```
//!
//! What it does with a request:
//!
//! 1. The cache answers it if it may, by RFC 9111 ([`Policy::proxy`]). Otherwise the upstream does.
//! 2. Method, path, query and fields go there as they came, but for those that concern one connection
//!    only (`Connection` and what it names, `Transfer-Encoding`, `Keep-Alive`, `TE`, `Upgrade`, …).
//!    `Via` and `X-Forwarded-For` are added.
//! 3. **`Host` is the client's**: the upstream knows by which name it was asked, and the cache keeps
//!    what it answers for one name apart from what it answers for another.
//! 4. Bodies stream both ways, with their trailers. A client that asks first by `Expect: 100-continue`
//!    is told to go on when the upstream says so.
//! 5. Interim responses of the upstream (102, 103 Early Hints) are passed on at once.
//!
//! An upstream that cannot be reached, or answers with something that is not HTTP, is a 502; one that
//! does not begin to answer in time is a 504. If it breaks off in the middle of a body, the connection
//! to the client breaks off as well: nobody takes a part for the whole, and it is not stored.
//!
//! It speaks HTTP/1.1 without TLS on both sides, and does not upgrade connections (WebSocket).

mod fields;
mod forward;
pub(crate) mod interim;
pub(crate) mod options;
mod serve;
mod upload;

use self::options::{Command, Options};
use std::{error::Error, process::ExitCode, time::Duration};
use tokio::net::TcpListener;
use towerkeep::Backend;

/// How long requests that are under way have to end after a signal.
const FAREWELL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::from_process() {
        Ok(Command::Serve(options)) => options,
        Ok(Command::Help) => {
            print!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("Error: {error}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let backend = Backend::from_env().await?;
    let listener = bind(&options).await?;
    println!(
        "Listening on http://{}, in front of {}. The cache is in {backend}.",
        listener.local_addr()?,
        options.upstream
    );
    serve(listener, &options, backend).await;
    Ok(())
}

/// The port of the proxy.
pub(crate) async fn bind(options: &Options) -> Result<TcpListener, String> {
    TcpListener::bind(&options.listen).await.map_err(|error| {
        format!(
            "cannot listen on {}: {error}; choose another address by --listen or LISTEN",
            options.listen
        )
    })
}

/// Serves until the process is told to end, and lets what is under way finish.
pub(crate) async fn serve(listener: TcpListener, options: &Options, backend: Backend) {
    let proxy = forward::proxy(options, &backend);
    serve::until(signalled(), listener, proxy, FAREWELL).await;
    backend.shutdown(FAREWELL).await;
}

/// Ctrl-C, or what `kill` and service managers send.
async fn signalled() {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    };
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}

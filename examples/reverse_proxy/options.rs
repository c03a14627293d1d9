//! What the user says on the command line and in the environment.

use http::{Uri, uri::Authority};
use std::{env, fmt, time::Duration};

pub(crate) const USAGE: &str = "\
A caching reverse proxy.

usage: reverse_proxy --upstream URL [--listen ADDRESS] [--timeout SECONDS]

  --upstream URL      the server behind the proxy: http://HOST[:PORT]; or ORIGIN_URL
  --listen ADDRESS    where to listen: HOST:PORT; or LISTEN; 127.0.0.1:8080 if neither is there
  --timeout SECONDS   how long the upstream may take until it begins to answer; 30
  --help              this text

REDIS_URL names the Redis that the fleet shares its cache in; without it, the cache is in memory.
";

/// What the process is to do.
#[derive(Debug)]
pub(crate) enum Command {
    Serve(Options),
    Help,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) upstream: Upstream,
    pub(crate) listen: String,
    /// How long the upstream may take until it begins to answer.
    pub(crate) timeout: Duration,
}

/// Host and port of the server behind the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(pub(crate) Authority);

impl Options {
    pub(crate) fn from_process() -> Result<Command, String> {
        let words = env::args_os().skip(1).map(|word| {
            word.into_string().map_err(|word| format!("{} is not UTF-8", word.to_string_lossy()))
        });
        Self::parse(words.collect::<Result<Vec<_>, _>>()?, |name| env::var(name).ok())
    }

    /// The command line goes before the environment.
    pub(crate) fn parse(
        words: impl IntoIterator<Item = String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Command, String> {
        let (mut upstream, mut listen, mut timeout) = (None, None, None);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            // Both `--listen ADDRESS` and `--listen=ADDRESS`.
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*word, None),
            };
            let place = match name {
                "--upstream" => &mut upstream,
                "--listen" => &mut listen,
                "--timeout" => &mut timeout,
                "--help" | "-h" => return Ok(Command::Help),
                _ => return Err(format!("{word} is not an argument of this command")),
            };
            let value = value.or_else(|| words.next());
            *place = Some(value.ok_or_else(|| format!("{name} needs a value"))?);
        }
        let upstream = upstream.or_else(|| env("ORIGIN_URL")).ok_or(
            "which server is behind the proxy? Say it by --upstream http://HOST[:PORT] or ORIGIN_URL",
        )?;
        let listen = listen.or_else(|| env("LISTEN")).unwrap_or_else(|| "127.0.0.1:8080".into());
        Ok(Command::Serve(Self {
            upstream: parse_upstream(&upstream)?,
            listen: check_listen(listen)?,
            timeout: timeout.map_or(Ok(Duration::from_secs(30)), |word| parse_timeout(&word))?,
        }))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

fn parse_upstream(url: &str) -> Result<Upstream, String> {
    let wrong =
        |why: &str| Err(format!("the upstream {url} {why}; it should be http://HOST[:PORT]"));
    let Ok(uri) = url.parse::<Uri>() else { return wrong("is not a URL") };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return wrong("needs TLS, which this example does not speak"),
        _ => return wrong("does not begin with http://"),
    }
    if uri.path() != "/" || uri.query().is_some() {
        return wrong("has a path, but paths are passed on as they come");
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            wrong("has a user name, which would be sent nowhere")
        }
        Some(authority) if !authority.host().is_empty() => Ok(Upstream(authority.clone())),
        _ => wrong("has no host"),
    }
}

fn check_listen(address: String) -> Result<String, String> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address),
        _ => Err(format!("{address} is no address to listen on; it should be HOST:PORT")),
    }
}

fn parse_timeout(word: &str) -> Result<Duration, String> {
    let seconds = word.parse().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("--timeout {word} is not 0.001 to 86400 seconds"));
    seconds.map(Duration::from_secs_f64)
}

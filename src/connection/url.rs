//! Reads a connection URL, and shows one without its secrets.

use crate::store::StoreError;
use std::{borrow::Cow, fmt, path::PathBuf};

const EXAMPLE: &str = "redis://user:password@host:6379/0";
const DEFAULT_PORT: u16 = 6379;

/// Where the server is and how to log in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) resp3: bool,
    pub(super) tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Reads `url`. Every error shows it without its secrets, and says what to write instead.
pub(super) fn parse(url: &str) -> Result<Target, StoreError> {
    let wrong = |what: String| {
        StoreError::config(format!("the Redis URL {:?} {what}", redacted(url).as_ref()))
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(wrong(format!("has no scheme; write {EXAMPLE}")));
    };
    match scheme {
        "redis" | "valkey" => tcp(rest, false).map_err(wrong),
        "rediss" | "valkeys" if cfg!(feature = "redis-tls") => tcp(rest, true).map_err(wrong),
        "unix" | "redis+unix" | "valkey+unix" => unix(rest).map_err(wrong),
        "rediss" | "valkeys" => Err(wrong(
            "asks for TLS, and towerkeep was built without its feature `redis-tls`; enable it, or use \
             redis:// on a private network"
                .into(),
        )),
        other => Err(wrong(format!(
            "has the scheme {other:?}, which is not Redis; use redis://host:port or unix:///path"
        ))),
    }
}

fn tcp(rest: &str, tls: bool) -> Result<Target, String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if tail.contains('@') {
        return Err(
            "has a '/', '?' or '#' before its '@'; in a password write them as %2F, %3F and %23"
                .into(),
        );
    }
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let (path, query) = split_query(tail)?;
    let (username, password) = match login.map(|login| login.split_once(':').unwrap_or((login, "")))
    {
        Some((user, password)) => (decode(user, "user name")?, decode(password, "password")?),
        None => (None, None),
    };
    let database = match path.trim_matches('/') {
        "" => query.database.unwrap_or(0),
        number => database(number)?,
    };
    let (host, port) = host_and_port(place)?;
    Ok(Target {
        address: Address::Tcp { host, port },
        username: username.or(query.username),
        password: password.or(query.password),
        database,
        resp3: query.resp3,
        tls,
    })
}

fn unix(rest: &str) -> Result<Target, String> {
    let (path, query) = split_query(rest)?;
    if !path.starts_with('/') || path.len() < 2 {
        return Err("has no absolute path; write unix:///run/redis.sock, with three slashes".into());
    }
    if cfg!(not(unix)) {
        return Err("names a unix socket, which this platform does not have".into());
    }
    let path = decode(path, "path")?.unwrap_or_default();
    Ok(Target {
        address: Address::Unix(PathBuf::from(path)),
        username: query.username,
        password: query.password,
        database: query.database.unwrap_or(0),
        resp3: query.resp3,
        tls: false,
    })
}

fn host_and_port(place: &str) -> Result<(String, u16), String> {
    let (host, port) = if let Some(inside) = place.strip_prefix('[') {
        let Some((host, after)) = inside.split_once(']') else {
            return Err("has a '[' without its ']'; write redis://[::1]:6379".into());
        };
        (host, after.strip_prefix(':'))
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    if host.is_empty() {
        return Err(format!("has no host; write {EXAMPLE}"));
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(format!("has the port {port}; ports go from 1 to 65535")),
        },
        // It is not shown: a forgotten '@' makes a port of a password.
        Some(_) => {
            return Err(format!(
                "has something after the host {host:?} that is not a port number from 1 to 65535; \
                 an IPv6 address stands in brackets, and a password before an '@': {EXAMPLE}"
            ));
        }
    };
    Ok((host.to_owned(), port))
}

fn database(number: &str) -> Result<u32, String> {
    number.parse().map_err(|_| {
        format!("has the database {number:?}; it is a number such as 0: redis://host:6379/0")
    })
}

#[derive(Default)]
struct Query {
    username: Option<String>,
    password: Option<String>,
    database: Option<u32>,
    resp3: bool,
}

/// Splits the path from the query, and refuses what is not known: a setting that is read over in
/// silence is worse than an error.
fn split_query(tail: &str) -> Result<(&str, Query), String> {
    if tail.contains('#') {
        // What follows it is not shown: it may be the rest of a password.
        return Err("has a '#', which means nothing here; in a password write it as %23".into());
    }
    let (path, text) = tail.split_once('?').unwrap_or((tail, ""));
    let mut query = Query::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (name, value) {
            ("protocol", "resp3" | "3") => query.resp3 = true,
            ("protocol", "resp2" | "2") => query.resp3 = false,
            ("protocol", other) => {
                return Err(format!("has the protocol {other:?}; it is resp2 or resp3"));
            }
            ("db", number) => query.database = Some(database(number)?),
            ("user", name) => query.username = decode(name, "user name")?,
            ("pass", password) => query.password = decode(password, "password")?,
            // It is not shown: an '&' in a password makes a setting of its rest.
            _ if query.password.is_some() => {
                return Err(
                    "has a setting after `pass` that is not known; in a password write '&' \
                            as %26"
                        .into(),
                );
            }
            (other, _) => {
                return Err(format!(
                    "has the setting {other:?}; known are protocol, db, user and pass"
                ));
            }
        }
    }
    Ok((path, query))
}

/// Percent-decodes; empty is none.
fn decode(text: &str, what: &str) -> Result<Option<String>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            return Err(format!("has a '%' in its {what} without two hex digits; write it as %25"));
        };
        bytes.push(byte);
        rest = &after[2..];
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("has a {what} that is not UTF-8 after percent-decoding"))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The URL without what may be a password, also when it is not a proper URL.
pub(super) fn redacted(url: &str) -> Cow<'_, str> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    if let Some(at) = rest.find("pass=").filter(|&at| rest[..at].contains('?')) {
        // Whatever follows it may be a part of the password.
        let (before, _) = rest.split_at(at);
        return Cow::Owned(format!("{}pass=***", redacted(&url[..start + before.len()])));
    }
    if let Some((login, place)) = rest.rsplit_once('@') {
        let user = match login.split_once(':') {
            Some((user, _)) => user,
            None => "",
        };
        let user = if user.is_empty() || user.contains(['/', '?', '#']) { "" } else { user };
        return Cow::Owned(format!("{scheme}{user}:***@{place}"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, tail) = rest.split_at(end);
    match place.rsplit_once(':') {
        // A forgotten '@' makes a port of a password.
        Some((host, port))
            if !place.starts_with('[') && !port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Cow::Owned(format!("{scheme}{host}:***{tail}"))
        }
        _ => Cow::Borrowed(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        parse(url).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(url: &str) -> String {
        let Err(error) = parse(url) else { panic!("{url} was read") };
        assert!(error.is_config());
        error.to_string()
    }

    #[test]
    fn reads_every_part_of_a_url() {
        let full = target("redis://us%65r:p%40ss@db.example:7000/3?protocol=resp3");
        assert_eq!(full.address, Address::Tcp { host: "db.example".into(), port: 7000 });
        assert_eq!(full.username.as_deref(), Some("user"));
        assert_eq!(full.password.as_deref(), Some("p@ss"));
        assert_eq!((full.database, full.resp3), (3, true));

        let short = target("valkey://localhost");
        assert_eq!(short.address.to_string(), "localhost:6379");
        assert_eq!((short.username, short.password, short.database), (None, None, 0));

        let only_password = target("redis://:secret@localhost/");
        assert_eq!((only_password.username, only_password.password), (None, Some("secret".into())));

        assert_eq!(target("redis://[::1]:6380").address.to_string(), "[::1]:6380");
        // An unescaped '@' in a password is unambiguous: the last one ends the login.
        assert_eq!(target("redis://u:p@ss@h").password.as_deref(), Some("p@ss"));
    }

    #[cfg(unix)]
    #[test]
    fn reads_unix_sockets() {
        for url in
            ["unix:///run/redis.sock?db=2&pass=x", "redis+unix:///run/redis.sock?db=2&pass=x"]
        {
            let unix = target(url);
            assert_eq!(unix.address, Address::Unix("/run/redis.sock".into()));
            assert_eq!((unix.database, unix.password.as_deref()), (2, Some("x")));
        }
        assert!(error("unix://run/redis.sock").contains("unix:///"));
    }

    #[test]
    fn errors_name_the_fault_and_the_fix() {
        for (url, fault, fix) in [
            ("http://localhost:6379", "http", "redis://host:port"),
            ("localhost:6379", "no scheme", "redis://"),
            #[cfg(not(feature = "redis-tls"))]
            ("rediss://localhost", "TLS", "redis-tls"),
            ("redis://localhost:99999", "99999", "65535"),
            ("redis://localhost:0", "port 0", "65535"),
            ("redis://localhost:port", "localhost", "65535"),
            ("redis://::1:6379", "no host", "redis://"),
            ("redis://localhost/one", "\"one\"", "redis://host:6379/0"),
            ("redis://localhost/-1", "\"-1\"", "number"),
            ("redis://", "no host", "redis://"),
            ("redis:///0", "no host", "redis://"),
            ("redis://localhost?protocol=4", "\"4\"", "resp3"),
            ("redis://localhost?ssl=true", "\"ssl\"", "protocol"),
            ("redis://u:100%@h", "'%'", "%25"),
            ("redis://u:a/b@h", "'@'", "%2F"),
        ] {
            let error = error(url);
            assert!(error.contains(fault) && error.contains(fix), "{url}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        for url in [
            "http://user:hunter2@host",
            "redis://user:hunter2@host:port",
            "redis://user:hunter2@host/x",
            "redis://user:hunter2",
            "redis://:hunter2",
            "redis://user:a/hunter2@host",
            "redis://user:a?hunter2@host",
            "redis://user:a@hunter2@host:x",
            "user:hunter2@host",
            "redis://hunter2@host:x",
            "unix://x?pass=hunter2",
            "redis://host/x?pass=hunter2",
            "redis://user:%hunter2@host",
            "redis://host/x?pass=a@hunter2",
            "redis://host?pass=a#hunter2",
            "redis://host?pass=a&hunter2",
            "redis://host?pass=a&hunter2=b",
            "redis://user:hunter2@host/x?pass=hunter2",
            "unix://x?pass=a@hunter2",
            "unix:///x?db=x&pass=a/hunter2",
        ] {
            let error = error(url);
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }
}

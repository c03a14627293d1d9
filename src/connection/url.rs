//! Reads a connection URL, and shows one without its secrets.

mod query;
mod redacted;

pub(super) use self::redacted::redacted;

use self::query::{decode, split_query};
use crate::store::StoreError;
use std::{borrow::Cow, fmt, path::PathBuf};

const EXAMPLE: &str = "redis://user:password@host:6379/0";
const SENTINEL_EXAMPLE: &str =
    "redis+sentinel://user:password@host1:26379,host2:26379/master-name/0";
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Where the state lives and how to log in there.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) resp3: bool,
    pub(super) tls: bool,
}

/// What kind of deployment it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    Server(Address),
    Sentinel(Watched),
    /// Some nodes of the cluster: they know the others.
    Cluster(Vec<Address>),
}

/// A server that Sentinel watches.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) sentinels: Vec<Address>,
    /// What the sentinels call it.
    pub(super) name: String,
    /// How to log in at the sentinels.
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    let (base, kind) = scheme.split_once(['+', '-']).unwrap_or((scheme, ""));
    let tls = match base {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" if cfg!(feature = "redis-tls") => true,
        "rediss" | "valkeys" => {
            return Err(wrong(
                "asks for TLS, and towerkeep was built without its feature `redis-tls`; enable it, \
                 or use redis:// on a private network"
                    .into(),
            ));
        }
        "unix" if kind.is_empty() => return unix(rest).map_err(wrong),
        _ => return Err(wrong(unknown_scheme(scheme))),
    };
    match kind {
        "" => Authority::split(rest, PORT).and_then(|authority| server(authority, tls)),
        "unix" if !tls => unix(rest),
        "sentinel" => {
            Authority::split(rest, SENTINEL_PORT).and_then(|authority| sentinel(authority, tls))
        }
        "cluster" => Authority::split(rest, PORT).and_then(|authority| cluster(authority, tls)),
        _ => Err(unknown_scheme(scheme)),
    }
    .map_err(wrong)
}

fn unknown_scheme(scheme: &str) -> String {
    format!(
        "has the scheme {scheme:?}, which is not Redis; use redis://host:port, rediss:// for TLS, \
         unix:///path, redis+sentinel:// or redis+cluster://"
    )
}

/// `[user[:password]@]host[:port][,host…][/path][?settings]`
struct Authority<'a> {
    username: Option<String>,
    password: Option<String>,
    hosts: Vec<Address>,
    path: &'a str,
    query: query::Query,
}

impl<'a> Authority<'a> {
    fn split(rest: &'a str, default_port: u16) -> Result<Self, String> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if tail.contains('@') {
            return Err(
                "has a '/', '?' or '#' before its '@'; in a password write them as %2F, %3F and \
                 %23"
                .into(),
            );
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (login.split_once(':').unwrap_or((login, "")), hosts),
            None => (("", ""), authority),
        };
        // First: a password with a '/' or a '?' in it, and without its '@', is no host with a port, and
        // what follows is shown only behind one.
        let hosts = hosts
            .split(',')
            .map(|host| host_and_port(host, default_port))
            .collect::<Result<_, _>>()?;
        let (path, query) = split_query(tail)?;
        let (user, password) = login;
        Ok(Self {
            username: decode(user, "user name")?.or_else(|| query.username.clone()),
            password: decode(password, "password")?.or_else(|| query.password.clone()),
            hosts,
            path: path.trim_matches('/'),
            query,
        })
    }

    fn target(self, place: Place, database: Option<u32>, tls: bool) -> Result<Target, String> {
        let Self { username, password, query, .. } = self;
        let sentinel = query.sentinel_username.is_some() || query.sentinel_password.is_some();
        if sentinel && !matches!(place, Place::Sentinel(_)) {
            return Err(format!("logs in at a Sentinel and names none; write {SENTINEL_EXAMPLE}"));
        }
        let database = database.or(query.database).unwrap_or(0);
        Ok(Target { place, username, password, database, resp3: query.resp3, tls })
    }
}

fn server(mut authority: Authority<'_>, tls: bool) -> Result<Target, String> {
    let database = match authority.path {
        "" => None,
        number => Some(database(number)?),
    };
    match authority.hosts.pop() {
        Some(address) if authority.hosts.is_empty() => {
            authority.target(Place::Server(address), database, tls)
        }
        _ => Err(format!(
            "names several hosts; write redis+cluster://host1,host2 for a cluster, or \
             {SENTINEL_EXAMPLE} for Sentinel"
        )),
    }
}

fn sentinel(mut authority: Authority<'_>, tls: bool) -> Result<Target, String> {
    let (name, number) = match authority.path.split_once('/') {
        Some((name, number)) => (name, Some(database(number)?)),
        None => (authority.path, None),
    };
    let Some(name) = decode(name, "master name")? else {
        return Err(format!(
            "does not say which master the sentinels watch; write {SENTINEL_EXAMPLE}"
        ));
    };
    let place = Place::Sentinel(Watched {
        sentinels: std::mem::take(&mut authority.hosts),
        name,
        username: authority.query.sentinel_username.clone(),
        password: authority.query.sentinel_password.clone(),
    });
    authority.target(place, number, tls)
}

fn cluster(mut authority: Authority<'_>, tls: bool) -> Result<Target, String> {
    let database = match authority.path {
        "" => authority.query.database.unwrap_or(0),
        number => database(number)?,
    };
    if database != 0 {
        return Err(format!("asks for the database {database}, and a cluster has only 0"));
    }
    let hosts = std::mem::take(&mut authority.hosts);
    authority.target(Place::Cluster(hosts), None, tls)
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
        place: Place::Server(Address::Unix(PathBuf::from(path))),
        username: query.username,
        password: query.password,
        database: query.database.unwrap_or(0),
        resp3: query.resp3,
        tls: false,
    })
}

fn host_and_port(place: &str, default_port: u16) -> Result<Address, String> {
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
    let is_plain = |of: char| of.is_alphanumeric() || "._-".contains(of);
    if !place.starts_with('[') && !host.chars().all(is_plain) {
        // It is not shown: without its '@' a password is a part of it.
        return Err(format!(
            "has a character in its host that no host has; a password stands before an '@': {EXAMPLE}"
        ));
    }
    let port = match port {
        None | Some("") => default_port,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(format!("has the port {}; ports go from 1 to 65535", quoted(port))),
        },
        // It is not shown: a forgotten '@' makes a port of a password.
        Some(_) => {
            return Err(format!(
                "has something after the host {host:?} that is not a port number from 1 to 65535; \
                 an IPv6 address stands in brackets, and a password before an '@': {EXAMPLE}"
            ));
        }
    };
    Ok(Address::Tcp { host: host.to_owned(), port })
}

fn database(number: &str) -> Result<u32, String> {
    number.parse().map_err(|_| {
        let number = quoted(number);
        format!("has the database {number}; it is a number such as 0: redis://host:6379/0")
    })
}

/// What is shown of a value that is not what it should be: a few letters and digits. A slip makes it
/// one with the password beside it.
fn quoted(value: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match value.len() <= 5 && value.bytes().all(is_plain) {
        true => Cow::Owned(format!("{value:?}")),
        false => Cow::Borrowed("***"),
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

    fn address(target: &Target) -> String {
        let Place::Server(address) = &target.place else { panic!("one server") };
        address.to_string()
    }

    #[test]
    fn reads_every_part_of_a_url() {
        let full = target("redis://us%65r:p%40ss@db.example:7000/3?protocol=resp3");
        assert_eq!(address(&full), "db.example:7000");
        assert_eq!(full.username.as_deref(), Some("user"));
        assert_eq!(full.password.as_deref(), Some("p@ss"));
        assert_eq!((full.database, full.resp3), (3, true));

        let short = target("valkey://localhost");
        assert_eq!(address(&short), "localhost:6379");
        assert_eq!((short.username, short.password, short.database), (None, None, 0));

        let only_password = target("redis://:secret@localhost/");
        assert_eq!((only_password.username, only_password.password), (None, Some("secret".into())));

        assert_eq!(address(&target("redis://[::1]:6380")), "[::1]:6380");
        // An unescaped '@' in a password is unambiguous: the last one ends the login.
        assert_eq!(target("redis://u:p@ss@h").password.as_deref(), Some("p@ss"));
    }

    #[test]
    fn reads_sentinels_and_the_name_of_their_master() {
        let schemes = ["redis+sentinel", "valkey+sentinel", "redis-sentinel"];
        for scheme in schemes {
            let target = target(&format!(
                "{scheme}://user:pw@a,b:7000,[::1]/shop%2Fdb/2?sentinel_user=s&sentinel_pass=p"
            ));
            let Place::Sentinel(watched) = &target.place else { panic!("{scheme}") };
            let hosts: Vec<_> = watched.sentinels.iter().map(ToString::to_string).collect();
            assert_eq!(hosts, ["a:26379", "b:7000", "[::1]:26379"]);
            assert_eq!((watched.name.as_str(), target.database), ("shop/db", 2));
            assert_eq!(watched.username.as_deref(), Some("s"));
            assert_eq!(watched.password.as_deref(), Some("p"));
            assert_eq!(target.username.as_deref(), Some("user"));
            assert_eq!(target.password.as_deref(), Some("pw"));
        }
    }

    #[test]
    fn reads_some_nodes_of_a_cluster() {
        for url in ["redis+cluster://:pw@a:1,b", "valkey-cluster://:pw@a:1,b/0?db=0"] {
            let target = target(url);
            let Place::Cluster(seeds) = &target.place else { panic!("{url}") };
            let seeds: Vec<_> = seeds.iter().map(ToString::to_string).collect();
            assert_eq!(
                (seeds, target.password.as_deref()),
                (vec!["a:1".into(), "b:6379".into()], Some("pw"))
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn reads_unix_sockets() {
        for url in
            ["unix:///run/redis.sock?db=2&pass=x", "redis+unix:///run/redis.sock?db=2&pass=x"]
        {
            let unix = target(url);
            assert_eq!(address(&unix), "/run/redis.sock");
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
            ("redis://localhost:0", "port \"0\"", "65535"),
            ("redis://localhost:port", "localhost", "65535"),
            ("redis://::1:6379", "no host", "redis://"),
            ("redis://localhost/one", "\"one\"", "redis://host:6379/0"),
            ("redis://localhost/-1", "\"-1\"", "number"),
            ("redis://", "no host", "redis://"),
            ("redis:///0", "no host", "redis://"),
            ("redis://localhost?protocol=4", "\"4\"", "resp3"),
            ("redis://localhost?ssl=true", "\"ssl\"", "protocol"),
            ("redis://a,b", "several hosts", "redis+cluster://"),
            ("redis://a,", "no host", "redis://"),
            ("redis+cluster://a/1", "database 1", "only 0"),
            ("redis+cluster://a?db=1", "database 1", "only 0"),
            ("redis+sentinel://a,b", "which master", "/master-name"),
            ("redis+sentinel://a/name/x", "\"x\"", "number"),
            ("redis://a?sentinel_user=x", "names none", "redis+sentinel://"),
            ("redis+carrier://a", "redis+carrier", "redis+sentinel://"),
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
            "redis+sentinel://user:hunter2@a,b",
            "redis+sentinel://a/name/x?sentinel_pass=hunter2",
            "redis+sentinel://a/name?sentinel_pass=a&hunter2",
            "redis+sentinel://a,hunter2@b:x/name",
            "redis+cluster://user:hunter2@a,b/1",
            "redis+cluster://a,user:hunter2",
            "redis+cluster://user:hunter2,b:6379",
        ] {
            let error = error(url);
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }
}

//! Shows a URL without its secrets.

use std::borrow::Cow;

/// What stands where something is left out.
const HIDDEN: &str = "***";

/// The settings whose values are no secret.
const PLAIN: [&str; 4] = ["protocol", "db", "user", "sentinel_user"];

/// The URL without what may be a password, also when it is not a proper URL.
///
/// Only what is certainly none is shown: a slip of the finger makes a host, a port, a path or a setting
/// of a password.
pub(in crate::connection) fn redacted(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return if is_place(url) { Cow::Borrowed(url) } else { Cow::Borrowed(HIDDEN) };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (path, query) = match tail.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (tail, None),
    };
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    // A password that is not encoded may have ended the login before its time.
    let is_torn = tail.contains(['@', '#']) && !is_query_only(path, query);
    if is_torn || !hosts.split(',').all(is_place) || !path.chars().all(is_plain_in_path) {
        return Cow::Owned(format!("{scheme}://{HIDDEN}"));
    }
    let mut shown = format!("{scheme}://");
    if let Some(login) = login {
        match login.split_once(':') {
            Some((user, _)) if user.chars().all(is_plain) => shown.push_str(user),
            _ => {}
        }
        shown.push_str(":***@");
    }
    shown.push_str(hosts);
    shown.push_str(path);
    if let Some(query) = query {
        shown.push('?');
        shown.push_str(&settings(query));
    }
    if shown == url { Cow::Borrowed(url) } else { Cow::Owned(shown) }
}

/// The settings up to the first that may be a secret; whatever follows may be a part of it.
fn settings(query: &str) -> String {
    let mut shown = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if PLAIN.contains(&name) && value.chars().all(is_plain) {
            shown.push(pair.to_owned());
            continue;
        }
        let is_password = matches!(name, "pass" | "sentinel_pass");
        shown.push(if is_password { format!("{name}={HIDDEN}") } else { HIDDEN.into() });
        break;
    }
    shown.join("&")
}

/// An '@' or a '#' in a setting's value does no harm: the value is hidden.
fn is_query_only(path: &str, query: Option<&str>) -> bool {
    !path.contains(['@', '#']) && query.is_some_and(|query| query.contains('='))
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|of| of.is_ascii_alphanumeric() || "+-.".contains(of))
}

/// `host`, `host:port` or `[address]:port`; or nothing, as before the path of a socket. A port has at
/// most five digits: a forgotten '@' makes a port of a password.
fn is_place(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        Some((address, "")) => (address, ""),
        Some((address, port)) if port.starts_with(':') => (address, &port[1..]),
        Some(_) => return false,
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_address = text.starts_with('[')
        && host.chars().all(|of| of.is_ascii_hexdigit() || ".:%".contains(of));
    let is_port = port.len() <= 5 && port.chars().all(|of| of.is_ascii_digit());
    is_port && (is_address || host.chars().all(is_plain))
}

fn is_plain(of: char) -> bool {
    of.is_alphanumeric() || "._-".contains(of)
}

fn is_plain_in_path(of: char) -> bool {
    is_plain(of) || "/%~+".contains(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_secret_is_shown() {
        for (url, shown) in [
            ("redis://host.example:6379/0?protocol=resp3", None),
            ("redis://user:pw@host", Some("redis://user:***@host")),
            ("redis://pw@host", Some("redis://:***@host")),
            ("redis://u:p@ss@[::1]:6380/1", Some("redis://u:***@[::1]:6380/1")),
            ("unix:///run/redis.sock?db=1&pass=a&b", Some("unix:///run/redis.sock?db=1&pass=***")),
            ("redis+sentinel://:pw@a:1,b/shop/0", Some("redis+sentinel://:***@a:1,b/shop/0")),
            ("redis://a?sentinel_pass=x", Some("redis://a?sentinel_pass=***")),
            ("localhost:6379", None),
        ] {
            assert_eq!(redacted(url), shown.unwrap_or(url), "{url}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_not() {
        for url in [
            "redis://user:hunter2host:6379",
            "redis://user:hunter2:6379",
            "redis://user:123456789",
            "redis://host?password=hunter2",
            "redis://host?protocol=resp3&auth=a@hunter2",
            "redis://user:a/hunter2@host",
            "redis://user:a?hunter2@host",
            "redis://host/0#hunter2",
            "host,password=hunter2",
            "user:hunter2@host",
        ] {
            let shown = redacted(url);
            assert!(!shown.contains("hunter2") && !shown.contains("123456"), "{url}: {shown}");
        }
    }
}

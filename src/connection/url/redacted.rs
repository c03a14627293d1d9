//! Shows a URL without its secrets.

use std::borrow::Cow;

/// The URL without what may be a password, also when it is not a proper URL.
pub(in crate::connection) fn redacted(url: &str) -> Cow<'_, str> {
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
    let hosts: Vec<_> = place.split(',').map(host_only).collect();
    match hosts.iter().all(|host| matches!(host, Cow::Borrowed(_))) {
        true => Cow::Borrowed(url),
        false => Cow::Owned(format!("{scheme}{}{tail}", hosts.join(","))),
    }
}

/// A forgotten '@' makes a port of a password.
fn host_only(host: &str) -> Cow<'_, str> {
    match host.rsplit_once(':') {
        Some((name, port))
            if !host.starts_with('[') && !port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Cow::Owned(format!("{name}:***"))
        }
        _ => Cow::Borrowed(host),
    }
}

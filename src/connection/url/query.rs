//! The settings behind the `?` of a URL, and percent-decoding.

use super::{database, quoted};

/// What stands behind the `?`.
#[derive(Default)]
pub(super) struct Query {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) sentinel_username: Option<String>,
    pub(super) sentinel_password: Option<String>,
    pub(super) database: Option<u32>,
    pub(super) resp3: bool,
}

/// Splits the path from the query, and refuses what is not known: a setting that is read over in
/// silence is worse than an error.
pub(super) fn split_query(tail: &str) -> Result<(&str, Query), String> {
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
                let other = quoted(other);
                return Err(format!("has the protocol {other}; it is resp2 or resp3"));
            }
            ("db", number) => query.database = Some(database(number)?),
            ("user", name) => query.username = decode(name, "user name")?,
            ("pass", password) => query.password = decode(password, "password")?,
            ("sentinel_user", name) => query.sentinel_username = decode(name, "user name")?,
            ("sentinel_pass", password) => {
                query.sentinel_password = decode(password, "password")?;
            }
            // It is not shown: an '&' in a password makes a setting of its rest.
            _ if query.password.is_some() || query.sentinel_password.is_some() => {
                return Err(
                    "has a setting after a password that is not known; in a password write '&' \
                            as %26"
                        .into(),
                );
            }
            // Nor here: of `pass=` the '=' may be missing.
            _ if !pair.contains('=') => {
                return Err("has a setting without a value; write name=value".into());
            }
            (other, _) => {
                return Err(format!(
                    "has the setting {other:?}; known are protocol, db, user, pass, and for Sentinel \
                     sentinel_user and sentinel_pass"
                ));
            }
        }
    }
    Ok((path, query))
}

/// Percent-decodes; empty is none.
pub(super) fn decode(text: &str, what: &str) -> Result<Option<String>, String> {
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

//! The entries of a header, from the last to the first.
//!
//! Read from the end, since only the end is written by those who are trusted: a quote that a client has
//! opened in front cannot swallow what a proxy has appended.

use crate::client_addr::node;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{FORWARDED, ValueIter},
};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A longer entry is no address, with whatever else is told of the hop.
const LONGEST: usize = 1_024;

/// The header that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyHeader {
    XForwardedFor,
    Forwarded,
}

/// Each entry's address; `None` for one that is no address.
pub(super) struct Entries<'a> {
    header: ProxyHeader,
    lines: ValueIter<'a, HeaderValue>,
    /// What is left of a line.
    rest: Option<&'a [u8]>,
}

impl<'a> Entries<'a> {
    pub(super) fn of(headers: &'a HeaderMap, header: ProxyHeader) -> Self {
        let name = match header {
            ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
            ProxyHeader::Forwarded => FORWARDED,
        };
        Self { header, lines: headers.get_all(name).iter(), rest: None }
    }
}

impl Iterator for Entries<'_> {
    type Item = Option<IpAddr>;

    fn next(&mut self) -> Option<Option<IpAddr>> {
        let line = match self.rest.take() {
            Some(rest) => rest,
            None => self.lines.next_back()?.as_bytes(),
        };
        let tail = line.len().saturating_sub(LONGEST + 1);
        let comma = match self.header {
            ProxyHeader::XForwardedFor => line[tail..].iter().rposition(|&byte| byte == b','),
            ProxyHeader::Forwarded => last_comma(&line[tail..]),
        };
        let entry = match comma {
            Some(comma) => {
                self.rest = Some(&line[..tail + comma]);
                &line[tail + comma + 1..]
            }
            None if tail > 0 => return Some(None),
            None => line,
        };
        Some(match self.header {
            ProxyHeader::XForwardedFor => node::parse(entry.trim_ascii()),
            ProxyHeader::Forwarded => forwarded_for(entry),
        })
    }
}

/// The last comma outside a quoted string. From the end, the quote that closes a string comes first,
/// whatever stands before it; another one behind a backslash is part of the string.
fn last_comma(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    (0..text.len()).rev().find(|&at| {
        match text[at] {
            b'"' if !(quoted && text[..at].ends_with(b"\\")) => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    })
}

/// The address of a `forwarded-element`'s `for`. An element that is malformed, or has none or two, has
/// no address.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for pair in pairs(element).map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()) {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        if pair[..equals].eq_ignore_ascii_case(b"for")
            && found.replace(&pair[equals + 1..]).is_some()
        {
            return None;
        }
    }
    unquoted(found?)
}

/// What stands between the semicolons outside quoted strings.
fn pairs(element: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    element.split(move |&byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' => return !quoted,
            _ => {}
        }
        false
    })
}

/// The address in a token or a quoted string.
fn unquoted(value: &[u8]) -> Option<IpAddr> {
    let Some(text) = value.strip_prefix(b"\"") else { return node::parse(value) };
    let mut bytes = text.strip_suffix(b"\"")?.iter();
    let (mut node, mut length) = ([0; node::LONGEST], 0);
    while let Some(&byte) = bytes.next() {
        let byte = if byte == b'\\' { *bytes.next()? } else { byte };
        *node.get_mut(length)? = byte;
        length += 1;
    }
    node::parse(&node[..length])
}

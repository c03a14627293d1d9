//! Targeted cache control (RFC 9213): a field such as `CDN-Cache-Control`, for some caches only.

use crate::cache::http::directives::Directives;
use http::{HeaderMap, HeaderName};

/// The directives of the first of `targets` that is there, valid and not empty; it replaces
/// `Cache-Control` and `Expires`. A field that is not a dictionary of structured fields (RFC 9651,
/// section 3.2) is ignored as a whole.
pub(crate) fn directives(headers: &HeaderMap, targets: &[HeaderName]) -> Option<Directives> {
    targets.iter().find_map(|name| {
        let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
        let field = lines.join(&b',');
        let members = dictionary(&field)?;
        (!members.is_empty()).then(|| read(&members))
    })
}

/// A directive of a wrong type is ignored, but for one that forbids: that counts with whatever value
/// but `?0`.
fn read(members: &[(&[u8], Item<'_>)]) -> Directives {
    let mut directives = Directives::default();
    for (at, (name, value)) in members.iter().enumerate() {
        // Of a member that is there twice, the last counts.
        if members[at + 1..].iter().any(|(later, _)| later == name) {
            continue;
        }
        match value {
            Item::Boolean(false) => {}
            Item::Boolean(true) if takes_seconds(name) => {}
            Item::Boolean(true) => directives.note(name, None),
            Item::Integer(digits) if takes_seconds(name) => directives.note(name, Some(digits)),
            Item::Integer(_) | Item::Other if takes_seconds(name) => {}
            Item::Integer(_) | Item::Other => directives.note(name, None),
        }
    }
    directives
}

fn takes_seconds(name: &[u8]) -> bool {
    matches!(name, b"max-age" | b"s-maxage" | b"stale-while-revalidate" | b"stale-if-error")
}

/// What a member of the dictionary is, as far as a directive has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item<'a> {
    Boolean(bool),
    /// Its digits, and a sign before them.
    Integer(&'a [u8]),
    Other,
}

/// RFC 9651, section 4.2.2.
fn dictionary(text: &[u8]) -> Option<Vec<(&[u8], Item<'_>)>> {
    let mut parser = Parser::new(text);
    let mut members = Vec::new();
    while !parser.is_empty() {
        let key = parser.key()?;
        let item = match parser.eat(b'=') {
            true if parser.0.first() == Some(&b'(') => parser.inner_list()?,
            true => parser.bare_item()?,
            false => Item::Boolean(true),
        };
        parser.parameters()?;
        members.push((key, item));
        if !parser.next_member()? {
            break;
        }
    }
    Some(members)
}

/// What is still to be read of a dictionary or a list.
pub(super) struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        let mut parser = Self(text);
        parser.skip(b" ");
        parser
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Goes on to the next member, if there is one. A comma behind the last is a fault.
    pub(super) fn next_member(&mut self) -> Option<bool> {
        self.skip(b" \t");
        if self.is_empty() {
            return Some(false);
        }
        let comma = self.eat(b',');
        self.skip(b" \t");
        (comma && !self.is_empty()).then_some(true)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let rest = self.0.strip_prefix(&[byte]);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.take(|byte| bytes.contains(&byte));
    }

    fn take(&mut self, holds: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| !holds(byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let starts = |byte: u8| byte.is_ascii_lowercase() || byte == b'*';
        self.0.first().copied().filter(|&byte| starts(byte))?;
        Some(self.take(|byte| starts(byte) || byte.is_ascii_digit() || b"_-.".contains(&byte)))
    }

    pub(super) fn parameters(&mut self) -> Option<()> {
        while self.eat(b';') {
            self.skip(b" ");
            self.key()?;
            if self.eat(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn inner_list(&mut self) -> Option<Item<'a>> {
        self.eat(b'(');
        loop {
            self.skip(b" ");
            if self.eat(b')') {
                return Some(Item::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.0.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn bare_item(&mut self) -> Option<Item<'a>> {
        match *self.0.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.text().map(|_| Item::Other),
            b'?' => self.boolean(),
            b':' => self.bytes(),
            b'@' => {
                self.eat(b'@');
                self.number().filter(|date| matches!(date, Item::Integer(_))).map(|_| Item::Other)
            }
            b'%' => self.display_string(),
            byte if byte.is_ascii_alphabetic() || byte == b'*' => {
                self.take(|byte| byte.is_ascii_alphanumeric() || TOKEN.contains(&byte));
                Some(Item::Other)
            }
            _ => None,
        }
    }

    /// Up to 15 digits, or 12 and 3 behind a point.
    fn number(&mut self) -> Option<Item<'a>> {
        let whole = self.0;
        self.eat(b'-');
        let digits = self.take(|byte| byte.is_ascii_digit()).len();
        if self.0.first() == Some(&b'.') {
            self.eat(b'.');
            let fraction = self.take(|byte| byte.is_ascii_digit()).len();
            let fits = (1..=12).contains(&digits) && (1..=3).contains(&fraction);
            return fits.then_some(Item::Other);
        }
        let number = &whole[..whole.len() - self.0.len()];
        (1..=15).contains(&digits).then_some(Item::Integer(number))
    }

    /// A string.
    pub(super) fn text(&mut self) -> Option<String> {
        let mut text = String::new();
        if !self.eat(b'"') {
            return None;
        }
        loop {
            match self.next()? {
                b'"' => return Some(text),
                b'\\' => text.push(self.next().filter(|byte| b"\"\\".contains(byte))?.into()),
                byte @ b' '..=b'~' => text.push(byte.into()),
                _ => return None,
            }
        }
    }

    fn boolean(&mut self) -> Option<Item<'a>> {
        self.eat(b'?');
        match self.next()? {
            b'0' => Some(Item::Boolean(false)),
            b'1' => Some(Item::Boolean(true)),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<Item<'a>> {
        self.eat(b':');
        self.take(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
        self.eat(b':').then_some(Item::Other)
    }

    fn display_string(&mut self) -> Option<Item<'a>> {
        self.eat(b'%');
        if !self.eat(b'"') {
            return None;
        }
        let mut read = Vec::new();
        loop {
            match self.next()? {
                b'"' => return str::from_utf8(&read).ok().map(|_| Item::Other),
                b'%' => read.push(self.hex_digit()? << 4 | self.hex_digit()?),
                byte @ b' '..=b'~' => read.push(byte),
                _ => return None,
            }
        }
    }

    /// One in lower case.
    fn hex_digit(&mut self) -> Option<u8> {
        match self.next()? {
            digit @ b'0'..=b'9' => Some(digit - b'0'),
            digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }
}

const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~:/";

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use sfv::Parser as Oracle;

    fn ask(lines: &[&str]) -> Option<Directives> {
        let name = HeaderName::from_static("cdn-cache-control");
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_str(line).unwrap());
        }
        directives(&headers, &[name])
    }

    #[test]
    fn a_valid_field_is_read_and_any_fault_drops_all_of_it() {
        assert_eq!(ask(&["max-age=60, no-store"]).map(|held| held.no_store), Some(true));
        assert_eq!(ask(&["max-age=60", "max-age=5"]).unwrap().max_age, Some(5));
        assert_eq!(ask(&["max-age=60;a=1, x=(1 2);b"]).unwrap().max_age, Some(60));
        // A display string is UTF-8 (RFC 9651, section 4.2.10).
        assert_eq!(ask(&["max-age=60, x=%\"%c3%a4\""]).unwrap().max_age, Some(60));
        for line in [
            "",
            "max-age=60,",
            "max-age=\"60",
            "Max-Age=60",
            "max-age=60 a",
            "max-age=,a",
            "max-age=60, x=%\"%aa\"",
            "max-age=60, x=%\"%C3%A4\"",
        ] {
            assert_eq!(ask(&[line]), None, "{line}");
        }
    }

    #[test]
    fn a_value_of_a_wrong_type_is_no_lifetime() {
        for line in ["max-age=\"60\"", "max-age=6.5", "max-age", "max-age=sixty"] {
            assert_eq!(ask(&[line]).unwrap().max_age, None, "{line}");
        }
        assert_eq!(ask(&["max-age=-1"]).unwrap().max_age, Some(0));
        assert!(!ask(&["no-store=?0"]).unwrap().no_store);
        assert!(ask(&["no-store=1"]).unwrap().no_store);
    }

    proptest! {
        /// What the well-known parser takes, this one takes, and the other way round; of bytes in
        /// base64 it looks at the alphabet alone.
        #[test]
        fn it_agrees_with_the_well_known_parser(
            text in "[a-z0-9 \t,;=()\"?@.*%-]{0,24}|(max-age|a|no-store)(=(-?[0-9.]{0,17}|\"[a \\\\\"]{0,4}\"|\\?[012]|[a-zA*:/]{1,4}|\\( ?1 [a-z]{0,2}\\)|@-?[0-9]{1,3}|%\"[a-f0-9%]{0,4}\"))?(;[a-z=1]{0,4})?( ?, ?[a-z]=?1?)?"
        ) {
            prop_assume!(!text.contains(':'));
            let theirs = Oracle::new(&text).parse::<sfv::Dictionary>().is_ok();
            prop_assert_eq!(dictionary(text.as_bytes()).is_some(), theirs, "{:?}", text);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = dictionary(&text);
        }
    }
}

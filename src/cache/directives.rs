//! `Cache-Control` of a response, read as RFC 9111, section 5.2.2 has it.

use http::{HeaderMap, header::CACHE_CONTROL};

/// The largest delta-seconds that a cache has to tell apart (RFC 9111, section 1.2.2).
const MAX_DELTA: u32 = 1 << 31;

/// What a response's `Cache-Control` says to a shared cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    /// Seconds; 0 if the value is not a number.
    pub(crate) max_age: Option<u32>,
    /// Seconds; 0 if the value is not a number.
    pub(crate) s_maxage: Option<u32>,
    /// A quoted string does not end, so where the next directive begins is anybody's guess.
    pub(crate) malformed: bool,
}

impl Directives {
    /// Reads every line of the field. Lines are taken as bytes: a stray one that is not ASCII must
    /// not hide the `no-store` beside it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            let mut rest = line.as_bytes();
            while !rest.is_empty() {
                let (member, tail, closed) = split_member(rest);
                directives.malformed |= !closed;
                directives.note(member.trim_ascii());
                rest = tail;
            }
        }
        directives
    }

    /// How long the response is fresh for a shared cache, in seconds, if it says so at all
    /// (RFC 9111, section 4.2.1).
    pub(crate) fn lifetime(&self) -> Option<u32> {
        self.s_maxage.or(self.max_age)
    }

    /// Whether a response to a request with `Authorization` may be shared all the same (RFC 9111,
    /// section 3.5).
    pub(crate) fn shares_authorized(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }

    fn note(&mut self, member: &[u8]) {
        let (name, value) = match member.iter().position(|&byte| byte == b'=') {
            Some(at) => (&member[..at], Some(&member[at + 1..])),
            None => (member, None),
        };
        // A directive that forbids counts with whatever argument, and with field names too: to store
        // a part of a response only is more than a shared cache in an application should do.
        let named = |wanted: &str| name.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes());
        if named("no-store") {
            self.no_store = true;
        } else if named("no-cache") {
            self.no_cache = true;
        } else if named("private") {
            self.private = true;
        } else if named("public") {
            self.public = true;
        } else if named("must-revalidate") {
            self.must_revalidate = true;
        } else if named("max-age") {
            self.max_age = Some(stricter(self.max_age, delta_seconds(value)));
        } else if named("s-maxage") {
            self.s_maxage = Some(stricter(self.s_maxage, delta_seconds(value)));
        }
    }
}

/// Duplicates that disagree: the shorter one counts (RFC 9111, section 4.2.1).
fn stricter(held: Option<u32>, new: u32) -> u32 {
    held.map_or(new, |held| held.min(new))
}

/// Digits, as a token or in double quotes. Anything else is stale, a number too large is the largest.
fn delta_seconds(value: Option<&[u8]>) -> u32 {
    let value = value.unwrap_or_default();
    let digits = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    parse_seconds(digits.unwrap_or(value)).unwrap_or(0)
}

/// A non-negative integer; what is larger than a cache has to tell apart is cut to that.
pub(crate) fn parse_seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().fold(0u32, |sum, digit| {
        sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')).min(MAX_DELTA)
    });
    Some(seconds)
}

/// The list member at the front, what follows its comma, and whether its quotes are closed.
fn split_member(list: &[u8]) -> (&[u8], &[u8], bool) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return (&list[..at], &list[at + 1..], true),
            _ => {}
        }
    }
    (list, &[], !quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        Directives::of(&headers)
    }

    #[test]
    fn a_shared_cache_goes_by_s_maxage_before_max_age() {
        assert_eq!(read(&["max-age=1, s-maxage=60"]).lifetime(), Some(60));
        assert_eq!(read(&["max-age=1"]).lifetime(), Some(1));
        assert_eq!(read(&["s-maxage=0, max-age=9"]).lifetime(), Some(0));
        assert_eq!(read(&["public"]).lifetime(), None);
    }

    #[test]
    fn names_are_case_insensitive_and_lines_add_up() {
        let directives = read(&["MAX-AGE=5", " , No-Store ,"]);
        assert!(directives.no_store && directives.max_age == Some(5));
    }

    #[test]
    fn numbers_are_digits_or_stale_and_never_overflow() {
        let cases = [
            ("max-age=007", 7),
            ("max-age=\"60\"", 60),
            ("max-age='60'", 0),
            ("max-age=-1", 0),
            ("max-age=1.5", 0),
            ("max-age= 60", 0),
            ("max-age =60", 60),
            ("max-age=", 0),
            ("max-age", 0),
            ("max-age=2147483648", MAX_DELTA),
            ("max-age=99999999999", MAX_DELTA),
            ("max-age=60, max-age=5", 5),
        ];
        for (line, seconds) in cases {
            assert_eq!(read(&[line]).max_age, Some(seconds), "{line}");
        }
    }

    #[test]
    fn a_directive_inside_a_quoted_string_is_no_directive() {
        let directives = read(&[r#"ext="a\", max-age=60, ", public"#]);
        assert_eq!(directives, Directives { public: true, ..Directives::default() });
    }

    #[test]
    fn a_quote_that_does_not_end_is_noticed() {
        assert!(read(&[r#"max-age=60, ext="a, no-store"#]).malformed);
    }

    #[test]
    fn field_names_do_not_weaken_what_forbids() {
        let directives = read(&[r#"private="set-cookie", no-cache="x, y""#]);
        assert!(directives.private && directives.no_cache);
    }

    #[test]
    fn a_line_that_is_not_ascii_does_not_hide_the_next() {
        let mut headers = HeaderMap::new();
        headers.append(CACHE_CONTROL, HeaderValue::from_bytes(b"ext=\xff, no-store").unwrap());
        assert!(Directives::of(&headers).no_store);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.insert(CACHE_CONTROL, value);
                let _ = Directives::of(&headers);
            }
        }

        #[test]
        fn a_directive_is_found_wherever_it_stands(
            before in "[a-z]{1,8}(=[a-z0-9]{0,8}|=\"[a-z ,=]{0,8}\")?",
            after in "[a-z]{1,8}(=[a-z0-9]{0,8}|=\"[a-z ,=]{0,8}\")?",
            space in "[ \t]{0,2}",
        ) {
            let directives = read(&[&format!("{before}{space},{space}no-store{space},{after}")]);
            prop_assert!(directives.no_store && !directives.malformed);
        }
    }
}

//! `Cache-Control`, read as RFC 9111, section 5.2 has it: of a response, and of a request.

use http::{
    HeaderMap, HeaderName,
    header::{CACHE_CONTROL, PRAGMA},
};

/// The largest delta-seconds that a cache has to tell apart (RFC 9111, section 1.2.2).
pub(crate) const MAX_DELTA: u32 = 1 << 31;

/// What a response's `Cache-Control` says to a shared cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: Scope,
    pub(crate) private: Scope,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    /// Seconds; 0 if the value is not a number.
    pub(crate) max_age: Option<u32>,
    /// Seconds; 0 if the value is not a number.
    pub(crate) s_maxage: Option<u32>,
    /// Seconds (RFC 5861, section 3); 0 if the value is not a number.
    pub(crate) stale_while_revalidate: Option<u32>,
    /// Seconds (RFC 5861, section 4); 0 if the value is not a number.
    pub(crate) stale_if_error: Option<u32>,
    /// A quoted string does not end, so where the next directive begins is anybody's guess.
    pub(crate) malformed: bool,
}

/// What `no-cache` and `private` are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The directive is not there.
    #[default]
    Nothing,
    /// These fields (RFC 9111, sections 5.2.2.4 and 5.2.2.7).
    Fields(Vec<HeaderName>),
    /// The whole response.
    Everything,
}

impl Scope {
    /// Whether the directive is there at all.
    pub(crate) fn is_set(&self) -> bool {
        *self != Self::Nothing
    }

    /// Whether the directive is about the whole response.
    pub(crate) fn is_whole(&self) -> bool {
        *self == Self::Everything
    }

    /// The fields that it names.
    pub(crate) fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(names) => names,
            Self::Nothing | Self::Everything => &[],
        }
    }

    /// Takes the stricter of what is known and another directive of the same name. Field names in a
    /// form that cannot be read are about everything.
    fn narrow(&mut self, value: Option<&[u8]>) {
        let names = value.and_then(quoted).and_then(field_names);
        match (names, &mut *self) {
            (Some(names), Self::Nothing) => *self = Self::Fields(names),
            (Some(names), Self::Fields(held)) => held.extend(names),
            (_, held) => *held = Self::Everything,
        }
    }
}

impl Directives {
    /// Reads every line of the field. Lines are taken as bytes: a stray one that is not ASCII must
    /// not hide the `no-store` beside it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        let closed = each_directive(headers, |name, value| directives.note(name, value));
        directives.malformed = !closed;
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

    /// Whether a shared cache may never serve it stale (RFC 9111, section 4.2.4). `s-maxage` means
    /// `proxy-revalidate` too (section 5.2.2.10).
    pub(crate) fn forbids_stale(&self) -> bool {
        self.must_revalidate
            || self.proxy_revalidate
            || self.no_cache.is_whole()
            || self.s_maxage.is_some()
    }

    /// Takes one directive. `value` is what follows its equals sign.
    pub(crate) fn note(&mut self, name: &[u8], value: Option<&[u8]>) {
        let seconds = |held| Some(stricter(held, delta_seconds(value)));
        match &*name.to_ascii_lowercase() {
            // A directive that forbids counts with whatever argument.
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.narrow(value),
            b"private" => self.private.narrow(value),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"max-age" => self.max_age = seconds(self.max_age),
            b"s-maxage" => self.s_maxage = seconds(self.s_maxage),
            b"stale-while-revalidate" => {
                self.stale_while_revalidate = seconds(self.stale_while_revalidate);
            }
            b"stale-if-error" => self.stale_if_error = seconds(self.stale_if_error),
            _ => {}
        }
    }
}

/// What a request's `Cache-Control` asks of a cache (RFC 9111, section 5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) only_if_cached: bool,
    /// Seconds; 0 if the value is not a number.
    pub(crate) max_age: Option<u32>,
    /// Seconds of staleness that will do; [`u32::MAX`] if any will.
    pub(crate) max_stale: Option<u32>,
    /// Seconds; as many as there are if the value is not a number.
    pub(crate) min_fresh: Option<u32>,
    /// Seconds (RFC 5861, section 4).
    pub(crate) stale_if_error: Option<u32>,
}

impl RequestDirectives {
    /// Reads the field, and `Pragma: no-cache` where it is not there (RFC 9111, section 5.4).
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if headers.contains_key(CACHE_CONTROL) {
            each_directive(headers, |name, value| directives.note(name, value));
        } else {
            directives.no_cache = headers.get_all(PRAGMA).iter().any(|line| {
                let mut members = line.as_bytes().split(|&byte| byte == b',');
                members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
            });
        }
        directives
    }

    fn note(&mut self, name: &[u8], value: Option<&[u8]>) {
        match &*name.to_ascii_lowercase() {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => self.max_age = Some(stricter(self.max_age, delta_seconds(value))),
            b"max-stale" => {
                let seconds = value.map_or(u32::MAX, |value| delta_seconds(Some(value)));
                self.max_stale = Some(stricter(self.max_stale, seconds));
            }
            b"min-fresh" => {
                let seconds = parse_seconds(value.map_or(b"", unquoted)).unwrap_or(MAX_DELTA);
                self.min_fresh = Some(self.min_fresh.map_or(seconds, |held| held.max(seconds)));
            }
            b"stale-if-error" => {
                self.stale_if_error = Some(stricter(self.stale_if_error, delta_seconds(value)));
            }
            _ => {}
        }
    }
}

/// Hands every directive to `note`, lines and members in their order. `false` if a quoted string does
/// not end.
fn each_directive(headers: &HeaderMap, mut note: impl FnMut(&[u8], Option<&[u8]>)) -> bool {
    let mut all_closed = true;
    for line in headers.get_all(CACHE_CONTROL) {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let (member, tail, closed) = split_member(rest);
            all_closed &= closed;
            let member = member.trim_ascii();
            match member.iter().position(|&byte| byte == b'=') {
                Some(at) => note(member[..at].trim_ascii(), Some(&member[at + 1..])),
                None => note(member, None),
            }
            rest = tail;
        }
    }
    all_closed
}

/// Duplicates that disagree: the shorter one counts (RFC 9111, section 4.2.1).
fn stricter(held: Option<u32>, new: u32) -> u32 {
    held.map_or(new, |held| held.min(new))
}

/// Digits, as a token or in double quotes. Anything else is stale, a number too large is the largest.
fn delta_seconds(value: Option<&[u8]>) -> u32 {
    parse_seconds(unquoted(value.unwrap_or_default())).unwrap_or(0)
}

fn quoted(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

fn unquoted(value: &[u8]) -> &[u8] {
    quoted(value).unwrap_or(value)
}

/// The names in a list; `None` if one is no name, or there is none.
fn field_names(list: &[u8]) -> Option<Vec<HeaderName>> {
    let members = list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let names: Result<Vec<_>, _> =
        members.filter(|member| !member.is_empty()).map(HeaderName::from_bytes).collect();
    names.ok().filter(|names| !names.is_empty())
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
pub(crate) fn split_member(list: &[u8]) -> (&[u8], &[u8], bool) {
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
        let directives = read(&[r#"private="Set-Cookie", no-cache="x, y""#]);
        assert!(directives.private.is_set() && directives.no_cache.is_set());
        assert_eq!(directives.private.fields(), ["set-cookie"]);
        assert_eq!(directives.no_cache.fields(), ["x", "y"]);
        for line in
            [r#"private, private="x""#, r#"private="x", private"#, "private=x", r#"private="""#]
        {
            assert!(read(&[line]).private.is_whole(), "{line}");
        }
    }

    #[test]
    fn a_request_asks_by_cache_control_and_by_pragma_only_without_it() {
        let ask = |lines: &[(&'static str, &'static str)]| {
            let lines = lines.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            RequestDirectives::of(&lines.collect())
        };
        assert!(ask(&[("pragma", "x, No-Cache")]).no_cache);
        assert!(!ask(&[("pragma", "no-cache"), ("cache-control", "max-age=1")]).no_cache);
        let all =
            ask(&[("cache-control", "max-age=3, max-stale, min-fresh=\"7\", only-if-cached")]);
        assert_eq!((all.max_age, all.max_stale, all.min_fresh), (Some(3), Some(u32::MAX), Some(7)));
        assert!(all.only_if_cached && !all.no_store && !all.no_cache);
        let odd = ask(&[("cache-control", "max-age=x, max-stale=x, min-fresh=x")]);
        assert_eq!(
            (odd.max_age, odd.max_stale, odd.min_fresh),
            (Some(0), Some(0), Some(MAX_DELTA))
        );
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
                let _ = RequestDirectives::of(&headers);
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

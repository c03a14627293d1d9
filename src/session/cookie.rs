//! The session's cookie: its attributes, how it is set and removed, and how it is found among those of
//! a request.

use crate::session::{seal::Seal, token::Token};
use cookie::{CookieBuilder, time};
use http::{HeaderMap, HeaderValue, header::COOKIE};
use std::{borrow::Cow, time::Duration};

/// How many cookies of the session's name are looked at: a browser sends two where an old one of
/// another path or domain is left over, and nobody sends more in good faith.
const CANDIDATES: usize = 2;

/// Name and value of a cookie together, and each attribute, may have so many bytes; browsers refuse
/// or ignore what is longer (draft-ietf-httpbis-rfc6265bis, section 5.6).
const MAX_PAIR: usize = 4_096;
const MAX_ATTRIBUTE: usize = 1_024;

/// The longest value: that of an encrypted cookie.
const LONGEST_VALUE: usize = 96;

/// Which requests of other sites carry the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// None at all.
    Strict,
    /// Only top-level navigations such as a link.
    Lax,
    /// All. Only for pages that are embedded in other sites, which then need a protection of their
    /// own against forged requests.
    None,
}

/// The attributes of the cookie.
#[derive(Clone, Debug)]
pub(crate) struct CookieSettings {
    /// `None`: the strictest that the other attributes allow.
    pub(crate) name: Option<Cow<'static, str>>,
    pub(crate) path: Cow<'static, str>,
    pub(crate) domain: Option<Cow<'static, str>>,
    pub(crate) same_site: SameSite,
    pub(crate) http_only: bool,
    pub(crate) secure: bool,
    pub(crate) partitioned: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) seal: Seal,
}

impl Default for CookieSettings {
    fn default() -> Self {
        Self {
            name: None,
            path: "/".into(),
            domain: None,
            same_site: SameSite::Lax,
            http_only: true,
            secure: true,
            partitioned: false,
            max_age: None,
            seal: Seal::default(),
        }
    }
}

/// What a request brought under the cookie's name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Presented {
    /// Whether there was any cookie of that name, well-formed or not.
    pub(crate) any: bool,
    tokens: [Option<Candidate>; CANDIDATES],
}

/// A token that came in a cookie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) token: Token,
    /// Whether its cookie is sealed by a key that is on its way out.
    pub(crate) outdated: bool,
}

impl Presented {
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().flatten().map(|candidate| &candidate.token)
    }

    /// Whether this one, of [`tokens`](Presented::tokens), is sealed by a key that is on its way out.
    pub(crate) fn is_outdated(&self, token: &Token) -> bool {
        self.tokens
            .iter()
            .flatten()
            .any(|candidate| candidate.outdated && candidate.token.is(token))
    }
}

impl CookieSettings {
    pub(crate) fn name(&self) -> &str {
        match &self.name {
            Some(name) => name,
            None if !self.secure => "sid",
            None if self.domain.is_some() || self.path != "/" => "__Secure-sid",
            None => "__Host-sid",
        }
    }

    /// Refuses what a browser would refuse or read in another way.
    ///
    /// # Panics
    ///
    /// With the fault and the fix. These are settings of the program, never a client's input.
    pub(crate) fn check(&self) {
        let Self { path, domain, same_site, secure, .. } = self;
        let name = self.name();
        assert!(
            !name.is_empty() && name.bytes().all(is_token),
            "the cookie name {name:?} is not made of the characters that RFC 6265 allows: letters, \
             digits and !#$%&'*+-.^_`|~"
        );
        assert!(
            name.len() + LONGEST_VALUE <= MAX_PAIR,
            "a cookie name of {} bytes leaves no room for the value; browsers take {MAX_PAIR} bytes \
             of both",
            name.len()
        );
        assert!(
            path.starts_with('/') && path.len() <= MAX_ATTRIBUTE && path.bytes().all(is_attribute),
            "the cookie path {path:?} does not start with '/', is longer than {MAX_ATTRIBUTE} bytes, \
             or has a character that ends it"
        );
        if let Some(domain) = domain {
            assert!(
                is_host(domain),
                "the cookie domain {domain:?} is not the name of a host such as \"example.com\": \
                 without scheme, port and path"
            );
        }
        if let Some(max_age) = self.max_age {
            assert!(
                max_age >= Duration::from_secs(1),
                "a Max-Age of less than a second takes the cookie back; leave it out for a cookie \
                 that goes with the browser"
            );
        }
        self.check_prefix();
        assert!(
            *secure || *same_site != SameSite::None,
            "browsers refuse a cookie with SameSite=None without Secure; leave out \
             `insecure_plain_http`"
        );
        assert!(
            *secure || !self.partitioned,
            "browsers refuse a partitioned cookie without Secure; leave out `insecure_plain_http`"
        );
    }

    /// What the beginning of the name promises, browsers insist on.
    fn check_prefix(&self) {
        let Self { path, domain, http_only, secure, .. } = self;
        let name = self.name();
        let begins = |prefix| has_prefix(name, prefix);
        assert!(
            *secure || !(begins("__Host-") || begins("__Secure-") || begins("__Http-")),
            "browsers refuse a cookie named {name:?} without Secure; choose another name"
        );
        assert!(
            *http_only || !(begins("__Http-") || begins("__Host-Http-")),
            "browsers refuse a cookie named {name:?} without HttpOnly; choose another name"
        );
        assert!(
            !begins("__Host-") || (domain.is_none() && path == "/"),
            "browsers refuse a cookie named {name:?} with a Domain or a Path other than \"/\"; leave \
             those out, or give `cookie_name` another name such as \"__Secure-sid\""
        );
    }

    /// Gives up what only holds over TLS: `Secure`, and the prefix of the name that demands it.
    pub(crate) fn allow_plain_http(&mut self) {
        self.secure = false;
        for prefix in ["__Host-Http-", "__Host-", "__Secure-", "__Http-"] {
            if let Some(name) = &mut self.name
                && has_prefix(name, prefix)
            {
                *name = name[prefix.len()..].to_owned().into();
            }
        }
    }

    /// The session's cookies among those of a request. Whatever else stands there is skipped.
    pub(crate) fn presented(&self, headers: &HeaderMap) -> Presented {
        let name = self.name();
        let mut found = Presented::default();
        let pairs = headers
            .get_all(COOKIE)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii));
        let mut seen = 0;
        for pair in pairs {
            let Some(value) = pair.strip_prefix(name.as_bytes()) else { continue };
            let Some(value) = value.strip_prefix(b"=") else { continue };
            found.any = true;
            found.tokens[seen] = self.seal.open(name, value);
            seen += 1;
            if seen == CANDIDATES {
                break;
            }
        }
        found
    }

    /// The header that gives the client its token.
    pub(crate) fn set(&self, token: &Token) -> HeaderValue {
        let mut cookie = self.build(self.seal.close(self.name(), token));
        if let Some(max_age) = self.max_age {
            let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
            cookie = cookie.max_age(time::Duration::seconds(seconds));
        }
        header(cookie)
    }

    /// The header that takes it back. A browser takes it for another cookie, and keeps the old one,
    /// if anything but the value and the life differs.
    pub(crate) fn removal(&self) -> HeaderValue {
        header(self.build(String::new()).removal())
    }

    fn build(&self, value: String) -> CookieBuilder<'_> {
        let same_site = match self.same_site {
            SameSite::Strict => cookie::SameSite::Strict,
            SameSite::Lax => cookie::SameSite::Lax,
            SameSite::None => cookie::SameSite::None,
        };
        let mut cookie = CookieBuilder::new(self.name(), value)
            .path(&*self.path)
            .same_site(same_site)
            .http_only(self.http_only)
            .secure(self.secure)
            .partitioned(self.partitioned);
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(&**domain);
        }
        cookie
    }
}

fn header(cookie: CookieBuilder<'_>) -> HeaderValue {
    HeaderValue::try_from(cookie.build().to_string())
        .expect("the name and the attributes were checked, and a sealed token is base64")
}

/// Browsers compare these prefixes without regard to case.
fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_attribute(byte: u8) -> bool {
    (b'!'..=b'~').contains(&byte) && byte != b';'
}

/// A leading dot is ignored by browsers.
fn is_host(domain: &str) -> bool {
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    domain.len() <= 253 && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn presented(lines: &[&[u8]]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        CookieSettings::default().presented(&headers).tokens().map(Token::encode).collect()
    }

    #[test]
    fn the_cookie_is_found_wherever_it_stands() {
        let token = Token::random().encode();
        let pair = format!("__Host-sid={token}");
        let among = format!("a=1; {pair};b=2");
        let lines: [&[&[u8]]; 3] =
            [&[among.as_bytes()], &[b"a=1", pair.as_bytes()], &[b"b=\xff", pair.as_bytes()]];
        for lines in lines {
            assert_eq!(presented(lines), [token.as_str()]);
        }
    }

    #[test]
    fn a_name_that_only_begins_or_ends_alike_is_another_cookie() {
        let token = Token::random().encode();
        for name in ["__Host-sid2", "x__Host-sid", "__host-sid", "sid"] {
            assert!(presented(&[format!("{name}={token}").as_bytes()]).is_empty(), "{name}");
        }
    }

    #[test]
    fn of_many_cookies_of_that_name_two_are_looked_at() {
        let tokens: Vec<_> = (0..3).map(|_| Token::random().encode()).collect();
        let line = tokens.iter().map(|token| format!("__Host-sid={token}; ")).collect::<String>();
        assert_eq!(presented(&[line.as_bytes()]), tokens[..2]);
        let second = format!("__Host-sid=junk; __Host-sid={}", tokens[0]);
        assert_eq!(presented(&[second.as_bytes()]), tokens[..1]);
    }

    #[test]
    fn the_default_cookie_is_bound_to_the_host_and_unreadable_to_scripts() {
        let token = Token::random();
        let settings = CookieSettings::default();
        settings.check();
        let expected =
            format!("__Host-sid={}; HttpOnly; SameSite=Lax; Secure; Path=/", token.encode());
        assert_eq!(settings.set(&token), expected);
    }

    /// The attributes of a `Set-Cookie` header but for those that say how long it lives.
    fn attributes(header: &HeaderValue) -> Vec<&str> {
        let parts = header.to_str().unwrap().split("; ").skip(1);
        parts
            .filter(|part| !part.starts_with("Max-Age=") && !part.starts_with("Expires="))
            .collect()
    }

    fn everything() -> CookieSettings {
        CookieSettings {
            path: "/app".into(),
            domain: Some("example.com".into()),
            same_site: SameSite::None,
            partitioned: true,
            max_age: Some(Duration::from_secs(60)),
            ..CookieSettings::default()
        }
    }

    #[test]
    fn a_removal_has_every_attribute_of_what_it_removes() {
        let mut insecure = CookieSettings { http_only: false, ..CookieSettings::default() };
        insecure.allow_plain_http();
        for settings in [CookieSettings::default(), everything(), insecure] {
            settings.check();
            let (set, removal) = (settings.set(&Token::random()), settings.removal());
            assert_eq!(attributes(&set), attributes(&removal));
            let removal = removal.to_str().unwrap();
            assert!(removal.starts_with(&format!("{}=; ", settings.name())), "{removal}");
            assert!(removal.contains("Max-Age=0") && removal.contains("Expires="), "{removal}");
        }
    }

    #[test]
    fn a_persistent_cookie_of_a_domain_says_so() {
        let settings = everything();
        settings.check();
        let token = Token::random();
        let expected = format!(
            "__Secure-sid={}; HttpOnly; SameSite=None; Partitioned; Secure; Path=/app; \
             Domain=example.com; Max-Age=60",
            token.encode()
        );
        assert_eq!(settings.set(&token), expected);
    }

    #[test]
    fn plain_http_gives_up_the_prefix_that_needs_tls() {
        for (name, left) in [
            (None, "sid"),
            (Some("__Host-admin"), "admin"),
            (Some("__Secure-admin"), "admin"),
            (Some("__Host-Http-admin"), "admin"),
            (Some("admin"), "admin"),
        ] {
            let name = name.map(Cow::Borrowed);
            let mut settings = CookieSettings { name, ..CookieSettings::default() };
            settings.allow_plain_http();
            settings.check();
            let set = settings.set(&Token::random());
            let set = set.to_str().unwrap();
            assert!(set.starts_with(&format!("{left}=")) && !set.contains("Secure"), "{set}");
        }
    }

    #[test]
    fn settings_that_a_browser_would_refuse_are_refused() {
        type Spoil = fn(&mut CookieSettings);
        fn named(cookie: &mut CookieSettings, name: &'static str) {
            cookie.name = Some(name.into());
        }
        let cases: [(&str, Spoil); 22] = [
            ("Domain", |cookie| {
                named(cookie, "__Host-id");
                cookie.domain = Some("example.com".into());
            }),
            ("Path", |cookie| (named(cookie, "__host-id"), cookie.path = "/app".into()).1),
            ("without Secure", |cookie| (named(cookie, "__Host-id"), cookie.secure = false).1),
            ("without Secure", |cookie| (named(cookie, "__SECURE-id"), cookie.secure = false).1),
            ("without Secure", |cookie| (named(cookie, "__Http-id"), cookie.secure = false).1),
            ("HttpOnly", |cookie| (named(cookie, "__Http-id"), cookie.http_only = false).1),
            ("HttpOnly", |cookie| (named(cookie, "__Host-Http-id"), cookie.http_only = false).1),
            ("RFC 6265", |cookie| named(cookie, "a b")),
            ("RFC 6265", |cookie| named(cookie, "a=b")),
            ("RFC 6265", |cookie| named(cookie, "a;b")),
            ("RFC 6265", |cookie| named(cookie, "a\r\nSet-Cookie: b")),
            ("RFC 6265", |cookie| named(cookie, "")),
            ("no room", |cookie| cookie.name = Some("x".repeat(4_001).into())),
            ("'/'", |cookie| cookie.path = "app".into()),
            ("'/'", |cookie| cookie.path = "/;x".into()),
            ("'/'", |cookie| cookie.path = "/\r\nx: y".into()),
            ("1024", |cookie| cookie.path = format!("/{}", "x".repeat(1_024)).into()),
            ("host", |cookie| cookie.domain = Some("https://example.com".into())),
            ("host", |cookie| cookie.domain = Some("example.com; Path=/".into())),
            ("Max-Age", |cookie| cookie.max_age = Some(Duration::from_millis(999))),
            ("SameSite", |cookie| {
                cookie.allow_plain_http();
                cookie.same_site = SameSite::None;
            }),
            ("partitioned", |cookie| {
                cookie.allow_plain_http();
                cookie.partitioned = true;
            }),
        ];
        for (fault, spoil) in cases {
            let mut settings = CookieSettings::default();
            spoil(&mut settings);
            let panic = std::panic::catch_unwind(|| settings.check()).unwrap_err();
            let message = panic.downcast_ref::<String>().cloned().unwrap_or_default()
                + panic.downcast_ref::<&str>().unwrap_or(&"");
            assert!(message.contains(fault), "{fault}: {message}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_scan_panic(line in proptest::collection::vec(32u8..=255, 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let headers = HeaderMap::from_iter([(COOKIE, value)]);
                let _ = CookieSettings::default().presented(&headers);
            }
        }

        #[test]
        fn a_token_is_found_whatever_stands_around_it(
            before in "[ -:<-~]{0,40}", after in "[ -:<-~]{0,40}",
        ) {
            let token = Token::random().encode();
            prop_assume!(!before.contains("__Host-sid="));
            let line = format!("{before};__Host-sid={token};{after}");
            prop_assert_eq!(presented(&[line.as_bytes()]), [token]);
        }
    }
}

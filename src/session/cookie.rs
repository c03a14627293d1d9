//! The session's cookie: found among those of a request, set and removed on a response.

use crate::session::token::Token;
use cookie::{CookieBuilder, time};
use http::{HeaderMap, HeaderValue, header::COOKIE};
use std::{borrow::Cow, time::Duration};

/// How many cookies of the session's name are looked at: a browser sends two where an old one of
/// another path or domain is left over, and nobody sends more in good faith.
const CANDIDATES: usize = 2;

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
    pub(crate) name: Cow<'static, str>,
    pub(crate) path: Cow<'static, str>,
    pub(crate) domain: Option<Cow<'static, str>>,
    pub(crate) same_site: SameSite,
    pub(crate) http_only: bool,
    pub(crate) secure: bool,
    pub(crate) max_age: Option<Duration>,
}

impl Default for CookieSettings {
    fn default() -> Self {
        Self {
            name: "__Host-sid".into(),
            path: "/".into(),
            domain: None,
            same_site: SameSite::Lax,
            http_only: true,
            secure: true,
            max_age: None,
        }
    }
}

/// What a request brought under the cookie's name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Presented {
    /// Whether there was any cookie of that name, well-formed or not.
    pub(crate) any: bool,
    tokens: [Option<Token>; CANDIDATES],
}

impl Presented {
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().flatten()
    }
}

impl CookieSettings {
    /// Refuses what a browser would refuse or read in another way.
    ///
    /// # Panics
    ///
    /// With the fault and the fix. These are settings of the program, never a client's input.
    pub(crate) fn check(&self) {
        let Self { name, path, domain, same_site, secure, .. } = self;
        assert!(
            !name.is_empty() && name.bytes().all(is_token),
            "the cookie name {name:?} is not made of the characters that RFC 6265 allows"
        );
        assert!(
            path.starts_with('/') && path.bytes().all(is_attribute),
            "the cookie path {path:?} does not start with '/' or has a character that ends it"
        );
        if let Some(domain) = domain {
            assert!(
                !domain.is_empty() && domain.bytes().all(is_attribute),
                "the cookie domain {domain:?} is empty or has a character that ends it"
            );
        }
        assert!(
            *secure || !(has_prefix(name, "__Host-") || has_prefix(name, "__Secure-")),
            "browsers refuse a cookie named {name:?} without Secure; choose another name"
        );
        assert!(
            !has_prefix(name, "__Host-") || (domain.is_none() && path == "/"),
            "browsers refuse a cookie named {name:?} with a Domain or a Path other than \"/\"; \
             call `cookie_name` with another name first"
        );
        assert!(
            *secure || *same_site != SameSite::None,
            "browsers refuse a cookie with SameSite=None without Secure"
        );
    }

    /// Gives up what only holds over TLS: `Secure`, and the prefix of the name that demands it.
    pub(crate) fn allow_plain_http(&mut self) {
        self.secure = false;
        for prefix in ["__Host-", "__Secure-"] {
            if has_prefix(&self.name, prefix) {
                self.name = self.name[prefix.len()..].to_owned().into();
            }
        }
    }

    /// The session's cookies among those of a request. Whatever else stands there is skipped.
    pub(crate) fn presented(&self, headers: &HeaderMap) -> Presented {
        let mut found = Presented::default();
        let pairs = headers
            .get_all(COOKIE)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii));
        let mut seen = 0;
        for pair in pairs {
            let Some(value) = pair.strip_prefix(self.name.as_bytes()) else { continue };
            let Some(value) = value.strip_prefix(b"=") else { continue };
            found.any = true;
            if let Some(token) = Token::parse(value) {
                found.tokens[seen] = Some(token);
            }
            seen += 1;
            if seen == CANDIDATES {
                break;
            }
        }
        found
    }

    /// The header that gives the client its token.
    pub(crate) fn set(&self, token: &Token) -> HeaderValue {
        let mut cookie = self.build(token.encode());
        if let Some(max_age) = self.max_age {
            let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
            cookie = cookie.max_age(time::Duration::seconds(seconds));
        }
        header(cookie)
    }

    /// The header that takes it back.
    pub(crate) fn removal(&self) -> HeaderValue {
        header(self.build(String::new()).removal())
    }

    fn build(&self, value: String) -> CookieBuilder<'_> {
        let same_site = match self.same_site {
            SameSite::Strict => cookie::SameSite::Strict,
            SameSite::Lax => cookie::SameSite::Lax,
            SameSite::None => cookie::SameSite::None,
        };
        let mut cookie = CookieBuilder::new(&*self.name, value)
            .path(&*self.path)
            .same_site(same_site)
            .http_only(self.http_only)
            .secure(self.secure);
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(&**domain);
        }
        cookie
    }
}

fn header(cookie: CookieBuilder<'_>) -> HeaderValue {
    HeaderValue::try_from(cookie.build().to_string())
        .expect("the name and the attributes were checked, and a token is base64url")
}

/// Browsers compare these prefixes without regard to case.
fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_attribute(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && byte != b';'
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

    #[test]
    fn a_removal_has_the_attributes_without_which_browsers_refuse_it() {
        let settings = CookieSettings::default();
        let removal = settings.removal();
        let removal = removal.to_str().unwrap();
        assert!(removal.starts_with("__Host-sid=; "), "{removal}");
        for part in ["Secure", "Path=/", "Max-Age=0", "Expires="] {
            assert!(removal.contains(part), "{removal}");
        }
        assert!(!removal.contains("Domain"), "{removal}");
    }

    #[test]
    fn a_persistent_cookie_of_a_domain_says_so() {
        let settings = CookieSettings {
            name: "__Secure-sid".into(),
            path: "/app".into(),
            domain: Some("example.com".into()),
            same_site: SameSite::None,
            max_age: Some(Duration::from_secs(60)),
            ..CookieSettings::default()
        };
        settings.check();
        let set = settings.set(&Token::random());
        let set = set.to_str().unwrap();
        for part in ["Domain=example.com", "Path=/app", "Max-Age=60", "SameSite=None"] {
            assert!(set.contains(part), "{set}");
        }
    }

    #[test]
    fn plain_http_gives_up_the_prefix_that_needs_tls() {
        let mut settings = CookieSettings::default();
        settings.allow_plain_http();
        settings.check();
        let set = settings.set(&Token::random());
        assert!(
            set.to_str().unwrap().starts_with("sid=") && !set.to_str().unwrap().contains("Sec")
        );
    }

    #[test]
    fn settings_that_a_browser_would_refuse_are_refused() {
        type Spoil = fn(&mut CookieSettings);
        let cases: [(&str, Spoil); 8] = [
            ("Domain", |cookie| cookie.domain = Some("example.com".into())),
            ("Path", |cookie| cookie.path = "/app".into()),
            ("Secure", |cookie| cookie.secure = false),
            ("RFC 6265", |cookie| cookie.name = "a b".into()),
            ("RFC 6265", |cookie| cookie.name = "".into()),
            ("'/'", |cookie| cookie.path = "app".into()),
            ("'/'", |cookie| (cookie.name, cookie.path) = ("sid".into(), "/;x".into())),
            ("SameSite", |cookie| {
                cookie.allow_plain_http();
                cookie.same_site = SameSite::None;
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

//! Per what a policy counts: the peer's address, the route, the user, a header, or several together.

use crate::{
    key,
    marks::{PeerAddr, UserId},
};
use http::{HeaderName, request::Parts};
use std::{fmt, marker::PhantomData, net::IpAddr};

/// Longer keys, and those with unusual characters, are stored as a digest.
const MAX_READABLE: usize = 64;

/// What a policy's key is made of. Implement it for a key of your own.
///
/// ```
/// use http::request::Parts;
/// use towerkeep::rate_limit::by::{KeyBuilder, KeyBy, Missing};
///
/// struct Tenant;
///
/// impl KeyBy for Tenant {
///     fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
///         let host = request.headers.get("host").and_then(|host| host.to_str().ok());
///         key.push(host.unwrap_or_default());
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a rate limit can be keyed by",
    note = "use one of `towerkeep::rate_limit::by`, a tuple of them, or implement `KeyBy`"
)]
pub trait KeyBy: Send + Sync + 'static {
    /// Adds this part of the request to the key.
    ///
    /// # Errors
    ///
    /// If the request does not have it: see [`Missing`].
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing>;

    /// Whether it reads the [`UserId`], which may make the session load. Default: no.
    fn needs_user(&self) -> bool {
        false
    }

    /// Whether a part of it is [secret](KeyBuilder::push_secret), so that an operator who names a key
    /// by its parts means the digest. Default: no.
    fn is_secret(&self) -> bool {
        false
    }
}

/// Why a request has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// The policy does not apply to this request.
    NotApplicable,
    /// The server is set up wrongly; the text names the fix. The request is answered with 500 and this
    /// text.
    Misconfigured(&'static str),
}

/// A key in the making.
///
/// A key of up to 64 plain characters without a secret is stored as it reads; any other as 128 bits of
/// SHA-256. The boundaries of its parts always count.
#[derive(Default)]
pub struct KeyBuilder {
    readable: String,
    parts: Vec<usize>,
    secret: bool,
}

impl KeyBuilder {
    /// Adds a part.
    pub fn push(&mut self, part: &str) {
        self.readable.push_str(part);
        self.parts.push(self.readable.len());
    }

    /// Adds a part that nobody who reads the store may learn, such as an API key: the whole key is then
    /// stored as a digest.
    pub fn push_secret(&mut self, part: &str) {
        self.push(part);
        self.secret = true;
    }

    pub(crate) fn finish(self) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte);
        // In a cluster an empty hash tag is none, and the keys of two policies would part.
        let is_plain =
            !self.secret && !self.readable.is_empty() && self.readable.bytes().all(plain);
        if self.parts.len() == 1 && is_plain && self.readable.len() <= MAX_READABLE {
            return self.readable;
        }
        let mut starts = 0;
        let parts = self.parts.iter().map(|&end| {
            let part = &self.readable.as_bytes()[starts..end];
            starts = end;
            part
        });
        let parts: Vec<&[u8]> = parts.collect();
        let length = self.readable.len() + parts.len();
        if is_plain && length <= MAX_READABLE {
            let text = |part: &&[u8]| String::from_utf8_lossy(part).into_owned();
            return parts.iter().map(text).collect::<Vec<_>>().join("|");
        }
        // `#` is not a plain character: no readable key looks like a digest.
        format!("#{}", key::digest(parts))
    }
}

impl fmt::Debug for KeyBuilder {
    /// Shows no part: one may be an API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyBuilder").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

/// The peer's address: see [`ip`].
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    v6_prefix: u8,
}

/// Per address of the connection's peer. An IPv4-mapped address counts as IPv4, and of an IPv6
/// address the first 64 bits count, since that is what one customer has.
///
/// The server must say who the peer is: in axum by
/// `into_make_service_with_connect_info::<SocketAddr>()`, elsewhere by a [`PeerAddr`] in the
/// request's extensions. Else the request is answered with 500 and this advice.
#[must_use]
pub fn ip() -> Ip {
    Ip { v6_prefix: 64 }
}

impl Ip {
    /// How many bits of an IPv6 address count, 1 to 128. Default: 64.
    ///
    /// # Panics
    ///
    /// On a number outside that range.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        assert!((1..=128).contains(&bits), "an IPv6 prefix has 1 to 128 bits, not {bits}");
        self.v6_prefix = bits;
        self
    }
}

impl KeyBy for Ip {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        let peer = PeerAddr::of(&request.extensions).ok_or(Missing::Misconfigured(
            "a rate limit counts by the peer's address, but the server does not tell it: serve the \
             Router with `into_make_service_with_connect_info::<SocketAddr>()`, or insert a \
             `towerkeep::PeerAddr` into the request's extensions",
        ))?;
        match peer.ip().to_canonical() {
            IpAddr::V4(address) => key.push(&address.to_string()),
            IpAddr::V6(address) => {
                let kept = u128::MAX << (128 - u32::from(self.v6_prefix));
                let network = std::net::Ipv6Addr::from_bits(address.to_bits() & kept);
                key.push(&network.to_string());
            }
        }
        Ok(())
    }
}

/// The route: see [`route`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Route;

/// Per method and route: axum's matched path (`/items/{id}`), else the path itself, which a client
/// can vary at will.
#[must_use]
pub fn route() -> Route {
    Route
}

impl KeyBy for Route {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        key.push(request.method.as_str());
        #[cfg(feature = "axum")]
        if let Some(path) = request.extensions.get::<axum::extract::MatchedPath>() {
            key.push(path.as_str());
            return Ok(());
        }
        key.push(request.uri.path());
        Ok(())
    }
}

/// The user: see [`user`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct User;

/// Per [`UserId`]; the session is loaded for it if there is one. The policy does not apply to a
/// request without a user, so put one by [`ip`] beside it.
#[must_use]
pub fn user() -> User {
    User
}

impl KeyBy for User {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        let user = request.extensions.get::<UserId>().ok_or(Missing::NotApplicable)?;
        key.push(user.as_str());
        Ok(())
    }

    fn needs_user(&self) -> bool {
        true
    }
}

/// A header: see [`header`].
#[derive(Clone, Debug)]
pub struct Header(HeaderName);

/// Per value of a request header. Requests without it share one key, so leaving it out is no way
/// around the limit; but a client may send any value it likes, so check it before, or count by
/// something else as well. The value is stored as a digest only: it may be an API key.
///
/// # Panics
///
/// If `name` is not a header name.
#[must_use]
pub fn header(name: &str) -> Header {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Header(name),
        Err(_) => panic!("{name:?} is not a header name"),
    }
}

impl KeyBy for Header {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        let value = request.headers.get(&self.0).map(|value| value.as_bytes());
        key.push_secret(&String::from_utf8_lossy(value.unwrap_or_default()));
        Ok(())
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// A request extension: see [`extension`].
pub struct Extension<T>(PhantomData<fn() -> T>);

/// Per value of an extension that a layer further out has set, such as a tenant's identifier. A
/// request without it is answered with 500: the layers are in the wrong order.
#[must_use]
pub fn extension<T: fmt::Display + Clone + Send + Sync + 'static>() -> Extension<T> {
    Extension(PhantomData)
}

impl<T: fmt::Display + Clone + Send + Sync + 'static> KeyBy for Extension<T> {
    fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        let value = request.extensions.get::<T>().ok_or(Missing::Misconfigured(
            "a rate limit counts by a request extension that is not set: put the layer that sets it \
             outside the rate limit",
        ))?;
        key.push(&value.to_string());
        Ok(())
    }
}

impl<T> fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extension<{}>", std::any::type_name::<T>())
    }
}

/// All requests together: see [`everyone`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Everyone;

/// One count for all requests.
#[must_use]
pub fn everyone() -> Everyone {
    Everyone
}

impl KeyBy for Everyone {
    fn write(&self, _: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
        key.push("everyone");
        Ok(())
    }
}

macro_rules! key_by_all {
    ($($name:ident),+) => {
        impl<$($name: KeyBy),+> KeyBy for ($($name,)+) {
            fn write(&self, request: &Parts, key: &mut KeyBuilder) -> Result<(), Missing> {
                #[allow(non_snake_case)] // the type parameters' names serve as variables
                let ($($name,)+) = self;
                $($name.write(request, key)?;)+
                Ok(())
            }

            fn needs_user(&self) -> bool {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                $($name.needs_user())||+
            }

            fn is_secret(&self) -> bool {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                $($name.is_secret())||+
            }
        }
    };
}

key_by_all!(A, B);
key_by_all!(A, B, C);
key_by_all!(A, B, C, D);

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use std::net::SocketAddr;

    fn key(by: impl KeyBy, request: Request<()>) -> Result<String, Missing> {
        let mut key = KeyBuilder::default();
        by.write(&request.into_parts().0, &mut key).map(|()| key.finish())
    }

    fn from(address: &str) -> Request<()> {
        let mut request = Request::new(());
        let address: SocketAddr = address.parse().unwrap();
        request.extensions_mut().insert(PeerAddr::new(address));
        request
    }

    #[test]
    fn addresses_of_one_customer_are_one_key() {
        assert_eq!(key(ip(), from("10.1.2.3:99")).unwrap(), "10.1.2.3");
        assert_eq!(key(ip(), from("[::ffff:10.1.2.3]:99")).unwrap(), "10.1.2.3");
        let network = key(ip(), from("[2001:db8:1:2:3::4]:99")).unwrap();
        assert_eq!(network, key(ip(), from("[2001:db8:1:2::9]:99")).unwrap());
        let exact = ip().ipv6_prefix(128);
        assert_ne!(network, key(exact, from("[2001:db8:1:2::9]:99")).unwrap());
    }

    #[test]
    fn a_server_that_hides_its_peers_is_told_how_to_name_them() {
        let Err(Missing::Misconfigured(advice)) = key(ip(), Request::new(())) else {
            panic!("a request without a peer has no key");
        };
        assert!(advice.contains("into_make_service_with_connect_info"));
    }

    #[test]
    fn the_boundaries_of_the_parts_count_readable_or_not() {
        let two = |a: &str, b: &str| {
            let mut key = KeyBuilder::default();
            key.push(a);
            key.push(b);
            key.finish()
        };
        let one = |a: &str| {
            let mut key = KeyBuilder::default();
            key.push(a);
            key.finish()
        };
        assert_eq!(two("ab", "c"), "ab|c");
        assert_ne!(two("ab", "c"), two("a", "bc"));
        let long = "x".repeat(50);
        assert_ne!(two(&long, "c d"), two(&format!("{long}c"), " d"));
        assert_ne!(one("ab|c"), two("ab", "c"));
    }

    #[test]
    fn what_a_client_sends_is_bounded_and_cannot_look_like_another_key() {
        let request = |value: &str| Request::builder().header("x-key", value).body(()).unwrap();
        let long = key(header("x-key"), request(&"x".repeat(8_000))).unwrap();
        assert_eq!(long.len(), 23);
        assert_ne!(key(header("x-key"), request(&long)).unwrap(), long);
        assert!(key(header("x-key"), request("{tag}")).unwrap().starts_with('#'));
        assert!(key(header("x-key"), Request::new(())).unwrap().starts_with('#'), "{{}} is no tag");
    }

    #[test]
    fn a_request_without_a_user_is_not_counted_by_user() {
        assert_eq!(key((route(), user()), Request::new(())), Err(Missing::NotApplicable));
        assert!((route(), user()).needs_user() && !(route(), ip()).needs_user());
    }
}

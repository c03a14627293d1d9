//! Per address of the client.

use crate::{
    client_addr::{ClientAddr, UNKNOWN},
    rate_limit::by::{KeyBuilder, KeyBy, Missing},
};
use http::request::Parts;
use std::net::IpAddr;

/// The client's address: see [`ip`].
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    v6_prefix: u8,
}

/// Per address of the client: the connection's peer, unless this layer or one further out
/// [trusts proxies](crate::rate_limit::RateLimitLayer::trust_proxies), or the application has set a
/// [`ClientAddr`]. An IPv4-mapped address counts as IPv4, and of an IPv6 address the first 64 bits
/// count, since that is what one customer has.
///
/// The server must say who the peer is: in axum by
/// `into_make_service_with_connect_info::<SocketAddr>()`, elsewhere by a
/// [`PeerAddr`](crate::PeerAddr) in the request's extensions. Else the request is answered with 500
/// and this advice.
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
        let client = ClientAddr::of(&request.extensions).ok_or(Missing::Misconfigured(UNKNOWN))?;
        match client.ip() {
            IpAddr::V4(address) => key.push_display(address),
            IpAddr::V6(address) => {
                let kept = u128::MAX << (128 - u32::from(self.v6_prefix));
                let network = std::net::Ipv6Addr::from_bits(address.to_bits() & kept);
                key.push_display(network);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{marks::PeerAddr, rate_limit::by::tests::key};
    use http::Request;
    use std::net::SocketAddr;

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
}

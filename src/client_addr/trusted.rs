//! Which proxies are believed, and the walk past them.

use crate::{
    client_addr::{
        client::ClientAddr,
        entries::{Entries, ProxyHeader},
        network::{Network, ProxyError},
    },
    marks::PeerAddr,
};
use http::{HeaderMap, Request};
use std::{net::IpAddr, sync::Arc};

/// A chain of trusted proxies is no longer than this.
const MOST_ENTRIES: usize = 255;

/// The proxies whose word is taken for the client's address. See the [module](crate::client_addr).
///
/// ```
/// use towerkeep::TrustedProxies;
///
/// # fn main() -> Result<(), towerkeep::client_addr::ProxyError> {
/// let balancers = TrustedProxies::networks(["10.0.0.0/8", "192.0.2.1", "fd00::/8"])?;
/// let two_in_a_row = TrustedProxies::hops(2);
/// let modern = TrustedProxies::networks(["10.0.0.0/8"])?.forwarded();
///
/// let error = TrustedProxies::networks(["10.0.0.1/8"]).unwrap_err();
/// assert!(error.to_string().contains("write \"10.0.0.0/8\" for the network"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TrustedProxies {
    trust: Trust,
    header: ProxyHeader,
}

#[derive(Clone, Debug)]
enum Trust {
    Networks(Arc<[Network]>),
    Hops(u8),
}

impl TrustedProxies {
    /// Trusts the proxies in these networks, in CIDR notation, and at these addresses. None at all
    /// trusts nobody: the client is the peer.
    ///
    /// # Errors
    ///
    /// If one is not a network, has bits beyond its prefix, or is everybody (`0.0.0.0/0`).
    pub fn networks(networks: impl IntoIterator<Item: AsRef<str>>) -> Result<Self, ProxyError> {
        let networks = networks.into_iter().map(|network| Network::parse(network.as_ref()));
        let trust = Trust::Networks(networks.collect::<Result<_, _>>()?);
        Ok(Self { trust, header: ProxyHeader::XForwardedFor })
    }

    /// Trusts exactly so many proxies in a row, whose addresses are not known, the peer being the first:
    /// the client is the `hops`th entry from the end. Of a request with fewer entries, which has not come
    /// through all of them, it is the peer. 0 trusts nobody.
    ///
    /// It holds only if every request comes through all of them: a client that reaches one further in
    /// writes the entries of those that it has left out. Prefer [`networks`](TrustedProxies::networks)
    /// where the addresses are known.
    pub fn hops(hops: u8) -> Self {
        Self { trust: Trust::Hops(hops), header: ProxyHeader::XForwardedFor }
    }

    /// Reads `Forwarded` (RFC 7239) in place of `X-Forwarded-For`, for proxies that append to that one
    /// or overwrite it. Default: `X-Forwarded-For`.
    pub fn forwarded(mut self) -> Self {
        self.header = ProxyHeader::Forwarded;
        self
    }

    /// The client of a request that came from this peer with these headers.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        let entries = Entries::of(headers, self.header);
        match &self.trust {
            Trust::Networks(networks) => past_networks(networks, peer, entries),
            Trust::Hops(hops) => past_hops(*hops, peer, entries),
        }
    }

    /// Finds the client of a request and leaves it in the extensions, as a [`ClientAddr`], unless it is
    /// what they say without. `None` if the server does not tell the peer's address.
    pub fn identify<B>(&self, request: &mut Request<B>) -> Option<ClientAddr> {
        let peer = PeerAddr::of(request.extensions())?;
        let client = ClientAddr::new(self.client(peer.ip(), request.headers()));
        if ClientAddr::of(request.extensions()) != Some(client) {
            request.extensions_mut().insert(client);
        }
        Some(client)
    }
}

fn past_networks(networks: &[Network], peer: IpAddr, mut entries: Entries<'_>) -> IpAddr {
    let mut client = peer;
    for _ in 0..MOST_ENTRIES {
        if !networks.iter().any(|network| network.contains(client)) {
            break;
        }
        let Some(Some(address)) = entries.next() else { break };
        client = address;
    }
    client
}

fn past_hops(hops: u8, peer: IpAddr, mut entries: Entries<'_>) -> IpAddr {
    let mut client = peer;
    for _ in 0..hops {
        match entries.next() {
            Some(Some(address)) => client = address,
            Some(None) => return client,
            None => return peer,
        }
    }
    client
}

macro_rules! try_from_networks {
    ($(($($generics:tt)*) $from:ty;)+) => {
        $(impl<$($generics)*> TryFrom<$from> for TrustedProxies {
            type Error = ProxyError;

            /// As [`TrustedProxies::networks`].
            fn try_from(networks: $from) -> Result<Self, ProxyError> {
                Self::networks(networks)
            }
        })+
    };
}

try_from_networks! {
    (T: AsRef<str>, const N: usize) [T; N];
    (T: AsRef<str>) &[T];
    (T: AsRef<str>) Vec<T>;
}

//! The mark in a request's extensions.

use crate::marks::PeerAddr;
use http::Extensions;
use std::{fmt, net::IpAddr};

/// What a server has to do whose requests have no address.
pub(crate) const UNKNOWN: &str = "the client's address is not known, since the server does not tell the \
     peer's: serve the Router with `into_make_service_with_connect_info::<SocketAddr>()`, or insert a \
     `towerkeep::PeerAddr` into the request's extensions";

/// The address of the client that sent a request; in axum, an extractor.
///
/// It is in the request's extensions only where it differs from the peer's address, so ask
/// [`ClientAddr::of`]. An application that knows better, say by a header of its content delivery
/// network, sets it itself, outside all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// The client at this address; an IPv4-mapped one is IPv4.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// The client of a request: the one that a layer further out has found, else the peer. `None` if the
    /// server does not tell who the peer is: in axum it does by
    /// `into_make_service_with_connect_info::<SocketAddr>()`, elsewhere by a [`PeerAddr`].
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let found = extensions.get::<Self>().copied();
        found.or_else(|| PeerAddr::of(extensions).map(|peer| Self::new(peer.ip())))
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

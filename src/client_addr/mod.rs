//! Who sent a request, where proxies stand between the client and this server.
//!
//! Without a setting the client is the peer of the connection, and no header is read. Behind a proxy
//! the peer is the proxy, and the client's address is in a header that proxies append to and that the
//! client may have begun. [`TrustedProxies`] says which of its entries to believe:
//!
//! 1. The entries of all lines of the header are one list, in order, and the peer follows as its last.
//! 2. The list is walked from the peer towards the front, past every trusted address. An entry is as
//!    good as who wrote it: the one to its right.
//! 3. The first address that is not trusted is the client; if all are, the foremost.
//! 4. At an entry that is no address (`unknown`, `_hidden`, garbage, nothing at all) the walk ends too,
//!    and the client is the last address before it: the hop that did not tell whom it spoke for.
//!
//! So a peer that is not trusted is the client, whatever its headers say; and what a client puts in
//! front of the list changes nothing, since the entry for the client itself stands after it.
//!
//! ```
//! use http::{HeaderMap, HeaderValue};
//! use towerkeep::TrustedProxies;
//!
//! # fn main() -> Result<(), towerkeep::client_addr::ProxyError> {
//! let proxies = TrustedProxies::networks(["10.0.0.0/8", "fd00::/8"])?;
//!
//! let mut headers = HeaderMap::new();
//! let list = HeaderValue::from_static("1.2.3.4, 203.0.113.7, 10.0.0.2"); // 1.2.3.4 is a lie
//! headers.insert("x-forwarded-for", list);
//! let client = proxies.client([10, 0, 0, 1].into(), &headers);
//! assert_eq!(client.to_string(), "203.0.113.7");
//!
//! let stranger = [198, 51, 100, 9].into();
//! assert_eq!(proxies.client(stranger, &headers), stranger);
//! # Ok(())
//! # }
//! ```
//!
//! # Which header
//!
//! `X-Forwarded-For`, or `Forwarded` (RFC 7239) with [`TrustedProxies::forwarded`]: the one that *your*
//! proxies append to or overwrite. Never both: the other one arrives as the client wrote it, and a
//! server that believes either lets the client choose.
//!
//! An entry may be `ip`, `ip:port`, `[v6]` or `[v6]:port`, in `Forwarded` as a token or a quoted string.
//! An IPv4-mapped address is IPv4 everywhere. One with a zone (`fe80::1%eth0`) means something on one
//! machine only, and is none here.
//!
//! # Who is told
//!
//! [`RateLimitLayer::trust_proxies`](crate::rate_limit::RateLimitLayer::trust_proxies) looks for the
//! client and leaves a [`ClientAddr`] in the request's extensions, for layers further in, which need no
//! setting of their own, and for handlers: [`ClientAddr::of`], or in axum the extractor. Elsewhere
//! [`TrustedProxies::identify`] does it:
//!
//! ```
//! use http::Request;
//! use tower::{ServiceBuilder, service_fn};
//! use towerkeep::TrustedProxies;
//!
//! let proxies = TrustedProxies::hops(1);
//! let service = ServiceBuilder::new()
//!     .map_request(move |mut request: Request<String>| {
//!         proxies.identify(&mut request);
//!         request
//!     })
//! #   .service(service_fn(|_: Request<String>| async { Ok::<_, std::convert::Infallible>(()) }));
//! ```
//!
//! # Security
//!
//! - Trust the addresses of your proxies, and no network in which there are clients too: who is trusted
//!   may say anything of those behind.
//! - A proxy has to append to the header or to overwrite it. One that passes it on as it is lets the
//!   client write what the proxy should have; see [`TrustedProxies::hops`] above all.
//! - However long a header is, at most 1 KiB of an entry and 255 entries are looked at, and nothing is
//!   allocated.

mod client;
mod entries;
#[cfg(feature = "axum")]
mod extract;
mod network;
mod node;
#[cfg(test)]
mod tests;
mod trusted;

pub(crate) use self::client::UNKNOWN;
#[cfg(feature = "axum")]
pub use self::extract::ClientAddrRejection;
pub use self::{client::ClientAddr, network::ProxyError, trusted::TrustedProxies};

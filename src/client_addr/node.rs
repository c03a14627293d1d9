//! The address of one hop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest there is: an IPv6 address in brackets that ends like IPv4, and a port's name.
pub(super) const LONGEST: usize = 64;

/// An address with or without a port, after RFC 7239, section 6; an IPv6 address may go without its
/// brackets if it has no port. IPv4-mapped addresses become IPv4.
pub(super) fn parse(node: &[u8]) -> Option<IpAddr> {
    if node.len() > LONGEST {
        return None;
    }
    let node = str::from_utf8(node).ok()?;
    let address = if let Some(rest) = node.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let named = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        named.then_some(address)?.parse::<Ipv6Addr>().ok()?.into()
    } else if let Some((address, _)) = node.split_once(':').filter(|(_, port)| is_port(port)) {
        address.parse::<Ipv4Addr>().ok()?.into()
    } else {
        node.parse::<IpAddr>().ok()?
    };
    Some(address.to_canonical())
}

/// A number, or a name that hides one.
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(legal)
        }
        None => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    }
}

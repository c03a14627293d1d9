//! Networks in CIDR notation.

use std::{error::Error, fmt, net::IpAddr};

/// The addresses that begin with the same bits; IPv4-mapped ones are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    base: IpAddr,
    prefix: u32,
}

impl Network {
    pub(super) fn parse(text: &str) -> Result<Self, ProxyError> {
        let wrong = |what: &str| ProxyError(format!("the trusted proxy {text:?} {what}"));
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let not_one = || {
            wrong(
                "is not a network; write an address, alone or with the number of bits that count, such \
                 as \"10.0.0.1\", \"10.0.0.0/8\" or \"fd00::/8\"",
            )
        };
        let given: IpAddr = address.parse().map_err(|_| not_one())?;
        let bits = if given.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) => {
                let number = digits.parse().ok().filter(|&number| number <= bits);
                number
                    .filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .ok_or_else(not_one)?
            }
        };
        if prefix == 0 {
            return Err(wrong(
                "is everybody, so that any client could choose its address; write the networks of your \
                 proxies, or count them with TrustedProxies::hops",
            ));
        }
        if kept(given, prefix) != given {
            let (base, alone) = (kept(given, prefix), given);
            return Err(wrong(&format!(
                "has bits beyond its first {prefix}; write \"{base}/{prefix}\" for the network, or \
                 \"{alone}\" for the one address"
            )));
        }
        let base = given.to_canonical();
        // Of a network within the IPv4-mapped addresses, the first 96 bits are given.
        let mapped = base.is_ipv4() && given.is_ipv6() && prefix >= 96;
        Ok(match mapped {
            true => Self { base, prefix: prefix - 96 },
            false => Self { base: given, prefix },
        })
    }

    /// Whether a canonical address belongs to it.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.base.is_ipv4() && kept(address, self.prefix) == self.base
    }
}

/// The address with no bits but its first `prefix`.
fn kept(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// Why the proxies to trust cannot be: the text names the value and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyError(String);

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ProxyError {}

//! A range of addresses, as in `10.0.0.0/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The addresses that begin with the same bits.
///
/// 1. Its bits after the prefix are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

/// Why text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkError {
    /// No address, or no number behind the slash.
    Form,
    /// A prefix longer than the address.
    Prefix(u8),
    /// An address with bits behind the prefix: which network is meant is anybody's guess.
    HostBits,
}

impl Network {
    /// The network of `prefix_bits` bits that `address` is in, as long as the address at most; one of IPv4 written as
    /// IPv6 counts as what it stands for.
    pub fn around(address: IpAddr, prefix_bits: u8) -> Self {
        let address = address.to_canonical();
        let prefix_bits = prefix_bits.min(width(address));
        let kept = bits(address) & mask(address, prefix_bits);
        let address = match address {
            IpAddr::V4(_) => Ipv4Addr::from_octets(std::array::from_fn(|at| kept.to_be_bytes()[at])).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(kept).into(),
        };
        Self { address, prefix_bits }
    }

    /// `address` alone.
    pub fn of(address: IpAddr) -> Self {
        Self::around(address, u8::MAX)
    }

    /// The first of them.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits they have in common.
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// Whether `address` is one of them; one of IPv4 written as IPv6 counts as what it stands for.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && bits(address) & mask(address, self.prefix_bits) == bits(self.address)
    }
}

/// The address at the upper end of 128 bits.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(address: IpAddr, prefix_bits: u8) -> u128 {
    let prefix_bits = u32::from(prefix_bits.min(width(address)));
    !u128::MAX.checked_shr(prefix_bits).unwrap_or(0)
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Form)?;
        let prefix_bits = match prefix {
            None => width(address),
            Some(prefix) => prefix.parse().map_err(|_| NetworkError::Form)?,
        };
        if prefix_bits > width(address) {
            return Err(NetworkError::Prefix(prefix_bits));
        }
        if bits(address) & !mask(address, prefix_bits) != 0 {
            return Err(NetworkError::HostBits);
        }
        Ok(Self { address, prefix_bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("expected an address or a network such as \"10.0.0.0/8\""),
            Self::Prefix(bits) => write!(f, "the prefix {bits} is longer than the address"),
            Self::HostBits => {
                f.write_str("the address has bits behind the prefix, expected 0 there as in \"10.0.0.0/8\"")
            }
        }
    }
}

impl std::error::Error for NetworkError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_begin_with_its_bits() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "a00::", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("192.0.2.6/31", "192.0.2.7", true),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::/0", "ffff::", true),
            ("::1", "::1", true),
            ("::1", "::2", false),
        ] {
            let network: Network = network.parse().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(network.contains(address), expected, "{network} {address}");
        }
    }

    #[test]
    fn an_address_is_in_the_network_around_it() {
        for (address, prefix_bits, expected) in [
            ("10.1.2.3", 8, "10.0.0.0/8"),
            ("::ffff:10.1.2.3", 24, "10.1.2.0/24"),
            ("10.1.2.3", 200, "10.1.2.3/32"),
            ("2001:db8:1::1", 32, "2001:db8::/32"),
            ("::1", 0, "::/0"),
        ] {
            let address = address.parse().expect("an address");
            let network = Network::around(address, prefix_bits);
            assert_eq!(network.to_string(), expected);
            assert!(network.contains(address));
            assert_eq!(expected.parse(), Ok(network));
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, error) in [
            ("", NetworkError::Form),
            ("balancer", NetworkError::Form),
            ("10.0.0.0/", NetworkError::Form),
            ("10.0.0.0/x", NetworkError::Form),
            ("10.0.0.0/256", NetworkError::Form),
            ("10.0.0.0/33", NetworkError::Prefix(33)),
            ("::/129", NetworkError::Prefix(129)),
            ("10.0.0.1/8", NetworkError::HostBits),
            ("2001:db8::1/64", NetworkError::HostBits),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text:?}");
        }
    }
}

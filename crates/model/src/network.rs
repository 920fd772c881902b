//! Where a request comes from, as far as it can be held against its sender.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Addresses that count as one. An IPv6 customer has a /64 or more and changes addresses in it at will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceNetwork(IpAddr);

impl SourceNetwork {
    /// An IPv4 address alone, or an IPv6 /64. For what a neighbour must not suffer from: refusals and delays.
    pub fn of(address: IpAddr) -> Self {
        Self::masked(address, 32)
    }

    /// An IPv4 /24, or an IPv6 /64. For what a neighbour hardly notices: whoever rents or takes over machines has
    /// several of a /24 more easily than several /24.
    pub fn neighbourhood_of(address: IpAddr) -> Self {
        Self::masked(address, 24)
    }

    fn masked(address: IpAddr, ipv4_bits: u32) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - ipv4_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
            }
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from(u128::from(address) & (u128::MAX << 64)))
            }
        })
    }
}

impl fmt::Display for SourceNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_customer_counts_as_one_and_a_mapped_ipv4_address_as_itself() {
        let of = |text: &str| SourceNetwork::of(parse(text));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1").to_string(), "192.0.2.1");
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_neighbourhood_is_wider_for_ipv4_alone() {
        let of = |text: &str| SourceNetwork::neighbourhood_of(parse(text));
        assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}

//! Address lists. An address is looked up in O(log n) whatever the number of networks, and an IPv4 address is
//! the same address when it arrives as `::ffff:a.b.c.d`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use testudo_model::IpLists;

/// A set of networks: merged, sorted ranges of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl IpSet {
    /// The union of `networks`.
    pub fn new(networks: &[IpNet]) -> Self {
        let mut set = Self::default();
        for network in networks {
            match (
                network.network().to_canonical(),
                network.broadcast().to_canonical(),
            ) {
                (IpAddr::V4(first), IpAddr::V4(last)) => set.v4.push((first.into(), last.into())),
                (first, last) => set.v6.push((v6_bits(first), v6_bits(last))),
            }
        }
        set.v4 = merge(set.v4);
        set.v6 = merge(set.v6);
        set
    }

    /// Whether `address` is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            // A network such as `::/0` covers IPv4 only if it says `::ffff:0:0/96` or wider: it does, mapped.
            IpAddr::V4(v4) => {
                holds(&self.v4, v4.into()) || holds(&self.v6, v4.to_ipv6_mapped().into())
            }
            IpAddr::V6(v6) => holds(&self.v6, v6.into()),
        }
    }

    /// Whether there are no networks at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Who may connect: a deny list that wins, and an allow list that, if not empty, is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpFilter {
    allow: IpSet,
    deny: IpSet,
}

impl IpFilter {
    /// Compiles the lists.
    pub fn new(lists: &IpLists) -> Self {
        Self {
            allow: IpSet::new(&lists.allow),
            deny: IpSet::new(&lists.deny),
        }
    }

    /// Whether `address` may connect.
    pub fn allows(&self, address: IpAddr) -> bool {
        !self.deny.contains(address) && (self.allow.is_empty() || self.allow.contains(address))
    }
}

/// What a limit by address counts apart: an IPv4 address, or the /64 that one IPv6 customer owns.
pub fn limited_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
    }
}

fn v6_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V6(v6) => v6.into(),
        IpAddr::V4(v4) => v4_mapped_bits(v4),
    }
}

fn v4_mapped_bits(address: Ipv4Addr) -> u128 {
    address.to_ipv6_mapped().into()
}

fn merge<T: Copy + Ord>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn holds<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after
        .checked_sub(1)
        .and_then(|at| ranges.get(at))
        .is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn deny_wins_over_allow() {
        let filter = IpFilter::new(&IpLists {
            allow: nets(&["10.0.0.0/8", "2001:db8::/32"]),
            deny: nets(&["10.1.0.0/16"]),
        });
        for (address, allowed) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("::ffff:10.1.0.1", false),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(
                filter.allows(address.parse().unwrap()),
                allowed,
                "{address}"
            );
        }
    }

    #[test]
    fn empty_lists_allow_everybody() {
        assert!(IpFilter::default().allows("203.0.113.7".parse().unwrap()));
    }

    #[test]
    fn a_mapped_network_denies_the_plain_address() {
        let filter = IpFilter::new(&IpLists {
            allow: vec![],
            deny: nets(&["::ffff:10.0.0.0/104"]),
        });
        assert!(!filter.allows("10.9.9.9".parse().unwrap()));
        let everything = IpFilter::new(&IpLists {
            allow: vec![],
            deny: nets(&["::/0"]),
        });
        assert!(!everything.allows("10.9.9.9".parse().unwrap()));
    }

    #[test]
    fn one_ipv6_customer_is_one_key() {
        let first = limited_network("2001:db8:1:2::1".parse().unwrap());
        assert_eq!(
            first,
            limited_network("2001:db8:1:2:ffff::9".parse().unwrap())
        );
        assert_ne!(first, limited_network("2001:db8:1:3::1".parse().unwrap()));
        assert_eq!(
            limited_network("::ffff:192.0.2.1".parse().unwrap()),
            limited_network("192.0.2.1".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn a_set_holds_what_any_of_its_networks_holds(
            networks in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            address: u32,
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(bits, length)| IpNet::new(Ipv4Addr::from(bits).into(), length).unwrap())
                .collect();
            let address = IpAddr::V4(address.into());
            prop_assert_eq!(
                IpSet::new(&networks).contains(address),
                networks.iter().any(|network| network.contains(&address))
            );
        }
    }
}

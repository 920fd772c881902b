//! Networks and listen addresses as people write them.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::text_value::text_value;

/// A network in CIDR form (`10.0.0.0/8`, `2001:db8::/32`), or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Neither an address nor a CIDR.
    #[error(
        "`{0}` is not a network: write an address or a CIDR such as `10.0.0.0/8` or `2001:db8::/32`"
    )]
    Malformed(String),
    /// Bits are set beyond the prefix: the author may have meant another network.
    #[error(
        "`{given}` has address bits beyond its prefix: write `{network}` for the network, or `{address}` for the one address"
    )]
    HostBits {
        /// As given.
        given: IpNet,
        /// The network around it.
        network: IpNet,
        /// The address in it.
        address: IpAddr,
    },
}

impl Network {
    /// The network.
    pub const fn net(self) -> IpNet {
        self.0
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(address)));
        }
        let given: IpNet = text
            .parse()
            .map_err(|_| InvalidNetwork::Malformed(text.chars().take(64).collect()))?;
        let network = given.trunc();
        if network == given {
            Ok(Self(given))
        } else {
            Err(InvalidNetwork::HostBits {
                given,
                network,
                address: given.addr(),
            })
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

text_value!(
    Network,
    "a network such as `10.0.0.0/8`",
    "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$",
    ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]
);

/// `address:port`, or a port alone, which is on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress(SocketAddr);

/// A text that is not a listen address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a listen address: write `address:port` such as `127.0.0.1:8443` or `[::1]:8443`, or a port"
)]
pub struct InvalidListenAddress(String);

impl ListenAddress {
    /// The address.
    pub const fn address(self) -> SocketAddr {
        self.0
    }

    pub(super) const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        let port_alone = || text.parse().ok().map(Self::loopback);
        let address = text.parse().ok().map(Self).or_else(port_alone);
        address.ok_or_else(|| InvalidListenAddress(text.chars().take(64).collect()))
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrPort;
        impl de::Visitor<'_> for TextOrPort {
            type Value = ListenAddress;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("`address:port` or a port")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ListenAddress, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<ListenAddress, E> {
                self.visit_str(&port.to_string())
            }
        }
        deserializer.deserialize_any(TextOrPort)
    }
}

impl JsonSchema for ListenAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ListenAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "examples": ["127.0.0.1:8443", "[::1]:8443"] },
                { "type": "integer", "minimum": 0, "maximum": 65535 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_with_host_bits_is_refused_with_both_readings() {
        assert_eq!(
            "10.0.0.0/8".parse::<Network>().unwrap().to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(
            "192.0.2.7".parse::<Network>().unwrap().to_string(),
            "192.0.2.7/32"
        );
        assert_eq!(
            "2001:db8::1".parse::<Network>().unwrap().to_string(),
            "2001:db8::1/128"
        );
        let error = "10.1.2.3/8".parse::<Network>().unwrap_err().to_string();
        assert!(
            error.contains("`10.0.0.0/8`") && error.contains("`10.1.2.3`"),
            "{error}"
        );
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "example.com", "10.0.0.0/8 "] {
            assert!(
                matches!(bad.parse::<Network>(), Err(InvalidNetwork::Malformed(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_port_alone_is_on_loopback() {
        assert_eq!(
            "8443".parse::<ListenAddress>().unwrap().address(),
            "127.0.0.1:8443".parse().unwrap()
        );
        assert_eq!(
            "[::1]:0".parse::<ListenAddress>().unwrap().address(),
            "[::1]:0".parse().unwrap()
        );
        for bad in ["", "localhost:8443", "65536", "-1", ":8443"] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }
}

//! Where a request really came from.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use testudo_model::limits::MAX_FORWARDED_HOPS;

use crate::iplist::IpSet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: the peer, unless it is a trusted proxy; then the rightmost address in
/// `X-Forwarded-For` that is not a trusted proxy itself.
///
/// Each hop appends the address it saw, so only what stands right of an untrusted hop is true. Whatever is not
/// a plain address ends the walk, and the last hop that could be believed answers for the request. At most
/// [`MAX_FORWARDED_HOPS`] entries are read. `Forwarded`, `X-Real-IP` and the like are never believed.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &IpSet) -> IpAddr {
    let mut client = peer.to_canonical();
    if trusted.is_empty() || !trusted.contains(client) {
        return client;
    }
    let lines = headers.get_all(X_FORWARDED_FOR).iter().collect::<Vec<_>>();
    let hops = lines
        .into_iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops.take(MAX_FORWARDED_HOPS) {
        let Some(address) = parse_hop(hop) else { break };
        client = address;
        if !trusted.contains(client) {
            break;
        }
    }
    client
}

/// A plain address: no port, no brackets, no zone, no octal, no name.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim_matches([' ', '\t']);
    text.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seen(peer: &str, lines: &[&str]) -> String {
        let trusted = IpSet::new(&["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn an_untrusted_peer_cannot_name_another_address() {
        assert_eq!(seen("203.0.113.9", &["127.0.0.1"]), "203.0.113.9");
        assert_eq!(seen("::ffff:203.0.113.9", &["127.0.0.1"]), "203.0.113.9");
    }

    #[test]
    fn the_walk_goes_right_to_left_over_trusted_proxies() {
        for (peer, lines, client) in [
            ("10.0.0.1", &["198.51.100.7"][..], "198.51.100.7"),
            (
                "10.0.0.1",
                &["127.0.0.1, 198.51.100.7, 10.0.0.2"],
                "198.51.100.7",
            ),
            (
                "10.0.0.1",
                &["127.0.0.1", "198.51.100.7", "10.0.0.2"],
                "198.51.100.7",
            ),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            assert_eq!(seen(peer, lines), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn junk_stops_the_walk_at_the_last_believable_hop() {
        for junk in [
            "unknown",
            "_hidden",
            "[::1]:80",
            "0177.0.0.1",
            "1.1",
            "fe80::1%eth0",
            "",
            "1.2.3.4:80",
        ] {
            let line = format!("198.51.100.7, {junk}, 10.0.0.2");
            assert_eq!(seen("10.0.0.1", &[&line]), "10.0.0.2", "{junk}");
        }
    }

    #[test]
    fn a_chain_of_ten_thousand_entries_is_read_up_to_the_limit() {
        let line = format!("198.51.100.7, {}", vec!["10.0.0.2"; 10_000].join(", "));
        assert_eq!(seen("10.0.0.1", &[&line]), "10.0.0.2");
    }
}

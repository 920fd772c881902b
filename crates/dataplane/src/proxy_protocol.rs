//! The PROXY protocol: who is behind a TCP connection, said in a header before its first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Read from trusted proxies in front of the gateway, versions 1 and 2; written to services that ask for it, version 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BytesMut};
use testudo_model::limits::{MAX_PROXY_HEADER_BYTES, PROXY_HEADER_TIMEOUT};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 1 begins with.
const V1_START: &[u8] = b"PROXY ";
/// Longest header of version 1, with its line end (section 2.1).
const V1_MAX_BYTES: usize = 107;
/// What version 2 begins with.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_START_BYTES: usize = 16;

/// Why a connection of a trusted proxy is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// It begins with something else.
    #[error("there is no header of the PROXY protocol")]
    Absent,
    /// Not as the protocol says, or in a part of it that nobody uses over TCP.
    #[error("the header of the PROXY protocol is malformed")]
    Malformed,
    /// More than [`MAX_PROXY_HEADER_BYTES`].
    #[error("the header of the PROXY protocol is too long")]
    TooLong,
    /// The connection ended before it was complete, or it took too long.
    #[error("the header of the PROXY protocol is incomplete")]
    Incomplete,
}

/// A header, and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Who is behind the connection; `None` if the proxy speaks for itself (its health checks do) or cannot tell.
    pub(crate) client: Option<SocketAddr>,
    pub(crate) length: usize,
}

/// Reads the header that `stream` begins with. What came behind it is left in `read`.
///
/// # Errors
/// [`HeaderError`].
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
) -> Result<Header, HeaderError> {
    let reading = async {
        loop {
            if let Some(header) = parse(read)? {
                return Ok(header);
            }
            let came = stream.read_buf(read).await;
            if came.is_err() || matches!(came, Ok(0)) {
                return Err(HeaderError::Incomplete);
            }
        }
    };
    let timely = tokio::time::timeout(PROXY_HEADER_TIMEOUT, reading).await;
    let header = timely.map_err(|_| HeaderError::Incomplete)??;
    read.advance(header.length);
    Ok(header)
}

/// Whether `bytes`, the first of a connection, can be those of a header.
pub(crate) fn may_be_header(bytes: &[u8]) -> bool {
    [V1_START, V2_SIGNATURE]
        .iter()
        .any(|start| start.starts_with(bytes) || bytes.starts_with(start))
}

/// The header that `bytes` begin with; `None` if it is not yet complete.
///
/// # Errors
/// [`HeaderError`].
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    if !may_be_header(bytes) {
        return Err(HeaderError::Absent);
    }
    if bytes.starts_with(V1_START) {
        return parse_v1(bytes);
    }
    match bytes.split_at_checked(V2_START_BYTES) {
        Some((start, rest)) => parse_v2(start, rest),
        None => Ok(None),
    }
}

/// Section 2.1: one line of text.
fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let line = bytes.get(..V1_MAX_BYTES).unwrap_or(bytes);
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() < V1_MAX_BYTES {
            Ok(None)
        } else {
            Err(HeaderError::TooLong)
        };
    };
    let text = line
        .get(..end)
        .and_then(|line| line.strip_suffix(b"\r"))
        .and_then(|line| std::str::from_utf8(line).ok())
        .ok_or(HeaderError::Malformed)?;
    let client = v1_client(text).ok_or(HeaderError::Malformed)?;
    Ok(Some(Header {
        client,
        length: end + 1,
    }))
}

/// The client that a line of version 1 names; `None` if the line is malformed.
fn v1_client(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows must be ignored.
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (source_port, _) = (v1_port(words.next()?)?, v1_port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => Some(text.parse::<Ipv4Addr>().ok()?.into()),
            "TCP6" => Some(text.parse::<Ipv6Addr>().ok()?.into()),
            _ => None,
        }
    };
    address(destination)?;
    Some(Some(SocketAddr::new(address(source)?, source_port)))
}

/// A port without sign or leading zero.
fn v1_port(text: &str) -> Option<u16> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// Section 2.2: a fixed start, then as many bytes as it says.
fn parse_v2(start: &[u8], rest: &[u8]) -> Result<Option<Header>, HeaderError> {
    let &[.., command, family, high, low] = start else {
        return Err(HeaderError::Malformed);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_START_BYTES + length > MAX_PROXY_HEADER_BYTES {
        return Err(HeaderError::TooLong);
    }
    let is_proxied = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err(HeaderError::Malformed),
    };
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let (client, extensions) = match (is_proxied, family) {
        // The proxy speaks for itself: whatever else the header says must be ignored.
        (false, _) => (None, &[][..]),
        // It cannot tell.
        (true, 0x00) => (None, body),
        (true, 0x11) => v2_client::<4>(body)?,
        (true, 0x21) => v2_client::<16>(body)?,
        // Datagrams and Unix sockets do not come over TCP.
        _ => return Err(HeaderError::Malformed),
    };
    check_extensions(extensions)?;
    Ok(Some(Header {
        client,
        length: V2_START_BYTES + length,
    }))
}

/// The source of a block of two addresses of `N` bytes and two ports, and what follows it.
fn v2_client<const N: usize>(body: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), HeaderError>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body
        .split_first_chunk::<N>()
        .ok_or(HeaderError::Malformed)?;
    let (_, rest) = rest
        .split_first_chunk::<N>()
        .ok_or(HeaderError::Malformed)?;
    let (ports, extensions) = rest
        .split_first_chunk::<4>()
        .ok_or(HeaderError::Malformed)?;
    let [high, low, ..] = *ports;
    let port = u16::from_be_bytes([high, low]);
    Ok((
        Some(SocketAddr::new(IpAddr::from(*source), port)),
        extensions,
    ))
}

/// Section 2.2: kind, length, value. None is used; each must be whole.
fn check_extensions(mut bytes: &[u8]) -> Result<(), HeaderError> {
    while !bytes.is_empty() {
        let Some(([_, high, low], rest)) = bytes.split_first_chunk::<3>() else {
            return Err(HeaderError::Malformed);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        bytes = rest.get(length..).ok_or(HeaderError::Malformed)?;
    }
    Ok(())
}

/// The header of version 2 that says that a connection to `service` is `client`'s. Nobody knows the client's port by
/// then: it is 0.
pub(crate) fn header(client: IpAddr, service: SocketAddr) -> Vec<u8> {
    let mut bytes = V2_SIGNATURE.to_vec();
    bytes.push(0x21);
    match (client.to_canonical(), service.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([0x11, 0, 12]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (from, to) => {
            bytes.extend([0x21, 0, 36]);
            bytes.extend(as_v6(from).octets());
            bytes.extend(as_v6(to).octets());
        }
    }
    bytes.extend([0, 0]);
    bytes.extend(service.port().to_be_bytes());
    bytes
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn client(bytes: &[u8]) -> Result<Option<Option<SocketAddr>>, HeaderError> {
        parse(bytes).map(|header| header.map(|header| header.client))
    }

    #[test]
    fn both_versions_name_the_client() {
        for (line, expected) in [
            (
                "PROXY TCP4 198.51.100.7 10.0.0.1 56324 443\r\n",
                Some("198.51.100.7:56324"),
            ),
            (
                "PROXY TCP6 2001:db8::7 2001:db8::1 65535 0\r\n",
                Some("[2001:db8::7]:65535"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(client(line.as_bytes()), Ok(Some(expected)), "{line}");
        }
        let mut block = vec![198, 51, 100, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];
        let expected = Some("198.51.100.7:56324".parse().unwrap());
        assert_eq!(client(&v2(0x21, 0x11, &block)), Ok(Some(expected)));
        // An extension: ALPN.
        block.extend([0x01, 0, 2, b'h', b'2']);
        assert_eq!(client(&v2(0x21, 0x11, &block)), Ok(Some(expected)));
        assert_eq!(client(&v2(0x20, 0x00, &[])), Ok(Some(None)));
        assert_eq!(client(&v2(0x20, 0x11, &block)), Ok(Some(None)));
        assert_eq!(client(&v2(0x21, 0x00, &[])), Ok(Some(None)));
    }

    #[test]
    fn whatever_is_not_exactly_a_header_is_refused() {
        for line in [
            "PROXY TCP4 198.51.100.7 10.0.0.1 56324 443\n",
            "PROXY TCP4 198.51.100.7 10.0.0.1 56324\r\n",
            "PROXY TCP4 198.51.100.7 10.0.0.1 56324 443 \r\n",
            "PROXY TCP4  198.51.100.7 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 198.51.100.7 10.0.0.1 056324 443\r\n",
            "PROXY TCP4 198.51.100.7 10.0.0.1 +1 443\r\n",
            "PROXY TCP4 198.51.100.7 10.0.0.1 65536 443\r\n",
            "PROXY TCP4 0198.51.100.7 10.0.0.1 1 443\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            "PROXY TCP6 198.51.100.7 10.0.0.1 1 443\r\n",
            "PROXY TCP6 fe80::1%eth0 fe80::2 1 443\r\n",
            "PROXY UDP4 198.51.100.7 10.0.0.1 1 443\r\n",
            "PROXY \r\n",
        ] {
            let refused = client(line.as_bytes());
            assert_eq!(refused, Err(HeaderError::Malformed), "{line:?}");
        }
        for (bytes, error) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), HeaderError::Absent),
            (b"proxy TCP4 ".to_vec(), HeaderError::Absent),
            (b"\x16\x03\x01".to_vec(), HeaderError::Absent),
            (v2(0x11, 0x11, &[0; 12]), HeaderError::Malformed),
            (v2(0x22, 0x11, &[0; 12]), HeaderError::Malformed),
            (v2(0x21, 0x12, &[0; 12]), HeaderError::Malformed),
            (v2(0x21, 0x31, &[0; 216]), HeaderError::Malformed),
            (v2(0x21, 0x11, &[0; 11]), HeaderError::Malformed),
            (v2(0x21, 0x21, &[0; 12]), HeaderError::Malformed),
            (v2(0x21, 0x11, &[0; 14]), HeaderError::Malformed),
            // An extension that goes on behind the header.
            (
                v2(0x21, 0x11, &[&[0; 12][..], &[1, 0, 9, 7]].concat()),
                HeaderError::Malformed,
            ),
            (v2(0x21, 0x11, &[0; 65_535]), HeaderError::TooLong),
            (
                format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)).into_bytes(),
                HeaderError::TooLong,
            ),
        ] {
            assert_eq!(client(&bytes), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn a_header_that_does_not_come_is_not_waited_for_and_what_follows_one_is_left() {
        let (mut far, mut near) = tokio::io::duplex(64);
        let whole = header(
            "198.51.100.7".parse().unwrap(),
            "10.0.0.1:5432".parse().unwrap(),
        );
        tokio::io::AsyncWriteExt::write_all(&mut far, &[&whole[..], b"hello"].concat())
            .await
            .unwrap();
        let mut rest = BytesMut::new();
        let header = read(&mut near, &mut rest).await.unwrap();
        assert_eq!(header.client, Some("198.51.100.7:0".parse().unwrap()));
        assert_eq!(rest, "hello");

        let mut rest = BytesMut::new();
        tokio::io::AsyncWriteExt::write_all(&mut far, b"PROXY TCP4")
            .await
            .unwrap();
        assert_eq!(
            read(&mut near, &mut rest).await,
            Err(HeaderError::Incomplete)
        );
        drop(far);
        assert_eq!(
            read(&mut near, &mut BytesMut::new()).await,
            Err(HeaderError::Incomplete)
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_follows(
            client in any::<IpAddr>(),
            service in any::<IpAddr>(),
            port in any::<u16>(),
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let written = header(client, SocketAddr::new(service, port));
            let bytes = [&written[..], &rest].concat();
            let read = parse(&bytes).unwrap().unwrap();
            prop_assert_eq!(read.length, written.len());
            let read = read.client.unwrap().ip().to_canonical();
            prop_assert_eq!(read, client.to_canonical());
        }

        /// However few bytes have come, none are taken for a whole header, and none refused that could become one.
        #[test]
        fn the_beginning_of_a_header_is_waited_for(
            client in any::<IpAddr>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let two = header(client, "10.0.0.1:1".parse().unwrap());
            prop_assert_eq!(parse(&two[..cut.index(two.len())]), Ok(None));
            let one = b"PROXY TCP4 198.51.100.7 10.0.0.1 56324 443\r\n";
            prop_assert_eq!(parse(&one[..cut.index(one.len())]), Ok(None));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0..3) {
            let start: &[u8] = match kind {
                0 => b"",
                1 => V1_START,
                _ => V2_SIGNATURE,
            };
            let _ = parse(&[start, &bytes].concat());
        }
    }
}

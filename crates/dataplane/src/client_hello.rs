//! The server name in a TLS `ClientHello` (RFC 8446 section 4.1.2, RFC 6066 section 3), read and nothing more.
//!
//! What cannot be read here goes to the gateway's own TLS, which has the last word on it: there is no other way for bytes
//! to a service than a name that exactly one service claims. Of an encrypted hello (RFC 9849) only the outer name is there
//! to be read, and that is what counts.

use testudo_model::limits::MAX_CLIENT_HELLO_BYTES;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest plaintext of a record (RFC 8446 section 5.1).
const MAX_RECORD_BYTES: usize = 1 << 14;
/// Longest DNS name in text.
const MAX_NAME_BYTES: usize = 253;

/// What a hello says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server name in lower case; `None` if there is none, or one that is no host name.
    pub(crate) server_name: Option<String>,
}

/// Why bytes are not the beginning of TLS as it is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HelloError {
    /// Another protocol, or something that breaks the rules of TLS.
    Malformed,
    /// More than [`MAX_CLIENT_HELLO_BYTES`].
    TooLong,
}

/// The hello that `bytes`, the first of a connection, begin with; `None` if it is not yet complete.
///
/// # Errors
/// [`HelloError`].
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    let Some(message) = first_message(bytes)? else {
        return Ok(None);
    };
    let server_name = read(&message).ok_or(HelloError::Malformed)?;
    Ok(Some(ClientHello { server_name }))
}

/// The first handshake message, put together from the records it is spread over.
fn first_message(bytes: &[u8]) -> Result<Option<Vec<u8>>, HelloError> {
    let (mut rest, mut message) = (bytes, Vec::new());
    loop {
        let Some((header, after)) = rest.split_first_chunk::<5>() else {
            let starts_well = rest.first().is_none_or(|kind| *kind == HANDSHAKE_RECORD)
                && rest.get(1).is_none_or(|major| *major == 3);
            return if starts_well {
                Ok(None)
            } else {
                Err(HelloError::Malformed)
            };
        };
        let [kind, major, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Empty records of a handshake are forbidden; with them a hello could go on for ever.
        if kind != HANDSHAKE_RECORD || major != 3 || length == 0 || length > MAX_RECORD_BYTES {
            return Err(HelloError::Malformed);
        }
        let fragment = after.get(..length).unwrap_or(after);
        message.extend_from_slice(fragment);
        if let Some(whole) = whole_message(&message)? {
            return Ok(Some(whole));
        }
        match after.get(length..) {
            Some(next) if bytes.len() < MAX_CLIENT_HELLO_BYTES => rest = next,
            None if bytes.len() < MAX_CLIENT_HELLO_BYTES => return Ok(None),
            _ => return Err(HelloError::TooLong),
        }
    }
}

/// The body of the hello that `message` begins with; `None` if it is not yet complete.
fn whole_message(message: &[u8]) -> Result<Option<Vec<u8>>, HelloError> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(HelloError::Malformed);
    }
    let Some(([_, high, middle, low], body)) = message.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *high, *middle, *low]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_CLIENT_HELLO_BYTES {
        return Err(HelloError::TooLong);
    }
    Ok(body.get(..length).map(<[u8]>::to_vec))
}

/// The server name in the body of a hello; `None` if the hello is malformed.
fn read(body: &[u8]) -> Option<Option<String>> {
    // Version and random.
    let (_, rest) = body.split_first_chunk::<34>()?;
    let (_session, rest) = short_vector(rest)?;
    let (_ciphers, rest) = vector(rest)?;
    let (_compression, rest) = short_vector(rest)?;
    if rest.is_empty() {
        // TLS 1.2 without extensions.
        return Some(None);
    }
    let (mut extensions, rest) = vector(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.is_empty() {
        let (kind, rest) = number(extensions)?;
        let (content, rest) = vector(rest)?;
        extensions = rest;
        if kind == SERVER_NAME && found.replace(content).is_some() {
            // RFC 8446 section 4.2: each extension once.
            return None;
        }
    }
    match found {
        Some(content) => Some(host_name(content)?),
        None => Some(None),
    }
}

/// The name in the extension; the outer `None` if the extension is malformed.
fn host_name(extension: &[u8]) -> Option<Option<String>> {
    let (list, rest) = vector(extension)?;
    let (kind, entry) = list.split_first()?;
    let (name, more) = vector(entry)?;
    // No other kind of name was ever defined, and there is at most one of a kind.
    if *kind != HOST_NAME || !rest.is_empty() || !more.is_empty() || name.is_empty() {
        return None;
    }
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    // RFC 6066: ASCII (a name in another script comes as `xn--`), and no trailing dot.
    let is_name = name.len() <= MAX_NAME_BYTES
        && name.iter().all(is_plain)
        && !name.ends_with(b".")
        && !name.starts_with(b".");
    let text = std::str::from_utf8(name).ok().filter(|_| is_name);
    Some(text.map(str::to_ascii_lowercase))
}

/// A number of two bytes, and the rest.
fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// Bytes after their length in two bytes, and the rest.
fn vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(usize::from(length))
}

/// Bytes after their length in one byte, and the rest.
fn short_vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// A hello with `extensions`, in one record.
    fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        let mut all = Vec::new();
        for (kind, content) in extensions {
            all.extend(kind.to_be_bytes());
            all.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            all.extend(content);
        }
        body.extend(u16::try_from(all.len()).unwrap().to_be_bytes());
        body.extend(all);
        let mut message = vec![CLIENT_HELLO];
        message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        message.extend(body);
        message
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let length = u16::try_from(name.len()).unwrap();
        let mut content = (length + 3).to_be_bytes().to_vec();
        content.push(HOST_NAME);
        content.extend(length.to_be_bytes());
        content.extend(name);
        content
    }

    /// `message` in records of at most `size` bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for fragment in message.chunks(size) {
            bytes.extend([HANDSHAKE_RECORD, 3, 1]);
            bytes.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
            bytes.extend(fragment);
        }
        bytes
    }

    fn name_in(extensions: &[(u16, Vec<u8>)]) -> Result<Option<String>, HelloError> {
        let bytes = records(&hello(extensions), MAX_RECORD_BYTES);
        parse(&bytes).map(|hello| hello.unwrap().server_name)
    }

    #[test]
    fn what_rustls_sends_is_read() {
        let config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "Vault.Shop.Example".try_into().unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        let hello = parse(&bytes).unwrap().unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("vault.shop.example"));
    }

    #[test]
    fn a_name_that_is_no_host_name_is_no_name() {
        let long = [b'a'; 256];
        for name in [
            &b"vault\0.example"[..],
            b"vault.example.",
            b".example",
            b"v\xc3\xa4ult.example",
            b"vault.example:443",
            b"vault example",
            &long,
        ] {
            let found = name_in(&[(SERVER_NAME, named(name))]);
            assert_eq!(found, Ok(None), "{}", name.escape_ascii());
        }
        assert_eq!(
            name_in(&[(SERVER_NAME, named(b"xn--vult-loa.example"))]),
            Ok(Some("xn--vult-loa.example".to_owned()))
        );
        assert_eq!(name_in(&[(10, vec![0, 2, 0, 29])]), Ok(None));
        // An encrypted hello beside the outer name.
        let encrypted = (0xfe0d, vec![0, 0, 1, 0, 1, 9, 0, 0, 0, 1, 7]);
        assert_eq!(
            name_in(&[encrypted, (SERVER_NAME, named(b"public.example"))]),
            Ok(Some("public.example".to_owned()))
        );
    }

    #[test]
    fn a_hello_that_breaks_the_rules_is_refused() {
        let name = named(b"vault.example");
        let two_names = {
            let mut list = name.get(2..).unwrap().to_vec();
            list.extend_from_within(..);
            let mut content = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
            content.extend(list);
            content
        };
        for extensions in [
            vec![(SERVER_NAME, name.clone()), (SERVER_NAME, name.clone())],
            vec![(SERVER_NAME, two_names)],
            vec![(SERVER_NAME, vec![])],
            vec![(SERVER_NAME, vec![0, 0])],
            vec![(SERVER_NAME, named(b""))],
            vec![(SERVER_NAME, [&name[..], b"more"].concat())],
        ] {
            assert_eq!(name_in(&extensions), Err(HelloError::Malformed));
        }
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x02\x00",
            b"\x15\x03\x01\x00\x02\x01\x00",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x00\x01\x02",
            b"\x16\x03\x01\x50\x00",
            b"PROXY TCP4 ",
        ] {
            let refused = parse(bytes);
            assert_eq!(
                refused,
                Err(HelloError::Malformed),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn a_hello_without_end_is_not_waited_for() {
        assert_eq!(
            parse(&records(&[CLIENT_HELLO, 1, 0, 0], 4)),
            Err(HelloError::TooLong)
        );
        // A record for each byte: five times what the message has.
        let message = hello(&[
            (SERVER_NAME, named(b"vault.example")),
            (21, vec![0; 12_000]),
        ]);
        assert_eq!(parse(&records(&message, 1)), Err(HelloError::TooLong));
        let short = hello(&[(SERVER_NAME, named(b"vault.example"))]);
        assert!(parse(&records(&short, 1)).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_name_is_the_same(
            size in 1_usize..200,
            cut in any::<prop::sample::Index>(),
            tail in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let message = hello(&[(16, vec![0, 3, 2, b'h', b'2']), (SERVER_NAME, named(b"Vault.Example"))]);
            let bytes = records(&message, size);
            prop_assert_eq!(parse(&bytes[..cut.index(bytes.len())]), Ok(None));
            let found = parse(&[bytes, tail].concat()).unwrap().unwrap();
            prop_assert_eq!(found.server_name.as_deref(), Some("vault.example"));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let mut message = vec![CLIENT_HELLO, 0, 0, u8::try_from(bytes.len()).unwrap()];
            message.extend(&bytes);
            let _ = parse(&records(&message, 50));
        }
    }
}

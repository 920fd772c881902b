//! The messages of LDAP that a login needs (RFC 4511 section 4): bind, search, StartTLS.

use testudo_model::Redacted;
use testudo_runtime::fleet::{LdapFilter, LdapPart, LdapTemplate};

use super::ber::{
    ENUMERATED, Malformed, OCTETS, Reader, SEQUENCE, SET, boolean, element, integer, number,
    octets, sequence,
};

/// `oid` of StartTLS (section 4.14.1).
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";
/// `oid` of simple paged results (RFC 2696).
const PAGED: &[u8] = b"1.2.840.113556.1.4.319";
/// Attributes of one entry that are read, and values of one attribute.
const MAX_VALUES: usize = 1024;

/// What is put into the places of a filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'v> {
    pub(super) username: &'v str,
    pub(super) dn: &'v str,
}

/// What is searched.
pub(super) struct Search<'s> {
    pub(super) base: &'s str,
    pub(super) filter: Vec<u8>,
    pub(super) attributes: &'s [&'s str],
    /// Entries at most; 0 for as many as there are.
    pub(super) size_limit: i32,
    pub(super) seconds: i32,
}

/// A page of a search.
pub(super) struct Page<'p> {
    pub(super) size: u16,
    /// What the server said with the page before.
    pub(super) cookie: &'p [u8],
}

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) id: i32,
    pub(super) what: Answered,
    /// With which the next page is asked for; empty after the last.
    pub(super) cookie: Vec<u8>,
}

#[derive(Debug)]
pub(super) enum Answered {
    Entry(Entry),
    /// That there is more elsewhere, where nobody goes.
    Reference,
    /// The end of a search.
    Done(i32),
    Bound(i32),
    Extended(i32),
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dn: String,
    attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Entry {
    /// The first value of an attribute; names have no case (RFC 4512 section 2.5).
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.attributes.iter();
        let (_, values) = all.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        values.first().map(Vec::as_slice)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }
}

fn message(id: i32, operation: Vec<u8>, controls: Option<Vec<u8>>) -> Vec<u8> {
    let mut parts = vec![integer(id), operation];
    parts.extend(controls);
    sequence(SEQUENCE, &parts)
}

/// A simple bind. The caller has made sure that there is a name and a password: without, it would be a bind of nobody, which
/// servers let pass (RFC 4513 section 5.1.2).
pub(super) fn bind(id: i32, dn: &str, password: &Redacted<String>) -> Vec<u8> {
    let simple = element(0x80, password.expose().as_bytes());
    let operation = sequence(0x60, &[integer(3), octets(dn.as_bytes()), simple]);
    message(id, operation, None)
}

pub(super) fn start_tls(id: i32) -> Vec<u8> {
    message(id, sequence(0x77, &[element(0x80, START_TLS)]), None)
}

pub(super) fn search(id: i32, search: &Search<'_>, page: Option<&Page<'_>>) -> Vec<u8> {
    let attributes: Vec<Vec<u8>> = search
        .attributes
        .iter()
        .map(|name| octets(name.as_bytes()))
        .collect();
    let operation = sequence(
        0x63,
        &[
            octets(search.base.as_bytes()),
            // The whole subtree, and no alias on the way.
            number(ENUMERATED, 2),
            number(ENUMERATED, 0),
            integer(search.size_limit),
            integer(search.seconds),
            boolean(false),
            search.filter.clone(),
            sequence(SEQUENCE, &attributes),
        ],
    );
    let controls = page.map(|page| {
        let value = sequence(
            SEQUENCE,
            &[integer(i32::from(page.size)), octets(page.cookie)],
        );
        let control = sequence(SEQUENCE, &[octets(PAGED), boolean(true), octets(&value)]);
        sequence(0xa0, &[control])
    });
    message(id, operation, controls)
}

/// A filter with `values` in its places. They go in as values: there is no text that they could change.
pub(super) fn filter(filter: &LdapFilter, values: Values<'_>) -> Vec<u8> {
    let all = |tag, filters: &[LdapFilter]| {
        let parts: Vec<Vec<u8>> = filters
            .iter()
            .map(|part| self::filter(part, values))
            .collect();
        sequence(tag, &parts)
    };
    match filter {
        LdapFilter::And(filters) => all(0xa0, filters),
        LdapFilter::Or(filters) => all(0xa1, filters),
        LdapFilter::Not(inner) => sequence(0xa2, &[self::filter(inner, values)]),
        LdapFilter::Equal(attribute, value) => sequence(
            0xa3,
            &[octets(attribute.as_bytes()), octets(&filled(value, values))],
        ),
        LdapFilter::Substrings(attribute, parts) => {
            let last = parts.len().saturating_sub(1);
            let pieces: Vec<Vec<u8>> = parts
                .iter()
                .enumerate()
                .map(|(index, part)| (index, filled(part, values)))
                .filter(|(_, piece)| !piece.is_empty())
                .map(|(index, piece)| match index {
                    0 => element(0x80, &piece),
                    index if index == last => element(0x82, &piece),
                    _ => element(0x81, &piece),
                })
                .collect();
            sequence(
                0xa4,
                &[octets(attribute.as_bytes()), sequence(SEQUENCE, &pieces)],
            )
        }
        LdapFilter::Present(attribute) => element(0x87, attribute.as_bytes()),
    }
}

fn filled(template: &LdapTemplate, values: Values<'_>) -> Vec<u8> {
    let parts = template.iter().map(|part| match part {
        LdapPart::Literal(bytes) => bytes.as_slice(),
        LdapPart::Variable("dn") => values.dn.as_bytes(),
        LdapPart::Variable(_) => values.username.as_bytes(),
    });
    parts.collect::<Vec<_>>().concat()
}

/// Reads an answer.
pub(super) fn response(bytes: &[u8]) -> Result<Response, Malformed> {
    let mut message = Reader::new(Reader::new(bytes).expect(SEQUENCE)?);
    let id = message.integer()?;
    let (tag, content) = message.next()?;
    let what = match tag {
        0x61 => Answered::Bound(result(content)?),
        0x64 => Answered::Entry(entry(content)?),
        0x65 => Answered::Done(result(content)?),
        0x73 => Answered::Reference,
        0x78 => Answered::Extended(result(content)?),
        _ => return Err(Malformed),
    };
    let cookie = match message.is_empty() {
        true => Vec::new(),
        false => cookie(message.expect(0xa0)?)?,
    };
    Ok(Response { id, what, cookie })
}

/// `resultCode`. What the server says beside it is for nobody here.
fn result(content: &[u8]) -> Result<i32, Malformed> {
    Reader::new(content).enumerated()
}

fn entry(content: &[u8]) -> Result<Entry, Malformed> {
    let mut reader = Reader::new(content);
    let dn = text(reader.expect(OCTETS)?)?;
    let mut list = Reader::new(reader.expect(SEQUENCE)?);
    let mut attributes = Vec::new();
    while !list.is_empty() {
        let mut attribute = Reader::new(list.expect(SEQUENCE)?);
        let name = text(attribute.expect(OCTETS)?)?;
        let mut set = Reader::new(attribute.expect(SET)?);
        let mut values = Vec::new();
        while !set.is_empty() {
            values.push(set.expect(OCTETS)?.to_vec());
        }
        if attributes.len() >= MAX_VALUES || values.len() > MAX_VALUES {
            return Err(Malformed);
        }
        attributes.push((name, values));
    }
    Ok(Entry { dn, attributes })
}

/// The cookie of RFC 2696, if the server said one.
fn cookie(controls: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut controls = Reader::new(controls);
    while !controls.is_empty() {
        let mut control = Reader::new(controls.expect(SEQUENCE)?);
        if control.expect(OCTETS)? != PAGED {
            continue;
        }
        let value = loop {
            match control.next()? {
                (OCTETS, value) => break value,
                _ => continue,
            }
        };
        let mut value = Reader::new(Reader::new(value).expect(SEQUENCE)?);
        value.integer()?;
        return Ok(value.expect(OCTETS)?.to_vec());
    }
    Ok(Vec::new())
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_typed_is_a_value_whatever_it_says() {
        let template: LdapFilter = "(&(objectClass=person)(uid={username}))".parse().unwrap();
        let encoded = |username| filter(&template, Values { username, dn: "" });
        let plain = encoded("alice");
        for typed in [
            "*",
            "a*",
            "alice)(uid=*",
            "*)(|(uid=*",
            "\\2a",
            "a\0b",
            ")(",
        ] {
            let bytes = encoded(typed);
            // And( Equal(objectClass, person), Equal(uid, what was typed) ): nothing else.
            let mut and = Reader::new(Reader::new(&bytes).expect(0xa0).unwrap());
            and.expect(0xa3).unwrap();
            let mut equal = Reader::new(and.expect(0xa3).unwrap());
            assert!(and.is_empty());
            assert_eq!(equal.expect(OCTETS).unwrap(), b"uid");
            assert_eq!(equal.expect(OCTETS).unwrap(), typed.as_bytes());
            assert_ne!(bytes, plain);
        }
    }

    #[test]
    fn an_entry_is_read_and_its_attributes_have_no_case() {
        let value = |name: &str, value: &[u8]| {
            sequence(
                SEQUENCE,
                &[octets(name.as_bytes()), sequence(SET, &[octets(value)])],
            )
        };
        let attributes = sequence(SEQUENCE, &[value("Mail", b"a@b"), value("uid", &[0xff])]);
        let operation = sequence(0x64, &[octets(b"uid=a,dc=b"), attributes]);
        let read = response(&message(7, operation, None)).unwrap();
        let Answered::Entry(entry) = read.what else {
            panic!("{read:?}");
        };
        assert_eq!((read.id, &*entry.dn), (7, "uid=a,dc=b"));
        assert_eq!(entry.text("mail"), Some("a@b"));
        assert_eq!(
            (entry.text("uid"), entry.bytes("uid")),
            (None, Some(&[0xff][..]))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = response(&bytes);
            let _ = response(&element(SEQUENCE, &bytes));
            let _ = entry(&bytes);
            let _ = cookie(&bytes);
        }
    }
}

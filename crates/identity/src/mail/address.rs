//! Mail addresses, as far as they are looked at here: whether mail can go there shows when it is sent.

use crate::{AdminError, limits::MAX_MAIL_ADDRESS_BYTES};

/// Refuses what is no address, and what could be more than one address in the head of a message.
pub(crate) fn check_mail_address(address: Option<&str>) -> Result<(), AdminError> {
    match address {
        Some(address) if !is_mail_address(address) => {
            let why = format!(
                "is none, or has more than {MAX_MAIL_ADDRESS_BYTES} bytes: `name@example.com`"
            );
            Err(AdminError::invalid("mail address", why))
        }
        _ => Ok(()),
    }
}

fn is_mail_address(address: &str) -> bool {
    let has_odd_parts = |part: &str| {
        let is_odd = |character: char| {
            character.is_whitespace()
                || character.is_control()
                || matches!(
                    character,
                    '<' | '>' | ',' | ';' | ':' | '"' | '\\' | '(' | ')' | '[' | ']' | '@'
                )
        };
        part.is_empty() || part.contains(is_odd)
    };
    let parts = address.rsplit_once('@');
    address.len() <= MAX_MAIL_ADDRESS_BYTES
        && parts.is_some_and(|(local, domain)| !has_odd_parts(local) && !has_odd_parts(domain))
}

/// What an address is found by: people write theirs in any case.
pub(crate) fn mail_key(address: &str) -> String {
    address.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_more_than_an_address_is_none() {
        for good in [
            "alice@bookshop.example",
            "a.b+c@x.example",
            "jürgen@bücher.example",
            "o'neil@x.example",
        ] {
            assert!(check_mail_address(Some(good)).is_ok(), "{good}");
        }
        assert!(check_mail_address(None).is_ok());
        let long = format!("{}@x.example", "a".repeat(MAX_MAIL_ADDRESS_BYTES));
        for bad in [
            "",
            "alice",
            "@x.example",
            "alice@",
            "alice@x.example\r\nBcc: eve@x.example",
            "alice@x.example\nSubject: hi",
            "alice@x.example,eve@x.example",
            "alice@x.example;eve@x.example",
            "Alice <alice@x.example>",
            "\"alice\r\n\"@x.example",
            "alice@x.example\0",
            "alice @x.example",
            "alice@x.example\u{2028}",
            "a@b@x.example",
            "alice@[127.0.0.1]",
            &long,
        ] {
            assert!(check_mail_address(Some(bad)).is_err(), "{bad:?}");
        }
    }
}

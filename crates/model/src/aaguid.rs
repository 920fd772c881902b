//! Models of authenticators.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Digits before each of the hyphens, and behind the last.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// The model of an authenticator (WebAuthn section 6.5.1): sixteen bytes that its maker chose, written like a UUID.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Aaguid([u8; 16]);

/// Not a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an AAGUID, such as `cb69481e-8ff7-4039-93ec-0a2729a154a8`")]
pub struct InvalidAaguid(String);

impl Aaguid {
    /// The model of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Aaguid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                formatter.write_str("-")?;
            }
            write!(formatter, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Aaguid {
    type Err = InvalidAaguid;

    fn from_str(text: &str) -> Result<Self, InvalidAaguid> {
        let invalid = || InvalidAaguid(text.chars().take(64).collect());
        let is_grouped = text.split('-').map(str::len).eq(GROUPS);
        let is_hexadecimal = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        if !is_grouped || !text.bytes().all(is_hexadecimal) {
            return Err(invalid());
        }
        let number = u128::from_str_radix(&text.replace('-', ""), 16).map_err(|_| invalid())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl TryFrom<String> for Aaguid {
    type Error = InvalidAaguid;

    fn try_from(text: String) -> Result<Self, InvalidAaguid> {
        text.parse()
    }
}

impl From<Aaguid> for String {
    fn from(aaguid: Aaguid) -> Self {
        aaguid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_written_like_a_uuid() {
        let text = "cb69481e-8ff7-4039-93ec-0a2729a154a8";
        let model: Aaguid = text.parse().unwrap();
        assert_eq!(model.as_bytes()[..2], [0xcb, 0x69]);
        assert_eq!(model.to_string(), text);
        assert_eq!("CB69481E-8FF7-4039-93EC-0A2729A154A8".parse(), Ok(model));
        for bad in [
            "",
            "cb69481e8ff7403993ec0a2729a154a8",
            "cb69481e-8ff7-4039-93ec-0a2729a154a",
            "cb69481e-8ff7-4039-93ec-0a2729a154ag",
            "cb69481-e8ff7-4039-93ec-0a2729a154a8",
            "+b69481e-8ff7-4039-93ec-0a2729a154a8",
            "cb69481e-8ff7-4039-93ec-0a2729a154a8-",
        ] {
            assert!(bad.parse::<Aaguid>().is_err(), "{bad}");
        }
    }
}

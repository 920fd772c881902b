//! PBKDF2 (RFC 8018), to read only: passwords that came from elsewhere are verified once, and then stored as we store them.
//!
//! The form is that of PHC: `$pbkdf2-sha512$i=210000$salt$hash`, salt and hash in base64 without padding.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA1, PBKDF2_HMAC_SHA256, PBKDF2_HMAC_SHA512};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use testudo_model::Redacted;

/// Stored hashes asking for more would be a way to exhaust the machine: this is half a second of a core.
const MAX_ITERATIONS: u32 = 1_000_000;
/// What half of this could do would not be worth reading.
const MIN_ITERATIONS: u32 = 1_000;
const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=64;
const HASH_BYTES: std::ops::RangeInclusive<usize> = 20..=64;

/// A stored hash.
pub(crate) struct Pbkdf2Hash {
    algorithm: pbkdf2::Algorithm,
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Pbkdf2Hash {
    /// `None` for text that is none, or beyond the limits.
    pub(crate) fn read(phc: &str) -> Option<Self> {
        let mut parts = phc.strip_prefix('$')?.split('$');
        let (Some(name), Some(parameters), Some(salt), Some(hash), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return None;
        };
        let algorithm = match name {
            "pbkdf2" => PBKDF2_HMAC_SHA1,
            "pbkdf2-sha256" => PBKDF2_HMAC_SHA256,
            "pbkdf2-sha512" => PBKDF2_HMAC_SHA512,
            _ => return None,
        };
        let iterations: u32 = parameters.strip_prefix("i=")?.parse().ok()?;
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return None;
        }
        let (salt, hash) = (
            STANDARD_NO_PAD.decode(salt).ok()?,
            STANDARD_NO_PAD.decode(hash).ok()?,
        );
        let is_whole = SALT_BYTES.contains(&salt.len()) && HASH_BYTES.contains(&hash.len());
        is_whole.then_some(Self {
            algorithm,
            iterations: NonZeroU32::new(iterations)?,
            salt,
            hash,
        })
    }

    /// Whether `password` is the one.
    pub(crate) fn verify(&self, password: &Redacted<String>) -> bool {
        let secret = password.expose().as_bytes();
        pbkdf2::verify(
            self.algorithm,
            self.iterations,
            &self.salt,
            secret,
            &self.hash,
        )
        .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phc(name: &str, iterations: u32, salt: &[u8], hash: &str) -> String {
        let hash: Vec<u8> = hash
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let encode = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
        format!("${name}$i={iterations}${}${}", encode(salt), encode(&hash))
    }

    #[test]
    fn the_vector_of_rfc_6070_verifies_and_no_other_password_does() {
        let phc = phc(
            "pbkdf2",
            4096,
            b"saltSALTsaltSALTsaltSALTsaltSALTsalt",
            "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038",
        );
        let hash = Pbkdf2Hash::read(&phc).unwrap();
        let word = "passwordPASSWORDpassword".to_owned();
        assert!(hash.verify(&Redacted::new(word.clone())));
        assert!(!hash.verify(&Redacted::new(word.to_lowercase())));
    }

    #[test]
    fn what_is_derived_verifies_and_what_is_out_of_bounds_is_not_read() {
        let salt = b"NaClNaCl";
        let mut derived = [0; 64];
        let iterations = NonZeroU32::new(2_000).unwrap();
        for (name, algorithm) in [
            ("pbkdf2-sha256", PBKDF2_HMAC_SHA256),
            ("pbkdf2-sha512", PBKDF2_HMAC_SHA512),
        ] {
            pbkdf2::derive(algorithm, iterations, salt, b"Password", &mut derived);
            let text = phc(name, 2_000, salt, &crate::hex::encode(&derived));
            let hash = Pbkdf2Hash::read(&text).unwrap();
            assert!(hash.verify(&Redacted::new("Password".to_owned())));
            assert!(!hash.verify(&Redacted::new("password".to_owned())));
            for bad in [
                text.replace("i=2000", "i=1"),
                text.replace("i=2000", "i=4000000"),
                text.replace("i=2000", "i=2000,l=64"),
                text.replace("pbkdf2-", "scrypt-"),
                format!("{text}$x"),
                text.replace("TmFDbE5hQ2w", "TmFDbA"),
            ] {
                assert!(Pbkdf2Hash::read(&bad).is_none(), "{bad}");
            }
        }
    }
}

//! Hashing and comparison.

use aws_lc_rs::{constant_time, digest, hmac};

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    array(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// SHA-1. Collisions of it are known: for protocols that use it as a checksum (RFC 6455 section 4.2.2), never for
/// anything that must not be forged.
pub fn sha1_checksum(bytes: &[u8]) -> [u8; 20] {
    let mut array = [0; 20];
    array.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    array
}

/// HMAC with SHA-256 (RFC 2104).
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    array(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref())
}

/// HMAC with SHA-1, for one-time passwords (RFC 4226), which every authenticator makes with it. Collisions of SHA-1 do not
/// harm an HMAC; nothing new should use it all the same.
pub fn hmac_sha1_otp(key: &[u8], message: &[u8]) -> [u8; 20] {
    let mut array = [0; 20];
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    array.copy_from_slice(hmac::sign(&key, message).as_ref());
    array
}

/// Whether two secrets are equal, in a time that depends on their lengths alone.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Parts together as long as this are joined before they are hashed.
const JOINED_BYTES: usize = 512;

/// SHA-256 of several parts one after the other. A context for them is memory of its own, and costs more than copying what
/// is short.
pub(crate) fn sha256_of_parts(parts: &[&[u8]]) -> [u8; 32] {
    let mut joined = [0; JOINED_BYTES];
    let mut length = 0;
    for part in parts {
        let end = length + part.len();
        let Some(place) = joined.get_mut(length..end) else {
            return sha256_of_long_parts(parts);
        };
        place.copy_from_slice(part);
        length = end;
    }
    sha256(joined.get(..length).unwrap_or_default())
}

fn sha256_of_long_parts(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    array(context.finish().as_ref())
}

fn array(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    #[test]
    fn sha256_matches_fips_180_4() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(&sha256(b"abc")), abc);
        for repeated in [1, JOINED_BYTES / 3, JOINED_BYTES / 3 + 1] {
            let (a, bc) = ("a".repeat(repeated), "bc".repeat(repeated));
            let parts: [&[u8]; 3] = [a.as_bytes(), b"", bc.as_bytes()];
            assert_eq!(
                sha256_of_parts(&parts),
                sha256((a.clone() + &bc).as_bytes())
            );
            assert_eq!(sha256_of_parts(&parts), sha256_of_long_parts(&parts));
        }
    }

    #[test]
    fn sha1_matches_fips_180_4() {
        let abc = "a9993e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(hex::encode(&sha1_checksum(b"abc")), abc);
    }

    #[test]
    fn hmac_matches_rfc_4231_case_2() {
        assert_eq!(
            hex::encode(&hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn comparison_sees_length_and_content() {
        assert!(constant_time_eq(b"same", b"same"));
        assert!(!constant_time_eq(b"same", b"sane"));
        assert!(!constant_time_eq(b"same", b"same "));
    }
}

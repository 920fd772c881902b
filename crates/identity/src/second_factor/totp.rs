//! One-time passwords by time (RFC 6238): SHA-1, six digits, thirty seconds, as every authenticator has them.

use testudo_model::{Entropy, Redacted, Timestamp, random_bytes};
use testudo_trust::{constant_time_eq, hmac_sha1_otp};
use url::form_urlencoded;

/// Seconds of a step.
const STEP_SECONDS: i64 = 30;
/// Steps that a clock may be off, either way (RFC 6238 section 5.2).
const TOLERANCE: u64 = 1;
/// Digits of a code.
const DIGITS: usize = 6;
const MODULUS: u32 = 1_000_000;
/// RFC 4648 section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A new secret: 160 bits, as RFC 4226 section 4 recommends.
pub(super) fn new_secret(entropy: &dyn Entropy) -> Redacted<Vec<u8>> {
    Redacted::new(random_bytes::<20>(entropy).to_vec())
}

/// The step whose code `typed` is, if it is of now and later than `last`: no code is good twice (section 5.2).
pub(super) fn matching_step(
    secret: &[u8],
    typed: &str,
    now: Timestamp,
    last: Option<u64>,
) -> Option<u64> {
    let current = u64::try_from(now.unix_seconds() / STEP_SECONDS).ok()?;
    let mut found = None;
    // All are compared, so that the time does not tell which one matched.
    for step in current.saturating_sub(TOLERANCE)..=current.saturating_add(TOLERANCE) {
        let is_right = constant_time_eq(code(secret, step).as_bytes(), typed.as_bytes());
        if is_right && last.is_none_or(|last| step > last) {
            found = Some(step);
        }
    }
    found
}

/// Whether a text can be a code.
pub(super) fn is_code(typed: &str) -> bool {
    typed.len() == DIGITS && typed.bytes().all(|byte| byte.is_ascii_digit())
}

/// The code of a step (RFC 4226 section 5.3).
fn code(secret: &[u8], step: u64) -> String {
    let hash = hmac_sha1_otp(secret, &step.to_be_bytes());
    let offset = usize::from(hash.last().copied().unwrap_or(0) & 0xf);
    let word = hash
        .get(offset..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map_or(0, |bytes| u32::from_be_bytes(*bytes));
    format!("{:0DIGITS$}", (word & 0x7fff_ffff) % MODULUS)
}

/// The secret as people type it.
pub(super) fn base32(secret: &[u8]) -> String {
    let mut text = String::new();
    for chunk in secret.chunks(5) {
        let mut bytes = [0; 8];
        for (place, byte) in bytes.iter_mut().skip(3).zip(chunk) {
            *place = *byte;
        }
        let bits = u64::from_be_bytes(bytes);
        let letters = (chunk.len() * 8).div_ceil(5);
        text.extend((0..letters).filter_map(|index| {
            let letter = BASE32.get((bits >> (35 - 5 * index) & 31) as usize)?;
            Some(char::from(*letter))
        }));
    }
    text
}

/// What an authenticator reads from a link or picture.
pub(super) fn uri(secret: &[u8], issuer: &str, username: &str) -> String {
    let encode = |text: &str| {
        let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        encoded.replace('+', "%20")
    };
    let (issuer, username) = (encode(issuer), encode(username));
    let secret = base32(secret);
    format!("otpauth://totp/{issuer}:{username}?secret={secret}&issuer={issuer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    /// RFC 6238 appendix B, the last six of their eight digits.
    #[test]
    fn the_codes_are_those_of_rfc_6238() {
        for (seconds, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let now = Timestamp::from_unix_seconds(seconds);
            let step = matching_step(SECRET, expected, now, None);
            assert_eq!(step, Some(seconds as u64 / 30), "{expected}");
        }
    }

    /// RFC 4648 section 10, without padding.
    #[test]
    fn base32_is_that_of_rfc_4648() {
        for (text, expected) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_code_is_good_for_a_step_around_its_own_and_never_twice() {
        let at = |seconds| Timestamp::from_unix_seconds(seconds);
        let typed = code(SECRET, 1_000);
        let accepted = |seconds, last| matching_step(SECRET, &typed, at(seconds), last);
        for seconds in [999 * 30, 1_000 * 30, 1_001 * 30 + 29] {
            assert_eq!(accepted(seconds, None), Some(1_000));
            assert_eq!(accepted(seconds, Some(999)), Some(1_000));
            assert_eq!(accepted(seconds, Some(1_000)), None);
        }
        assert_eq!(accepted(998 * 30 + 29, None), None);
        assert_eq!(accepted(1_002 * 30, None), None);
    }

    #[test]
    fn an_authenticator_is_told_all_it_needs() {
        assert_eq!(
            uri(b"foobar", "shop & co", "alice"),
            "otpauth://totp/shop%20%26%20co:alice?secret=MZXW6YTBOI&issuer=shop%20%26%20co"
        );
    }
}

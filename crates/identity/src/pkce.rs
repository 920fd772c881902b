//! Proof key for code exchange (RFC 7636), method S256 alone: `plain` protects nobody who needs it.

use serde::{Deserialize, Serialize};
use testudo_trust::{base64url, constant_time_eq, sha256};

/// A code challenge: the base64url SHA-256 of a verifier the client kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct CodeChallenge(String);

impl CodeChallenge {
    /// Takes exactly the 43 characters that encode 32 bytes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_sha256 =
            text.len() == 43 && base64url::decode(text).is_some_and(|hash| hash.len() == 32);
        is_sha256.then(|| Self(text.to_owned()))
    }

    /// Whether `verifier` is well formed (RFC 7636 section 4.1) and the one (section 4.6).
    pub(crate) fn accepts(&self, verifier: &str) -> bool {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let well_formed = (43..=128).contains(&verifier.len()) && verifier.bytes().all(unreserved);
        let computed = base64url::encode(&sha256(verifier.as_bytes()));
        well_formed && constant_time_eq(computed.as_bytes(), self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 7636 appendix B.
    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let challenge =
            CodeChallenge::parse("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM").unwrap();
        assert!(challenge.accepts("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
        assert!(!challenge.accepts("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK"));
    }

    #[test]
    fn a_challenge_is_a_sha_256_and_nothing_else() {
        for bad in [
            "",
            "short",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM=",
            &"+".repeat(43),
        ] {
            assert!(CodeChallenge::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_verifier_of_the_wrong_form_is_refused_even_if_its_hash_fits() {
        for verifier in ["short".to_owned(), "a".repeat(129), "ä".repeat(30)] {
            let challenge = CodeChallenge(base64url::encode(&sha256(verifier.as_bytes())));
            assert!(!challenge.accepts(&verifier), "{verifier}");
        }
    }

    proptest! {
        #[test]
        fn no_text_crashes_the_parser(text in "\\PC{0,60}") {
            let _ = CodeChallenge::parse(&text);
        }
    }
}

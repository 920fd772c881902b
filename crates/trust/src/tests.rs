//! Vectors of others: the examples of the RFCs, and Wycheproof's for what breaks libraries of JOSE and ECDSA.
//! `./test.sh` fetches Wycheproof's; `TESTUDO_TEST_FAST=1` leaves them out.

use std::{collections::BTreeMap, env, fs, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    DpopProof, DpopProofError, ForeignKeySet, JoseError, JwkSet, hex, key::PublicPoint,
    verify_client_assertion, verify_foreign_jwt, verify_jwt,
};

/// RFC 9449 figures 2 and 13, and the access token of the latter.
const TOKEN_PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
const RESOURCE_PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
const RESOURCE_TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
/// `jkt` of both (RFC 9449 section 6.1).
const PROOF_KEY: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

#[test]
fn the_proofs_of_rfc_9449_are_proofs() {
    let proof = DpopProof::read(TOKEN_PROOF, "POST", None).unwrap();
    assert_eq!(proof.key(), PROOF_KEY);
    assert_eq!(proof.address(), "https://server.example.com/token");
    assert_eq!(proof.issued_at(), 1_562_262_616);
    let proof = DpopProof::read(RESOURCE_PROOF, "GET", Some(RESOURCE_TOKEN)).unwrap();
    assert_eq!(proof.key(), PROOF_KEY);

    let read = |proof, method, token| DpopProof::read(proof, method, token).unwrap_err();
    assert_eq!(read(TOKEN_PROOF, "GET", None), DpopProofError::Method);
    let with_token = read(TOKEN_PROOF, "POST", Some(RESOURCE_TOKEN));
    assert_eq!(with_token, DpopProofError::Token, "it names no token");
    let other = read(RESOURCE_PROOF, "GET", Some("another"));
    assert_eq!(other, DpopProofError::Token);
    // The signature of one under the claims of the other.
    let (claims, _) = TOKEN_PROOF.rsplit_once('.').unwrap();
    let (_, signature) = RESOURCE_PROOF.rsplit_once('.').unwrap();
    let mixed = format!("{claims}.{signature}");
    assert_eq!(read(&mixed, "POST", None), DpopProofError::Malformed);
}

/// RFC 7515 appendices A.1 and A.5; A.3, which is ES256, is beside the code.
#[test]
fn the_other_algorithms_of_rfc_7515_are_none_of_ours() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let hmac = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
    let tag = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let keys = set(&crate::SigningKey::generate().public_jwk()).unwrap();
    for token in [
        format!("{hmac}.{payload}.{tag}"),
        format!("eyJhbGciOiJub25lIn0.{payload}."),
    ] {
        let refused = verify_jwt::<Value>(&token, "JWT", &keys);
        assert!(matches!(refused, Err(JoseError::Algorithm)), "{refused:?}");
    }
}

/// A file of Wycheproof; nothing if the developer asked for the short run.
#[allow(clippy::disallowed_methods, reason = "test code")]
fn wycheproof<G: for<'g> Deserialize<'g>>(name: &str) -> Option<Vec<G>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct File<G> {
        test_groups: Vec<G>,
    }
    if env::var_os("TESTUDO_TEST_FAST").is_some() {
        return None;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/wycheproof");
    let text = fs::read_to_string(folder.join(name)).unwrap_or_else(|error| {
        panic!("{name}: {error}: run ./test.sh, which fetches it, or set TESTUDO_TEST_FAST=1")
    });
    let file: File<G> = serde_json::from_str(&text).unwrap();
    Some(file.test_groups)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Valid,
    Invalid,
    Acceptable,
}

fn set(jwk: &Value) -> Result<JwkSet, JoseError> {
    JwkSet::parse(&json!({ "keys": [jwk] }).to_string())
}

/// Whether the signature of a token is good. Those of Wycheproof are over texts that are no claims, which is found
/// out after that.
fn is_signed(token: &str, keys: &JwkSet) -> bool {
    is_good(verify_client_assertion::<Value>(token, keys).map(|_| ()))
}

fn is_good(verified: Result<(), JoseError>) -> bool {
    match verified {
        Ok(()) => true,
        Err(JoseError::Json { part, .. }) => part == "payload",
        Err(_) => false,
    }
}

#[derive(Deserialize)]
struct JwsGroup {
    comment: String,
    /// Absent for symmetric keys.
    public: Option<Value>,
    private: Value,
    tests: Vec<JwsTest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JwsTest {
    tc_id: u32,
    comment: String,
    jws: String,
    result: Verdict,
}

#[test]
fn signed_texts_of_wycheproof_pass_if_they_are_es256_and_good() {
    let Some(groups) = wycheproof::<JwsGroup>("json_web_signature_test.json") else {
        return;
    };
    let (mut passed, mut refused) = (0, 0);
    for group in &groups {
        let jwk = group.public.as_ref().unwrap_or(&group.private);
        let keys = set(jwk);
        let is_ours = jwk["crv"] == "P-256" && jwk["alg"] == "ES256";
        assert_eq!(keys.is_ok(), is_ours, "{}: {jwk}", group.comment);
        let Ok(keys) = keys else { continue };
        for test in &group.tests {
            let what = format!("{}: {} {}", group.comment, test.tc_id, test.comment);
            let is_signed = is_signed(&test.jws, &keys);
            match test.result {
                Verdict::Valid => assert!(is_signed, "{what}"),
                Verdict::Invalid | Verdict::Acceptable => assert!(!is_signed, "{what}"),
            }
            *(if is_signed { &mut passed } else { &mut refused }) += 1;
        }
    }
    assert!(passed >= 1 && refused >= 14, "{passed} and {refused}");
    // A key that is not ours opens nothing, whatever it signed.
    let keys = set(&crate::SigningKey::generate().public_jwk()).unwrap();
    let all = groups.iter().flat_map(|group| &group.tests);
    let others: Vec<u32> = all
        .filter(|test| is_signed(&test.jws, &keys))
        .map(|test| test.tc_id)
        .collect();
    assert_eq!(others, [0_u32; 0]);
}

/// Issuers that are not ours sign with what they have; the key says with what.
#[test]
fn signed_texts_of_wycheproof_pass_at_other_issuers_if_they_are_good() {
    let Some(groups) = wycheproof::<JwsGroup>("json_web_signature_test.json") else {
        return;
    };
    let mut seen = BTreeMap::from([(true, 0), (false, 0)]);
    for group in &groups {
        let jwk = group.public.as_ref().unwrap_or(&group.private);
        let keys = ForeignKeySet::parse(&json!({ "keys": [jwk] }).to_string());
        let verifies = jwk["key_ops"].is_null() || jwk["key_ops"] == json!(["verify"]);
        let is_known = jwk["kty"] == "RSA" || jwk["crv"] == "P-256";
        let is_ours = is_known && verifies && jwk["use"] != "enc";
        assert_eq!(keys.is_ok(), is_ours, "{}: {jwk}", group.comment);
        let Ok(keys) = keys else { continue };
        for test in &group.tests {
            let is_good = is_good(verify_foreign_jwt::<Value>(&test.jws, &keys).map(|_| ()));
            // The key of RFC 7520's figure 20 is given for PS256 there, and the text is signed with PS384: for that it is
            // not (RFC 7517 section 4.4).
            let expected = test.result == Verdict::Valid && test.comment != "Figure20";
            assert_eq!(is_good, expected, "{} {}", test.tc_id, test.comment);
            *seen.entry(is_good).or_default() += 1;
        }
    }
    assert!(seen[&true] >= 30 && seen[&false] >= 280, "{seen:?}");
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EcdsaGroup {
    public_key: EcdsaKey,
    tests: Vec<EcdsaTest>,
}

#[derive(Deserialize)]
struct EcdsaKey {
    uncompressed: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EcdsaTest {
    tc_id: u32,
    comment: String,
    msg: String,
    sig: String,
    result: Verdict,
}

/// ES256 is this: ECDSA on P-256 with SHA-256, its numbers one behind the other (RFC 7518 section 3.4).
#[test]
fn signatures_of_wycheproof_at_the_edges_of_the_curve_are_told_apart() {
    let file = "ecdsa_secp256r1_sha256_p1363_test.json";
    let Some(groups) = wycheproof::<EcdsaGroup>(file) else {
        return;
    };
    let mut seen = BTreeMap::from([(true, 0), (false, 0)]);
    for group in &groups {
        let point = hex::decode(&group.public_key.uncompressed).unwrap();
        let key = PublicPoint::from_uncompressed(&point);
        for test in &group.tests {
            let (message, signature) = (
                hex::decode(&test.msg).unwrap(),
                hex::decode(&test.sig).unwrap(),
            );
            let is_good = key
                .as_ref()
                .is_some_and(|key| key.verify(&message, &signature));
            let expected = test.result == Verdict::Valid;
            assert_eq!(is_good, expected, "{} {}", test.tc_id, test.comment);
            *seen.entry(is_good).or_default() += 1;
        }
    }
    assert!(seen[&true] >= 100 && seen[&false] >= 80, "{seen:?}");
}

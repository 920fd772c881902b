//! The relying party's checks (WebAuthn section 7), one attack after the other.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde::Deserialize;
use testudo_identity::{
    PasskeyCreation, PasskeyRequest,
    webauthn::{
        Assertion, AssertionResponse, AttestationPolicy, KnownCredential, NewCredential,
        RegistrationResponse, RelyingParty, WebauthnError,
    },
};
use testudo_model::{Clock, Timestamp};
use testudo_testkit::FakeClock;
use testudo_trust::{AttestationRoots, base64url};

use crate::{
    authenticator::{
        ATTESTED, Authenticator, BACKED_UP, BACKUP_ELIGIBLE, Created, EXTENSIONS, MODEL, PRESENT,
        Said, VERIFIED, bytes, head, integer, text,
    },
    house::ISSUER,
};

const CHALLENGE: [u8; 32] = [7; 32];

fn party() -> RelyingParty {
    RelyingParty::of_issuer(ISSUER).unwrap()
}

fn now() -> Timestamp {
    FakeClock::today().now()
}

fn creation() -> PasskeyCreation {
    PasskeyCreation {
        challenge: base64url::encode(&CHALLENGE),
        rp_id: party().id().to_owned(),
        user_handle: base64url::encode(b"usr_alice"),
        username: "alice".to_owned(),
        display_name: "Alice".to_owned(),
        exclude: Vec::new(),
        algorithms: [-7, -8, -257],
        attestation: "none",
    }
}

fn request() -> PasskeyRequest {
    PasskeyRequest {
        challenge: base64url::encode(&CHALLENGE),
        rp_id: party().id().to_owned(),
    }
}

fn register(
    policy: &AttestationPolicy,
    bend: impl FnOnce(&mut Said),
) -> Result<NewCredential, WebauthnError> {
    let created = Authenticator::new().create_bent(&creation(), bend);
    party().verify_registration(created.response(), &CHALLENGE, policy, now())
}

/// What an authenticator says when it logs in, against what is known of it after it was registered.
fn assert_with(bend: impl FnOnce(&mut Said)) -> Result<Assertion, WebauthnError> {
    assert_known(|_| {}, bend)
}

fn assert_known(
    change: impl FnOnce(&mut KnownCredential<'_>),
    bend: impl FnOnce(&mut Said),
) -> Result<Assertion, WebauthnError> {
    let mut authenticator = Authenticator::new();
    authenticator.create(&creation());
    let (public_key, user_handle) = (authenticator.public_key(), b"usr_alice");
    let mut known = KnownCredential {
        public_key: &public_key,
        user_handle,
        sign_count: 0,
        backup_eligible: false,
    };
    change(&mut known);
    let asserted = authenticator.get_bent(&request(), bend);
    party().verify_assertion(asserted.response(), &CHALLENGE, known)
}

#[test]
fn a_passkey_is_registered_and_used() {
    let credential = register(&AttestationPolicy::None, |_| {}).unwrap();
    assert_eq!(credential.aaguid.to_string(), MODEL);
    assert!(!credential.is_attested && !credential.backup_eligible && !credential.backed_up);
    assert_eq!(
        assert_with(|_| {}),
        Ok(Assertion {
            sign_count: 0,
            backed_up: false
        })
    );
    let synchronised = |said: &mut Said| said.flags |= BACKUP_ELIGIBLE | BACKED_UP;
    let credential = register(&AttestationPolicy::None, synchronised).unwrap();
    assert!(credential.backup_eligible && credential.backed_up);
    let done = assert_known(|known| known.backup_eligible = true, synchronised);
    assert_eq!(
        done,
        Ok(Assertion {
            sign_count: 0,
            backed_up: true
        })
    );
    // Browsers and authenticators say more than they are asked.
    let more = |said: &mut Said| {
        said.more = r#","crossOrigin":false,"other_keys_can_be_added_here":{"a":[1]}"#;
        said.flags |= EXTENSIONS;
        said.behind = [head(5, 1), text("credProtect"), integer(2)].concat();
    };
    assert!(register(&AttestationPolicy::None, more).is_ok());
    assert!(assert_with(more).is_ok());
}

/// What an answer is refused for, and how it is made.
type Attack = (WebauthnError, fn(&mut Said));

/// What is wrong in the same way with both.
fn bent_in_both() -> Vec<Attack> {
    vec![
        (WebauthnError::Challenge, |said| {
            said.challenge = base64url::encode(&[8; 32])
        }),
        (WebauthnError::Challenge, |said| said.challenge.push('=')),
        (WebauthnError::Challenge, |said| said.challenge.clear()),
        (WebauthnError::Origin, |said| {
            said.origin = "https://evil.example".to_owned()
        }),
        (WebauthnError::Origin, |said| said.origin.push_str(":8443")),
        (WebauthnError::Origin, |said| said.origin.push('/')),
        (WebauthnError::Origin, |said| {
            said.origin = said.origin.replace("https", "http")
        }),
        (WebauthnError::Origin, |said| {
            said.origin = said.origin.to_uppercase()
        }),
        (WebauthnError::Origin, |said| {
            said.origin = format!("{}.evil.example", said.origin)
        }),
        (WebauthnError::Origin, |said| {
            said.origin = "https://bookshop.example".to_owned()
        }),
        (WebauthnError::CrossOrigin, |said| {
            said.more = r#","crossOrigin":true"#
        }),
        (WebauthnError::CrossOrigin, |said| {
            said.more = r#","crossOrigin":false,"topOrigin":"https://evil.example""#;
        }),
        (WebauthnError::ClientData, |said| {
            said.more = r#","crossOrigin":"no""#
        }),
        (WebauthnError::ClientData, |said| {
            said.more = r#","type":"webauthn.get""#
        }),
        (WebauthnError::ClientData, |said| {
            said.more = r#","origin":"https://x.example""#
        }),
        (WebauthnError::ClientData, |said| said.more = "} {"),
        (WebauthnError::ClientData, |said| {
            said.origin = "\"".to_owned()
        }),
        (WebauthnError::RelyingParty, |said| {
            said.rp_id = "bookshop.example".to_owned()
        }),
        (WebauthnError::RelyingParty, |said| {
            said.rp_id = "evil.example".to_owned()
        }),
        (WebauthnError::UserPresence, |said| said.flags &= !PRESENT),
        (WebauthnError::UserVerification, |said| {
            said.flags &= !VERIFIED
        }),
        (WebauthnError::BackupState, |said| said.flags |= BACKED_UP),
        (WebauthnError::AuthenticatorData, |said| {
            said.behind = vec![0]
        }),
        (WebauthnError::AuthenticatorData, |said| {
            said.flags |= EXTENSIONS
        }),
        (WebauthnError::AuthenticatorData, |said| {
            said.flags |= EXTENSIONS;
            said.behind = integer(1);
        }),
    ]
}

#[test]
fn a_registration_that_is_bent_in_one_place_is_refused_for_it() {
    for (why, bend) in bent_in_both() {
        assert_eq!(register(&AttestationPolicy::None, bend), Err(why));
    }
    let off_curve = |said: &mut Said| said.public_key[20] ^= 1;
    let another_algorithm = |said: &mut Said| said.public_key[4] = 0x27;
    let cases: Vec<Attack> = vec![
        (WebauthnError::Type, |said| said.kind = "webauthn.get"),
        (WebauthnError::Type, |said| said.kind = "payment.get"),
        (WebauthnError::AuthenticatorData, |said| {
            said.flags &= !ATTESTED
        }),
        (WebauthnError::CredentialId, |said| {
            said.credential_id.clear()
        }),
        (WebauthnError::CredentialId, |said| {
            said.credential_id = vec![1; 1024]
        }),
        (WebauthnError::PublicKey, |said| {
            said.public_key = vec![0xa0]
        }),
        (WebauthnError::PublicKey, off_curve),
        (WebauthnError::PublicKey, another_algorithm),
        (WebauthnError::Attestation, |said| {
            said.statement = vec![("x", integer(1))]
        }),
        (WebauthnError::Attestation, |said| said.format = "packed"),
        (WebauthnError::Attestation, |said| {
            said.format = "packed";
            said.self_attested = true;
            said.bend_signature = |signature| signature[10] ^= 1;
        }),
        (WebauthnError::Attestation, |said| {
            said.format = "packed";
            said.self_attested = true;
            said.statement = vec![("x5c", [head(4, 1), bytes(b"no certificate")].concat())];
        }),
        (WebauthnError::Attestation, |said| {
            said.format = "packed";
            said.self_attested = true;
            said.statement = vec![("x5c", head(4, 0))];
        }),
        (WebauthnError::AttestationObject, |said| {
            said.statement = vec![("x", integer(1)), ("x", integer(1))];
        }),
    ];
    for (why, bend) in cases {
        assert_eq!(register(&AttestationPolicy::None, bend), Err(why));
    }
    let longest = |said: &mut Said| said.credential_id = vec![1; 1023];
    assert!(register(&AttestationPolicy::None, longest).is_ok());
}

#[test]
fn an_assertion_that_is_bent_in_one_place_is_refused_for_it() {
    for (why, bend) in bent_in_both() {
        assert_eq!(assert_with(bend), Err(why));
    }
    let cases: Vec<Attack> = vec![
        (WebauthnError::Type, |said| said.kind = "webauthn.create"),
        (WebauthnError::UserHandle, |said| {
            said.user_handle = b"usr_bob".to_vec()
        }),
        (WebauthnError::UserHandle, |said| said.user_handle.clear()),
        (WebauthnError::Response, |said| {
            said.user_handle = vec![1; 65]
        }),
        (WebauthnError::BackupEligibility, |said| {
            said.flags |= BACKUP_ELIGIBLE
        }),
        (WebauthnError::Signature, |said| {
            said.bend_signature = |signature| signature[10] ^= 1
        }),
        (WebauthnError::Signature, |said| {
            said.bend_signature = Vec::clear
        }),
        (WebauthnError::Signature, |said| {
            said.bend_signature = |signature| signature.push(0)
        }),
        (WebauthnError::Response, |said| {
            said.bend_signature = |signature| *signature = vec![1; 513]
        }),
    ];
    for (why, bend) in cases {
        assert_eq!(assert_with(bend), Err(why));
    }
    // Known as another kind of credential, or with another key.
    let known = |change: fn(&mut KnownCredential<'_>)| assert_known(change, |_| {});
    assert_eq!(
        known(|known| known.backup_eligible = true),
        Err(WebauthnError::BackupEligibility)
    );
    let other = Authenticator::new().public_key();
    let with_other = assert_known(|known| known.public_key = &other.leak()[..], |_| {});
    assert_eq!(with_other, Err(WebauthnError::Signature));
    assert_eq!(
        known(|known| known.public_key = &[0xa0]),
        Err(WebauthnError::PublicKey)
    );
}

#[test]
fn a_signature_counter_only_goes_on() {
    let with = |last, shown| {
        assert_known(
            |known| known.sign_count = last,
            |said| said.sign_count = shown,
        )
        .map(|assertion| assertion.sign_count)
    };
    assert_eq!(with(0, 0), Ok(0), "many have none");
    assert_eq!(with(0, 1), Ok(1));
    assert_eq!(with(7, u32::MAX), Ok(u32::MAX));
    for (last, shown) in [(7, 7), (7, 6), (7, 0), (u32::MAX, 0)] {
        assert_eq!(with(last, shown), Err(WebauthnError::SignatureCounter));
    }
}

#[test]
fn an_answer_belongs_to_its_challenge_alone() {
    let mut authenticator = Authenticator::new();
    let created = authenticator.create(&creation());
    let again = party().verify_registration(
        created.response(),
        &[8; 32],
        &AttestationPolicy::None,
        now(),
    );
    assert_eq!(again, Err(WebauthnError::Challenge));
    // Also with the client data of another answer.
    let mut other = creation();
    other.challenge = base64url::encode(&[8; 32]);
    let mixed = Created {
        client_data: authenticator.create(&other).client_data,
        ..authenticator.create_bent(&creation(), |said| {
            said.format = "packed";
            said.self_attested = true;
        })
    };
    let mixed =
        party().verify_registration(mixed.response(), &[8; 32], &AttestationPolicy::None, now());
    assert_eq!(mixed, Err(WebauthnError::Attestation));
}

#[test]
fn parts_that_are_too_large_or_no_base64url_are_not_looked_at() {
    let mut authenticator = Authenticator::new();
    let created = authenticator.create(&creation());
    let large = "A".repeat(64 * 1024);
    for (client_data, attestation_object) in [
        (&*large, &*created.attestation_object),
        (&*created.client_data, &*large),
        ("", ""),
        ("=", "="),
        (&*created.client_data, "+/"),
    ] {
        let response = RegistrationResponse {
            client_data,
            attestation_object,
        };
        let none = AttestationPolicy::None;
        let refused = party().verify_registration(response, &CHALLENGE, &none, now());
        assert!(
            matches!(
                refused,
                Err(WebauthnError::Response
                    | WebauthnError::ClientData
                    | WebauthnError::AttestationObject)
            ),
            "{refused:?}"
        );
    }
}

#[test]
fn the_policy_says_which_authenticators_may_come() {
    let model = |text: &str| BTreeSet::from([text.parse().unwrap()]);
    let direct = |models, roots| AttestationPolicy::Direct { models, roots };
    let own = |said: &mut Said| {
        said.format = "packed";
        said.self_attested = true;
    };
    // What nobody demands is looked at if it is there, and ignored if it is of another kind.
    assert!(register(&AttestationPolicy::None, own).is_ok());
    assert!(register(&AttestationPolicy::None, |said| said.format = "apple").is_ok());
    // Who says nothing is of no model.
    let ours = direct(model(MODEL), None);
    assert_eq!(
        register(&ours, |_| {}),
        Err(WebauthnError::AttestationMissing)
    );
    assert_eq!(
        register(&ours, |said| said.format = "apple"),
        Err(WebauthnError::AttestationMissing)
    );
    let credential = register(&ours, own).unwrap();
    assert!(!credential.is_attested, "only its own word");
    let others = direct(model("ffffffff-4455-6677-8899-aabbccddeeff"), None);
    assert_eq!(register(&others, own), Err(WebauthnError::Model));
    let roots = vectors().roots();
    let vouched = direct(BTreeSet::new(), Some(roots));
    assert_eq!(
        register(&vouched, own),
        Err(WebauthnError::UntrustedAttestation)
    );
}

/// Answers made with another implementation: `webauthn_vectors.py`.
#[derive(Deserialize)]
struct Vectors {
    root: String,
    other_root: String,
    registrations: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    aaguid: String,
    certified: bool,
    challenge: String,
    client_data: String,
    attestation_object: String,
    assertion: AssertedVector,
}

#[derive(Deserialize)]
struct AssertedVector {
    challenge: String,
    client_data: String,
    authenticator_data: String,
    signature: String,
}

impl Vectors {
    fn roots(&self) -> AttestationRoots {
        AttestationRoots::from_pem(&self.root).unwrap()
    }
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("webauthn_vectors.json")).unwrap()
}

impl Vector {
    fn register(&self, policy: &AttestationPolicy) -> Result<NewCredential, WebauthnError> {
        let response = RegistrationResponse {
            client_data: &self.client_data,
            attestation_object: &self.attestation_object,
        };
        let challenge = base64url::decode(&self.challenge).unwrap();
        party().verify_registration(response, &challenge, policy, now())
    }
}

#[test]
fn every_algorithm_and_attestation_that_another_implementation_made_is_understood() {
    let vectors = vectors();
    let names: Vec<&str> = vectors
        .registrations
        .iter()
        .map(|vector| &*vector.name)
        .collect();
    assert_eq!(
        names,
        [
            "none ES256",
            "none EdDSA",
            "none RS256",
            "packed self ES256",
            "packed self EdDSA",
            "packed self RS256",
            "packed x5c ES256",
            "packed x5c RS256 of ES256",
        ]
    );
    let roots = AttestationPolicy::Direct {
        models: BTreeSet::new(),
        roots: Some(vectors.roots()),
    };
    let strangers = AttestationPolicy::Direct {
        models: BTreeSet::new(),
        roots: Some(AttestationRoots::from_pem(&vectors.other_root).unwrap()),
    };
    for vector in &vectors.registrations {
        let name = &vector.name;
        let credential = vector.register(&AttestationPolicy::None).expect(name);
        assert_eq!(credential.aaguid.to_string(), vector.aaguid, "{name}");
        let assertion = &vector.assertion;
        let response = AssertionResponse {
            credential_id: &base64url::encode(&credential.id),
            client_data: &assertion.client_data,
            authenticator_data: &assertion.authenticator_data,
            signature: &assertion.signature,
            user_handle: &base64url::encode(b"usr_alice"),
        };
        let known = KnownCredential {
            public_key: &credential.public_key,
            user_handle: b"usr_alice",
            sign_count: credential.sign_count,
            backup_eligible: credential.backup_eligible,
        };
        let challenge = base64url::decode(&assertion.challenge).unwrap();
        let done = party().verify_assertion(response, &challenge, known);
        assert!(done.expect(name).sign_count > 0);

        match vector.register(&roots) {
            Ok(credential) => assert!(vector.certified && credential.is_attested, "{name}"),
            Err(WebauthnError::AttestationMissing | WebauthnError::UntrustedAttestation) => {
                assert!(!vector.certified, "{name}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
        assert!(vector.register(&strangers).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn no_change_of_a_byte_of_what_is_signed_is_overlooked(at: prop::sample::Index, bit in 0..8_u8) {
        let mut authenticator = Authenticator::new();
        let created = authenticator.create_bent(&creation(), |said| {
            said.format = "packed";
            said.self_attested = true;
        });
        let mut object = base64url::decode(&created.attestation_object).unwrap();
        let at = at.index(object.len());
        object[at] ^= 1 << bit;
        let bent = Created { attestation_object: base64url::encode(&object), ..created };
        // The one thing nobody signs is the name of the format: under another one the statement says nothing.
        let policy = AttestationPolicy::Direct {
            models: BTreeSet::from([MODEL.parse().unwrap()]),
            roots: None,
        };
        let outcome = party().verify_registration(bent.response(), &CHALLENGE, &policy, now());
        prop_assert!(outcome.is_err(), "byte {} of {}", at, base64url::encode(&object));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(client_data: Vec<u8>, object: Vec<u8>) {
        let (client_data, object) = (base64url::encode(&client_data), base64url::encode(&object));
        let response = RegistrationResponse { client_data: &client_data, attestation_object: &object };
        let none = AttestationPolicy::None;
        prop_assert!(party().verify_registration(response, &CHALLENGE, &none, now()).is_err());
    }
}

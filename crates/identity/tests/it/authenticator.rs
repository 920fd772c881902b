//! An authenticator with its browser, in software: it makes and uses one passkey, and says whatever a test wants it to say.

use testudo_identity::{
    PasskeyCreation, PasskeyRequest,
    webauthn::{AssertionResponse, RegistrationResponse},
};
use testudo_trust::{SigningKey, base64url, sha256};

use crate::house::ISSUER;

/// Flags of authenticator data (WebAuthn section 6.1).
pub const PRESENT: u8 = 1;
pub const VERIFIED: u8 = 1 << 2;
pub const BACKUP_ELIGIBLE: u8 = 1 << 3;
pub const BACKED_UP: u8 = 1 << 4;
pub const ATTESTED: u8 = 1 << 6;
pub const EXTENSIONS: u8 = 1 << 7;

/// The model it says it is.
pub const MODEL: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// One passkey.
pub struct Authenticator {
    key: SigningKey,
    pub credential_id: Vec<u8>,
    pub user_handle: Vec<u8>,
    pub sign_count: u32,
}

/// What goes into an answer. A test bends one thing of it.
pub struct Said {
    pub kind: &'static str,
    pub challenge: String,
    pub origin: String,
    /// Further members of the client data, as JSON.
    pub more: &'static str,
    pub rp_id: String,
    pub flags: u8,
    pub sign_count: u32,
    pub credential_id: Vec<u8>,
    pub user_handle: Vec<u8>,
    /// The COSE_Key.
    pub public_key: Vec<u8>,
    /// Behind everything else in the authenticator data.
    pub behind: Vec<u8>,
    pub format: &'static str,
    /// Sign the attestation with the credential's key.
    pub self_attested: bool,
    /// A further entry of the attestation statement.
    pub statement: Vec<(&'static str, Vec<u8>)>,
    /// What is done to the signature.
    pub bend_signature: fn(&mut Vec<u8>),
}

/// `AuthenticatorAttestationResponse`, each part in base64url.
#[derive(Clone)]
pub struct Created {
    pub client_data: String,
    pub attestation_object: String,
}

/// `AuthenticatorAssertionResponse`, each part in base64url.
#[derive(Clone)]
pub struct Asserted {
    pub credential_id: String,
    pub client_data: String,
    pub authenticator_data: String,
    pub signature: String,
    pub user_handle: String,
}

impl Created {
    pub fn response(&self) -> RegistrationResponse<'_> {
        RegistrationResponse {
            client_data: &self.client_data,
            attestation_object: &self.attestation_object,
        }
    }
}

impl Asserted {
    pub fn response(&self) -> AssertionResponse<'_> {
        AssertionResponse {
            credential_id: &self.credential_id,
            client_data: &self.client_data,
            authenticator_data: &self.authenticator_data,
            signature: &self.signature,
            user_handle: &self.user_handle,
        }
    }
}

impl Authenticator {
    pub fn new() -> Self {
        let key = SigningKey::generate();
        Self {
            credential_id: sha256(key.key_id().as_bytes()).to_vec(),
            key,
            user_handle: Vec::new(),
            sign_count: 0,
        }
    }

    /// Answers `navigator.credentials.create`, and keeps whose passkey it is.
    pub fn create(&mut self, options: &PasskeyCreation) -> Created {
        self.create_bent(options, |_| {})
    }

    pub fn create_bent(
        &mut self,
        options: &PasskeyCreation,
        bend: impl FnOnce(&mut Said),
    ) -> Created {
        self.user_handle = base64url::decode(&options.user_handle).unwrap();
        let mut said = self.said("webauthn.create", &options.challenge, &options.rp_id);
        said.flags |= ATTESTED;
        bend(&mut said);
        let client_data = said.client_data();
        let authenticator_data = said.authenticator_data();
        let mut statement = said.statement.clone();
        if said.self_attested {
            let mut signature = self.sign(&authenticator_data, &client_data);
            (said.bend_signature)(&mut signature);
            statement.push(("alg", integer(-7)));
            statement.push(("sig", bytes(&signature)));
        }
        let mut object = head(5, 3);
        object.extend([text("fmt"), text(said.format), text("attStmt")].concat());
        object.extend(head(5, statement.len()));
        for (name, value) in statement {
            object.extend([text(name), value].concat());
        }
        object.extend([text("authData"), bytes(&authenticator_data)].concat());
        Created {
            client_data: base64url::encode(&client_data),
            attestation_object: base64url::encode(&object),
        }
    }

    /// Answers `navigator.credentials.get`.
    pub fn get(&mut self, options: &PasskeyRequest) -> Asserted {
        self.get_bent(options, |_| {})
    }

    pub fn get_bent(&mut self, options: &PasskeyRequest, bend: impl FnOnce(&mut Said)) -> Asserted {
        let mut said = self.said("webauthn.get", &options.challenge, &options.rp_id);
        bend(&mut said);
        let client_data = said.client_data();
        let authenticator_data = said.authenticator_data();
        let mut signature = self.sign(&authenticator_data, &client_data);
        (said.bend_signature)(&mut signature);
        Asserted {
            credential_id: base64url::encode(&said.credential_id),
            client_data: base64url::encode(&client_data),
            authenticator_data: base64url::encode(&authenticator_data),
            signature: base64url::encode(&signature),
            user_handle: base64url::encode(&said.user_handle),
        }
    }

    /// The key as COSE_Key (RFC 9053 section 7.1).
    pub fn public_key(&self) -> Vec<u8> {
        let jwk = self.key.public_jwk();
        let coordinate = |name: &str| base64url::decode(jwk[name].as_str().unwrap()).unwrap();
        let mut key = head(5, 5);
        for (label, value) in [
            (1, integer(2)),
            (3, integer(-7)),
            (-1, integer(1)),
            (-2, bytes(&coordinate("x"))),
            (-3, bytes(&coordinate("y"))),
        ] {
            key.extend([integer(label), value].concat());
        }
        key
    }

    fn said(&self, kind: &'static str, challenge: &str, rp_id: &str) -> Said {
        Said {
            kind,
            challenge: challenge.to_owned(),
            origin: ISSUER.to_owned(),
            more: "",
            rp_id: rp_id.to_owned(),
            flags: PRESENT | VERIFIED,
            sign_count: self.sign_count,
            credential_id: self.credential_id.clone(),
            user_handle: self.user_handle.clone(),
            public_key: self.public_key(),
            behind: Vec::new(),
            format: "none",
            self_attested: false,
            statement: Vec::new(),
            bend_signature: |_| {},
        }
    }

    fn sign(&self, authenticator_data: &[u8], client_data: &[u8]) -> Vec<u8> {
        let signed = [authenticator_data, &sha256(client_data)].concat();
        der(&self.key.sign_raw(&signed))
    }
}

impl Said {
    fn client_data(&self) -> Vec<u8> {
        let Self {
            kind,
            challenge,
            origin,
            more,
            ..
        } = self;
        let text =
            format!(r#"{{"type":"{kind}","challenge":"{challenge}","origin":"{origin}"{more}}}"#);
        text.into_bytes()
    }

    fn authenticator_data(&self) -> Vec<u8> {
        let mut data = sha256(self.rp_id.as_bytes()).to_vec();
        data.push(self.flags);
        data.extend(self.sign_count.to_be_bytes());
        if self.flags & ATTESTED != 0 {
            data.extend(MODEL.parse::<testudo_model::Aaguid>().unwrap().as_bytes());
            data.extend(
                u16::try_from(self.credential_id.len())
                    .unwrap()
                    .to_be_bytes(),
            );
            data.extend(&self.credential_id);
            data.extend(&self.public_key);
        }
        data.extend(&self.behind);
        data
    }
}

/// `r || s` as DER (RFC 3279 section 2.2.3).
fn der(signature: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let first = bytes.iter().position(|byte| *byte != 0).unwrap();
        let mut digits = bytes[first..].to_vec();
        if digits[0] >= 0x80 {
            digits.insert(0, 0);
        }
        [vec![2, u8::try_from(digits.len()).unwrap()], digits].concat()
    };
    let (r, s) = signature.split_at(32);
    let body = [number(r), number(s)].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

/// The head of a CBOR value (RFC 8949 section 3).
pub fn head(major: u8, number: usize) -> Vec<u8> {
    let major = major << 5;
    match number {
        0..=23 => vec![major | number as u8],
        24..=255 => vec![major | 24, number as u8],
        _ => [
            vec![major | 25],
            u16::try_from(number).unwrap().to_be_bytes().to_vec(),
        ]
        .concat(),
    }
}

pub fn bytes(value: &[u8]) -> Vec<u8> {
    [head(2, value.len()), value.to_vec()].concat()
}

pub fn text(value: &str) -> Vec<u8> {
    [head(3, value.len()), value.as_bytes().to_vec()].concat()
}

pub fn integer(value: i64) -> Vec<u8> {
    match usize::try_from(value) {
        Ok(value) => head(0, value),
        Err(_) => head(1, usize::try_from(-1 - value).unwrap()),
    }
}

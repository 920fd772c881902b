//! Making tokens by hand, with the right key and with wrong ones.

use std::{net::TcpListener, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use testudo_model::{Clock, SpiffeId, TokenId};
use testudo_runtime::SystemClock;
use testudo_trust::{
    CertificateAuthority, SigningKey, Svid, SvidKey, SystemEntropy, TrustBundle, base64url,
    hmac_sha256,
};

use crate::shop::{Shop, claims_of, domain};

/// What is wrong with a token, and the token.
pub type Rows = Vec<(String, String)>;

/// `header.payload` as they are, signed with ES256.
pub fn signed(header: &str, payload: &[u8], key: &SigningKey) -> String {
    let text = unsigned(header, payload);
    let signature = base64url::encode(&key.sign_raw(text.as_bytes()));
    format!("{text}.{signature}")
}

pub fn unsigned(header: &str, payload: &[u8]) -> String {
    format!(
        "{}.{}",
        base64url::encode(header.as_bytes()),
        base64url::encode(payload)
    )
}

pub fn with_hmac(header: &str, payload: &[u8], key: &[u8]) -> String {
    let text = unsigned(header, payload);
    let tag = base64url::encode(&hmac_sha256(key, text.as_bytes()));
    format!("{text}.{tag}")
}

/// An issuer's key and the claims of a good token, to be changed.
pub struct Forge {
    pub key: SigningKey,
    pub claims: Value,
    /// A listener of the attacker: nobody may ever connect to it.
    pub bait: TcpListener,
}

impl Forge {
    pub fn header(&self, members: &Value) -> String {
        let mut header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.key.key_id() });
        merge(&mut header, members);
        header.to_string()
    }

    pub fn payload(&self) -> Vec<u8> {
        self.claims.to_string().into_bytes()
    }

    /// The good token with other header parameters; `null` takes one away.
    pub fn with_header(&self, members: &Value) -> String {
        signed(&self.header(members), &self.payload(), &self.key)
    }

    /// The good token with other claims; `null` takes one away.
    pub fn with_claims(&self, members: &Value) -> String {
        let mut claims = self.claims.clone();
        merge(&mut claims, members);
        signed(
            &self.header(&json!({})),
            claims.to_string().as_bytes(),
            &self.key,
        )
    }

    /// The good token with `text` in place of a claim's value, as it stands.
    pub fn with_raw_claim(&self, claim: &str, text: &str) -> String {
        let mut claims = self.claims.clone();
        claims[claim] = json!("@");
        let payload = claims.to_string().replace("\"@\"", text);
        signed(&self.header(&json!({})), payload.as_bytes(), &self.key)
    }

    pub fn good(&self) -> String {
        self.with_claims(&json!({}))
    }

    pub fn bait(&self) -> String {
        format!("http://{}/keys", self.bait.local_addr().unwrap())
    }
}

/// Members of `more` over those of `base`; `null` removes.
pub fn merge(base: &mut Value, more: &Value) {
    for (name, value) in more.as_object().unwrap() {
        let members = base.as_object_mut().unwrap();
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.clone(), value.clone())),
        }
    }
}

pub fn row(what: &str, token: String) -> (String, String) {
    (what.to_owned(), token)
}

/// The issuer's key and the claims of a token of alice.
pub fn forge(shop: &Shop, key: SigningKey) -> Forge {
    let mut claims = claims_of(&shop.token("alice"));
    claims["jti"] = json!(TokenId::generate(&SystemClock::new(), &SystemEntropy).as_str());
    let bait = TcpListener::bind("127.0.0.1:0").unwrap();
    bait.set_nonblocking(true).unwrap();
    Forge { key, claims, bait }
}

/// A request without a body.
pub fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// As `x5c` writes certificates.
pub fn base64_of(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A member of another fleet of the same name.
pub fn impostor(id: &SpiffeId) -> (Svid, TrustBundle) {
    let now = SystemClock::new().now();
    let authority =
        CertificateAuthority::generate(&domain(), now, Duration::from_secs(3600)).unwrap();
    let key = SvidKey::generate();
    let csr = key.csr_der(id).unwrap();
    let leaf = authority
        .issue(&csr, id, &[], now, Duration::from_secs(900), &SystemEntropy)
        .unwrap();
    let bundle = TrustBundle::new(domain(), vec![authority.cert_der().to_vec()]).unwrap();
    (Svid::new(vec![leaf], key).unwrap(), bundle)
}

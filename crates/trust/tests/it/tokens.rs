//! Tokens that must not pass: rows E1 to E7 of the table of bad input, each against a token that does.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use testudo_model::{Timestamp, limits::MAX_TOKEN_BYTES};
use testudo_trust::{
    JoseError, JwkSet, SigningKey, base64url, hmac_sha256, verify_jwt, verify_jwt_x5c,
};

use crate::fleet::{Fleet, SVID_LIFETIME};

const TYP: &str = "at+jwt";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: String,
    exp: i64,
}

fn claims() -> Claims {
    Claims {
        sub: "usr_anna".into(),
        aud: "api".into(),
        exp: 1_795_341_900,
    }
}

struct Issuer {
    key: SigningKey,
    keys: JwkSet,
}

impl Issuer {
    fn new() -> Self {
        let key = SigningKey::generate();
        let keys = set_of(&[&key]);
        Self { key, keys }
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "typ": TYP, "kid": self.key.key_id() })
    }

    fn header_with(&self, name: &str, value: Value) -> Value {
        let mut header = self.header();
        header[name] = value;
        header
    }

    /// Signs exactly these texts.
    fn sign_texts(&self, header: &str, payload: &str) -> String {
        self.sign_bytes(header.as_bytes(), payload.as_bytes())
    }

    fn sign_bytes(&self, header: &[u8], payload: &[u8]) -> String {
        self.sign_encoded(&base64url::encode(header), &base64url::encode(payload))
    }

    fn sign_encoded(&self, header: &str, payload: &str) -> String {
        let signed = format!("{header}.{payload}");
        let signature = base64url::encode(&self.key.sign_raw(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn with_header(&self, header: &Value) -> String {
        self.sign_texts(
            &header.to_string(),
            &serde_json::to_string(&claims()).unwrap(),
        )
    }

    fn with_payload(&self, payload: &str) -> String {
        self.sign_texts(&self.header().to_string(), payload)
    }

    fn good(&self) -> String {
        self.key.sign_jwt(TYP, &claims()).unwrap()
    }

    fn verify(&self, token: &str) -> Result<Claims, JoseError> {
        verify_jwt(token, TYP, &self.keys)
    }
}

fn set_of(keys: &[&SigningKey]) -> JwkSet {
    let keys: Vec<Value> = keys.iter().map(|key| key.public_jwk()).collect();
    JwkSet::parse(&json!({ "keys": keys }).to_string()).unwrap()
}

/// A token whose signature is whatever `sign` makes of the signed part.
fn forge(header: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let payload = serde_json::to_vec(&claims()).unwrap();
    let header = base64url::encode(header.to_string().as_bytes());
    let signed = format!("{header}.{}", base64url::encode(&payload));
    let signature = base64url::encode(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[test]
fn a_signed_token_is_read() {
    let issuer = Issuer::new();
    assert_eq!(issuer.verify(&issuer.good()).unwrap(), claims());
    for typ in ["AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        let token = issuer.with_header(&issuer.header_with("typ", json!(typ)));
        assert!(issuer.verify(&token).is_ok(), "{typ}");
    }
    // RFC 7515 section 4: parameters that are not understood and not critical are ignored.
    let extra = issuer.header_with("x5t", json!("whatever"));
    assert!(issuer.verify(&issuer.with_header(&extra)).is_ok());
}

#[test]
fn e1_no_algorithm_but_es256_exists() {
    let issuer = Issuer::new();
    for alg in [
        "none", "None", "nOnE", "", "es256", "ES256 ", "ES384", "RS256", "PS256", "EdDSA",
    ] {
        let header = issuer.header_with("alg", json!(alg));
        let unsigned = forge(&header, |_| Vec::new());
        assert!(
            matches!(issuer.verify(&unsigned), Err(JoseError::Algorithm)),
            "{alg}"
        );
        let signed = issuer.with_header(&header);
        assert!(
            matches!(issuer.verify(&signed), Err(JoseError::Algorithm)),
            "{alg}, signed"
        );
    }
    for alg in [
        json!(["ES256"]),
        json!(null),
        json!({ "ES256": 1 }),
        json!(256),
    ] {
        let token = issuer.with_header(&issuer.header_with("alg", alg));
        assert!(matches!(issuer.verify(&token), Err(JoseError::Algorithm)));
    }
    let without = json!({ "typ": TYP, "kid": issuer.key.key_id() });
    assert!(matches!(
        issuer.verify(&issuer.with_header(&without)),
        Err(JoseError::Algorithm)
    ));
    let good = issuer.good();
    let (signed, _) = good.rsplit_once('.').unwrap();
    for token in [
        signed.to_owned(),
        format!("{signed}."),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.a.b"),
        "....".into(),
        "..".into(),
        String::new(),
    ] {
        assert!(issuer.verify(&token).is_err(), "{token}");
    }
}

#[test]
fn e2_the_public_key_is_no_shared_secret() {
    let issuer = Issuer::new();
    let der = issuer.key.public_der();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64url::encode(&der)
    );
    let jwk = issuer.key.public_jwk().to_string();
    let secrets = [
        der,
        pem.clone().into(),
        format!(" {pem}").into(),
        jwk.into(),
        Vec::new(),
    ];
    for (number, secret) in secrets.iter().enumerate() {
        for alg in ["HS256", "ES256"] {
            let header = issuer.header_with("alg", json!(alg));
            let token = forge(&header, |signed| hmac_sha256(secret, signed).to_vec());
            assert!(issuer.verify(&token).is_err(), "{alg} with secret {number}");
        }
    }
}

#[test]
fn e3_a_signature_is_64_bytes_of_the_named_key() {
    let issuer = Issuer::new();
    let refused = |sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        matches!(
            issuer.verify(&forge(&issuer.header(), sign)),
            Err(JoseError::Signature)
        )
    };
    assert!(refused(&|_| vec![0; 64]), "r = s = 0");
    assert!(refused(&|_| vec![0xff; 64]), "r and s above the order");
    assert!(refused(&|_| Vec::new()));
    assert!(refused(&|_| vec![1; 63]));
    assert!(
        refused(&|signed| [issuer.key.sign_raw(signed), vec![0]].concat()),
        "trailing byte"
    );
    assert!(
        refused(&|signed| SigningKey::generate().sign_raw(signed)),
        "another key"
    );
    assert!(refused(&|signed| {
        // The same signature as DER: SEQUENCE of two INTEGERs.
        let raw = issuer.key.sign_raw(signed);
        let integer = |part: &[u8]| [&[2, 33, 0], part].concat();
        let (r, s) = raw.split_at(32);
        [vec![0x30, 70], integer(r), integer(s)].concat()
    }));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(
        refused(&|signed| rcgen::SigningKey::sign(&p384, signed).unwrap()),
        "P-384"
    );
}

#[test]
fn e4_a_token_never_says_where_its_key_is() {
    let (issuer, attacker) = (Issuer::new(), Issuer::new());
    for (name, value) in [
        ("jku", json!("https://attacker.example/keys")),
        ("jku", json!("http://169.254.169.254/latest/")),
        ("x5u", json!("file:///etc/passwd")),
        ("jwk", attacker.key.public_jwk()),
        ("x5c", json!(["AAAA"])),
    ] {
        let header = issuer.header_with(name, value);
        for token in [attacker.with_header(&header), issuer.with_header(&header)] {
            let verdict = issuer.verify(&token);
            assert!(
                matches!(verdict, Err(JoseError::HeaderParameter(p)) if p == name),
                "{verdict:?}"
            );
        }
    }
}

#[test]
fn e5_the_key_id_names_one_key_of_the_issuer() {
    let issuer = Issuer::new();
    for kid in [
        json!("unknown"),
        json!("../../etc/passwd"),
        json!("' OR 1=1 --"),
        json!(""),
        json!("k".repeat(5000)),
        json!(null),
        json!([issuer.key.key_id()]),
        json!(1),
    ] {
        let token = issuer.with_header(&issuer.header_with("kid", kid.clone()));
        assert!(
            matches!(issuer.verify(&token), Err(JoseError::UnknownKey)),
            "{kid}"
        );
    }
    let huge = issuer.with_header(&issuer.header_with("kid", json!("k".repeat(64 * 1024))));
    assert!(matches!(
        issuer.verify(&huge),
        Err(JoseError::TooLarge { .. })
    ));

    let without = issuer.with_header(&json!({ "alg": "ES256", "typ": TYP }));
    assert!(issuer.verify(&without).is_ok(), "there is only one key");
    let two = set_of(&[&issuer.key, &SigningKey::generate()]);
    let verdict = verify_jwt::<Claims>(&without, TYP, &two);
    assert!(matches!(verdict, Err(JoseError::KeyIdMissing)));
    // Naming the other key of the set does not help either.
    let other = SigningKey::generate();
    let two = set_of(&[&issuer.key, &other]);
    let token = issuer.with_header(&issuer.header_with("kid", json!(other.key_id())));
    assert!(matches!(
        verify_jwt::<Claims>(&token, TYP, &two),
        Err(JoseError::Signature)
    ));
}

#[test]
fn e6_headers_have_one_meaning() {
    let issuer = Issuer::new();
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("cty", json!("JWT")),
    ] {
        let token = issuer.with_header(&issuer.header_with(name, value));
        let verdict = issuer.verify(&token);
        assert!(
            matches!(verdict, Err(JoseError::HeaderParameter(p)) if p == name),
            "{verdict:?}"
        );
    }
    for typ in [
        "JWT",
        "jwt",
        "",
        "at+jwt ",
        "txntoken+jwt",
        "text/at+jwt",
        "application/application/at+jwt",
    ] {
        let token = issuer.with_header(&issuer.header_with("typ", json!(typ)));
        assert!(
            matches!(issuer.verify(&token), Err(JoseError::Type { .. })),
            "{typ}"
        );
    }
    let without = json!({ "alg": "ES256", "kid": issuer.key.key_id() });
    assert!(matches!(
        issuer.verify(&issuer.with_header(&without)),
        Err(JoseError::Type { .. })
    ));
    let payload = serde_json::to_string(&claims()).unwrap();
    for header in [
        r#"{"alg":"none","alg":"ES256","typ":"at+jwt"}"#,
        r#"{"alg":"ES256","\u0061lg":"none","typ":"at+jwt"}"#,
        r#"["ES256"]"#,
        "\"ES256\"",
        "",
    ] {
        let verdict = issuer.verify(&issuer.sign_texts(header, &payload));
        assert!(
            matches!(verdict, Err(JoseError::Json { part: "header", .. })),
            "{header}"
        );
    }
    // A token inside a token.
    let nested = issuer.with_payload(&format!("\"{}\"", issuer.good()));
    assert!(matches!(
        issuer.verify(&nested),
        Err(JoseError::Json {
            part: "payload",
            ..
        })
    ));
}

#[test]
fn e6_claims_have_one_meaning_and_the_right_types() {
    let issuer = Issuer::new();
    for payload in [
        r#"{"sub":"usr_anna","sub":"usr_root","aud":"api","exp":1}"#,
        r#"{"sub":"usr_anna","s\u0075b":"usr_root","aud":"api","exp":1}"#,
        r#"{"sub":"a","aud":"api","exp":1,"act":{"sub":"a","sub":"b"}}"#,
        r#"{"sub":"a","aud":"api","exp":NaN}"#,
        r#"{"sub":"a","aud":"api","exp":1e400}"#,
        r#"{"sub":"a","aud":"api","exp":1}{}"#,
        r#"["a","api",1]"#,
        "null",
        "",
    ] {
        let verdict = issuer.verify(&issuer.with_payload(payload));
        assert!(
            matches!(
                verdict,
                Err(JoseError::Json {
                    part: "payload",
                    ..
                })
            ),
            "{payload}"
        );
    }
    for payload in [
        r#"{"sub":"a","aud":"api","exp":"1795341900"}"#,
        r#"{"sub":"a","aud":"api","exp":1795341900.5}"#,
        r#"{"sub":"a","aud":"api","exp":1e10}"#,
        r#"{"sub":"a","aud":"api","exp":9223372036854775808}"#,
        r#"{"sub":"a","aud":"api","exp":null}"#,
        r#"{"sub":"a","aud":"api"}"#,
        r#"{"sub":"a","aud":["api"],"exp":1}"#,
        r#"{"sub":"a","exp":1}"#,
        r#"{"sub":7,"aud":"api","exp":1}"#,
    ] {
        let verdict = issuer.verify(&issuer.with_payload(payload));
        assert!(matches!(verdict, Err(JoseError::Claims(_))), "{payload}");
    }
}

#[test]
fn e7_size_depth_and_spelling_are_bounded() {
    let issuer = Issuer::new();
    let many: Map<String, Value> = (0..10_000).map(|n| (format!("c{n}"), json!(n))).collect();
    for huge in [
        "a".repeat(1024 * 1024),
        issuer.with_payload(&Value::Object(many).to_string()),
    ] {
        assert!(matches!(
            issuer.verify(&huge),
            Err(JoseError::TooLarge { .. })
        ));
    }
    let longest = "a".repeat(MAX_TOKEN_BYTES);
    assert!(matches!(
        issuer.verify(&longest),
        Err(JoseError::NotCompact)
    ));
    let deep = |levels| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        issuer.with_payload(&format!(
            r#"{{"sub":"a","aud":"api","exp":1,"d":{open}{close}}}"#
        ))
    };
    assert!(issuer.verify(&deep(3)).is_ok());
    assert!(matches!(
        issuer.verify(&deep(2500)),
        Err(JoseError::Json { .. })
    ));
    assert!(issuer.verify(&deep(10_000)).is_err());

    let good = issuer.good();
    let (head, rest) = good.split_once('.').unwrap();
    for spelled in [
        format!("{head}=.{rest}"),
        format!("{good}="),
        format!("{good}=="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{head} .{rest}"),
        good.replacen('.', "+.", 1),
        good.replacen('.', "/.", 1),
        good.replacen('.', "é.", 1),
        format!("{good}\0"),
    ] {
        assert!(
            matches!(issuer.verify(&spelled), Err(JoseError::NotCompact)),
            "{spelled:?}"
        );
    }
    // Spelled otherwise by the issuer itself.
    let payload = rest.split_once('.').unwrap().0;
    for (head, payload) in [
        (format!("{head}="), payload.to_owned()),
        (head.to_owned(), format!("{payload}=")),
        (head.to_owned(), format!("{payload}\n")),
        (head.to_owned(), format!("\t{payload}")),
    ] {
        let verdict = issuer.verify(&issuer.sign_encoded(&head, &payload));
        assert!(
            matches!(verdict, Err(JoseError::NotCompact)),
            "{head}.{payload}"
        );
    }
    let header = issuer.header().to_string();
    let not_utf8 = issuer.sign_bytes(
        header.as_bytes(),
        b"{\"sub\":\"\xff\",\"aud\":\"a\",\"exp\":1}",
    );
    assert!(matches!(
        issuer.verify(&not_utf8),
        Err(JoseError::Json { .. })
    ));
}

#[test]
fn a_workload_signs_with_its_svid_and_the_bundle_vouches_for_it() {
    let fleet = Fleet::new();
    let (gateway, typ) = (fleet.svid("gateway"), "txntoken+jwt");
    let token = gateway
        .key()
        .sign_jwt_x5c(typ, &claims(), gateway.chain())
        .unwrap();
    let bundle = fleet.bundle();
    let verify = |token: &str, now| verify_jwt_x5c::<Claims>(token, typ, &bundle, now);
    for _ in ["unknown", "known by now"] {
        let verified = verify(&token, fleet.now()).unwrap();
        assert_eq!(verified, (claims(), fleet.id("gateway")));
    }
    assert!(token.len() < MAX_TOKEN_BYTES / 4, "{}", token.len());

    let late = verify(&token, fleet.now() + 2 * SVID_LIFETIME);
    assert!(matches!(late, Err(JoseError::Chain(_))));
    let before = Timestamp::from_unix_seconds(fleet.now().unix_seconds() - 24 * 3_600);
    let early = verify(&token, before);
    assert!(matches!(early, Err(JoseError::Chain(_))));
    let as_access = verify_jwt::<Claims>(&token, typ, &set_of(&[gateway.key()]));
    assert!(matches!(as_access, Err(JoseError::HeaderParameter("x5c"))));
    let plain = gateway.key().sign_jwt(typ, &claims()).unwrap();
    assert!(matches!(
        verify(&plain, fleet.now()),
        Err(JoseError::ChainMissing)
    ));
}

#[test]
fn a_foreign_or_borrowed_chain_signs_nothing() {
    let (fleet, foreign) = (Fleet::new(), Fleet::of("bookshop.example"));
    let typ = "txntoken+jwt";
    let bundle = fleet.bundle();
    let verify = |token: &str| verify_jwt_x5c::<Claims>(token, typ, &bundle, fleet.now());
    let (gateway, orders) = (fleet.svid("gateway"), fleet.svid("orders"));
    let own = gateway
        .key()
        .sign_jwt_x5c(typ, &claims(), gateway.chain())
        .unwrap();
    verify(&own).expect("the gateway's own token, and its chain is known");
    // Somebody else's certificate, seen on the wire.
    let borrowed = orders
        .key()
        .sign_jwt_x5c(typ, &claims(), gateway.chain())
        .unwrap();
    assert!(matches!(verify(&borrowed), Err(JoseError::Signature)));
    // Own certificate first, the gateway's behind it.
    let chain = [orders.chain(), gateway.chain()].concat();
    let mixed = orders.key().sign_jwt_x5c(typ, &claims(), &chain).unwrap();
    assert!(matches!(verify(&mixed), Err(JoseError::Chain(_))));
    let impostor = foreign.svid_with_root("gateway");
    let forged = impostor
        .key()
        .sign_jwt_x5c(typ, &claims(), impostor.chain())
        .unwrap();
    assert!(matches!(verify(&forged), Err(JoseError::Chain(_))));
    let long = vec![gateway.chain()[0].clone(); 5];
    let long = gateway.key().sign_jwt_x5c(typ, &claims(), &long).unwrap();
    assert!(matches!(verify(&long), Err(JoseError::ChainMissing)));
    let none = gateway.key().sign_jwt_x5c(typ, &claims(), &[]).unwrap();
    assert!(matches!(verify(&none), Err(JoseError::ChainMissing)));
}

#[test]
fn of_more_signers_than_are_remembered_each_is_who_it_is() {
    let (fleet, typ) = (Fleet::new(), "txntoken+jwt");
    let bundle = fleet.bundle();
    let signers: Vec<_> = (0..100).map(|number| format!("edge-{number}")).collect();
    let tokens = signers.iter().map(|name| {
        let svid = fleet.svid(name);
        let token = svid.key().sign_jwt_x5c(typ, &claims(), svid.chain());
        (token.unwrap(), fleet.id(name))
    });
    let tokens: Vec<_> = tokens.collect();
    for (token, id) in tokens.iter().chain(&tokens) {
        let (_, signer) = verify_jwt_x5c::<Claims>(token, typ, &bundle, fleet.now()).unwrap();
        assert_eq!(signer, *id);
    }
}

proptest! {
    #[test]
    fn verifying_is_the_inverse_of_signing(sub: String, aud: String, exp: i64) {
        let issuer = Issuer::new();
        let claims = Claims { sub, aud, exp };
        let token = issuer.key.sign_jwt(TYP, &claims).unwrap();
        match issuer.verify(&token) {
            Ok(read) => prop_assert_eq!(read, claims),
            Err(error) => prop_assert!(matches!(error, JoseError::TooLarge { .. }), "{error}"),
        }
    }

    #[test]
    fn a_changed_character_anywhere_is_refused(
        at in any::<proptest::sample::Index>(), to in "[A-Za-z0-9_.-]",
    ) {
        let issuer = Issuer::new();
        let good = issuer.good();
        let at = at.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != good);
        prop_assert!(issuer.verify(&changed).is_err());
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text: String) {
        prop_assert!(Issuer::new().verify(&text).is_err());
    }
}

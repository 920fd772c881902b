//! Access tokens nobody should accept (table E1 to E7). Each is wrong in one respect, and most are signed with the
//! right key.

use std::time::Duration;

use serde_json::{Value, json};
use testudo_model::Clock;
use testudo_runtime::SystemClock;
use testudo_trust::{CertificateAuthority, SigningKey, base64url};

use crate::{
    forge::{Forge, Rows, base64_of, row, signed, unsigned, with_hmac},
    shop::domain,
};

/// E1 and E3: the algorithm.
pub fn algorithms(forge: &Forge) -> Rows {
    let mut rows = Rows::new();
    for alg in [
        json!("none"),
        json!("None"),
        json!("NONE"),
        json!("nOnE"),
        json!(""),
        json!(null),
        json!(["ES256"]),
        json!({ "alg": "ES256" }),
        json!("es256"),
        json!(" ES256"),
        json!("ES256 "),
        json!("ES256\u{0}"),
        json!(0),
        json!("ES384"),
        json!("ES512"),
        json!("ES256K"),
        json!("RS256"),
        json!("PS256"),
        json!("EdDSA"),
        json!("HS256"),
    ] {
        let header = forge.header(&json!({ "alg": alg }));
        let text = unsigned(&header, &forge.payload());
        rows.push(row(
            &format!("alg {alg}, signed"),
            signed(&header, &forge.payload(), &forge.key),
        ));
        rows.push(row(&format!("alg {alg}, no signature"), format!("{text}.")));
        rows.push(row(&format!("alg {alg}, two parts"), text));
    }
    rows
}

/// E2: the public key taken for a shared secret.
pub fn confusions(forge: &Forge) -> Rows {
    let der = forge.key.public_der();
    let jwk = forge.key.public_jwk();
    let coordinate = |name: &str| base64url::decode(jwk[name].as_str().unwrap()).unwrap();
    let base64 = base64_of(&der);
    let lines: Vec<&str> = base64
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    );
    let point = [&[4][..], &coordinate("x"), &coordinate("y")].concat();
    let secrets: Vec<(&str, Vec<u8>)> = vec![
        ("PEM", pem.clone().into()),
        ("PEM without its last newline", pem.trim().into()),
        ("PEM with CRLF", pem.replace('\n', "\r\n").into()),
        ("PEM with leading white space", format!(" \n{pem}").into()),
        ("PEM with a prefix", format!("key\n{pem}").into()),
        ("base64 of DER", base64.into()),
        ("DER", der),
        ("JWK", jwk.to_string().into()),
        ("JWK set", json!({ "keys": [jwk] }).to_string().into()),
        ("x", coordinate("x")),
        ("x as text", jwk["x"].as_str().unwrap().into()),
        ("x and y", point[1..].to_vec()),
        ("the point", point),
        ("the key id", forge.key.key_id().into()),
        ("nothing", Vec::new()),
        ("a zero byte", vec![0]),
        ("\"secret\"", b"secret".to_vec()),
    ];
    let header = forge.header(&json!({ "alg": "HS256" }));
    let as_es256 = forge.header(&json!({}));
    let mut rows = Rows::new();
    for (what, secret) in &secrets {
        rows.push(row(
            &format!("HS256 with {what}"),
            with_hmac(&header, &forge.payload(), secret),
        ));
        rows.push(row(
            &format!("an HMAC with {what} called ES256"),
            with_hmac(&as_es256, &forge.payload(), secret),
        ));
    }
    rows
}

/// E3: signatures.
pub fn signatures(forge: &Forge) -> Rows {
    let text = unsigned(&forge.header(&json!({})), &forge.payload());
    let good = forge.key.sign_raw(text.as_bytes());
    let with = |signature: &[u8]| format!("{text}.{}", base64url::encode(signature));
    let halves = |r: &[u8], s: &[u8]| with(&[r, s].concat());
    // The order of the group: r and s are below it.
    let order = testudo_trust::hex::decode(
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    )
    .unwrap();
    let one = [&[0; 31][..], &[1]].concat();
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    vec![
        row("r and s are 0", with(&[0; 64])),
        row("r is 0", halves(&[0; 32], &good[32..])),
        row("s is 0", halves(&good[..32], &[0; 32])),
        row("r and s are the order", halves(&order, &order)),
        row("r is the order, s is 0", halves(&order, &[0; 32])),
        row("r and s are 1", halves(&one, &one)),
        row("r and s are all ones", with(&[0xff; 64])),
        row("r and s are exchanged", halves(&good[32..], &good[..32])),
        row("one bit is flipped", with(&flipped)),
        row("DER", with(&der(&good))),
        row("63 bytes", with(&good[..63])),
        row("65 bytes", with(&[&good[..], &[0]].concat())),
        row("96 bytes", with(&[&good[..], &[0; 32]].concat())),
        row("no bytes", with(&[])),
        row(
            "another's",
            signed(
                &forge.header(&json!({})),
                &forge.payload(),
                &SigningKey::generate(),
            ),
        ),
        row(
            "of another payload",
            format!(
                "{}.{}",
                unsigned(&forge.header(&json!({})), b"{}"),
                base64url::encode(&good)
            ),
        ),
        row(
            "over the payload alone",
            with(&forge.key.sign_raw(&forge.payload())),
        ),
    ]
}

/// An ECDSA signature as X.509 writes it.
fn der(raw: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let stripped: Vec<u8> = bytes
            .iter()
            .copied()
            .skip_while(|byte| *byte == 0)
            .collect();
        let padded = if stripped.first().is_some_and(|byte| *byte >= 0x80) {
            [vec![0], stripped].concat()
        } else {
            stripped
        };
        [vec![2, u8::try_from(padded.len()).unwrap()], padded].concat()
    };
    let body = [integer(&raw[..32]), integer(&raw[32..])].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

/// E4 and E5: which key.
pub fn keys(forge: &Forge) -> Rows {
    let own = SigningKey::generate();
    let bait = forge.bait();
    let mut rows = Rows::new();
    for address in [
        &*bait,
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
    ] {
        for parameter in ["jku", "x5u"] {
            let header = forge.header(&json!({ parameter: address, "kid": own.key_id() }));
            rows.push(row(
                &format!("{parameter} {address}"),
                signed(&header, &forge.payload(), &own),
            ));
            rows.push(row(
                &format!("{parameter} {address}, good key"),
                forge.with_header(&json!({ parameter: address })),
            ));
        }
    }
    let jwk = own.public_jwk();
    let embedded = forge.header(&json!({ "jwk": jwk, "kid": own.key_id() }));
    rows.push(row(
        "an embedded key",
        signed(&embedded, &forge.payload(), &own),
    ));
    let authority = CertificateAuthority::generate(
        &domain(),
        SystemClock::new().now(),
        Duration::from_secs(3600),
    )
    .unwrap();
    for chain in [
        json!([]),
        json!(["AA=="]),
        json!("AA=="),
        json!([base64_of(authority.cert_der())]),
    ] {
        rows.push(row(
            &format!("x5c {chain:.40}"),
            forge.with_header(&json!({ "x5c": chain })),
        ));
    }
    for kid in [
        json!("unknown"),
        json!(""),
        json!(null),
        json!(0),
        json!(["x"]),
        json!({}),
        json!("../../etc/passwd"),
        json!("/dev/null"),
        json!("' OR '1'='1"),
        json!("x'; DROP TABLE keys; --"),
        json!(own.key_id()),
        json!(format!("{} ", forge.key.key_id())),
        json!(forge.key.key_id().to_lowercase()),
        json!("k".repeat(4_000)),
        json!("k".repeat(65_536)),
        json!("\u{0}"),
        json!(bait),
    ] {
        rows.push(row(
            &format!("kid {:.40}", kid.to_string()),
            forge.with_header(&json!({ "kid": kid })),
        ));
    }
    rows
}

/// E6: header parameters, members and claims.
pub fn contents(forge: &Forge) -> Rows {
    let now = SystemClock::new().now().unix_seconds();
    let mut rows = Rows::new();
    for header in [
        json!({ "crit": ["exp"] }),
        json!({ "crit": [] }),
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "b64": false }),
        json!({ "b64": true }),
        json!({ "zip": "DEF" }),
        json!({ "cty": "JWT" }),
        json!({ "enc": "A256GCM" }),
        json!({ "typ": "JWT" }),
        json!({ "typ": null }),
        json!({ "typ": "" }),
        json!({ "typ": "at+jwt " }),
        json!({ "typ": ["at+jwt"] }),
        json!({ "typ": "text/at+jwt" }),
        json!({ "typ": "application/application/at+jwt" }),
        json!({ "typ": "txntoken+jwt" }),
        json!({ "typ": "id+jwt" }),
        json!({ "typ": "at+jwt;x=1" }),
        json!({ "typ": "logout+jwt" }),
        json!({ "a": [[[[[[[[1]]]]]]]] }),
    ] {
        rows.push(row(&format!("header {header}"), forge.with_header(&header)));
    }
    let iss = forge.claims["iss"].as_str().unwrap();
    let aud = forge.claims["aud"].as_str().unwrap();
    for claims in [
        json!({ "iss": format!("{iss}/") }),
        json!({ "iss": iss.to_uppercase() }),
        json!({ "iss": null }),
        json!({ "iss": [iss] }),
        json!({ "iss": iss.replace("https", "http") }),
        json!({ "iss": "https://evil.example" }),
        json!({ "iss": "" }),
        json!({ "iss": format!("{iss}.evil.example") }),
        json!({ "iss": iss.replace("localhost", "LOCALHOST") }),
        json!({ "aud": [aud] }),
        json!({ "aud": [aud, "https://other.example"] }),
        json!({ "aud": null }),
        json!({ "aud": "" }),
        json!({ "aud": &aud[..aud.len() - 1] }),
        json!({ "aud": format!("{aud}/") }),
        json!({ "aud": format!("{aud}.evil.example") }),
        json!({ "aud": "https://other.example" }),
        json!({ "aud": "cli" }),
        json!({ "aud": "*" }),
        json!({ "aud": [] }),
        json!({ "aud": {} }),
        json!({ "sub": null }),
        json!({ "sub": 1 }),
        json!({ "sub": ["a", "b"] }),
        json!({ "jti": null }),
        json!({ "jti": "x" }),
        json!({ "client_id": null }),
        json!({ "sid": "x" }),
        json!({ "scope": ["a"] }),
        json!({ "amr": "pwd" }),
        json!({ "exp": (now + 300).to_string() }),
        json!({ "exp": (now + 300) as f64 + 0.5 }),
        json!({ "exp": null }),
        json!({ "exp": [now + 300] }),
        json!({ "exp": now - 60 }),
        json!({ "exp": 0 }),
        json!({ "exp": -1 }),
        json!({ "exp": i64::MIN }),
        json!({ "exp": u64::MAX }),
        json!({ "exp": true }),
        json!({ "iat": now + 60 }),
        json!({ "iat": null }),
        json!({ "iat": (now - 1).to_string() }),
        json!({ "iat": now + 600, "exp": now + 900 }),
        json!({ "iat": now - 10, "exp": now - 20 }),
        json!({ "iat": i64::MAX, "exp": i64::MAX }),
        json!({ "nbf": now + 60 }),
        json!({ "nbf": "0" }),
        json!({ "nbf": [] }),
        json!({ "cnf": {} }),
        json!({ "cnf": { "jkt": "x" } }),
        json!({ "cnf": { "x5t#S256": "A".repeat(43) } }),
        json!({ "cnf": "x" }),
        json!({ "deep": [[[[[[[[[1]]]]]]]]] }),
    ] {
        rows.push(row(&format!("claims {claims}"), forge.with_claims(&claims)));
    }
    for text in [
        "NaN",
        "1e400",
        "-1e400",
        "Infinity",
        "0x7fffffff",
        "99999999999999999999",
        "1e10",
        "4102444800.0",
        "+4102444800",
        "04102444800",
    ] {
        rows.push(row(
            &format!("exp is {text}"),
            forge.with_raw_claim("exp", text),
        ));
    }
    let header = forge.header(&json!({}));
    let with_payload = |payload: &[u8]| signed(&header, payload, &forge.key);
    let object = forge.claims.to_string();
    let more = |members: &str| format!("{},{members}}}", &object[..object.len() - 1]);
    rows.push(row(
        "sub twice",
        with_payload(more(r#""sub":"usr_root""#).as_bytes()),
    ));
    rows.push(row(
        "sub twice, once escaped",
        with_payload(more(r#""\u0073ub":"usr_root""#).as_bytes()),
    ));
    rows.push(row(
        "a deep member twice",
        with_payload(more(r#""x":{"a":1,"a":2}"#).as_bytes()),
    ));
    rows.push(row(
        "something behind it",
        with_payload(format!("{object}{object}").as_bytes()),
    ));
    rows.push(row(
        "no object",
        with_payload(format!("[{object}]").as_bytes()),
    ));
    rows.push(row("no JSON", with_payload(b"sub=usr_root")));
    rows.push(row("nothing", with_payload(b"")));
    rows.push(row(
        "a byte order mark",
        with_payload(format!("\u{feff}{object}").as_bytes()),
    ));
    rows.push(row(
        "no UTF-8",
        with_payload(&[more("\"x\":\"").as_bytes(), b"\xff\"}"].concat()),
    ));
    rows.push(row(
        "UTF-16",
        with_payload(
            &object
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>(),
        ),
    ));
    let twice = header.replacen('{', r#"{"alg":"none","#, 1);
    rows.push(row(
        "alg twice",
        signed(&twice, object.as_bytes(), &forge.key),
    ));
    let good = forge.good();
    rows.push(row(
        "a token in a token",
        with_payload(json!({ "jwt": good }).to_string().as_bytes()),
    ));
    rows
}

/// E7: sizes and encodings.
pub fn encodings(forge: &Forge) -> Rows {
    let good = forge.good();
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = [parts[0], parts[1], parts[2]];
    let deep = |levels: usize| {
        let text = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        forge.with_raw_claim("deep", &text)
    };
    let many: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("c{n}"), json!(n))).collect();
    // The last character of 64 bytes carries two bits that mean nothing.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.find(last).unwrap();
    let twin = &alphabet[index ^ 1..=(index ^ 1)];
    let mut rows = vec![
        row("a megabyte", "a".repeat(1 << 20)),
        row(
            "a megabyte in three parts",
            format!("{header}.{}.{signature}", "a".repeat(1 << 20)),
        ),
        row(
            "20 KiB",
            format!("{header}.{}.{signature}", "a".repeat(20 * 1024)),
        ),
        row("10 000 claims", forge.with_claims(&Value::Object(many))),
        row("depth 10 000", deep(10_000)),
        row("depth 2 000", deep(2_000)),
        row("depth 9", deep(9)),
        row("padding", format!("{good}=")),
        row(
            "padding of each part",
            format!("{header}=.{payload}==.{signature}=="),
        ),
        row("white space", format!("{header}. {payload}.{signature}")),
        row("a tab inside", good.replacen('.', ".\t", 1)),
        row("a comma behind", format!("{good},")),
        row("escaped", good.replace('.', "%2e")),
        row(
            "base64 instead of base64url",
            good.replace('-', "+").replace('_', "/") + "+/",
        ),
        row(
            "spare bits",
            format!(
                "{header}.{payload}.{}{twin}",
                &signature[..signature.len() - 1]
            ),
        ),
        row("one part", header.to_owned()),
        row("four parts", format!("{good}.{signature}")),
        row("five parts", format!("{good}.{payload}.{signature}")),
        row("empty parts", "..".to_owned()),
        row("dots", ".".repeat(5_000)),
        row(
            "JSON serialisation",
            json!({ "protected": header, "payload": payload, "signature": signature }).to_string(),
        ),
        row("no token", "null".to_owned()),
        row(
            "header of no UTF-8",
            format!("{}.{payload}.{signature}", base64url::encode(b"\xff\xfe")),
        ),
    ];
    for (name, value) in [
        ("undefined", "undefined"),
        ("a star", "*"),
        ("a nul", "a\u{0}b"),
    ] {
        rows.push(row(name, value.to_owned()));
    }
    rows
}

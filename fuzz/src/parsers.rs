//! One function for each target: it feeds bytes to a parser of the product and checks what must hold for any bytes.
//!
//! The fuzz targets run them on what the fuzzer invents; a test (`crates/testkit/tests/it/corpora.rs`) runs the same
//! functions on the committed corpora with stable Rust.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tempfile::TempDir;
use testudo_audit::{Filter, IntakeError, Leaf, Ledger, LedgerOptions, verify_proof_file};
use testudo_dataplane::{fuzzing, iplist::IpSet, state::Enforced};
use testudo_identity::{
    AuthMethod, GrantType, Parameters, RedirectKind, RegistrationPolicy, scim_fuzz, signal_fuzz,
    webauthn::{
        AssertionResponse, AttestationPolicy, KnownCredential, RegistrationResponse, RelyingParty,
    },
};
use testudo_model::{
    CanonicalPath, Clock, JoinToken, TrustDomain,
    event::Block,
    snapshot::{PolicyFile, Snapshot},
};
use testudo_runtime::fleet::Bundle;
use testudo_store::{Store, StoreOptions};
use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::{
    ApiKeyText, Cbor, CertificateAuthority, Checkpoint, CoseKey, ForeignKeySet, JwkSet,
    NoteVerifier, RootKey, Svid, SvidKey, TrustBundle, base64url, peer_identity, sha256,
    verify_client_assertion, verify_foreign_jwt, verify_jwt, verify_jwt_of_own_key,
};

/// Name of a target, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: &[Target] = &[
    ("api_key", api_key),
    ("block_intake", block_intake),
    ("canonical_path", canonical_path),
    ("capsules", capsules),
    ("client_hello", client_hello),
    ("client_metadata", client_metadata),
    ("filter_language", filter_language),
    ("fleet_file", fleet_file),
    ("forwarded_header", forwarded_header),
    ("framing_admit", framing_admit),
    ("http1_gate", http1_gate),
    ("http2_frames", http2_frames),
    ("http3_head", http3_head),
    ("join_token", join_token),
    ("keycloak_realm", keycloak_realm),
    ("jwt_verification", jwt_verification),
    ("oauth_parameters", oauth_parameters),
    ("policy_check", policy_check),
    ("proxy_protocol", proxy_protocol),
    ("scim_filter", scim_filter),
    ("signal_request", signal_request),
    ("signed_note", signed_note),
    ("snapshot_json", snapshot_json),
    ("tlog_proof", tlog_proof),
    ("webauthn_response", webauthn_response),
    ("x509_spiffe_id", x509_spiffe_id),
];

/// A snapshot with a service, for what needs one.
pub const SNAPSHOT: &str = include_str!("../corpus/snapshot_json/orders.json");

/// A block for the ledger. One without a certificate chain is signed here first, so that the fuzzer gets past the
/// signature.
pub fn block_intake(data: &[u8]) {
    let _ = Leaf::parse(data);
    let Ok(mut block) = Block::decode(data) else {
        return;
    };
    assert_eq!(block.encode(), data, "a block has one form");
    let mut world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    let world = world.get_or_insert_with(World::new);
    if block.chain.is_empty() {
        world.sign(&mut block);
    }
    let before = world.ledger.size().unwrap();
    match world.ledger.intake(block.clone(), &world.roots) {
        Ok(receipt) => assert_eq!(world.ledger.intake(block, &world.roots).unwrap(), receipt),
        // Two histories of one spool: the ledger keeps the evidence.
        Err(IntakeError::Forked { .. }) => {}
        Err(_) => assert_eq!(
            world.ledger.size().unwrap(),
            before,
            "a refused block leaves no leaf"
        ),
    }
}

/// A path as it stands in a request.
pub fn canonical_path(data: &[u8]) {
    let Ok(raw) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(path) = CanonicalPath::parse(raw) else {
        return;
    };
    let again = CanonicalPath::parse(path.as_str()).unwrap();
    assert_eq!(
        again.as_str(),
        path.as_str(),
        "the canonical form is its own"
    );
    assert!(path.as_str().starts_with('/'));
    assert!(
        !path
            .as_str()
            .split('/')
            .any(|segment| segment == "." || segment == "..")
    );
}

/// The language of `testudo audit search`.
pub fn filter_language(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = Filter::parse(text, FakeClock::today().now());
}

/// The text of a fleet file; the files it names do not exist.
pub fn fleet_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let bundle = Bundle {
        name: "fleet.toml".to_owned(),
        text: text.to_owned(),
        files: Default::default(),
        environment: Default::default(),
        overrides: Vec::new(),
    };
    if let Err(errors) = bundle.load() {
        assert!(!errors.problems.is_empty(), "a refusal says why");
        let _ = errors.to_string();
    }
}

/// Lines of `X-Forwarded-For` of a request that a trusted proxy sent.
pub fn forwarded_header(data: &[u8]) {
    let trusted = IpSet::new(&[
        "10.0.0.0/8".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ]);
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            fields.append("x-forwarded-for", value);
        }
    }
    let proxy: IpAddr = "10.0.0.1".parse().unwrap();
    let client = fuzzing::client_address(proxy, &fields, &trusted);
    assert_eq!(client, client.to_canonical());
    let stranger: IpAddr = "203.0.113.9".parse().unwrap();
    assert_eq!(
        fuzzing::client_address(stranger, &fields, &trusted),
        stranger
    );
}

/// A connection between proxies. However its bytes are cut, the same comes out.
pub fn capsules(data: &[u8]) {
    let whole = fuzzing::connection(data, data.len());
    assert_eq!(fuzzing::connection(data, 1), whole);
}

/// The first bytes of a TLS client. What is a hello stays one when more comes, and its name is a host name.
pub fn client_hello(data: &[u8]) {
    let Some(name) = fuzzing::server_name(data) else {
        return;
    };
    let more = [data, b"more"].concat();
    assert_eq!(fuzzing::server_name(&more).as_ref(), Some(&name));
    if let Some(name) = name {
        assert!(!name.is_empty() && name.len() <= 253 && !name.ends_with('.'));
        assert!(
            !name
                .bytes()
                .any(|byte| byte.is_ascii_uppercase() || byte <= b' ')
        );
    }
}

/// The first bytes of a trusted proxy. A header ends where it ends, whatever follows.
pub fn proxy_protocol(data: &[u8]) {
    let Some((client, length)) = fuzzing::proxy_header(data) else {
        return;
    };
    assert!(length <= data.len());
    let header = data.get(..length).unwrap();
    assert_eq!(fuzzing::proxy_header(header), Some((client, length)));
    for short in 0..length {
        let cut = header.get(..short).unwrap();
        assert_eq!(fuzzing::proxy_header(cut), None, "not before its end");
    }
}

/// The head of an HTTP/1.1 request.
pub fn framing_admit(data: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(_)) = head.parse(data) else {
        return;
    };
    let mut request = Request::builder()
        .method(head.method.unwrap())
        .uri(head.path.unwrap());
    for field in head.headers.iter() {
        request = request.header(field.name, field.value);
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let (head, ()) = request.into_parts();
    let Some((authority, path)) = fuzzing::admit(&head) else {
        return;
    };
    assert!(!authority.contains(['@', '/', ' ', ',']), "{authority}");
    assert_eq!(CanonicalPath::parse(&path).unwrap().as_str(), path);
    assert_eq!(head.headers.get_all("host").iter().count(), 1);
}

/// The bytes of an HTTP/1.1 connection. Whatever the gate lets through, another parser cuts into the same requests.
pub fn http1_gate(data: &[u8]) {
    let followed = fuzzing::follow(data, data.len());
    for step in [1, 7] {
        assert_eq!(fuzzing::follow(data, step), followed, "{step} at a time");
    }
    let mut rest = followed.accepted.as_slice();
    let mut requests = 0;
    while !rest.is_empty() {
        requests += 1;
        match behind_request(rest) {
            Some(behind) => rest = behind,
            // A body of which bytes are missing.
            None => break,
        }
    }
    assert_eq!(requests, followed.requests);
}

/// The bytes of an HTTP/2 connection. Where frames begin does not depend on how they come.
pub fn http2_frames(data: &[u8]) {
    const PREFACE_BYTES: usize = 24;
    const HEAD_BYTES: usize = 9;
    let frames = fuzzing::frames(data, data.len());
    for step in [1, 7] {
        assert_eq!(fuzzing::frames(data, step), frames, "{step} at a time");
    }
    let mut rest = data.get(PREFACE_BYTES..).unwrap_or_default();
    for (kind, stream, length) in frames {
        let (head, behind) = rest.split_at(HEAD_BYTES);
        assert_eq!(head[3], kind);
        assert_eq!(&head[..3], &length.to_be_bytes()[1..]);
        assert_eq!(&head[6..], &stream.to_be_bytes()[1..]);
        rest = behind.get(length as usize..).unwrap_or_default();
    }
    assert!(rest.len() < HEAD_BYTES);
}

/// A field section of HTTP/3. Of what is taken, HTTP/1.1 would read the same.
pub fn http3_head(data: &[u8]) {
    let Some(Some(request)) = fuzzing::http3_head(data.to_vec().into()) else {
        return;
    };
    let target = request.uri().path_and_query().unwrap();
    let mut text = format!("{} {target} HTTP/1.1\r\n", request.method()).into_bytes();
    for (name, value) in request.headers() {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    let mut fields = vec![httparse::EMPTY_HEADER; request.headers().len()];
    let mut read = httparse::Request::new(&mut fields);
    let whole = read.parse(&text).unwrap();
    assert_eq!(whole, httparse::Status::Complete(text.len()));
    assert_eq!(read.method, Some(request.method().as_str()));
    assert_eq!(read.path, Some(target.as_str()));
    let same = read
        .headers
        .iter()
        .zip(request.headers())
        .all(|(field, (name, value))| {
            field.name == name.as_str() && field.value == value.as_bytes()
        });
    assert!(same && read.headers.len() == request.headers().len());
}

/// What follows the first request in `bytes`, whose head is whole, as httparse reads it.
fn behind_request(bytes: &[u8]) -> Option<&[u8]> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Request::new(&mut fields);
    let length = head.parse(bytes).unwrap().unwrap();
    // What hyper makes of it must succeed, or the two would count differently.
    head.path.unwrap().parse::<http::Uri>().unwrap();
    http::Method::from_bytes(head.method.unwrap().as_bytes()).unwrap();
    for field in head.headers.iter() {
        HeaderValue::from_bytes(field.value).unwrap();
    }
    let value = |name: &str| {
        let mut named = head
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name));
        let value = named.next()?.value;
        assert!(named.next().is_none(), "{name} twice");
        Some(std::str::from_utf8(value).unwrap())
    };
    assert!(value("host").is_some() || head.version == Some(0));
    let mut rest = bytes.get(length..)?;
    let Some(coding) = value("transfer-encoding") else {
        let length = value("content-length").map_or(0, |length| length.parse().unwrap());
        return rest.get(length..);
    };
    assert!(coding.eq_ignore_ascii_case("chunked") && value("content-length").is_none());
    loop {
        let (line, size) = match httparse::parse_chunk_size(rest).unwrap() {
            httparse::Status::Complete(chunk) => chunk,
            httparse::Status::Partial => return None,
        };
        rest = rest.get(line..)?;
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; 128];
            return match httparse::parse_headers(rest, &mut trailers).unwrap() {
                httparse::Status::Complete((length, _)) => rest.get(length..),
                httparse::Status::Partial => None,
            };
        }
        rest = rest.get(usize::try_from(size).ok()?..)?;
        match rest {
            [b'\r', b'\n', behind @ ..] => rest = behind,
            [] | [b'\r'] => return None,
            _ => panic!("a chunk ends elsewhere"),
        }
    }
}

/// What somebody shows as an API key. What is read is the text as it is.
pub fn api_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(key) = ApiKeyText::parse(text) else {
        return;
    };
    assert!(ApiKeyText::is_meant(data));
    assert_eq!(*key.digest(), sha256(data));
    assert!(text.contains(key.id().ulid().as_str()));
}

/// A printed join token, and the credential in one.
pub fn join_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = JoinToken::parse_credential(text);
    let Ok(token) = JoinToken::parse(text) else {
        return;
    };
    let printed = token.print();
    let read = JoinToken::parse(printed.expose()).unwrap();
    assert_eq!(read.print().expose(), printed.expose());
    let credential = token.credential();
    let (id, secret) = JoinToken::parse_credential(credential.expose()).unwrap();
    assert_eq!(
        (id, secret.expose()),
        (token.id.clone(), token.secret.expose())
    );
    assert!(!format!("{token:?}").contains(secret.expose().as_str()));
}

/// A realm as Keycloak exports it. Nobody comes out of it with a role of the fleet's own.
pub fn keycloak_realm(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(realm) = testudo_identity::import::keycloak::read(text) else {
        return;
    };
    let of_users = realm.users.iter().flat_map(|user| &user.profile.roles);
    for role in realm.roles.iter().chain(of_users) {
        assert!(!role.as_str().starts_with("testudo-"), "{role}");
    }
    for user in &realm.users {
        let groups = &user.profile.groups;
        assert!(groups.iter().all(|group| realm.groups.contains_key(group)));
    }
}

/// A key set in the first line, a token in the second.
pub fn jwt_verification(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (keys, token) = text.split_once('\n').unwrap_or((text, ""));
    let token = token.trim_end();
    if verify_jwt_of_own_key::<Value>(token, "dpop+jwt").is_ok() {
        assert!(verify_jwt_of_own_key::<Value>(token, "at+jwt").is_err());
    }
    if let Ok(foreign) = ForeignKeySet::parse(keys)
        && verify_foreign_jwt::<Value>(token, &foreign).is_ok()
    {
        assert!(verify_foreign_jwt::<Value>(&format!("{token}="), &foreign).is_err());
    }
    let Ok(keys) = JwkSet::parse(keys) else {
        return;
    };
    if verify_jwt::<Value>(token, "at+jwt", &keys).is_ok() {
        // Strict encoding: no other text is the same token.
        assert!(verify_jwt::<Value>(&format!("{token}="), "at+jwt", &keys).is_err());
        assert!(verify_jwt::<Value>(token, "txntoken+jwt", &keys).is_err());
        assert!(verify_client_assertion::<Value>(token, &keys).is_err());
    }
}

/// What a client that registers itself says about itself. Whatever is accepted sends nobody elsewhere.
pub fn client_metadata(data: &[u8]) {
    let policy = RegistrationPolicy {
        grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        scopes: "orders:read".parse().into_iter().collect(),
        auth_methods: vec![AuthMethod::None, AuthMethod::ClientSecretBasic],
        redirects: vec![RedirectKind::Https],
        redirect_hosts: vec!["*.apps.example".to_owned()],
        pkce_optional: true,
        client_lifetime_seconds: None,
    };
    let Ok(profile) = policy.judge(data) else {
        return;
    };
    assert!(
        profile
            .scopes
            .iter()
            .all(|scope| policy.scopes.contains(scope))
    );
    assert!(
        profile
            .grants
            .iter()
            .all(|grant| policy.grants.contains(grant))
    );
    let returns = profile.logout.post_logout_redirect_uris.iter();
    for uri in profile.redirect_uris.iter().chain(returns) {
        let uri: http::Uri = uri.as_str().parse().unwrap();
        assert_eq!(uri.scheme_str(), Some("https"));
        assert!(uri.host().unwrap().ends_with(".apps.example"), "{uri}");
    }
}

/// A form of the token endpoint.
pub fn oauth_parameters(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = Parameters::parse(text);
}

/// A Cedar policy file.
pub fn policy_check(data: &[u8]) {
    static FLEET: OnceLock<Snapshot> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let fleet = FLEET.get_or_init(|| serde_json::from_str(SNAPSHOT).unwrap());
    let file = PolicyFile {
        name: "fuzz.cedar".to_owned(),
        text: text.to_owned(),
    };
    for problem in testudo_policy::check(&[file], fleet) {
        let _ = problem.to_string();
    }
}

/// A filter or path of SCIM: whatever it is, it is read in bounds, and what is taken can be compared with a resource.
pub fn scim_filter(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        scim_fuzz(text);
    }
}

/// What receivers of signals send: descriptions of streams, polls, subjects, and why they refuse a token.
pub fn signal_request(data: &[u8]) {
    signal_fuzz(data);
}

/// A verifier key in the first line, a signed note after it.
pub fn signed_note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (key, note) = text.split_once('\n').unwrap_or(("", text));
    if let Ok(checkpoint) = Checkpoint::parse(note) {
        assert_eq!(Checkpoint::parse(&checkpoint.to_text()), Ok(checkpoint));
    }
    if let Ok(verifier) = NoteVerifier::parse(key)
        && let Ok(signed) = verifier.open(note)
    {
        assert!(
            note.starts_with(&signed),
            "what was signed is what stands there"
        );
    }
}

/// A snapshot, compiled as a proxy compiles it.
pub fn snapshot_json(data: &[u8]) {
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(data) {
        let _ = Enforced::compile(&snapshot);
    }
}

/// A verifier key in the first line, a proof file after it.
pub fn tlog_proof(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (key, proof) = text.split_once('\n').unwrap_or(("", text));
    if let Ok(proven) = verify_proof_file(proof, key) {
        assert!(proven.index < proven.checkpoint.size);
    }
}

/// A certificate in DER.
pub fn x509_spiffe_id(data: &[u8]) {
    let certificate = CertificateDer::from(data);
    if let Some(id) = peer_identity(&[certificate]) {
        assert_eq!(
            id.to_string().parse(),
            Ok(id),
            "a SPIFFE id is its own text"
        );
    }
    let mut world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    let world = world.get_or_insert_with(World::new);
    assert!(
        world
            .roots
            .verify_svid(&[data.to_vec()], world.clock.now())
            .is_err(),
        "nobody issued it"
    );
}

/// What a browser sends of a passkey: a line of client data, and an attestation object or authenticator data. The challenge of
/// all seeds is the same, so that the fuzzer gets past it.
pub fn webauthn_response(data: &[u8]) {
    if let Ok((value, rest)) = Cbor::parse_prefix(data) {
        let encoded = data.strip_suffix(rest).unwrap();
        assert_eq!(
            Cbor::parse(encoded),
            Ok(value),
            "a value ends where it ends"
        );
    }
    let _ = CoseKey::parse(data);
    let line = data.iter().position(|byte| *byte == b'\n');
    let (client_data, rest) = data.split_at(line.unwrap_or(data.len()));
    let rest = base64url::encode(rest.get(1..).unwrap_or_default());
    let client_data = base64url::encode(client_data);
    let party = RelyingParty::of_issuer("https://id.bookshop.example").unwrap();
    let challenge = [7; 32];
    let registration = RegistrationResponse {
        client_data: &client_data,
        attestation_object: &rest,
    };
    let now = FakeClock::today().now();
    let none = AttestationPolicy::None;
    let Ok(credential) = party.verify_registration(registration, &challenge, &none, now) else {
        return;
    };
    assert!(CoseKey::parse(&credential.public_key).is_ok());
    assert!(
        party
            .verify_registration(registration, &[8; 32], &none, now)
            .is_err()
    );
    let known = KnownCredential {
        public_key: &credential.public_key,
        user_handle: b"usr",
        sign_count: credential.sign_count,
        backup_eligible: credential.backup_eligible,
    };
    let assertion = AssertionResponse {
        credential_id: &base64url::encode(&credential.id),
        client_data: &client_data,
        authenticator_data: &rest,
        signature: &rest,
        user_handle: &base64url::encode(b"usr"),
    };
    assert!(
        party
            .verify_assertion(assertion, &challenge, known)
            .is_err(),
        "a registration is no login"
    );
}

/// Ends the ledger that [`block_intake`] began.
pub fn clean_up() {
    *WORLD.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// A ledger, the fleet it belongs to, and a proxy of it.
struct World {
    ledger: Ledger,
    roots: TrustBundle,
    svid: Svid,
    clock: Arc<FakeClock>,
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        let (folder, clock) = (TempDir::new().unwrap(), FakeClock::today());
        let domain: TrustDomain = "bookshop.example".parse().unwrap();
        let store = Store::open(StoreOptions {
            path: folder.path().join("data"),
            root_key: RootKey::from_bytes([7; 32]),
            clock: clock.clone(),
            entropy: SeededEntropy::new(1),
        })
        .unwrap();
        let ledger = Ledger::open(LedgerOptions {
            store,
            tenant: "default".parse().unwrap(),
            trust_domain: domain.clone(),
            clock: clock.clone(),
            entropy: SeededEntropy::new(2),
        })
        .unwrap();
        let day = Duration::from_secs(86_400);
        let authority = CertificateAuthority::generate(&domain, clock.now(), day).unwrap();
        let id = domain.service(&"orders".parse().unwrap());
        let key = SvidKey::generate();
        let request = key.csr_der(&id).unwrap();
        let entropy = SeededEntropy::new(3);
        let leaf = authority
            .issue(&request, &id, &[], clock.now(), day, &*entropy)
            .unwrap();
        let svid = Svid::new(vec![leaf, authority.cert_der().to_vec()], key).unwrap();
        let roots = TrustBundle::new(domain, vec![authority.cert_der().to_vec()]).unwrap();
        Self {
            ledger,
            roots,
            svid,
            clock,
            _folder: folder,
        }
    }

    fn sign(&self, block: &mut Block) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        block.signature = base64url::encode(&self.svid.sign(block.head.as_bytes()));
        block.chain = self
            .svid
            .chain()
            .iter()
            .map(|der| STANDARD.encode(der))
            .collect();
    }
}

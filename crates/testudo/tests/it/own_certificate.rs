//! A gateway with a certificate of somebody else's: new files count from SIGHUP on, and files that are none change nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::ClientConfig;
use testudo_model::Clock;
use testudo_runtime::SystemClock;
use testudo_trust::{CertificateAuthority, SvidKey, SystemEntropy, web_client_config};

use crate::{
    roles::{Apart, eventually},
    wire,
};

const GET: &[u8] = b"GET /books/1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LIFETIME: Duration = Duration::from_secs(3_600);

/// The files that a server is told about.
pub struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// The certificate of the authority, for who shall trust it.
    pub root: PathBuf,
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        Self {
            chain: folder.join("web.pem"),
            key: folder.join("web.key"),
            root: folder.join("web-root.pem"),
        }
    }

    /// Writes a new key with a certificate for `localhost` by a new authority; what trusts that one.
    pub fn renew(&self) -> Arc<ClientConfig> {
        let now = SystemClock::new().now();
        let domain = "others.example".parse().unwrap();
        let authority = CertificateAuthority::generate(&domain, now, LIFETIME).unwrap();
        let key = SvidKey::generate();
        let subject = domain.service(&"web".parse().unwrap());
        let request = key.csr_der(&subject).unwrap();
        let names = ["localhost".to_owned()];
        let certificate = authority
            .issue_web(&request, &names, &[], now, LIFETIME, &SystemEntropy)
            .unwrap();
        fs::write(&self.chain, pem("CERTIFICATE", &certificate)).unwrap();
        fs::write(&self.key, pem("PRIVATE KEY", key.to_pkcs8().expose())).unwrap();
        let root = pem("CERTIFICATE", authority.cert_der());
        fs::write(&self.root, &root).unwrap();
        web_client_config(root.as_bytes(), &["http/1.1"]).unwrap()
    }
}

/// RFC 7468: OpenSSL reads no longer lines.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|start| &text[start..text.len().min(start + 64)])
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Whether a new connection is one to who `trusted` knows, and carries a call.
fn is_served(apart: &Apart, trusted: &Arc<ClientConfig>) -> bool {
    let gateway = apart.fleet.address("/gateway");
    let mut stream = wire::connect_tls(gateway, "localhost", trusted).unwrap();
    matches!(wire::exchange(&mut stream, GET), Ok(Some(answer)) if answer.status == 200)
}

#[test]
fn new_files_count_from_sighup_on_and_broken_ones_change_nothing() {
    let mut apart = Apart::bookshop();
    let folder = Path::new(apart.fleet.folder.path()).to_owned();
    let files = Files::new(&folder);
    let first = files.renew();
    let [chain, key] = [&files.chain, &files.key].map(|file| file.display().to_string());
    let further = ["--tls-certificate", &chain, "--tls-key", &key];
    apart.gateway.restart_with(&apart.fleet.folder, &further);
    assert!(is_served(&apart, &first));

    let gateway = apart.fleet.address("/gateway");
    let mut kept = wire::connect_tls(gateway, "localhost", &first).unwrap();
    assert!(wire::exchange(&mut kept, GET).unwrap().is_some());
    let second = files.renew();
    assert!(is_served(&apart, &first), "nobody has said so yet");
    apart.gateway.process.signal("-HUP");
    eventually("the new certificate is shown", || {
        is_served(&apart, &second)
    });
    assert!(!is_served(&apart, &first));
    let answer = wire::exchange(&mut kept, GET).unwrap().unwrap();
    assert_eq!(answer.status, 200, "connections stay");

    fs::write(&files.chain, "none").unwrap();
    apart.gateway.process.signal("-HUP");
    let log = folder.join("gateway.log");
    let is_told = || fs::read_to_string(&log).unwrap().contains("stays as it is");
    eventually("the log says so", is_told);
    assert!(is_served(&apart, &second));
    // A key that belongs to another certificate is no better.
    files.renew();
    let certificate = fs::read(&files.chain).unwrap();
    files.renew();
    fs::write(&files.chain, certificate).unwrap();
    apart.gateway.process.signal("-HUP");
    let times = || {
        fs::read_to_string(&log)
            .unwrap()
            .matches("stays as it is")
            .count()
    };
    eventually("the log says so again", || times() == 2);
    assert!(is_served(&apart, &second));
}

//! Certificates for the peers, of the kind Testudo's proxies have: P-256, from one root.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use testudo_model::{Clock, ServiceName, SpiffeId, TrustDomain};
use testudo_runtime::SystemClock;
use testudo_trust::{CertificateAuthority, SvidKey, SystemEntropy};

use crate::Outcome;

const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const LINE: usize = 64;

/// A root and what it signed, as PEM files.
pub(crate) struct Certificates {
    folder: PathBuf,
    authority: CertificateAuthority,
    clock: SystemClock,
}

/// Files of one certificate.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// SPIFFE id, if it has one.
    pub(crate) id: String,
    /// PEM of the certificate.
    pub(crate) chain: PathBuf,
    /// PEM of the key.
    pub(crate) key: PathBuf,
    /// Both in one file, as haproxy wants them.
    pub(crate) both: PathBuf,
}

impl Certificates {
    /// A new root in `folder`.
    pub(crate) fn create(folder: &Path) -> Outcome<Self> {
        let clock = SystemClock::new();
        let domain: TrustDomain = "peers.example".parse()?;
        let authority = CertificateAuthority::generate(&domain, clock.now(), LIFETIME)?;
        let certificates = Self {
            folder: folder.to_owned(),
            authority,
            clock,
        };
        let root = pem("CERTIFICATE", certificates.authority.cert_der());
        fs::write(certificates.root(), root)?;
        Ok(certificates)
    }

    /// PEM of the root.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root.pem")
    }

    /// A certificate for HTTPS at `localhost`.
    pub(crate) fn web(&self) -> Outcome<Identity> {
        let (key, request) = self.request("web")?;
        let certificate = self.authority.issue_web(
            &request,
            &["localhost".to_owned()],
            &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            self.clock.now(),
            LIFETIME,
            &SystemEntropy,
        )?;
        self.write("web", String::new(), &certificate, &key)
    }

    /// An X.509-SVID for the service `name`.
    pub(crate) fn workload(&self, name: &str) -> Outcome<Identity> {
        let (key, request) = self.request(name)?;
        let id = self.id(name)?;
        let certificate = self.authority.issue(
            &request,
            &id,
            &[],
            self.clock.now(),
            LIFETIME,
            &SystemEntropy,
        )?;
        self.write(name, id.to_string(), &certificate, &key)
    }

    fn id(&self, name: &str) -> Outcome<SpiffeId> {
        let name: ServiceName = name.parse()?;
        Ok(self.authority.trust_domain().service(&name))
    }

    fn request(&self, name: &str) -> Outcome<(SvidKey, Vec<u8>)> {
        let key = SvidKey::generate();
        let request = key.csr_der(&self.id(name)?)?;
        Ok((key, request))
    }

    fn write(
        &self,
        name: &str,
        id: String,
        certificate: &[u8],
        key: &SvidKey,
    ) -> Outcome<Identity> {
        let file = |suffix: &str| self.folder.join(format!("{name}{suffix}"));
        let identity = Identity {
            id,
            chain: file(".pem"),
            key: file(".key"),
            both: file(".both"),
        };
        let chain = pem("CERTIFICATE", certificate);
        let key = pem("PRIVATE KEY", key.to_pkcs8().expose());
        fs::write(&identity.both, [chain.as_str(), key.as_str()].concat())?;
        fs::write(&identity.chain, chain)?;
        fs::write(&identity.key, key)?;
        Ok(identity)
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (position, character) in STANDARD.encode(der).chars().enumerate() {
        if position > 0 && position % LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

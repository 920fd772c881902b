//! A small fleet: a CA, its bundle, and workloads with SVIDs.

use std::{sync::Arc, time::Duration};

use testudo_model::{Clock, SpiffeId, Timestamp, TrustDomain};
use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::{CertificateAuthority, Svid, SvidKey, TrustBundle};

pub const SVID_LIFETIME: Duration = Duration::from_secs(15 * 60);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub struct Fleet {
    pub authority: CertificateAuthority,
    pub clock: Arc<FakeClock>,
    entropy: Arc<SeededEntropy>,
}

impl Fleet {
    pub fn new() -> Self {
        Self::of("bookshop.example")
    }

    pub fn of(domain: &str) -> Self {
        let clock = FakeClock::today();
        let domain: TrustDomain = domain.parse().unwrap();
        let authority = CertificateAuthority::generate(&domain, clock.now(), DAY).unwrap();
        Self {
            authority,
            clock,
            entropy: SeededEntropy::new(7),
        }
    }

    /// The same fleet after its CA was replaced.
    pub fn with_new_root(&self) -> Self {
        let domain = self.authority.trust_domain();
        let authority = CertificateAuthority::generate(domain, self.now(), DAY).unwrap();
        Self {
            authority,
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    pub fn id(&self, service: &str) -> SpiffeId {
        self.authority
            .trust_domain()
            .service(&service.parse().unwrap())
    }

    pub fn bundle(&self) -> TrustBundle {
        let root = self.authority.cert_der().to_vec();
        TrustBundle::new(self.authority.trust_domain().clone(), vec![root]).unwrap()
    }

    /// A bundle with the roots of both, as while a CA is being replaced.
    pub fn bundle_with(&self, other: &Self) -> TrustBundle {
        let roots = [self, other].map(|fleet| fleet.authority.cert_der().to_vec());
        TrustBundle::new(self.authority.trust_domain().clone(), roots.to_vec()).unwrap()
    }

    pub fn leaf(&self, service: &str, key: &SvidKey) -> Vec<u8> {
        let id = self.id(service);
        let csr = key.csr_der(&id).unwrap();
        self.authority
            .issue(&csr, &id, &[], self.now(), SVID_LIFETIME, &*self.entropy)
            .unwrap()
    }

    pub fn svid(&self, service: &str) -> Svid {
        let key = SvidKey::generate();
        Svid::new(vec![self.leaf(service, &key)], key).unwrap()
    }

    /// An SVID whose chain carries the root, as the control plane presents it for first contact.
    pub fn svid_with_root(&self, service: &str) -> Svid {
        let key = SvidKey::generate();
        let chain = vec![self.leaf(service, &key), self.authority.cert_der().to_vec()];
        Svid::new(chain, key).unwrap()
    }

    pub fn web_leaf(&self, name: &str, key: &SvidKey) -> Vec<u8> {
        let csr = key.csr_der(&self.id("web")).unwrap();
        let (dns, ips) = ([name.to_owned()], [[127, 0, 0, 1].into()]);
        self.authority
            .issue_web(&csr, &dns, &ips, self.now(), DAY, &*self.entropy)
            .unwrap()
    }
}

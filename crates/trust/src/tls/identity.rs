//! What a process presents and whom it trusts, right now.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::x509::{Svid, TrustBundle};

/// The current SVID and trust bundle of a workload. Clones share it; a swap is seen by every handshake that
/// begins after it, and connections that exist stay as they are.
#[derive(Clone)]
pub struct IdentitySource(Arc<ArcSwap<Current>>);

#[derive(Clone)]
struct Current {
    svid: Arc<Svid>,
    bundle: Arc<TrustBundle>,
    generation: u64,
}

impl IdentitySource {
    /// A source that starts with `svid` and `bundle`, generation 0.
    pub fn new(svid: Svid, bundle: TrustBundle) -> Self {
        let current = Current {
            svid: Arc::new(svid),
            bundle: Arc::new(bundle),
            generation: 0,
        };
        Self(Arc::new(ArcSwap::from_pointee(current)))
    }

    /// Replaces the SVID. Verify it first as peers will ([`TrustBundle::verify_svid`] at the current time):
    /// an old SVID that still holds is better than a new one nobody accepts.
    pub fn swap(&self, svid: Svid) {
        let svid = Arc::new(svid);
        self.update(|current| current.svid = Arc::clone(&svid));
    }

    /// Replaces the bundle.
    pub fn swap_bundle(&self, bundle: TrustBundle) {
        let bundle = Arc::new(bundle);
        self.update(|current| current.bundle = Arc::clone(&bundle));
    }

    /// The SVID presented now.
    pub fn current(&self) -> Arc<Svid> {
        Arc::clone(&self.0.load().svid)
    }

    /// The bundle peers are verified against now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.0.load().bundle)
    }

    /// How often anything was swapped: caches made under another generation are stale.
    pub fn generation(&self) -> u64 {
        self.0.load().generation
    }

    fn update(&self, change: impl Fn(&mut Current)) {
        self.0.rcu(|current| {
            let mut next = Current::clone(current);
            change(&mut next);
            next.generation += 1;
            next
        });
    }

    fn certified_for(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let ours = schemes.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        ours.then(|| Arc::clone(self.0.load().svid.certified()))
    }
}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.0.load();
        write!(
            formatter,
            "IdentitySource({:?}, generation {})",
            current.svid, current.generation
        )
    }
}

impl ResolvesServerCert for IdentitySource {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified_for(hello.signature_schemes())
    }
}

impl ResolvesClientCert for IdentitySource {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified_for(schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

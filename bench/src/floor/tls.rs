//! TLS 1.3 of the floor. What the generator offers decides about the outer side; between two floors rustls' first choice is
//! AES-256, as it is OpenSSL's between two nginx.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};

use super::{IdentityFiles, Wire};
use crate::Outcome;

/// The side that is connected to, for HTTP as it comes `from` there.
pub(super) fn server(from: Wire, identity: &IdentityFiles) -> Outcome<Arc<ServerConfig>> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let builder = if from == Wire::Tls {
        builder.with_no_client_auth()
    } else {
        let roots = Arc::new(identity.roots()?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        builder.with_client_cert_verifier(verifier)
    };
    let (chain, key) = certificate(&identity.chain, &identity.key)?;
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![protocol(from)];
    Ok(Arc::new(config))
}

/// The side that connects, for HTTP `over` what is given.
pub(super) fn client(over: Wire, identity: &IdentityFiles) -> Outcome<Arc<ClientConfig>> {
    let (chain, key) = certificate(&identity.client_chain, &identity.client_key)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(identity.roots()?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![protocol(over)];
    Ok(Arc::new(config))
}

fn protocol(wire: Wire) -> Vec<u8> {
    let name: &[u8] = if wire == Wire::Mesh {
        b"h2"
    } else {
        b"http/1.1"
    };
    name.to_vec()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Certificates with their key, of PEM files.
fn certificate(
    chain: &Path,
    key: &Path,
) -> Outcome<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_file(key)?))
}

impl IdentityFiles {
    fn roots(&self) -> Outcome<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.root)? {
            roots.add(root?)?;
        }
        Ok(roots)
    }
}

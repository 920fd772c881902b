//! First contact: a join token for a certificate.

use std::{fmt, sync::Arc};

use testudo_model::{Clock, JoinToken, SpiffeId, TrustDomain, limits::LATE_RENEWAL};
use testudo_runtime::with_causes;
use testudo_trust::{IdentitySource, Svid, SvidKey, TrustBundle, pinned_client_config, sha256};

use super::{
    LinkError,
    channel::{ServerAddress, answer, channel},
    folder::StateFolder,
    mesh_channel,
    renewal::renewed,
};
use crate::wire::{EnrolRequest, enrolment_client::EnrolmentClient};

/// Largest enrolment answer: a chain and a bundle.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// A proxy that is a member of the fleet.
pub struct Membership {
    /// Its certificate and whom it trusts; renewed by [`super::Link::run`].
    pub identity: IdentitySource,
}

/// Who a proxy is meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A gateway.
    Gateway,
    /// The sidecar of any service.
    Sidecar,
    /// This one and no other.
    Exactly(SpiffeId),
}

impl Expected {
    fn check(&self, id: &SpiffeId) -> Result<(), LinkError> {
        let is_expected = match self {
            Self::Gateway => *id == id.trust_domain().gateway(),
            Self::Sidecar => id.service().is_some(),
            Self::Exactly(expected) => id == expected,
        };
        if is_expected {
            return Ok(());
        }
        Err(LinkError::WrongIdentity {
            got: id.clone(),
            expected: self.clone(),
        })
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => formatter.write_str("a gateway"),
            Self::Sidecar => formatter.write_str("a sidecar"),
            Self::Exactly(id) => id.fmt(formatter),
        }
    }
}

/// Becomes a member: with what `folder` kept if its certificate still lives or can be renewed late, otherwise with
/// the token.
/// `expected` is who the proxy is meant to be, if it was told: a token for somebody else is refused before it is used
/// up.
///
/// # Errors
/// There is neither a living certificate nor a token, or the control plane could not be reached, is not the
/// pinned one, or refused.
pub async fn join(
    folder: Option<&StateFolder>,
    token: Option<&JoinToken>,
    server: Option<&ServerAddress>,
    expected: Option<&Expected>,
    clock: Arc<dyn Clock>,
) -> Result<Membership, LinkError> {
    let check = |id: &SpiffeId| expected.map_or(Ok(()), |expected| expected.check(id));
    if let Some(identity) = kept_identity(folder)? {
        let kept = identity.current();
        check(kept.id())?;
        if identity
            .bundle()
            .verify_svid(kept.chain(), clock.now())
            .is_ok()
        {
            tracing::info!(id = %kept.id(), "continuing with the identity kept from the last run");
            return Ok(Membership { identity });
        }
        if let Some(server) = server
            && clock.now() < kept.not_after() + LATE_RENEWAL
        {
            match renew_late(&identity, server, &clock).await {
                Ok(()) => {
                    tracing::info!(id = %kept.id(), "the identity kept from the last run had ended and is renewed");
                    folder.map_or(Ok(()), |folder| folder.keep_identity(&identity))?;
                    return Ok(Membership { identity });
                }
                Err(error) if token.is_none() => return Err(error),
                Err(error) => tracing::warn!(
                    error = with_causes(&error),
                    "the identity kept from the last run cannot be renewed"
                ),
            }
        }
    }
    let token = token.ok_or(LinkError::TokenNeeded)?;
    check(&token.identity)?;
    let server = match (server, &token.server) {
        (Some(server), _) => server.clone(),
        (None, Some(server)) => ServerAddress::parse(server)?,
        (None, None) => return Err(LinkError::ServerNeeded),
    };
    let (svid, bundle) = enrol(token, &server, clock).await?;
    // What the token says is not proven; what the certificate says is.
    check(svid.id())?;
    tracing::info!(id = %svid.id(), until = %svid.not_after(), "joined the fleet");
    let identity = IdentitySource::new(svid, bundle);
    if let Some(folder) = folder {
        folder.keep_identity(&identity)?;
    }
    Ok(Membership { identity })
}

fn kept_identity(folder: Option<&StateFolder>) -> Result<Option<IdentitySource>, LinkError> {
    let kept = folder.map(StateFolder::identity).transpose()?.flatten();
    Ok(kept.map(|(svid, bundle)| IdentitySource::new(svid, bundle)))
}

/// Shows the ended certificate and takes the next one into `identity`.
async fn renew_late(
    identity: &IdentitySource,
    server: &ServerAddress,
    clock: &Arc<dyn Clock>,
) -> Result<(), LinkError> {
    let channel = mesh_channel(server, identity, clock)?;
    let (svid, bundle) = renewed(channel, &identity.current(), &**clock).await?;
    identity.swap_bundle(bundle);
    identity.swap(svid);
    Ok(())
}

async fn enrol(
    token: &JoinToken,
    server: &ServerAddress,
    clock: Arc<dyn Clock>,
) -> Result<(Svid, TrustBundle), LinkError> {
    let trust_domain = token.identity.trust_domain();
    let control_plane = trust_domain.server();
    let tls = pinned_client_config(token.ca_sha256, &control_plane, Arc::clone(&clock), &["h2"]);
    let key = SvidKey::generate();
    // The request's name is not looked at; the token says who we are.
    let certificate_request = key.csr_der(&control_plane).map_err(LinkError::Identity)?;
    let mut client =
        EnrolmentClient::new(channel(server, tls)?).max_decoding_message_size(MAX_ANSWER_BYTES);
    let request = EnrolRequest {
        join_token: token.credential().into_exposed(),
        certificate_request: certificate_request.into(),
    };
    let reply = answer("enrol", client.enrol(request)).await?;
    let bundle = parse_bundle(trust_domain, &reply.trust_bundle)?;
    if !bundle
        .roots()
        .iter()
        .any(|root| sha256(root) == token.ca_sha256)
    {
        return Err(LinkError::Unpinned);
    }
    let chain = reply.chain.iter().map(|der| der.to_vec()).collect();
    let svid = accept(chain, key, &bundle, &*clock)?;
    Ok((svid, bundle))
}

/// A certificate is taken only if our peers will take it: the same verification, before it is used.
pub(super) fn accept(
    chain: Vec<Vec<u8>>,
    key: SvidKey,
    bundle: &TrustBundle,
    clock: &dyn Clock,
) -> Result<Svid, LinkError> {
    bundle
        .verify_svid(&chain, clock.now())
        .map_err(LinkError::Identity)?;
    Svid::new(chain, key).map_err(LinkError::Identity)
}

/// A trust bundle from the wire.
pub(super) fn parse_bundle(domain: TrustDomain, json: &[u8]) -> Result<TrustBundle, LinkError> {
    let text = std::str::from_utf8(json).map_err(|_| LinkError::Malformed {
        what: "trust bundle",
    })?;
    TrustBundle::from_json(domain, text).map_err(|_| LinkError::Malformed {
        what: "trust bundle",
    })
}

//! What an authenticator says of its own origin (sections 6.5 and 8).
//!
//! Two formats are understood: `none` (8.7) and `packed` (8.2), with the credential's own key or with certificates. Where
//! nothing is demanded, other formats say as little as `none`.

use testudo_model::Timestamp;
use testudo_trust::{Cbor, CoseAlgorithm, verify_packed_attestation};

use super::{AttestationPolicy, WebauthnError, authenticator_data::AttestedCredential};

/// An attestation object (section 6.5.4).
pub(super) struct AttestationObject<'a> {
    format: &'a str,
    statement: Cbor<'a>,
    pub(super) authenticator_data: &'a [u8],
}

/// What a correct statement proves.
enum Attested {
    /// Nothing.
    None,
    /// That whoever has the credential's key says so.
    SelfSigned,
    /// That whoever has the key of the first of these certificates says so.
    Certified(Vec<Vec<u8>>),
}

impl<'a> AttestationObject<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, WebauthnError> {
        let malformed = WebauthnError::AttestationObject;
        let object = Cbor::parse(bytes).map_err(|_| malformed)?;
        let text = |key| object.get(key).and_then(Cbor::as_text);
        let bytes = |key| object.get(key).and_then(Cbor::as_bytes);
        let statement = object
            .get("attStmt")
            .filter(|value| value.as_map().is_some());
        Ok(Self {
            format: text("fmt").ok_or(malformed)?,
            statement: statement.ok_or(malformed)?.clone(),
            authenticator_data: bytes("authData").ok_or(malformed)?,
        })
    }

    /// Whether the statement is correct and satisfies `policy` (section 7.1 steps 21 to 24), and if so, whether
    /// somebody who is trusted vouches for the model.
    pub(super) fn assess(
        &self,
        credential: &AttestedCredential<'_>,
        client_data_hash: &[u8; 32],
        policy: &AttestationPolicy,
        now: Timestamp,
    ) -> Result<bool, WebauthnError> {
        let attested = self.verify(credential, client_data_hash)?;
        let AttestationPolicy::Direct { models, roots } = policy else {
            return Ok(false);
        };
        let is_vouched_for = match (attested, roots) {
            (Attested::None, _) => return Err(WebauthnError::AttestationMissing),
            (Attested::Certified(chain), Some(roots)) => roots
                .vouch_for(&chain, now)
                .map(|()| true)
                .map_err(|_| WebauthnError::UntrustedAttestation)?,
            (Attested::SelfSigned, Some(_)) => return Err(WebauthnError::UntrustedAttestation),
            (Attested::SelfSigned | Attested::Certified(_), None) => false,
        };
        if models.is_empty() || models.contains(&credential.aaguid) {
            Ok(is_vouched_for)
        } else {
            Err(WebauthnError::Model)
        }
    }

    fn verify(
        &self,
        credential: &AttestedCredential<'_>,
        client_data_hash: &[u8; 32],
    ) -> Result<Attested, WebauthnError> {
        match self.format {
            "none" if self.statement.as_map().is_some_and(<[_]>::is_empty) => Ok(Attested::None),
            "none" => Err(WebauthnError::Attestation),
            "packed" => {
                let signed = [self.authenticator_data, client_data_hash].concat();
                self.verify_packed(credential, &signed)
                    .ok_or(WebauthnError::Attestation)
            }
            _ => Ok(Attested::None),
        }
    }

    fn verify_packed(
        &self,
        credential: &AttestedCredential<'_>,
        signed: &[u8],
    ) -> Option<Attested> {
        let statement = &self.statement;
        let number = statement.get("alg")?.as_integer()?;
        let algorithm = CoseAlgorithm::of_number(number)?;
        let signature = statement.get("sig")?.as_bytes()?;
        let Some(chain) = statement.get("x5c") else {
            let is_own = algorithm == credential.key.algorithm();
            let is_correct = is_own && credential.key.verify(signed, signature);
            return is_correct.then_some(Attested::SelfSigned);
        };
        let chain: Option<Vec<Vec<u8>>> = chain
            .as_array()?
            .iter()
            .map(|certificate| certificate.as_bytes().map(<[u8]>::to_vec))
            .collect();
        let chain = chain?;
        let aaguid = credential.aaguid.as_bytes();
        verify_packed_attestation(chain.first()?, aaguid, algorithm, signed, signature).ok()?;
        Some(Attested::Certified(chain))
    }
}

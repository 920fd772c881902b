//! Registering a new credential (section 7.1).

use testudo_model::{Aaguid, Timestamp};
use testudo_trust::base64url;

use super::{
    AttestationPolicy, RelyingParty, WebauthnError,
    attestation::AttestationObject,
    authenticator_data::AuthenticatorData,
    client_data::{self, Ceremony, MAX_CLIENT_DATA_BYTES},
};

/// Longest attestation object, as [`testudo_trust::Cbor`] reads it.
const MAX_ATTESTATION_OBJECT_BYTES: usize = testudo_trust::MAX_CBOR_BYTES;

/// `AuthenticatorAttestationResponse`; each part in base64url.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationResponse<'a> {
    /// `clientDataJSON`.
    pub client_data: &'a str,
    /// `attestationObject`.
    pub attestation_object: &'a str,
}

/// A credential to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCredential {
    /// Its id.
    pub id: Vec<u8>,
    /// Its public key, as a COSE_Key.
    pub public_key: Vec<u8>,
    /// Its signature counter.
    pub sign_count: u32,
    /// The model of its authenticator, as far as that says it.
    pub aaguid: Aaguid,
    /// Whether somebody who is trusted vouches for that model.
    pub is_attested: bool,
    /// Whether it may be on several devices.
    pub backup_eligible: bool,
    /// Whether it is.
    pub backed_up: bool,
}

impl RelyingParty {
    /// Checks the answer to `navigator.credentials.create` with `challenge`. Whether the credential is known already is the
    /// caller's to ask.
    ///
    /// # Errors
    /// See [`WebauthnError`].
    pub fn verify_registration(
        &self,
        response: RegistrationResponse<'_>,
        challenge: &[u8],
        policy: &AttestationPolicy,
        now: Timestamp,
    ) -> Result<NewCredential, WebauthnError> {
        let client_data = decoded(response.client_data, MAX_CLIENT_DATA_BYTES)?;
        let object = decoded(response.attestation_object, MAX_ATTESTATION_OBJECT_BYTES)?;
        let hash = client_data::check(&client_data, Ceremony::Registration, challenge, self)?;
        let object = AttestationObject::parse(&object)?;
        let data = AuthenticatorData::parse(object.authenticator_data)?;
        data.check(self)?;
        let credential = data.credential.ok_or(WebauthnError::AuthenticatorData)?;
        Ok(NewCredential {
            is_attested: object.assess(&credential, &hash, policy, now)?,
            id: credential.id.to_vec(),
            public_key: credential.encoded_key.to_vec(),
            sign_count: data.sign_count,
            aaguid: credential.aaguid,
            backup_eligible: data.flags.backup_eligible(),
            backed_up: data.flags.backed_up(),
        })
    }
}

/// A part of a response.
pub(super) fn decoded(text: &str, limit: usize) -> Result<Vec<u8>, WebauthnError> {
    let fits = text.len() <= limit.saturating_mul(4) / 3 + 4;
    let bytes = fits.then(|| base64url::decode(text)).flatten();
    bytes
        .filter(|bytes| bytes.len() <= limit)
        .ok_or(WebauthnError::Response)
}

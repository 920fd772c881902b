//! Verifying an authentication assertion (section 7.2).

use testudo_trust::{CoseKey, constant_time_eq};

use super::{
    MAX_CREDENTIAL_ID_BYTES, RelyingParty, WebauthnError,
    authenticator_data::AuthenticatorData,
    client_data::{self, Ceremony, MAX_CLIENT_DATA_BYTES},
    registration::decoded,
};

/// Longest authenticator data: with extensions, which nobody asked for, it still has less.
const MAX_AUTHENTICATOR_DATA_BYTES: usize = 4 * 1024;
/// Longest signature: RSA of 4096 bits.
const MAX_SIGNATURE_BYTES: usize = 512;
/// Longest user handle (section 5.4.3).
const MAX_USER_HANDLE_BYTES: usize = 64;

/// `PublicKeyCredential` with an `AuthenticatorAssertionResponse`; each part in base64url.
#[derive(Debug, Clone, Copy)]
pub struct AssertionResponse<'a> {
    /// `rawId`.
    pub credential_id: &'a str,
    /// `clientDataJSON`.
    pub client_data: &'a str,
    /// `authenticatorData`.
    pub authenticator_data: &'a str,
    /// `signature`.
    pub signature: &'a str,
    /// `userHandle`.
    pub user_handle: &'a str,
}

/// What is stored of the credential that the response names.
#[derive(Debug, Clone, Copy)]
pub struct KnownCredential<'a> {
    /// Its public key, as a COSE_Key.
    pub public_key: &'a [u8],
    /// The handle of its user.
    pub user_handle: &'a [u8],
    /// The highest signature counter it has shown.
    pub sign_count: u32,
    /// Whether it may be on several devices.
    pub backup_eligible: bool,
}

/// A correct assertion: what is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assertion {
    /// The signature counter.
    pub sign_count: u32,
    /// Whether the credential is on several devices by now.
    pub backed_up: bool,
}

impl AssertionResponse<'_> {
    /// Which credential it is, by its own word.
    ///
    /// # Errors
    /// It cannot be the id of one.
    pub fn credential_id(&self) -> Result<Vec<u8>, WebauthnError> {
        decoded(self.credential_id, MAX_CREDENTIAL_ID_BYTES)
    }
}

impl Assertion {
    /// Whether the counter went on from `last` (step 22). Authenticators without one say zero, always.
    pub(crate) const fn goes_on_from(&self, last: u32) -> bool {
        (self.sign_count == 0 && last == 0) || self.sign_count > last
    }
}

impl RelyingParty {
    /// Checks the answer to `navigator.credentials.get` with `challenge` against the credential that it names.
    ///
    /// # Errors
    /// See [`WebauthnError`].
    pub fn verify_assertion(
        &self,
        response: AssertionResponse<'_>,
        challenge: &[u8],
        known: KnownCredential<'_>,
    ) -> Result<Assertion, WebauthnError> {
        let user_handle = decoded(response.user_handle, MAX_USER_HANDLE_BYTES)?;
        if !constant_time_eq(&user_handle, known.user_handle) {
            return Err(WebauthnError::UserHandle);
        }
        let client_data = decoded(response.client_data, MAX_CLIENT_DATA_BYTES)?;
        let encoded_data = decoded(response.authenticator_data, MAX_AUTHENTICATOR_DATA_BYTES)?;
        let signature = decoded(response.signature, MAX_SIGNATURE_BYTES)?;
        let hash = client_data::check(&client_data, Ceremony::Authentication, challenge, self)?;
        let data = AuthenticatorData::parse(&encoded_data)?;
        data.check(self)?;
        if data.flags.backup_eligible() != known.backup_eligible {
            return Err(WebauthnError::BackupEligibility);
        }
        let key = CoseKey::parse(known.public_key).map_err(|_| WebauthnError::PublicKey)?;
        let signed = [encoded_data.as_slice(), &hash].concat();
        if !key.verify(&signed, &signature) {
            return Err(WebauthnError::Signature);
        }
        let assertion = Assertion {
            sign_count: data.sign_count,
            backed_up: data.flags.backed_up(),
        };
        if assertion.goes_on_from(known.sign_count) {
            Ok(assertion)
        } else {
            Err(WebauthnError::SignatureCounter)
        }
    }
}

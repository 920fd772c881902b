//! Web Authentication Level 3, the relying party's side (section 7): what a browser sent, checked against what it was asked.
//!
//! Pure functions: what is known comes in, and what follows goes out. Users, records and challenges are `passkey`'s.
//! The house asks the same of everybody: a discoverable credential, the user present and verified, on a page of its own
//! origin and in no frame.

mod assertion;
mod attestation;
mod authenticator_data;
mod client_data;
mod registration;

use std::collections::BTreeSet;

use testudo_model::Aaguid;
use testudo_trust::{AttestationRoots, sha256};
use url::Url;

pub use self::{
    assertion::{Assertion, AssertionResponse, KnownCredential},
    registration::{NewCredential, RegistrationResponse},
};

/// Longest credential id (section 4).
pub const MAX_CREDENTIAL_ID_BYTES: usize = 1023;

/// Who asks for credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelyingParty {
    id: String,
    origin: String,
}

impl RelyingParty {
    /// The one whose pages are at `issuer`. `None` where browsers know no passkeys: at an address instead of a name.
    pub fn of_issuer(issuer: &str) -> Option<Self> {
        let url = Url::parse(issuer).ok()?;
        Some(Self {
            id: url.domain()?.to_owned(),
            origin: url.origin().ascii_serialization(),
        })
    }

    /// The RP ID: the host of its pages.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn id_hash(&self) -> [u8; 32] {
        sha256(self.id.as_bytes())
    }
}

/// What is demanded of authenticators that are to be registered.
#[derive(Debug, Clone, Default)]
pub enum AttestationPolicy {
    /// Nothing: any may come.
    #[default]
    None,
    /// They say of which model they are, and it is one of these.
    Direct {
        /// The models; if none, every model that `roots` vouch for.
        models: BTreeSet<Aaguid>,
        /// Who is trusted to say it. If nobody, what an authenticator says of itself is believed.
        roots: Option<AttestationRoots>,
    },
}

impl AttestationPolicy {
    /// `attestation` of the options for `navigator.credentials.create` (section 5.4.7).
    pub const fn conveyance(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Direct { .. } => "direct",
        }
    }
}

/// Why a response is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebauthnError {
    /// A part is not base64url, or larger than any real one.
    #[error("the response cannot be read")]
    Response,
    /// It is not JSON with the members it must have.
    #[error("the client data cannot be read")]
    ClientData,
    /// `create` for `get`, or the other way round.
    #[error("the response was made for something else")]
    Type,
    /// Another one than this form's.
    #[error("the challenge is another one")]
    Challenge,
    /// A page of somebody else.
    #[error("the response was made on another page")]
    Origin,
    /// A page of ours within somebody else's.
    #[error("the response was made in a frame of another page")]
    CrossOrigin,
    /// Not CBOR, or without the three parts it must have.
    #[error("the attestation object cannot be read")]
    AttestationObject,
    /// Cut short, or with more than its flags say.
    #[error("the authenticator data cannot be read")]
    AuthenticatorData,
    /// A credential of another relying party.
    #[error("the passkey belongs to another site")]
    RelyingParty,
    /// Nobody touched the authenticator.
    #[error("the user was not there")]
    UserPresence,
    /// The authenticator did not look who it is.
    #[error("the authenticator has not verified the user")]
    UserVerification,
    /// Backed up, but not to be backed up.
    #[error("the backup state contradicts itself")]
    BackupState,
    /// It was one that is synchronised and is none now, or the other way round.
    #[error("the passkey is of another kind than when it was added")]
    BackupEligibility,
    /// Longer than any.
    #[error("the credential id is too long")]
    CredentialId,
    /// Not one of the algorithms that were asked for, or no key.
    #[error("the public key cannot be used")]
    PublicKey,
    /// The statement is not correct, or not made with its key.
    #[error("the attestation is not valid")]
    Attestation,
    /// The authenticator does not say what it is, and must.
    #[error("the authenticator does not say of which model it is")]
    AttestationMissing,
    /// Nobody who is trusted vouches for it.
    #[error("nobody who is trusted vouches for the authenticator")]
    UntrustedAttestation,
    /// Its model is not allowed.
    #[error("authenticators of this model are not allowed")]
    Model,
    /// The credential is somebody else's.
    #[error("the passkey is of another user")]
    UserHandle,
    /// Not made with the private key of the credential.
    #[error("the signature is wrong")]
    Signature,
    /// Not higher than the last one: there may be a copy of the authenticator.
    #[error("the signature counter went back")]
    SignatureCounter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relying_party_has_a_name_and_one_exact_origin() {
        let of = |issuer| RelyingParty::of_issuer(issuer).map(|party| (party.id, party.origin));
        let pair = |id: &str, origin: &str| Some((id.to_owned(), origin.to_owned()));
        assert_eq!(
            of("https://id.bookshop.example"),
            pair("id.bookshop.example", "https://id.bookshop.example")
        );
        assert_eq!(
            of("https://localhost:9443/tenant"),
            pair("localhost", "https://localhost:9443")
        );
        for none in ["https://127.0.0.1:9443", "https://[::1]", "nonsense"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}

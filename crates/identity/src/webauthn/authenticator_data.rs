//! What the authenticator says (section 6.1).

use testudo_model::Aaguid;
use testudo_trust::{Cbor, CoseKey};

use super::{MAX_CREDENTIAL_ID_BYTES, RelyingParty, WebauthnError};

/// Authenticator data, read whole.
pub(super) struct AuthenticatorData<'a> {
    relying_party_hash: &'a [u8; 32],
    pub(super) flags: Flags,
    pub(super) sign_count: u32,
    pub(super) credential: Option<AttestedCredential<'a>>,
}

/// Attested credential data (section 6.5.1).
pub(super) struct AttestedCredential<'a> {
    pub(super) aaguid: Aaguid,
    pub(super) id: &'a [u8],
    pub(super) key: CoseKey,
    /// The same as it was sent.
    pub(super) encoded_key: &'a [u8],
}

/// The flags. Two are reserved and mean nothing yet.
#[derive(Clone, Copy)]
pub(super) struct Flags(u8);

impl Flags {
    const USER_PRESENT: u8 = 1;
    const USER_VERIFIED: u8 = 1 << 2;
    const BACKUP_ELIGIBLE: u8 = 1 << 3;
    const BACKED_UP: u8 = 1 << 4;
    const ATTESTED_CREDENTIAL: u8 = 1 << 6;
    const EXTENSIONS: u8 = 1 << 7;

    const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// It is, or may be, on several devices.
    pub(super) const fn backup_eligible(self) -> bool {
        self.has(Self::BACKUP_ELIGIBLE)
    }

    /// It is.
    pub(super) const fn backed_up(self) -> bool {
        self.has(Self::BACKED_UP)
    }
}

impl<'a> AuthenticatorData<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, WebauthnError> {
        let malformed = WebauthnError::AuthenticatorData;
        let (relying_party_hash, rest) = bytes.split_first_chunk::<32>().ok_or(malformed)?;
        let ([flags], rest) = rest.split_first_chunk::<1>().ok_or(malformed)?;
        let (sign_count, mut rest) = rest.split_first_chunk::<4>().ok_or(malformed)?;
        let flags = Flags(*flags);
        let mut credential = None;
        if flags.has(Flags::ATTESTED_CREDENTIAL) {
            let (found, behind) = AttestedCredential::parse_prefix(rest)?;
            (credential, rest) = (Some(found), behind);
        }
        if flags.has(Flags::EXTENSIONS) {
            let (extensions, behind) = Cbor::parse_prefix(rest).map_err(|_| malformed)?;
            extensions.as_map().ok_or(malformed)?;
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(malformed);
        }
        Ok(Self {
            relying_party_hash,
            flags,
            sign_count: u32::from_be_bytes(*sign_count),
            credential,
        })
    }

    /// What registration and authentication ask in the same way (section 7.1 steps 14 to 17, section 7.2 steps 15 to 18).
    pub(super) fn check(&self, party: &RelyingParty) -> Result<(), WebauthnError> {
        if *self.relying_party_hash != party.id_hash() {
            return Err(WebauthnError::RelyingParty);
        }
        if !self.flags.has(Flags::USER_PRESENT) {
            return Err(WebauthnError::UserPresence);
        }
        if !self.flags.has(Flags::USER_VERIFIED) {
            return Err(WebauthnError::UserVerification);
        }
        if self.flags.backed_up() && !self.flags.backup_eligible() {
            return Err(WebauthnError::BackupState);
        }
        Ok(())
    }
}

impl<'a> AttestedCredential<'a> {
    fn parse_prefix(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WebauthnError> {
        let malformed = WebauthnError::AuthenticatorData;
        let (aaguid, rest) = bytes.split_first_chunk::<16>().ok_or(malformed)?;
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(malformed)?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || length > MAX_CREDENTIAL_ID_BYTES {
            return Err(WebauthnError::CredentialId);
        }
        let (id, rest) = rest.split_at_checked(length).ok_or(malformed)?;
        let (key, behind) = CoseKey::parse_prefix(rest).map_err(|_| WebauthnError::PublicKey)?;
        let encoded_key = rest.strip_suffix(behind).ok_or(malformed)?;
        let credential = Self {
            aaguid: Aaguid::from_bytes(*aaguid),
            id,
            key,
            encoded_key,
        };
        Ok((credential, behind))
    }
}

//! New passwords and client secrets: given, hashed elsewhere, or made here and shown once.

use std::time::Duration;

use testudo_model::{ClientName, Entropy, Redacted, Timestamp};
use testudo_trust::{hash_password, is_password_hash};

use super::AdminError;
use crate::{
    Provider,
    limits::{MAX_CLIENT_SECRET_BYTES, MAX_CLIENT_SECRETS, MIN_CLIENT_SECRET_BYTES},
    password::Owner,
    records::{ClientSecret, SecretCredential, SecretVerifier},
    secret::{self, StoredSecret},
};

/// A password to set.
#[derive(Debug, Clone)]
pub enum NewPassword {
    /// Make one and tell it once.
    Generate,
    /// This one.
    Given(Redacted<String>),
    /// One of which only the hash in PHC form is known: Argon2id, or PBKDF2 until they log in.
    Hash(Redacted<String>),
    /// None: they cannot log in with one.
    None,
}

impl NewPassword {
    /// The hash to store, and the password if it was made here.
    ///
    /// # Errors
    /// The password may not be chosen by `owner`, or it is no hash of the right kind.
    pub(crate) fn realise(
        &self,
        provider: &Provider,
        owner: Owner<'_>,
    ) -> Result<(Option<StoredSecret>, Option<Redacted<String>>), AdminError> {
        let entropy = &*provider.entropy;
        let hashed =
            |password: &Redacted<String>| Some(StoredSecret::new(hash_password(password, entropy)));
        match self {
            Self::None => Ok((None, None)),
            Self::Generate => {
                let password = secret::generate(entropy);
                Ok((hashed(&password), Some(password)))
            }
            Self::Given(password) => {
                provider.check_password(password, owner)?;
                Ok((hashed(password), None))
            }
            Self::Hash(hash) if is_password_hash(hash.expose()) => {
                Ok((Some(StoredSecret::new(hash.expose().clone())), None))
            }
            Self::Hash(_) => Err(AdminError::invalid(
                "password hash",
                "is not an Argon2id or PBKDF2 hash in PHC form (`$argon2id$…`), or asks for too much",
            )),
        }
    }
}

/// A client secret to set.
#[derive(Debug, Clone)]
pub enum NewSecret {
    /// No secret: the certificate of the connection will do.
    None,
    /// Make one and tell it once.
    Generate,
    /// This one.
    Given(Redacted<String>),
    /// One of which only the Argon2id hash in PHC form is known. Each use of it costs that hash.
    Hash(Redacted<String>),
}

/// A secret ready to be stored.
struct MadeSecret {
    stored: ClientSecret,
    generated: Option<Redacted<String>>,
}

impl NewSecret {
    fn realise(
        &self,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Option<MadeSecret>, AdminError> {
        let (verifier, generated) = match self {
            Self::None => return Ok(None),
            Self::Generate => {
                let made = secret::generate(entropy);
                (SecretVerifier::of_random(&made), Some(made))
            }
            Self::Given(given) => {
                let length = given.expose().len();
                if !(MIN_CLIENT_SECRET_BYTES..=MAX_CLIENT_SECRET_BYTES).contains(&length) {
                    let why = format!(
                        "must have {MIN_CLIENT_SECRET_BYTES} to {MAX_CLIENT_SECRET_BYTES} bytes; let one be generated"
                    );
                    return Err(AdminError::invalid("client secret", why));
                }
                (SecretVerifier::of_random(given), None)
            }
            Self::Hash(hash) => (
                SecretVerifier::Argon2id(argon2id("client secret hash", hash)?),
                None,
            ),
        };
        let stored = ClientSecret {
            verifier,
            created_at: now,
            expires_at: None,
        };
        Ok(Some(MadeSecret { stored, generated }))
    }
}

fn argon2id(field: &'static str, hash: &Redacted<String>) -> Result<StoredSecret, AdminError> {
    let text = hash.expose();
    if text.starts_with("$argon2id$") && text.len() <= 512 {
        return Ok(StoredSecret::new(text.clone()));
    }
    Err(AdminError::invalid(
        field,
        "is not an Argon2id hash in PHC form (`$argon2id$…`)",
    ))
}

/// The secrets of a client or service account being written.
pub(crate) struct Secrets {
    /// The record, if it is to have one.
    pub(crate) credential: Option<SecretCredential>,
    /// The secret, if it was made here.
    pub(crate) generated: Option<Redacted<String>>,
}

impl Secrets {
    /// The first secret of `holder`.
    pub(crate) fn first(
        holder: &ClientName,
        new: &NewSecret,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, AdminError> {
        let Some(made) = new.realise(now, entropy)? else {
            return Ok(Self {
                credential: None,
                generated: None,
            });
        };
        let credential = SecretCredential {
            holder: holder.clone(),
            secrets: vec![made.stored],
            expires_at: None,
        };
        Ok(Self {
            credential: Some(credential),
            generated: made.generated,
        })
    }

    /// A further secret; the one before stays valid for `overlap`.
    pub(crate) fn rotated(
        mut credential: SecretCredential,
        overlap: Duration,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> (SecretCredential, Redacted<String>) {
        let made = secret::generate(entropy);
        for old in &mut credential.secrets {
            let end = now + overlap;
            old.expires_at = Some(old.expires_at.map_or(end, |expires| expires.min(end)));
        }
        credential.secrets.push(ClientSecret {
            verifier: SecretVerifier::of_random(&made),
            created_at: now,
            expires_at: None,
        });
        let surplus = credential.secrets.len().saturating_sub(MAX_CLIENT_SECRETS);
        credential.secrets.drain(..surplus);
        (credential, made)
    }
}

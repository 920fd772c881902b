//! What is in progress: no rows, but sealed values in login forms and references.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use testudo_model::{ClientName, Entropy, Timestamp, UserId};
use testudo_store::{Expected, Record, StoreError, Tenant};
use testudo_trust::{Keyring, RootKey, base64url};

use crate::{
    Fault,
    claims::{ASSURANCE_ONE_FACTOR, ASSURANCE_TWO_FACTORS},
    discovery::paths,
    dpop::KeyThumbprint,
    federation::Voucher,
    limits::{FRESH_LOGIN, MAX_FLOW_BYTES},
    pkce::CodeChallenge,
    pushed::Reference,
    records::Authentication,
    redirect_uri::with_parameters,
    scopes::ScopeSet,
    secret::StoredSecret,
};

/// What is sealed, and opens as nothing else.
pub(crate) trait Sealed: Serialize + DeserializeOwned {
    /// Apart from all other kinds.
    const CONTEXT: &'static [u8];
}

/// Something that waits for its user to log in.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Flow {
    pub(crate) purpose: Purpose,
    /// What it is, for people.
    pub(crate) client_name: String,
    /// Digest of the pre-login cookie: the form only works in the browser it was given to, which is what keeps
    /// others from logging a victim in as themselves.
    pub(crate) browser: String,
    pub(crate) expires_at: Timestamp,
    /// Whoever logs in is connected to this account elsewhere.
    pub(crate) connects: Option<Box<Voucher>>,
}

impl Sealed for Flow {
    const CONTEXT: &'static [u8] = b"testudo login flow v1";
}

/// What a login is for.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// A valid authorization request.
    Authorize(Box<GrantRequest>),
    /// A page of our own.
    Visit(Visit),
}

impl Purpose {
    /// The request of a client, if it is one.
    pub(crate) const fn request(&self) -> Option<&GrantRequest> {
        match self {
            Self::Authorize(request) => Some(request),
            Self::Visit(_) => None,
        }
    }

    /// How old a login elsewhere may be, in seconds. Who logs in to change their account does it now, wherever that is.
    pub(crate) const fn max_age(&self) -> Option<u64> {
        match self {
            Self::Authorize(request) => request.max_age,
            Self::Visit(Visit::Account { .. }) => Some(FRESH_LOGIN.as_secs()),
            Self::Visit(Visit::Device { .. }) => None,
        }
    }

    /// The `acr` that is at least needed.
    pub(crate) fn least_class(&self) -> &str {
        let least = match self {
            Self::Authorize(request) => request.least_class.as_deref(),
            Self::Visit(Visit::Account { two_factors: true }) => Some(ASSURANCE_TWO_FACTORS),
            Self::Visit(_) => None,
        };
        least.unwrap_or(ASSURANCE_ONE_FACTOR)
    }
}

/// A page of our own that is for who is logged in.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Visit {
    /// Where devices are connected.
    Device {
        /// The code it was opened with.
        user_code: Option<String>,
    },
    /// The user's account.
    Account {
        /// It is to be changed in a way that wants all the user has.
        two_factors: bool,
    },
}

impl Visit {
    /// What it is, for people.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Device { .. } => "connect a device",
            Self::Account { .. } => "your account",
        }
    }

    /// Where it is.
    pub(crate) fn location(&self) -> String {
        match self {
            Self::Account { .. } => paths::ACCOUNT.to_owned(),
            Self::Device { user_code: None } => paths::DEVICE.to_owned(),
            Self::Device {
                user_code: Some(code),
            } => with_parameters(paths::DEVICE, &[("user_code", code)]),
        }
    }
}

/// What a client asked for, after all checks that need no user.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct GrantRequest {
    pub(crate) client_id: ClientName,
    pub(crate) client_created_at: Timestamp,
    pub(crate) redirect_uri: String,
    pub(crate) scopes: ScopeSet,
    pub(crate) state: Option<String>,
    pub(crate) nonce: Option<String>,
    /// None from a client that need not send one, and did not.
    pub(crate) challenge: Option<CodeChallenge>,
    /// `dpop_jkt`.
    pub(crate) key: Option<KeyThumbprint>,
    /// The pushed request it was asked with, if it was one.
    pub(crate) pushed: Option<Reference>,
    /// Whether the client has signed it.
    pub(crate) is_signed: bool,
    /// The only user it is for (`id_token_hint`).
    pub(crate) user: Option<UserId>,
    /// The least that is enough (`acr_values`).
    pub(crate) least_class: Option<String>,
    /// How old the login may be, in seconds (`max_age`; 0 with `prompt=login`).
    pub(crate) max_age: Option<u64>,
    /// The user is asked, whatever they said before (`prompt=consent`).
    pub(crate) asks_consent: bool,
}

impl GrantRequest {
    /// Whether it is for this user.
    pub(crate) fn is_for(&self, user: &UserId) -> bool {
        self.user.as_ref().is_none_or(|only| only == user)
    }

    /// Whether a login like this is enough.
    pub(crate) fn accepts(&self, authentication: &Authentication) -> bool {
        let least = self.least_class.as_ref();
        least.is_none_or(|least| authentication.context_class >= *least)
    }
}

/// Seals what is in progress under a key that lives in the store.
pub(crate) struct FlowSeal {
    keyring: Keyring,
}

impl FlowSeal {
    /// Loads the key, or makes it.
    pub(crate) fn open(tenant: &Tenant, entropy: &dyn Entropy) -> Result<Self, Fault> {
        if let Some(stored) = tenant.get::<FlowKey>(FlowKey::KEY)? {
            return stored.record.keyring().map(|keyring| Self { keyring });
        }
        match tenant.put(Expected::Absent, &FlowKey::generate(entropy)) {
            // Another node may have made it at the same moment: what is stored counts.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let stored = tenant.get::<FlowKey>(FlowKey::KEY)?.ok_or(Fault::Key {
            what: "login flow key",
        })?;
        stored.record.keyring().map(|keyring| Self { keyring })
    }

    pub(crate) fn seal<T: Sealed>(
        &self,
        entropy: &dyn Entropy,
        value: &T,
    ) -> Result<String, Fault> {
        let plain = serde_json::to_vec(value).map_err(|_| Fault::Key { what: "login flow" })?;
        Ok(base64url::encode(&self.keyring.seal(
            entropy,
            T::CONTEXT,
            &plain,
        )))
    }

    /// A MAC of `value`, the same on every node, and apart from those in other contexts.
    pub(crate) fn authenticate(&self, context: &[u8], value: &[u8]) -> [u8; 32] {
        self.keyring.blind(context, value)
    }

    /// `None` for whatever this provider did not seal.
    pub(crate) fn unseal<T: Sealed>(&self, text: &str) -> Option<T> {
        if text.len() > MAX_FLOW_BYTES {
            return None;
        }
        let plain = self
            .keyring
            .open(T::CONTEXT, &base64url::decode(text)?)
            .ok()?;
        serde_json::from_slice(&plain).ok()
    }
}

/// The key that seals flows. The store seals this record; `wrapped` is merely the form a keyring travels in.
#[derive(Clone, Serialize, Deserialize)]
struct FlowKey {
    root: StoredSecret,
    wrapped: StoredSecret,
}

impl FlowKey {
    const KEY: &'static str = "current";

    fn generate(entropy: &dyn Entropy) -> Self {
        let root = RootKey::generate(entropy);
        let wrapped = Keyring::new(entropy).wrap(&root, entropy);
        Self {
            root: StoredSecret::from_bytes(root.expose_bytes().as_ref()),
            wrapped: StoredSecret::from_bytes(&wrapped),
        }
    }

    fn keyring(&self) -> Result<Keyring, Fault> {
        let unusable = Fault::Key {
            what: "login flow key",
        };
        let root = self
            .root
            .bytes()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let (Some(root), Some(wrapped)) = (root, self.wrapped.bytes()) else {
            return Err(unusable);
        };
        Keyring::unwrap(&RootKey::from_bytes(root), &wrapped).map_err(|_| unusable)
    }
}

impl Record for FlowKey {
    const COLLECTION: &'static str = "identity.flow_key";

    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

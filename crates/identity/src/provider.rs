//! The provider and what it is made of.

use std::sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicBool};

use testudo_model::{Clock, Entropy, RefusalBudget, SpiffeId, TenantName, snapshot::Issuer};
use testudo_store::{Store, Tenant};
use testudo_trust::ProofMemory;
use url::Url;

use crate::{
    Fault, Journal,
    device::{DeviceBudget, Polls},
    dpop::NONCE_KEY_CONTEXT,
    federation::{IdentityProviders, UserDirectories},
    flow::FlowSeal,
    keys::KeyCache,
    limits::MAX_USED_PROOFS,
    notice::Queues,
    password::PasswordRules,
    revocation::RevocationView,
    signal::Deliveries,
    token::{ExchangePolicy, FailedProofs, UsedAssertions},
    trusted_issuer::TrustedIssuers,
    webauthn::{AttestationPolicy, RelyingParty},
};

/// What a provider is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its `iss`: an https URL without query, fragment or trailing slash.
    pub issuer: String,
    /// The `aud` of access tokens: the fleet.
    pub audience: String,
    /// Whose records it serves.
    pub tenant: TenantName,
    /// The identity that reports its events.
    pub reporter: SpiffeId,
}

/// The OpenID provider of one tenant. Share it behind an `Arc`; every method takes `&self`. Several providers
/// may work on one store at once.
pub struct Provider {
    pub(crate) settings: Settings,
    pub(crate) tenant: Tenant,
    /// Where the revocations of all tenants are, which proxies follow.
    pub(crate) fleet: Tenant,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) flow_seal: FlowSeal,
    pub(crate) keys: KeyCache,
    pub(crate) revocations: Mutex<RevocationView>,
    pub(crate) refusals: RefusalBudget,
    pub(crate) failed_proofs: FailedProofs,
    pub(crate) used_proofs: ProofMemory,
    pub(crate) used_assertions: UsedAssertions,
    pub(crate) issuers: TrustedIssuers,
    pub(crate) identity_providers: IdentityProviders,
    pub(crate) user_directories: UserDirectories,
    pub(crate) notices: Queues,
    pub(crate) deliveries: Deliveries,
    pub(crate) exchange_policy: Option<Arc<dyn ExchangePolicy>>,
    pub(crate) polls: Polls,
    pub(crate) device_budget: DeviceBudget,
    /// None if the issuer is at an address, where browsers know no passkeys.
    pub(crate) relying_party: Option<RelyingParty>,
    pub(crate) mail_is_carried: AtomicBool,
    pub(crate) password_rules: RwLock<Arc<PasswordRules>>,
    attestation_policy: RwLock<Arc<AttestationPolicy>>,
}

impl Provider {
    /// Opens the provider of `settings.tenant`; makes its keys if there are none yet.
    ///
    /// # Errors
    /// The issuer or audience is unusable, or the store fails.
    pub fn open(
        store: &Store,
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        journal: Arc<dyn Journal>,
    ) -> Result<Self, Fault> {
        check(&settings)?;
        let tenant = store.tenant(&settings.tenant);
        let flow_seal = FlowSeal::open(&tenant, &*entropy)?;
        let nonce_key = flow_seal.authenticate(NONCE_KEY_CONTEXT, &[]);
        let relying_party = RelyingParty::of_issuer(&settings.issuer);
        let provider = Self {
            used_proofs: ProofMemory::new(nonce_key, MAX_USED_PROOFS, clock.now()),
            settings,
            tenant,
            fleet: store.tenant(&TenantName::default_tenant()),
            clock,
            entropy,
            journal,
            flow_seal,
            keys: KeyCache::default(),
            revocations: Mutex::default(),
            refusals: RefusalBudget::default(),
            failed_proofs: FailedProofs::default(),
            used_assertions: UsedAssertions::default(),
            issuers: TrustedIssuers::default(),
            identity_providers: IdentityProviders::default(),
            user_directories: UserDirectories::default(),
            notices: Queues::default(),
            deliveries: Deliveries::default(),
            exchange_policy: None,
            polls: Polls::default(),
            device_budget: DeviceBudget::default(),
            relying_party,
            mail_is_carried: AtomicBool::new(false),
            password_rules: RwLock::default(),
            attestation_policy: RwLock::default(),
        };
        provider.signing_keys()?;
        Ok(provider)
    }

    /// The same, which exchanges tokens as `policy` says. Without one it exchanges none.
    #[must_use]
    pub fn exchanging(self, policy: Arc<dyn ExchangePolicy>) -> Self {
        Self {
            exchange_policy: Some(policy),
            ..self
        }
    }

    /// What it demands of authenticators from now on. Passkeys that are there stay.
    pub fn demand_of_authenticators(&self, policy: AttestationPolicy) {
        let mut current = self
            .attestation_policy
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(policy);
    }

    /// What it demands of authenticators.
    pub fn attestation_policy(&self) -> Arc<AttestationPolicy> {
        let current = self
            .attestation_policy
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// What it was told.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The provider as an issuer that proxies accept tokens of.
    ///
    /// # Errors
    /// The store fails.
    pub fn issuer(&self) -> Result<Issuer, Fault> {
        Ok(Issuer {
            issuer: self.settings.issuer.clone(),
            audience: self.settings.audience.clone(),
            jwks: self.fleet_jwks()?.to_string(),
        })
    }
}

fn check(settings: &Settings) -> Result<(), Fault> {
    let setting = "issuer";
    let why = "it must be an https URL without query, fragment and trailing slash, e.g. https://id.example.com";
    let url = Url::parse(&settings.issuer).map_err(|_| Fault::Setting { setting, why })?;
    let plain = url.scheme() == "https"
        && url.query().is_none()
        && url.fragment().is_none()
        && !settings.issuer.ends_with('/');
    if !plain {
        return Err(Fault::Setting { setting, why });
    }
    if settings.audience.is_empty() {
        return Err(Fault::Setting {
            setting: "audience",
            why: "it names the fleet and cannot be empty",
        });
    }
    Ok(())
}

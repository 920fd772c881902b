//! API keys: what a service account proves itself with where it cannot ask for tokens. Each is told once.

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;
use testudo_model::{
    ApiKeyId, Redacted, Scope, ServiceAccountId, ServiceName, TokenId,
    event::EventClass,
    limits::TRANSACTION_TOKEN_LIFETIME,
    snapshot::{self, Revoked},
};
use testudo_store::{Cursor, Expected, Page, Versioned};
use testudo_trust::{ApiKeyText, hex};

use super::{AdminError, Named, check_count, check_text};
use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::{
        DEFAULT_API_KEY_LIFETIME, MAX_API_KEY_LIFETIME, MAX_API_KEY_NETWORKS, MAX_API_KEYS,
        MAX_MEMBERSHIPS, MAX_SCOPES,
    },
    records::{ApiKey, ServiceAccount},
    secret::StoredSecret,
};

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    /// What it is called.
    pub name: String,
    /// How long it is good, in seconds; [`DEFAULT_API_KEY_LIFETIME`] if `None`.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// What of the account's scopes it has; all of them if `None`.
    #[serde(default)]
    pub scopes: Option<Vec<Scope>>,
    /// Services it is for; any that takes keys if empty.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// Where it may be used (`192.0.2.0/24`); anywhere if empty.
    #[serde(default)]
    pub networks: Vec<String>,
}

impl NewApiKey {
    fn lifetime(&self) -> Duration {
        self.ttl_seconds
            .map_or(DEFAULT_API_KEY_LIFETIME, Duration::from_secs)
    }

    fn read_networks(&self) -> Result<Vec<IpNet>, AdminError> {
        let read = |text: &String| {
            text.parse().map_err(|_| {
                let why = format!("has `{text}`, which is no network such as 192.0.2.0/24");
                AdminError::invalid("list of networks", why)
            })
        };
        self.networks.iter().map(read).collect()
    }

    fn check(&self, account: &ServiceAccount) -> Result<(), AdminError> {
        if account.disabled {
            let why = format!("`{}` is disabled: enable it first", account.name);
            return Err(AdminError::invalid("service account", why));
        }
        check_text("name", Some(&self.name))?;
        if self.name.trim().is_empty() {
            return Err(AdminError::invalid(
                "name",
                "is missing: say what the key is for",
            ));
        }
        if self.lifetime().is_zero() || self.lifetime() > MAX_API_KEY_LIFETIME {
            let days = MAX_API_KEY_LIFETIME.as_secs() / (24 * 3600);
            return Err(AdminError::invalid(
                "lifetime",
                format!("is a second to {days} days"),
            ));
        }
        let scopes = self.scopes.as_deref().unwrap_or_default();
        check_count("list of scopes", scopes.len(), MAX_SCOPES)?;
        check_count("list of services", self.services.len(), MAX_MEMBERSHIPS)?;
        check_count(
            "list of networks",
            self.networks.len(),
            MAX_API_KEY_NETWORKS,
        )?;
        self.read_networks()?;
        match scopes.iter().find(|scope| !account.scopes.contains(scope)) {
            Some(scope) => Err(AdminError::invalid(
                "list of scopes",
                format!("has `{scope}`, which `{}` has not", account.name),
            )),
            None => Ok(()),
        }
    }
}

/// A key that was made, and itself.
#[derive(Debug)]
pub struct MadeApiKey {
    /// What is kept of it.
    pub record: ApiKey,
    /// The key. It cannot be asked for again.
    pub key: Redacted<String>,
}

const fn named(id: &str) -> Named<'_> {
    Named {
        kind: "API key",
        name: id,
    }
}

impl Provider {
    /// Makes a key of a service account.
    ///
    /// # Errors
    /// There is no such account, it is disabled or has [`MAX_API_KEYS`] keys, or what is said about the key is not acceptable.
    pub fn create_api_key(
        &self,
        account: &ServiceAccountId,
        new: &NewApiKey,
        caller: &Caller,
    ) -> Result<MadeApiKey, AdminError> {
        until_settled(|| {
            let stored = self.service_account(account)?;
            new.check(&stored.record)?;
            self.check_room_for_api_key(account, MAX_API_KEYS)?;
            let made = self.new_api_key(&stored.record, new, None)?;
            let said = self
                .api_key_report("api_key.create", &made.record, &stored.record)
                .detail("expires", made.record.expires_at.to_string());
            let change = self.stage_new_api_key(&stored, &made);
            Ok(change.report(said, caller).commit()?.then_some(made))
        })
    }

    fn new_api_key(
        &self,
        account: &ServiceAccount,
        new: &NewApiKey,
        rotated_from: Option<ApiKeyId>,
    ) -> Result<MadeApiKey, AdminError> {
        let now = self.clock.now();
        let id = ApiKeyId::generate(&*self.clock, &*self.entropy);
        let (text, key) = ApiKeyText::generate(&id, &*self.entropy);
        let record = ApiKey {
            id,
            account: account.id.clone(),
            name: new.name.clone(),
            scopes: new.scopes.clone(),
            services: new.services.clone(),
            networks: new.read_networks()?,
            created_at: now,
            expires_at: now + new.lifetime(),
            lifetime_seconds: new.lifetime().as_secs(),
            rotated_from,
            digest: StoredSecret::new(hex::encode(text.digest())),
        };
        Ok(MadeApiKey { record, key })
    }

    /// The account is written too: of those who add a key at once, one counts the keys again.
    fn stage_new_api_key(
        &self,
        account: &Versioned<ServiceAccount>,
        made: &MadeApiKey,
    ) -> Change<'_> {
        self.change()
            .put(Expected::Version(account.version), &account.record)
            .put(Expected::Absent, &made.record)
    }

    /// While keys are rotated there are twice as many.
    fn check_room_for_api_key(
        &self,
        account: &ServiceAccountId,
        most: usize,
    ) -> Result<(), AdminError> {
        if self.api_keys_of(account)?.len() < most {
            return Ok(());
        }
        let why = format!("is full: an account has at most {most}; revoke one");
        Err(AdminError::invalid("list of API keys", why))
    }

    /// A page of the keys that are good, in order of creation.
    ///
    /// # Errors
    /// The store fails.
    pub fn api_keys(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<ApiKey>, AdminError> {
        self.page(after, limit)
    }

    /// A key that is good.
    ///
    /// # Errors
    /// There is none.
    pub fn api_key(&self, id: &ApiKeyId) -> Result<Versioned<ApiKey>, AdminError> {
        self.load(named(id.as_str()), id.as_str())
    }

    /// Makes a key that is like another, which stays good for `overlap` and not longer than it was.
    ///
    /// # Errors
    /// There is no such key.
    pub fn rotate_api_key(
        &self,
        id: &ApiKeyId,
        overlap: Duration,
        caller: &Caller,
    ) -> Result<MadeApiKey, AdminError> {
        until_settled(|| {
            let old = self.api_key(id)?;
            let stored = self.service_account(&old.record.account)?;
            let account = &stored.record;
            self.check_room_for_api_key(&account.id, 2 * MAX_API_KEYS)?;
            let new = NewApiKey {
                name: old.record.name.clone(),
                ttl_seconds: Some(old.record.lifetime_seconds),
                scopes: old.record.scopes.clone(),
                services: old.record.services.clone(),
                networks: old
                    .record
                    .networks
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            };
            let made = self.new_api_key(account, &new, Some(id.clone()))?;
            let ends = old.record.expires_at.min(self.clock.now() + overlap);
            let said = self
                .api_key_report("api_key.rotate", &made.record, account)
                .detail("rotated_from", id.as_str())
                .detail("previous_ends", ends.to_string())
                .detail("expires", made.record.expires_at.to_string());
            let change = self.stage_new_api_key(&stored, &made);
            let change = if overlap.is_zero() {
                end(change, &old)
            } else {
                let old_record = ApiKey {
                    expires_at: ends,
                    ..old.record.clone()
                };
                change.put(Expected::Version(old.version), &old_record)
            };
            Ok(change.report(said, caller).commit()?.then_some(made))
        })
    }

    /// Takes a key back, at every gateway.
    ///
    /// # Errors
    /// There is no such key.
    pub fn revoke_api_key(&self, id: &ApiKeyId, caller: &Caller) -> Result<ApiKey, AdminError> {
        until_settled(|| {
            let stored = self.api_key(id)?;
            let account = self.service_account(&stored.record.account)?.record;
            let said = self.api_key_report("api_key.revoke", &stored.record, &account);
            let change = end(self.change(), &stored).report(said, caller);
            Ok(change.commit()?.then_some(stored.record))
        })
    }

    /// Ends all keys of an account.
    pub(crate) fn stage_end_of_api_keys<'p>(
        &self,
        change: Change<'p>,
        account: &ServiceAccountId,
    ) -> Result<Change<'p>, Fault> {
        let keys = self.api_keys_of(account)?;
        Ok(keys.iter().fold(change, end))
    }

    /// The keys of one account.
    fn api_keys_of(&self, account: &ServiceAccountId) -> Result<Vec<Versioned<ApiKey>>, Fault> {
        Ok(self
            .tenant
            .find::<ApiKey>(ApiKey::ACCOUNT, account.as_str())?)
    }

    /// The keys as gateways know them: of accounts that are there and not disabled, with scopes that those still have.
    pub(crate) fn known_api_keys(
        &self,
        accounts: &[ServiceAccount],
    ) -> Result<Vec<snapshot::ApiKey>, Fault> {
        let mut known = Vec::new();
        for key in self.all::<ApiKey>()? {
            let owner = accounts.iter().find(|account| account.id == key.account);
            let Some(owner) = owner.filter(|account| !account.disabled) else {
                continue;
            };
            let wanted: Option<BTreeSet<Scope>> =
                key.scopes.map(|scopes| scopes.into_iter().collect());
            let is_wanted = |scope: &&Scope| wanted.as_ref().is_none_or(|all| all.contains(scope));
            known.push(snapshot::ApiKey {
                id: key.id,
                digest: key.digest.expose().to_owned(),
                subject: owner.id.to_string(),
                issuer: self.settings.issuer.clone(),
                client_id: owner.name.clone(),
                scopes: owner.scopes.iter().filter(is_wanted).cloned().collect(),
                services: key.services,
                networks: key.networks,
                issued_at: key.created_at,
                expires: key.expires_at,
            });
        }
        Ok(known)
    }

    fn api_key_report(&self, activity: &str, key: &ApiKey, account: &ServiceAccount) -> Report {
        Report::new(EventClass::AccountChange, activity)
            .target(key.id.as_str())
            .detail("name", key.name.as_str())
            .detail("account", account.name.as_str())
            .detail("account_id", account.id.as_str())
    }
}

/// Ends a key: gateways hear of it at once, by the token that was made with it, and remember it for as long as a snapshot that
/// cannot be replaced could have the key: until the end it was made with, though a rotation has brought that forward.
fn end<'p>(change: Change<'p>, key: &Versioned<ApiKey>) -> Change<'p> {
    let expected = Expected::Version(key.version);
    let record = &key.record;
    let token = TokenId::from(record.id.ulid());
    let first_end = record.created_at + Duration::from_secs(record.lifetime_seconds);
    let until = first_end + TRANSACTION_TOKEN_LIFETIME;
    change
        .delete::<ApiKey>(expected, record.id.as_str())
        .revoke_until(until, Revoked::Token(token))
}

//! The tenants beside the fleet's own: each with users, groups, roles and clients of its own, and an issuer below the
//! fleet's. They are declared in the fleet file or made by an administrator, and found again in the store.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};
use testudo_identity::{
    Caller, ExchangePolicy, Fault, FleetOutbox, Journal, Outbox, Provider, SeedError, Settings,
};
use testudo_model::{Clock, Entropy, TenantName, Timestamp, event::Event};
use testudo_store::{Expected, Record, Store, StoreError, Tenant, Versioned};

use crate::seed::tenant_seed;

/// Below this path of the fleet's own address each tenant has its.
pub const TENANTS_PATH: &str = "/tenants/";
/// Tenants of one fleet. Each has signing keys that every proxy knows.
const MAX_TENANTS: usize = 1_000;
/// Tenants read at once.
const PAGE: usize = 200;
/// Longest name for people, in bytes.
const MAX_DISPLAY_NAME_BYTES: usize = 200;

/// A tenant as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Its name, also in its issuer.
    pub name: TenantName,
    /// What people read.
    pub display_name: String,
    /// Nobody logs in there, and its tokens are worth nothing.
    pub disabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Record for TenantRecord {
    const COLLECTION: &'static str = "controlplane.tenant";

    fn key(&self) -> String {
        self.name.to_string()
    }
}

/// Why a tenant is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// There is none of that name.
    #[error("there is no tenant `{0}`")]
    Unknown(TenantName),
    /// There is one of that name.
    #[error("there is a tenant `{0}` already")]
    Taken(TenantName),
    /// The name is the fleet's own.
    #[error("`{0}` is the fleet itself")]
    Reserved(TenantName),
    /// The name for people is none.
    #[error("the display name has 1 to {MAX_DISPLAY_NAME_BYTES} bytes and no control characters")]
    DisplayName,
    /// There are enough.
    #[error("there are {MAX_TENANTS} tenants, which is as many as there can be")]
    TooMany,
    /// Somebody else changed it meanwhile.
    #[error("somebody else changed it at the same time; try again")]
    Contended,
    /// Its provider.
    #[error(transparent)]
    Identity(#[from] Fault),
    /// What every tenant has.
    #[error("the roles and clients that every tenant has cannot be stored")]
    Seed(#[from] SeedError),
    /// The store.
    #[error("the store cannot be read or written")]
    Store(#[from] StoreError),
}

/// A tenant that is served.
pub struct OpenTenant {
    /// What people read.
    pub display_name: String,
    /// Its provider.
    pub provider: Arc<Provider>,
}

/// What opens the providers of tenants.
pub struct Tenants {
    store: Store,
    /// Where it is kept which there are.
    fleet: Tenant,
    /// The fleet's own provider.
    own: Arc<Provider>,
    exchange: Arc<dyn ExchangePolicy>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    open: RwLock<BTreeMap<TenantName, Arc<OpenTenant>>>,
}

impl Tenants {
    /// Opens those there are.
    ///
    /// # Errors
    /// See [`TenantError`].
    pub fn open(
        store: &Store,
        own: Arc<Provider>,
        exchange: Arc<dyn ExchangePolicy>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TenantError> {
        let tenants = Self {
            store: store.clone(),
            fleet: store.tenant(&TenantName::default_tenant()),
            own,
            exchange,
            clock,
            entropy,
            open: RwLock::default(),
        };
        tenants.look()?;
        Ok(tenants)
    }

    /// Opens what is new in the store, and closes what is disabled. Other control planes make tenants too.
    ///
    /// # Errors
    /// See [`TenantError`]; what was open stays so.
    pub fn look(&self) -> Result<(), TenantError> {
        let mut served = BTreeMap::new();
        for record in self.all()? {
            if !record.disabled {
                served.insert(record.name.clone(), self.serve(record)?);
            }
        }
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = served;
        Ok(())
    }

    fn serve(&self, record: TenantRecord) -> Result<Arc<OpenTenant>, TenantError> {
        let known = self.of(&record.name);
        if let Some(known) = &known
            && known.display_name == record.display_name
        {
            return Ok(Arc::clone(known));
        }
        let provider = match known {
            Some(known) => Arc::clone(&known.provider),
            None => Arc::new(self.provider_of(&record.name)?),
        };
        Ok(Arc::new(OpenTenant {
            display_name: record.display_name,
            provider,
        }))
    }

    fn provider_of(&self, name: &TenantName) -> Result<Provider, Fault> {
        let own = self.own.settings();
        let settings = Settings {
            issuer: self.issuer(name),
            tenant: name.clone(),
            ..own.clone()
        };
        let provider = Provider::open(
            &self.store,
            settings,
            Arc::clone(&self.clock),
            Arc::clone(&self.entropy),
            Arc::new(FleetOutbox),
        )?;
        provider.demand_of_authenticators((*self.own.attestation_policy()).clone());
        provider.demand_of_passwords((*self.own.password_rules()).clone());
        provider.carry_mail(self.own.mail_is_carried());
        provider.demand_of_passwords((*self.own.password_rules()).clone());
        provider.carry_mail(self.own.mail_is_carried());
        Ok(provider.exchanging(Arc::clone(&self.exchange)))
    }

    /// The `iss` of a tenant.
    pub fn issuer(&self, name: &TenantName) -> String {
        format!("{}{TENANTS_PATH}{name}", self.own.settings().issuer)
    }

    /// The fleet's own provider.
    pub fn own(&self) -> &Arc<Provider> {
        &self.own
    }

    /// One that is served.
    pub fn of(&self, name: &TenantName) -> Option<Arc<OpenTenant>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(name).cloned()
    }

    /// The providers of all that are served, the fleet's own first.
    pub fn providers(&self) -> Vec<Arc<Provider>> {
        let mut all = vec![Arc::clone(&self.own)];
        all.extend(self.others());
        all
    }

    /// The same without the fleet's own.
    pub fn others(&self) -> Vec<Arc<Provider>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let others = open.values().map(|tenant| Arc::clone(&tenant.provider));
        others.collect()
    }

    /// All there are, in the order in which they were made.
    ///
    /// # Errors
    /// The store fails.
    pub fn all(&self) -> Result<Vec<TenantRecord>, StoreError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.fleet.list::<TenantRecord>(after, PAGE)?;
            all.extend(page.items.into_iter().map(|stored| stored.record));
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// One of them, served or not.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &TenantName) -> Result<Versioned<TenantRecord>, TenantError> {
        let stored = self.fleet.get::<TenantRecord>(name.as_str())?;
        stored.ok_or_else(|| TenantError::Unknown(name.clone()))
    }

    /// Makes one, with `event` in the outbox, and serves it.
    ///
    /// # Errors
    /// See [`TenantError`].
    pub fn create(
        &self,
        name: &TenantName,
        display_name: &str,
        event: &Event,
    ) -> Result<TenantRecord, TenantError> {
        if name.is_default() {
            return Err(TenantError::Reserved(name.clone()));
        }
        check_display_name(display_name)?;
        if self.all()?.len() >= MAX_TENANTS {
            return Err(TenantError::TooMany);
        }
        let now = self.clock.now();
        let record = TenantRecord {
            name: name.clone(),
            display_name: display_name.to_owned(),
            disabled: false,
            created_at: now,
            updated_at: now,
        };
        if !self.write(Expected::Absent, &record, event)? {
            return Err(TenantError::Taken(name.clone()));
        }
        self.look()?;
        Ok(record)
    }

    /// Calls one otherwise, disables or enables it.
    ///
    /// # Errors
    /// See [`TenantError`].
    pub fn change(
        &self,
        stored: Versioned<TenantRecord>,
        display_name: &str,
        disabled: bool,
        event: &Event,
    ) -> Result<TenantRecord, TenantError> {
        check_display_name(display_name)?;
        let record = TenantRecord {
            display_name: display_name.to_owned(),
            disabled,
            updated_at: self.clock.now(),
            ..stored.record
        };
        if !self.write(Expected::Version(stored.version), &record, event)? {
            return Err(TenantError::Contended);
        }
        self.look()?;
        Ok(record)
    }

    /// Gives `providers` what the fleet gives all tenants: the two roles for administration, the command line as a client, and
    /// the rules of registration.
    ///
    /// # Errors
    /// See [`TenantError`].
    pub fn furnish(&self, providers: &[Arc<Provider>], caller: &Caller) -> Result<(), TenantError> {
        let seed = tenant_seed(&self.own)?;
        for provider in providers {
            provider.seed(&seed, caller)?;
        }
        Ok(())
    }

    fn write(
        &self,
        expected: Expected,
        record: &TenantRecord,
        event: &Event,
    ) -> Result<bool, StoreError> {
        let transaction = self.fleet.transaction().put(expected, record);
        match Outbox.record(transaction, event).commit() {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn check_display_name(name: &str) -> Result<(), TenantError> {
    let fits = (1..=MAX_DISPLAY_NAME_BYTES).contains(&name.len());
    if fits && !name.contains(char::is_control) {
        Ok(())
    } else {
        Err(TenantError::DisplayName)
    }
}

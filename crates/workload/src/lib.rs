//! Workload identity: the CA, join tokens, enrolment, SVIDs and trust bundles.
//!
//! [`Workloads`] is the one door. It keeps the fleet's roots in the sealed store and rotates them while
//! everything runs ([`Workloads::rotate_ca`], [`Workloads::maintain`]), knows which SPIFFE ids exist
//! ([`Workloads::declare`]), lets a proxy join once ([`Workloads::create_join_token`],
//! [`Workloads::enrol`]), renews ([`Workloads::renew`]) and remembers who is alive and where
//! ([`Workloads::report`]).
//!
//! Nothing here is cached: each call reads the store, so several control planes may work on one.

mod authority;
mod enrolment;
mod error;
mod instance;
mod join;
mod lineage;
mod record;
mod registration;
mod sink;

use std::sync::Arc;

pub use authority::{PublishedBundle, Root, RootStage, Rotation};
pub use enrolment::{Enrolment, IssuedChain, LocalWebCertificate};
pub use error::WorkloadError;
pub use instance::{INSTANCE_LEASE, Instance, InstanceReport};
pub use join::{JoinTokenRequest, JoinTokenStatus, MAX_JOIN_TOKEN_LIFETIME};
pub use lineage::ShownCertificate;
pub use registration::{Declared, FleetIdentities, Registration, WorkloadRole};
pub use sink::{Caller, EventNotRecorded, EventSink};

use testudo_model::{Clock, Entropy, RefusalBudget, TenantName, Timestamp, TrustDomain};
use testudo_store::{Store, Tenant};

/// What [`Workloads::open`] needs.
pub struct WorkloadOptions {
    /// The sealed store.
    pub store: Store,
    /// Whose workloads.
    pub tenant: TenantName,
    /// The fleet's trust domain.
    pub trust_domain: TrustDomain,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where events go. What cannot be recorded does not happen.
    pub sink: Arc<dyn EventSink>,
}

/// The identities of a fleet's workloads. Cheap to share behind an `Arc`; all methods take `&self`.
pub struct Workloads {
    tenant_name: TenantName,
    tenant: Tenant,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    sink: Arc<dyn EventSink>,
    started_at: Timestamp,
    refusals: RefusalBudget,
}

impl Workloads {
    /// Opens the room; at the first start it makes the fleet's root and registers the control plane and the
    /// gateway.
    ///
    /// # Errors
    /// The store fails, or the events of the first start cannot be recorded.
    pub fn open(options: WorkloadOptions) -> Result<Self, WorkloadError> {
        let workloads = Self {
            tenant: options.store.tenant(&options.tenant),
            tenant_name: options.tenant,
            trust_domain: options.trust_domain,
            started_at: options.clock.now(),
            clock: options.clock,
            entropy: options.entropy,
            sink: options.sink,
            refusals: RefusalBudget::default(),
        };
        workloads.found()?;
        Ok(workloads)
    }

    /// The fleet's trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

//! Who may administer, as the policies of the snapshot in force say.

use std::sync::{Arc, Mutex, PoisonError};

use testudo_model::snapshot::PolicyFile;
use testudo_policy::AdminRules;

use crate::proxies::Distribution;

/// The policies that are asked about each operation of the admin API.
pub struct Administration {
    distribution: Arc<Distribution>,
    compiled: Mutex<Option<Compiled>>,
}

struct Compiled {
    /// Of the snapshot.
    version: u64,
    policies: Vec<PolicyFile>,
    /// `None` if they do not compile.
    rules: Option<Arc<AdminRules>>,
}

impl Administration {
    /// Rules of what `distribution` publishes. Before it has published anything, those that are built in.
    pub fn new(distribution: Arc<Distribution>) -> Self {
        Self {
            distribution,
            compiled: Mutex::default(),
        }
    }

    /// The rules in force, compiled when they are asked first; `None` if they do not compile, and nobody may do anything.
    pub fn rules(&self) -> Option<Arc<AdminRules>> {
        let newest = self.distribution.newest_snapshot().0;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*compiled
            && known.version == newest
        {
            return known.rules.clone();
        }
        let (version, snapshot) = self.distribution.snapshot();
        let policies = snapshot.map(|snapshot| snapshot.policies.clone());
        let policies = policies.unwrap_or_default();
        // Most snapshots have other people and the same policies.
        let rules = match compiled.take() {
            Some(known) if known.policies == policies => known.rules,
            _ => AdminRules::compile(&policies).ok().map(Arc::new),
        };
        *compiled = Some(Compiled {
            version,
            policies,
            rules: rules.clone(),
        });
        rules
    }
}

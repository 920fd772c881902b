//! What a process reads of the fleet file when it starts, and never again: applying a file that changes it must say so.

use std::collections::BTreeMap;

use testudo_model::ServiceName;
use testudo_runtime::fleet::{Fleet, Listen, Observability, RunCommand, SidecarListen, TlsMinimum};

/// The settings of a fleet that count from a start on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartSettings {
    listen: Listen,
    public_names: Vec<String>,
    tls_min: TlsMinimum,
    observability: Observability,
    sidecars: BTreeMap<ServiceName, SidecarListen>,
    runs: BTreeMap<ServiceName, RunCommand>,
}

impl StartSettings {
    /// Those of `fleet`.
    pub fn of(fleet: &Fleet) -> Self {
        Self {
            listen: fleet.listen,
            public_names: fleet.public_names.clone(),
            tls_min: fleet.tls_min,
            observability: fleet.observability.clone(),
            sidecars: fleet.sidecars.clone(),
            runs: fleet.runs.clone(),
        }
    }

    /// What of `now` is not in force before the next start.
    pub fn waiting(&self, now: &Self) -> Vec<&'static str> {
        [
            ("listen", self.listen != now.listen),
            ("public_names", self.public_names != now.public_names),
            ("tls_min", self.tls_min != now.tls_min),
            ("observability", self.observability != now.observability),
            (
                "sidecars and programs that `testudo up` starts",
                self.sidecars != now.sidecars || self.runs != now.runs,
            ),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

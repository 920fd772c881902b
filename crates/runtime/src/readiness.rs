//! Whether a process may get traffic: a set of named gates, all of which must be open.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The gates of one process. Cheap to clone; all clones are the same set.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// One thing that must be in order. It starts closed, with the reason `starting`.
#[derive(Debug, Clone)]
pub struct Gate {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// No gates yet, hence not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a gate, closed until [`Gate::ready`] is called. A name that exists is closed again.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let gate = Gate {
            name: name.into(),
            readiness: self.clone(),
        };
        gate.not_ready("starting");
        gate
    }

    /// Whether there is a gate and all of them are open.
    pub fn is_ready(&self) -> bool {
        let gates = self.lock();
        !gates.is_empty() && gates.values().all(Option::is_none)
    }

    /// All gates by name, with the reason of those that are closed.
    pub fn status(&self) -> Vec<(String, Option<String>)> {
        self.lock()
            .iter()
            .map(|(name, reason)| (name.clone(), reason.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Opens the gate.
    pub fn ready(&self) {
        self.readiness.lock().insert(self.name.clone(), None);
    }

    /// Closes the gate; `reason` is shown to whoever asks why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.readiness
            .lock()
            .insert(self.name.clone(), Some(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_gates_is_not_ready() {
        assert!(!Readiness::new().is_ready());
    }

    #[test]
    fn one_closed_gate_makes_the_process_not_ready_and_says_why() {
        let readiness = Readiness::new();
        let (snapshot, identity) = (readiness.gate("snapshot"), readiness.gate("identity"));
        snapshot.ready();
        assert!(!readiness.is_ready());
        identity.ready();
        assert!(readiness.is_ready());
        identity.not_ready("certificate expired");
        assert!(!readiness.is_ready());
        assert_eq!(
            readiness.status(),
            [
                (
                    "identity".to_owned(),
                    Some("certificate expired".to_owned())
                ),
                ("snapshot".to_owned(), None),
            ]
        );
    }
}

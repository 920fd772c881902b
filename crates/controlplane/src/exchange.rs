//! Token exchange as the policies of the snapshot in force say.

use std::sync::{Arc, Mutex, PoisonError};

use testudo_identity::{ExchangePolicy, ExchangeQuestion};
use testudo_model::Clock;
use testudo_policy::{Exchange, PolicyEngine};

use crate::proxies::Distribution;

/// Asks the policies that all proxies enforce.
pub struct ExchangeRules {
    distribution: Arc<Distribution>,
    clock: Arc<dyn Clock>,
    /// Compiled for the version of a snapshot; `None` if it does not compile.
    compiled: Mutex<Option<(u64, Option<Arc<PolicyEngine>>)>>,
}

impl ExchangeRules {
    /// Rules of what `distribution` publishes.
    pub fn new(distribution: Arc<Distribution>, clock: Arc<dyn Clock>) -> Self {
        Self {
            distribution,
            clock,
            compiled: Mutex::default(),
        }
    }

    /// The engine of the newest snapshot, compiled when it is asked first.
    fn engine(&self) -> Option<Arc<PolicyEngine>> {
        let newest = self.distribution.newest_snapshot().0;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, engine)) = &*compiled
            && *version == newest
        {
            return engine.clone();
        }
        let (version, snapshot) = self.distribution.snapshot();
        let engine = snapshot
            .and_then(|snapshot| PolicyEngine::compile(&snapshot).ok())
            .map(Arc::new);
        *compiled = Some((version, engine.clone()));
        engine
    }
}

impl ExchangePolicy for ExchangeRules {
    fn permit(&self, question: &ExchangeQuestion<'_>) -> Result<Vec<String>, String> {
        let engine = self
            .engine()
            .ok_or_else(|| "no snapshot is in force".to_owned())?;
        let source_ip = question
            .caller
            .source_ip
            .ok_or_else(|| "nobody knows from where it was asked for".to_owned())?;
        let decision = engine.decide_exchange(&Exchange {
            actor: question.actor,
            subject: question.subject,
            service: question.service,
            scopes: question.scopes,
            actors: question.actors,
            source_ip,
            now: self.clock.now(),
        });
        let determining = decision.legs.iter().flat_map(|leg| &leg.policies);
        let names: Vec<_> = determining.map(|policy| policy.id.to_string()).collect();
        if decision.allowed {
            return Ok(names);
        }
        Err(if names.is_empty() {
            decision.reason.to_string()
        } else {
            format!("{}: {}", decision.reason, names.join(", "))
        })
    }
}

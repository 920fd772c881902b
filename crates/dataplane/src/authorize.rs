//! The decision, and the permit that comes out of it.
//!
//! Forwarding takes a [`Permit`]; only [`authorize`] makes one, after both legs allowed and the decision was
//! recorded. Forwarding what nobody decided does not compile.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError},
};

use http::Method;
use testudo_model::{
    DecisionId, Route, Service, ServiceName, SpiffeId, Timestamp, TransactionId,
    snapshot::TransferRules,
};
use testudo_policy::{Call, Decision, Peer, ReasonCode};

use crate::{
    metrics::Role, principal::Principal, proxy::Worker, record, rejection::Rejection,
    routes::RouteRef, state::Enforced, step_up::StepUpChallenge,
};

/// The calling workload, verified by its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// Cedar service name.
    pub(crate) service: &'a str,
    /// SPIFFE id.
    pub(crate) id: &'a SpiffeId,
    /// End of its certificate.
    pub(crate) certificate_expires: Timestamp,
}

/// What is to be decided.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) role: Role,
    pub(crate) enforced: &'a Arc<Enforced>,
    pub(crate) caller: Caller<'a>,
    pub(crate) principal: Option<&'a Principal>,
    pub(crate) transaction: Option<&'a TransactionId>,
    pub(crate) route: RouteRef,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) source_ip: IpAddr,
    pub(crate) trace: &'a str,
}

/// A recorded decision that a request may be forwarded to one operation of one service.
#[derive(Clone)]
pub(crate) struct Permit {
    decision: DecisionId,
    enforced: Arc<Enforced>,
    target: RouteRef,
}

impl Permit {
    /// The decision.
    pub(crate) const fn decision(&self) -> &DecisionId {
        &self.decision
    }

    /// How slowly its bodies may be sent and taken.
    pub(crate) fn transfer(&self) -> TransferRules {
        self.enforced.snapshot().transfer
    }

    /// The service the request may go to, and its operation.
    pub(crate) fn target(&self) -> Option<(&Service, &Route)> {
        find(&self.enforced, self.target)
    }
}

fn find(enforced: &Enforced, target: RouteRef) -> Option<(&Service, &Route)> {
    let service = enforced.snapshot().services.get(target.service)?;
    Some((service, service.routes.get(target.route)?))
}

/// Decides both legs and records the decision.
///
/// # Errors
/// [`Rejection::Denied`], or [`Rejection::NotReady`] if the decision could not be recorded.
pub(crate) fn authorize(worker: &Worker, question: &Question<'_>) -> Result<Permit, Rejection> {
    let (service, route) = find(question.enforced, question.route).ok_or(Rejection::NoRoute)?;
    let call = Call {
        peer: peer(question.enforced, &question.caller),
        subject: question
            .principal
            .map(|principal| principal.subject.as_str()),
        token: question.principal.map(Principal::facts),
        service: &service.name,
        route,
        source_ip: question.source_ip,
        now: worker.proxy.clock.now(),
        path: question.path,
        // Detection feeds this in later; until then no call is more suspicious than another.
        risk: 0,
    };
    let decision = decide(worker, question.enforced, &call);
    let about = record::Subject {
        role: question.role,
        enforced: question.enforced,
        workload: Some(question.caller.id),
        principal: question.principal,
        transaction: question.transaction,
        service: &service.name,
        operation: Some(route.operation.as_str()),
        method: question.method.as_str(),
        path: question.path,
        source_ip: question.source_ip,
        trace: Some(question.trace),
    };
    if !decision.allowed {
        return Err(denied(
            worker,
            &about,
            &decision,
            step_up(question, &call, &decision),
        ));
    }
    Ok(Permit {
        decision: record::decision(worker, &about, &decision).map_err(Rejection::NotReady)?,
        enforced: Arc::clone(question.enforced),
        target: question.route,
    })
}

/// Decides whether `caller` may have a connection to `service` at all, and records the decision.
///
/// # Errors
/// [`Rejection::Denied`], or [`Rejection::NotReady`] if the decision could not be recorded.
pub(crate) fn authorize_connection(
    worker: &Worker,
    role: Role,
    enforced: &Arc<Enforced>,
    caller: &Caller<'_>,
    service: &ServiceName,
    source_ip: IpAddr,
) -> Result<(), Rejection> {
    let now = worker.proxy.clock.now();
    let decision =
        enforced
            .policy()
            .decide_connect(&peer(enforced, caller), service, source_ip, now);
    let about = record::Subject {
        role,
        enforced,
        workload: Some(caller.id),
        principal: None,
        transaction: None,
        service,
        operation: None,
        method: "connect",
        path: "",
        source_ip,
        trace: None,
    };
    if !decision.allowed {
        return Err(denied(worker, &about, &decision, None));
    }
    record::decision(worker, &about, &decision)
        .map(|_| ())
        .map_err(Rejection::NotReady)
}

/// What login would help somebody who is denied. Only the gateway's clients can have their users log in.
fn step_up(
    question: &Question<'_>,
    call: &Call<'_>,
    decision: &Decision,
) -> Option<StepUpChallenge> {
    let principal = question.principal?;
    let is_login = principal.context.session.is_some();
    if question.role != Role::Gateway || !is_login || decision.reason != ReasonCode::UserLegDenied {
        return None;
    }
    Some(StepUpChallenge {
        login: question.enforced.policy().step_up(call)?,
        is_bound: principal.context.bound,
    })
}

fn denied(
    worker: &Worker,
    about: &record::Subject<'_>,
    decision: &Decision,
    step_up: Option<StepUpChallenge>,
) -> Rejection {
    match record::denial(worker, about, decision) {
        Ok(id) => Rejection::Denied {
            reason: decision.reason,
            decision: id,
            step_up,
        },
        Err(not_ready) => Rejection::NotReady(not_ready),
    }
}

/// `caller` as policies see it.
pub(crate) fn peer<'a>(enforced: &'a Enforced, caller: &Caller<'a>) -> Peer<'a> {
    Peer {
        service: caller.service,
        verified: true,
        trust_domain: enforced.snapshot().trust_domain.as_str(),
        certificate_expires: caller.certificate_expires,
    }
}

/// The engine's decision, from the worker's memory if nothing it depends on has changed.
fn decide(worker: &Worker, enforced: &Enforced, call: &Call<'_>) -> Arc<Decision> {
    let Some(key) = enforced.policy().cacheable(call) else {
        return Arc::new(enforced.policy().decide(call));
    };
    let known = worker
        .decisions
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key);
    worker.proxy.metrics.decision_lookup(known.is_some());
    known.unwrap_or_else(|| {
        let decision = Arc::new(enforced.policy().decide(call));
        let mut decisions = worker
            .decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        decisions.insert(key, Arc::clone(&decision));
        decision
    })
}

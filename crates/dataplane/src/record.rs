//! Evidence: one event for each decision, and a sample of what is refused before any.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use testudo_model::{
    DecisionId, EventId, LimitKey, RateLimit, ServiceName, SpiffeId, TenantName, TransactionId,
    event::{Actor, DecisionRecord, Detail, Event, EventClass, Grounds, Outcome},
};
use testudo_policy::Decision;

use crate::{
    api_keys,
    metrics::Role,
    principal::Principal,
    proxy::{Proxy, Worker},
    rejection::{NotReady, Rejection},
    state::Enforced,
    stream::{Standing, StreamEnd},
};

/// Refusals of one kind recorded a second. Whoever floods a proxy with bad requests must not fill the spool,
/// because a full spool stops everybody.
const RECORDED_REFUSALS: RateLimit = RateLimit {
    per: LimitKey::Route,
    requests: 20,
    period_millis: 1_000,
    burst: 100,
};

/// What was decided about, as far as an event tells.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) role: Role,
    pub(crate) enforced: &'a Enforced,
    pub(crate) workload: Option<&'a SpiffeId>,
    pub(crate) principal: Option<&'a Principal>,
    pub(crate) transaction: Option<&'a TransactionId>,
    pub(crate) service: &'a ServiceName,
    pub(crate) operation: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) source_ip: IpAddr,
    pub(crate) trace: Option<&'a str>,
}

/// Records `decision`. Only then is there a decision.
///
/// # Errors
/// [`NotReady::SpoolFull`].
pub(crate) fn decision(
    worker: &Worker,
    about: &Subject<'_>,
    decision: &Decision,
) -> Result<DecisionId, NotReady> {
    let proxy = &worker.proxy;
    let mut event = event(
        worker,
        about.enforced.snapshot().tenant.clone(),
        EventClass::AuthorizeSession,
    );
    // One name is enough for the decision and for the event that records it.
    let id = DecisionId::from(event.id.ulid());
    let record = DecisionRecord {
        id: id.clone(),
        snapshot: about.enforced.version().0,
        service: about.service.clone(),
        operation: about.operation.map(str::to_owned),
        method: about.method.to_owned(),
        path: about.path.to_owned(),
        reason: decision.reason.as_str().to_owned(),
        grounds: Grounds {
            legs: Arc::clone(&decision.legs),
            context: decision.context.clone(),
        },
        status: if decision.allowed {
            0
        } else {
            denied_status(decision)
        },
    };
    event.activity = activity(about.role).to_owned();
    event.outcome = if decision.allowed {
        Outcome::Success
    } else {
        Outcome::Denied
    };
    event.actor = actor(about.workload, about.principal);
    event.target = Some(match about.operation {
        Some(operation) => [about.service.as_str(), ":", operation].concat(),
        None => about.service.as_str().to_owned(),
    });
    event.source_ip = Some(about.source_ip);
    event.trace_id = about.trace.map(str::to_owned);
    event.transaction = about.transaction.cloned();
    event.decision = Some(record);
    let api_key = about
        .principal
        .and_then(|who| api_keys::id_of(&who.context));
    if let Some(api_key) = api_key {
        let id = Detail::from(api_key.as_str());
        event.details.insert("api_key".to_owned(), id);
    }
    proxy.events.record(event).map_err(|_| {
        proxy.metrics.event_refused();
        NotReady::SpoolFull
    })?;
    Ok(id)
}

/// Records a denial, or a sample of them if nobody is known to stand behind the call: a flood from outside without
/// tokens is a flood of denials on every route that needs a user.
///
/// # Errors
/// [`NotReady::SpoolFull`].
pub(crate) fn denial(
    worker: &Worker,
    about: &Subject<'_>,
    denied: &Decision,
) -> Result<Option<DecisionId>, NotReady> {
    // Between services a workload has proved who it is.
    let is_anonymous = about.role == Role::Gateway && about.principal.is_none();
    if is_anonymous && !is_sampled(&worker.proxy, denied.reason.as_str()) {
        return Ok(None);
    }
    decision(worker, about, denied).map(Some)
}

fn is_sampled(proxy: &Proxy, code: &str) -> bool {
    proxy
        .limiter
        .check(&RECORDED_REFUSALS, "recorded-refusals", code)
        .allowed
}

/// Records a sample of the requests refused without a decision.
pub(crate) fn refusal(
    worker: &Worker,
    role: Role,
    rejection: &Rejection,
    source_ip: IpAddr,
    method: &str,
    path: &str,
) {
    let proxy: &Proxy = &worker.proxy;
    let code = rejection.code();
    // Denials are recorded as decisions.
    if matches!(rejection, Rejection::Denied { .. }) || !is_sampled(proxy, code) {
        return;
    }
    let tenant = match proxy.state.enforced() {
        Some(enforced) => enforced.snapshot().tenant.clone(),
        None => TenantName::default_tenant(),
    };
    let mut event = event(worker, tenant, EventClass::HttpActivity);
    event.activity = format!("request.refuse.{}", role.as_str());
    event.outcome = Outcome::Denied;
    event.source_ip = Some(source_ip);
    event.details = BTreeMap::from([
        ("code".to_owned(), Detail::from(code)),
        ("method".to_owned(), Detail::from(method)),
        ("path".to_owned(), Detail::from(path)),
        (
            "status".to_owned(),
            Detail::from(u64::from(rejection.status().as_u16())),
        ),
    ]);
    if proxy.events.record(event).is_err() {
        proxy.metrics.event_refused();
    }
}

/// What a stream carried.
pub(crate) struct Moved {
    pub(crate) to_service_bytes: u64,
    pub(crate) to_client_bytes: u64,
}

/// Records how a stream ended. There is nobody left to refuse if that cannot be recorded.
pub(crate) fn stream_end(
    standing: &Standing,
    end: StreamEnd,
    lasted_millis: u64,
    moved: Option<&Moved>,
) {
    let proxy = &standing.worker.proxy;
    let tenant = match proxy.state.enforced() {
        Some(enforced) => enforced.snapshot().tenant.clone(),
        None => TenantName::default_tenant(),
    };
    let mut event = event(&standing.worker, tenant, EventClass::HttpActivity);
    event.activity = format!("stream.close.{}", standing.role.as_str());
    event.outcome = end.outcome();
    event.actor = actor(Some(&standing.caller), standing.principal.as_ref());
    event.target = Some(format!("{}:{}", standing.service, standing.operation));
    event.source_ip = Some(standing.source_ip);
    event.trace_id = Some(standing.trace.clone());
    event.transaction = standing.transaction.clone();
    event.details = BTreeMap::from([
        ("reason".to_owned(), Detail::from(end.code())),
        (
            "decision".to_owned(),
            Detail::from(standing.decision.as_str()),
        ),
        ("lasted_ms".to_owned(), Detail::from(lasted_millis)),
    ]);
    if let Some(moved) = moved {
        let (up, down) = (moved.to_service_bytes, moved.to_client_bytes);
        event.details.extend([
            ("to_service_bytes".to_owned(), Detail::from(up)),
            ("to_client_bytes".to_owned(), Detail::from(down)),
        ]);
    }
    if proxy.events.record(event).is_err() {
        proxy.metrics.event_refused();
    }
}

fn event(worker: &Worker, tenant: TenantName, class: EventClass) -> Event {
    let id = EventId::generate(&*worker.proxy.clock, &*worker.entropy);
    Event {
        time: id.ulid().made_at(),
        id,
        tenant,
        class,
        activity: String::new(),
        outcome: Outcome::Failure,
        actor: Actor::default(),
        target: None,
        reporter: worker.proxy.identity.current().id().clone(),
        source_ip: None,
        trace_id: None,
        transaction: None,
        decision: None,
        details: BTreeMap::new(),
    }
}

fn actor(workload: Option<&SpiffeId>, principal: Option<&Principal>) -> Actor {
    Actor {
        subject: principal.map(|principal| principal.subject.clone()),
        workload: workload.cloned(),
        client: principal.map(|principal| principal.context.client_id.clone()),
        session: principal.and_then(|principal| principal.context.session.clone()),
    }
}

const fn activity(decider: Role) -> &'static str {
    match decider {
        Role::Gateway => "decision.gateway",
        Role::Inbound => "decision.inbound",
        Role::Outbound => "decision.outbound",
    }
}

const fn denied_status(decision: &Decision) -> u16 {
    match decision.reason {
        testudo_policy::ReasonCode::UserRequired => 401,
        _ => 403,
    }
}

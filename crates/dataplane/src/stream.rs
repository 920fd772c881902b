//! Streams outlive the decision that allowed them, so it is asked again whenever the answer may have changed.

use std::{future::pending, net::IpAddr, sync::Arc, time::Duration};

use testudo_model::{
    DecisionId, OperationId, Route, Service, ServiceName, SpiffeId, Timestamp, TransactionId,
    event::Outcome,
};
use testudo_policy::{Call, Decision, ReasonCode};
use tokio::time::sleep;

use crate::{
    authorize::{self, Caller, Permit, Question},
    metrics::Role,
    principal::Principal,
    proxy::Worker,
    record,
    state::Enforced,
};

/// Between two looks at the certificate, should the clock stand still.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// Both sides were done.
    Closed,
    /// One side broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// It had lasted as long as a stream may.
    Expired,
    /// The proxy stopped.
    Drained,
    /// The proxy's own certificate has ended: it has not heard for too long what still holds.
    IdentityExpired,
    /// The calling or called workload, or the edge that spoke for the user, is revoked.
    WorkloadRevoked,
    /// The user, the session or the token is revoked.
    UserRevoked,
    /// The client's address may not connect any more.
    SourceDenied,
    /// The route is gone, or allows no such stream any more.
    RouteChanged,
    /// The policies say no by now.
    Denied(ReasonCode),
}

impl StreamEnd {
    /// For events.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Expired => "expired",
            Self::Drained => "drained",
            Self::IdentityExpired => "identity_expired",
            Self::WorkloadRevoked => "workload_revoked",
            Self::UserRevoked => "user_revoked",
            Self::SourceDenied => "source_denied",
            Self::RouteChanged => "route_changed",
            Self::Denied(reason) => reason.as_str(),
        }
    }

    pub(crate) const fn outcome(self) -> Outcome {
        match self {
            Self::Closed => Outcome::Success,
            Self::Broken | Self::Idle | Self::Expired | Self::Drained => Outcome::Failure,
            Self::IdentityExpired
            | Self::WorkloadRevoked
            | Self::UserRevoked
            | Self::SourceDenied
            | Self::RouteChanged
            | Self::Denied(_) => Outcome::Denied,
        }
    }
}

/// What besides the decision let the request through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admission<'a> {
    /// Where the calling workload connects from; `None` if that is this proxy.
    pub(crate) peer: Option<IpAddr>,
    /// The address that the called service's lists were asked about.
    pub(crate) listed: Option<IpAddr>,
    /// The edge that minted the transaction token.
    pub(crate) edge: Option<&'a SpiffeId>,
}

/// Why a stream may go on: everything that the request was let through for, to be asked again.
pub(crate) struct Standing {
    pub(crate) worker: Arc<Worker>,
    pub(crate) role: Role,
    pub(crate) decision: DecisionId,
    pub(crate) service: ServiceName,
    pub(crate) operation: OperationId,
    pub(crate) caller: SpiffeId,
    pub(crate) principal: Option<Principal>,
    pub(crate) transaction: Option<TransactionId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) trace: String,
    is_websocket: bool,
    service_id: SpiffeId,
    caller_name: String,
    certificate_expires: Timestamp,
    peer: Option<IpAddr>,
    listed: Option<IpAddr>,
    edge: Option<SpiffeId>,
    path: String,
}

impl Standing {
    /// The standing of a request that `permit` was given for. `None` if the permit is for nothing.
    pub(crate) fn new(
        worker: &Arc<Worker>,
        question: &Question<'_>,
        permit: &Permit,
        admission: &Admission<'_>,
        is_websocket: bool,
    ) -> Option<Self> {
        let (service, route) = permit.target()?;
        Some(Self {
            worker: Arc::clone(worker),
            role: question.role,
            decision: permit.decision().clone(),
            service: service.name.clone(),
            operation: route.operation.clone(),
            caller: question.caller.id.clone(),
            principal: question.principal.cloned(),
            transaction: question.transaction.cloned(),
            source_ip: question.source_ip,
            trace: question.trace.to_owned(),
            is_websocket,
            service_id: service.spiffe_id.clone(),
            caller_name: question.caller.service.to_owned(),
            certificate_expires: question.caller.certificate_expires,
            peer: admission.peer,
            listed: admission.listed,
            edge: admission.edge.cloned(),
            path: question.path.to_owned(),
        })
    }

    /// Resolves when the answer that has this standing must end, after recording why.
    pub(crate) async fn until_cut(self) -> StreamEnd {
        let began_nanos = self.worker.proxy.clock.monotonic_nanos();
        let end = self.until_objection().await;
        let now_nanos = self.worker.proxy.clock.monotonic_nanos();
        let lasted_millis = now_nanos.saturating_sub(began_nanos) / 1_000_000;
        record::stream_end(&self, end, lasted_millis, None);
        end
    }

    /// Resolves when the stream may not go on any more, and says why.
    pub(crate) async fn until_objection(&self) -> StreamEnd {
        let mut changes = self.worker.proxy.state.changes();
        loop {
            if let Some(end) = self.objection() {
                return end;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return pending().await;
                },
                () = sleep(self.own_certificate_lasts().max(SHORTEST_WAIT)) => {}
            }
        }
    }

    /// How long the proxy may go on without hearing from the control plane.
    fn own_certificate_lasts(&self) -> Duration {
        let proxy = &self.worker.proxy;
        let end = proxy.identity.current().not_after();
        let millis = end
            .unix_millis()
            .saturating_sub(proxy.clock.now().unix_millis());
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// Why the stream may not go on, if so. The certificates that proved the workloads when it began may have
    /// ended since: only their revocation counts.
    pub(crate) fn objection(&self) -> Option<StreamEnd> {
        if self.own_certificate_lasts().is_zero() {
            return Some(StreamEnd::IdentityExpired);
        }
        let revocations = self.worker.proxy.state.revocations();
        let workloads = [
            Some(&self.caller),
            Some(&self.service_id),
            self.edge.as_ref(),
        ];
        if workloads
            .into_iter()
            .flatten()
            .any(|id| revocations.revokes_workload(id))
        {
            return Some(StreamEnd::WorkloadRevoked);
        }
        let principal = self.principal.as_ref();
        if principal.is_some_and(|principal| revocations.revokes_token(principal.identity())) {
            return Some(StreamEnd::UserRevoked);
        }
        let enforced = self.worker.proxy.state.enforced()?;
        self.objection_under(&enforced)
    }

    fn objection_under(&self, enforced: &Enforced) -> Option<StreamEnd> {
        if enforced.caller(&self.caller) != Some(self.caller_name.as_str()) {
            return Some(StreamEnd::Denied(ReasonCode::UnknownPeer));
        }
        let Some((index, service, route)) = self.target(enforced) else {
            return Some(StreamEnd::RouteChanged);
        };
        if self.listed.is_some_and(|address| {
            !enforced
                .service_ip(index)
                .is_some_and(|filter| filter.allows(address))
                || (self.role == Role::Gateway && !enforced.gateway_ip().allows(address))
        }) {
            return Some(StreamEnd::SourceDenied);
        }
        let denied =
            |decision: Decision| (!decision.allowed).then_some(StreamEnd::Denied(decision.reason));
        denied(self.decide_connect(enforced, service))
            .or_else(|| denied(self.decide(enforced, service, route)))
    }

    /// The route as it is now, if it still allows the stream.
    fn target<'a>(&self, enforced: &'a Enforced) -> Option<(usize, &'a Service, &'a Route)> {
        let index = enforced.service_index(self.service.as_str())?;
        let service = enforced.snapshot().services.get(index)?;
        let route = service
            .routes
            .iter()
            .find(|route| route.operation == self.operation)?;
        (route.websocket || !self.is_websocket).then_some((index, service, route))
    }

    fn decide_connect(&self, enforced: &Enforced, service: &Service) -> Decision {
        let source_ip = match self.peer {
            Some(address) => address,
            None => self.worker.own_address(&service.name),
        };
        let now = self.worker.proxy.clock.now();
        let peer = authorize::peer(enforced, &self.as_caller());
        enforced
            .policy()
            .decide_connect(&peer, &service.name, source_ip, now)
    }

    fn decide(&self, enforced: &Enforced, service: &Service, route: &Route) -> Decision {
        let principal = self.principal.as_ref();
        enforced.policy().decide(&Call {
            peer: authorize::peer(enforced, &self.as_caller()),
            subject: principal.map(|principal| principal.subject.as_str()),
            token: principal.map(Principal::facts),
            service: &service.name,
            route,
            source_ip: self.source_ip,
            now: self.worker.proxy.clock.now(),
            path: &self.path,
            risk: 0,
        })
    }

    fn as_caller(&self) -> Caller<'_> {
        Caller {
            service: &self.caller_name,
            id: &self.caller,
            certificate_expires: self.certificate_expires,
        }
    }
}

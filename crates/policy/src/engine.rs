//! The engine: a snapshot's policies, compiled once, deciding many times.

use std::net::IpAddr;

use cedar_policy::{Authorizer, Context, Effect, Entities, EntityUid, Request};
use testudo_model::{
    FleetMap, Route, ServiceName, Timestamp, TrustDomain, UserRequirement,
    event::{DeterminingPolicy, LegRecord},
    snapshot::SnapshotVersion,
};

pub use self::{compile::check, exchange::Exchange, step_up::StepUp};
use crate::{
    decision::{Call, Decision, DecisionKey, Peer, ReasonCode},
    facts::Facts,
    index::{Bucket, Index, PolicyNumber, PrincipalScopes, ResourceScopes},
    observed::Observed,
    problem::PolicyProblem,
    vocabulary::Action,
};

mod compile;
mod exchange;
mod step_up;

/// The policies of one snapshot, validated and indexed. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct PolicyEngine {
    version: SnapshotVersion,
    trust_domain: TrustDomain,
    authorizer: Authorizer,
    entities: Entities,
    actions: Vec<(Action, EntityUid)>,
    policies: Vec<PolicyEntry>,
    numbers: FleetMap<String, PolicyNumber>,
    index: Index,
    subjects: FleetMap<String, Principal>,
    /// Service accounts, as those who act for others.
    actors: FleetMap<String, Principal>,
    usernames: FleetMap<String, String>,
    peers: FleetMap<String, Principal>,
    targets: FleetMap<ServiceName, Target>,
    warnings: Vec<PolicyProblem>,
}

/// What is said about a policy after a decision.
#[derive(Debug)]
pub(crate) struct PolicyEntry {
    pub(crate) determining: DeterminingPolicy,
    pub(crate) effect: Effect,
    pub(crate) text: String,
    pub(crate) built_in: bool,
}

/// A service or user that asks.
#[derive(Debug)]
pub(crate) struct Principal {
    pub(crate) number: u32,
    pub(crate) uid: EntityUid,
    pub(crate) scopes: PrincipalScopes,
}

/// A service that is asked for.
#[derive(Debug)]
struct Target {
    uid: EntityUid,
    connect: ResourceScopes,
    /// The service as what a token is for.
    audience: EntityUid,
    exchange: ResourceScopes,
    routes: FleetMap<String, RouteTarget>,
}

#[derive(Debug)]
pub(crate) struct RouteTarget {
    pub(crate) number: u32,
    pub(crate) uid: EntityUid,
    pub(crate) route: Route,
    pub(crate) invoke: ResourceScopes,
    pub(crate) user: ResourceScopes,
}

impl PolicyEngine {
    /// The snapshot it was compiled from.
    pub const fn version(&self) -> SnapshotVersion {
        self.version
    }

    /// What does not keep the set from being active, but deserves a look.
    pub fn warnings(&self) -> &[PolicyProblem] {
        &self.warnings
    }

    /// Decides a call: first whether the calling service may invoke the route, then, if a user stands behind the
    /// call and the route is for users, whether the user may.
    pub fn decide(&self, call: &Call<'_>) -> Decision {
        let parties = match self.parties(call) {
            Ok(parties) => parties,
            Err(reason) => return Decision::deny_unasked(reason),
        };
        let Parties {
            peer,
            target,
            subject,
        } = parties;
        let observed = observed(call, peer);
        let facts = self.facts(&parties);
        let context = observed.context(facts).map_err(|error| error.to_string());
        let recorded = observed.recorded(facts);
        let ask = |leg, principal: &Principal, action, scopes| {
            let question = Question {
                leg,
                principal,
                action,
                resource: &target.uid,
                scopes,
            };
            self.decide_leg(&question, &context)
        };

        let service_leg = ask("service", peer, Action::Invoke, &target.invoke);
        if let Some(reason) = denial(&service_leg, ReasonCode::ServiceLegDenied) {
            return Decision::deny(reason, [service_leg], recorded);
        }
        let subject = match subject {
            UserBehind::Nobody => return Decision::allow([service_leg], recorded),
            UserBehind::Missing => {
                return Decision::deny(ReasonCode::UserRequired, [service_leg], recorded);
            }
            UserBehind::Unknown => {
                return Decision::deny(ReasonCode::UnknownSubject, [service_leg], recorded);
            }
            UserBehind::Known(subject) => subject,
        };
        let user_leg = ask("user", subject, target.route.action.into(), &target.user);
        match denial(&user_leg, ReasonCode::UserLegDenied) {
            Some(reason) => Decision::deny(reason, [service_leg, user_leg], recorded),
            None => Decision::allow([service_leg, user_leg], recorded),
        }
    }

    /// Decides whether a service may open a connection to another. Decide again when the snapshot changes.
    pub fn decide_connect(
        &self,
        peer: &Peer<'_>,
        to: &ServiceName,
        source_ip: IpAddr,
        now: Timestamp,
    ) -> Decision {
        let Some(principal) = self.peers.get(peer.service) else {
            return Decision::deny_unasked(ReasonCode::UnknownPeer);
        };
        let Some(target) = self.targets.get(to) else {
            return Decision::deny_unasked(ReasonCode::UnknownResource);
        };
        let observed = Observed {
            peer: *peer,
            peer_uid: &principal.uid,
            token: None,
            source_ip,
            now,
            path: None,
            risk: None,
        };
        let facts = self.candidate_facts(&target.connect, &principal.scopes);
        let context = observed.context(facts).map_err(|error| error.to_string());
        let question = Question {
            leg: "service",
            principal,
            action: Action::Connect,
            resource: &target.uid,
            scopes: &target.connect,
        };
        let leg = self.decide_leg(&question, &context);
        let recorded = observed.recorded(facts);
        match denial(&leg, ReasonCode::ServiceLegDenied) {
            Some(reason) => Decision::deny(reason, [leg], recorded),
            None => Decision::allow([leg], recorded),
        }
    }

    /// A key under which the decision of `call` may be kept as long as this engine is in force; `None` if the
    /// decision depends on the time or on parties that are not in the snapshot.
    pub fn cacheable(&self, call: &Call<'_>) -> Option<DecisionKey> {
        let parties = self.parties(call).ok()?;
        let subject = match parties.subject {
            UserBehind::Known(subject) => Some(subject.number),
            UserBehind::Nobody => None,
            UserBehind::Missing | UserBehind::Unknown => return None,
        };
        let mut key = DecisionKey::builder(
            self.version,
            parties.peer.number,
            parties.target.number,
            subject,
        );
        observed(call, parties.peer).extend_key(self.facts(&parties), &mut key)?;
        Some(key.finish())
    }

    fn parties(&self, call: &Call<'_>) -> Result<Parties<'_>, ReasonCode> {
        let peer = self
            .peers
            .get(call.peer.service)
            .ok_or(ReasonCode::UnknownPeer)?;
        let target = self
            .targets
            .get(call.service)
            .and_then(|target| target.routes.get(call.route.operation.as_str()))
            .ok_or(ReasonCode::UnknownResource)?;
        let subject = match (target.route.user, call.subject) {
            (UserRequirement::None, _) | (UserRequirement::Optional, None) => UserBehind::Nobody,
            (UserRequirement::Required, None) => UserBehind::Missing,
            (_, Some(sub)) => self
                .subjects
                .get(sub)
                .map_or(UserBehind::Unknown, UserBehind::Known),
        };
        Ok(Parties {
            peer,
            target,
            subject,
        })
    }

    /// What the policies that may decide between `parties` read. Both legs see the same context.
    fn facts(&self, parties: &Parties<'_>) -> Facts {
        let service_leg = self.candidate_facts(&parties.target.invoke, &parties.peer.scopes);
        match parties.subject {
            UserBehind::Known(subject) => {
                service_leg.union(self.candidate_facts(&parties.target.user, &subject.scopes))
            }
            _ => service_leg,
        }
    }

    fn candidate_facts(&self, resource: &ResourceScopes, principal: &PrincipalScopes) -> Facts {
        self.index
            .candidates(resource, principal)
            .fold(Facts::default(), |facts, bucket| facts.union(bucket.facts))
    }

    fn decide_leg(&self, question: &Question<'_>, context: &Result<Context, String>) -> LegRecord {
        let buckets = self
            .index
            .candidates(question.scopes, &question.principal.scopes);
        let outcome = match context {
            Ok(context) => self
                .request(question, context.clone())
                .map(|request| self.evaluate(&request, buckets)),
            Err(error) => Err(error.clone()),
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome {
            errors: vec![error],
            ..Outcome::default()
        });
        LegRecord {
            leg: question.leg.to_owned(),
            principal: question.principal.uid.to_string(),
            action: question.action.name().to_owned(),
            resource: question.resource.to_string(),
            allowed: outcome.allowed(),
            policies: self.determining(&outcome),
            errors: outcome.errors,
        }
    }

    fn request(&self, question: &Question<'_>, context: Context) -> Result<Request, String> {
        let (_, action) = self
            .actions
            .iter()
            .find(|(action, _)| *action == question.action)
            .ok_or_else(|| "the action is not in the schema".to_owned())?;
        let (principal, resource) = (question.principal.uid.clone(), question.resource.clone());
        Request::new(principal, action.clone(), resource, context, None)
            .map_err(|error| error.to_string())
    }

    /// Cedar's semantics over several sets: default deny, any satisfied `forbid` wins. Errors are kept apart.
    fn evaluate<'a>(
        &self,
        request: &Request,
        buckets: impl Iterator<Item = &'a Bucket>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for bucket in buckets {
            for (number, effect) in &bucket.unconditional {
                outcome.satisfied(*number, *effect);
            }
            if bucket.conditional.is_empty() {
                continue;
            }
            let response =
                self.authorizer
                    .is_authorized(request, &bucket.conditional, &self.entities);
            for id in response.diagnostics().reason() {
                let id: &str = id.as_ref();
                match self
                    .numbers
                    .get(id)
                    .and_then(|number| Some((*number, self.policies.get(*number)?)))
                {
                    Some((number, policy)) => outcome.satisfied(number, policy.effect),
                    None => outcome
                        .errors
                        .push(format!("the policy `{id}` is not in the set")),
                }
            }
            outcome
                .errors
                .extend(response.diagnostics().errors().map(ToString::to_string));
        }
        outcome.permits.sort_unstable();
        outcome.forbids.sort_unstable();
        outcome
    }

    fn determining(&self, outcome: &Outcome) -> Vec<DeterminingPolicy> {
        let numbers = if outcome.forbids.is_empty() {
            &outcome.permits
        } else {
            &outcome.forbids
        };
        let entries = numbers
            .iter()
            .filter_map(|number| self.policies.get(*number));
        entries.map(|entry| entry.determining.clone()).collect()
    }
}

/// Access for explanations and tests of policies.
impl PolicyEngine {
    pub(crate) fn trust_domain(&self) -> &str {
        self.trust_domain.as_str()
    }

    pub(crate) fn policies(&self) -> &[PolicyEntry] {
        &self.policies
    }

    pub(crate) fn policy(&self, number: PolicyNumber) -> Option<&PolicyEntry> {
        self.policies.get(number)
    }

    pub(crate) fn policy_by_id(&self, id: &str) -> Option<&PolicyEntry> {
        self.policies.get(*self.numbers.get(id)?)
    }

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) const fn entities(&self) -> &Entities {
        &self.entities
    }

    pub(crate) const fn authorizer(&self) -> &Authorizer {
        &self.authorizer
    }

    /// The `sub` of a user or service account.
    pub(crate) fn subject_named(&self, username: &str) -> Option<&str> {
        self.usernames.get(username).map(String::as_str)
    }

    pub(crate) fn usernames(&self) -> impl Iterator<Item = &str> {
        self.usernames.keys().map(String::as_str)
    }

    /// A service and, if `operation` is given, its route.
    pub(crate) fn target(
        &self,
        service: &str,
        operation: Option<&str>,
    ) -> Option<(&ServiceName, Option<&RouteTarget>)> {
        let (name, target) = self
            .targets
            .get_key_value(&service.parse::<ServiceName>().ok()?)?;
        match operation {
            None => Some((name, None)),
            Some(operation) => Some((name, Some(target.routes.get(operation)?))),
        }
    }

    /// The resource scopes of a recorded resource for a recorded action.
    pub(crate) fn resource_scopes(
        &self,
        action: Action,
        resource: &EntityUid,
    ) -> Option<&ResourceScopes> {
        let id = resource.id().unescaped();
        match action {
            Action::Connect => Some(&self.targets.get(&id.parse::<ServiceName>().ok()?)?.connect),
            Action::Exchange => Some(&self.targets.get(&id.parse::<ServiceName>().ok()?)?.exchange),
            _ => {
                let (service, operation) = id.split_once(':')?;
                let (_, route) = self.target(service, Some(operation))?;
                route.map(|route| {
                    if action == Action::Invoke {
                        &route.invoke
                    } else {
                        &route.user
                    }
                })
            }
        }
    }
}

/// Who is involved in a call.
struct Parties<'e> {
    peer: &'e Principal,
    target: &'e RouteTarget,
    subject: UserBehind<'e>,
}

#[derive(Clone, Copy)]
enum UserBehind<'e> {
    /// No user, and none is needed.
    Nobody,
    /// No user where one is needed.
    Missing,
    /// A subject that the directory does not have.
    Unknown,
    Known(&'e Principal),
}

/// One leg to decide.
struct Question<'a> {
    leg: &'static str,
    principal: &'a Principal,
    action: Action,
    resource: &'a EntityUid,
    scopes: &'a ResourceScopes,
}

/// Satisfied policies and errors of one leg.
#[derive(Debug, Default)]
struct Outcome {
    permits: Vec<PolicyNumber>,
    forbids: Vec<PolicyNumber>,
    errors: Vec<String>,
}

impl Outcome {
    fn satisfied(&mut self, number: PolicyNumber, effect: Effect) {
        match effect {
            Effect::Permit => self.permits.push(number),
            Effect::Forbid => self.forbids.push(number),
        }
    }

    fn allowed(&self) -> bool {
        self.errors.is_empty() && self.forbids.is_empty() && !self.permits.is_empty()
    }
}

/// Why a leg denies, `by_policy` unless something failed; `None` if it allows.
fn denial(leg: &LegRecord, by_policy: ReasonCode) -> Option<ReasonCode> {
    if !leg.errors.is_empty() {
        return Some(ReasonCode::EvaluationError);
    }
    (!leg.allowed).then_some(by_policy)
}

fn observed<'a>(call: &Call<'a>, peer: &'a Principal) -> Observed<'a> {
    Observed {
        peer: call.peer,
        peer_uid: &peer.uid,
        token: call.token,
        source_ip: call.source_ip,
        now: call.now,
        path: Some(call.path),
        risk: Some(call.risk),
    }
}

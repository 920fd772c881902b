//! Cedar itself, without index, cut-down contexts or any of our conversions: all policies over entities and
//! contexts written as JSON and checked against the schema.

use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request, Schema,
};
use serde_json::{Value, json};
use testudo_model::{Exposure, snapshot::Snapshot};
use testudo_policy::{Call, GUARDRAILS, Peer, SCHEMA};

pub struct Oracle {
    schema: Schema,
    policies: PolicySet,
    entities: Entities,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub failed: bool,
    pub determining: Vec<String>,
}

impl Oracle {
    pub fn new(snapshot: &Snapshot) -> Self {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let mut policies = PolicySet::new();
        let texts = std::iter::once(GUARDRAILS)
            .chain(snapshot.policies.iter().map(|file| file.text.as_str()));
        for policy in texts.flat_map(|text| {
            PolicySet::from_str(text)
                .unwrap()
                .policies()
                .cloned()
                .collect::<Vec<_>>()
        }) {
            let id = PolicyId::new(policy.annotation("id").unwrap());
            policies.add(policy.new_id(id)).unwrap();
        }
        let entities = Entities::from_json_value(entities(snapshot), Some(&schema)).unwrap();
        Self {
            schema,
            policies,
            entities,
        }
    }

    pub fn connect(&self, peer: &Peer<'_>, service: &str, call: &Call<'_>) -> Verdict {
        let context = json!({
            "peer": peer_json(peer), "sourceIp": call.source_ip.to_string(), "now": call.now.to_string(),
        });
        self.decide(
            ("Service", peer.service),
            "connect",
            ("Service", service),
            context,
        )
    }

    pub fn service_leg(&self, call: &Call<'_>) -> Verdict {
        let resource = call.route.full_name(call.service);
        self.decide(
            ("Service", call.peer.service),
            "invoke",
            ("Route", &resource),
            call_json(call),
        )
    }

    pub fn user_leg(&self, call: &Call<'_>) -> Verdict {
        let resource = call.route.full_name(call.service);
        let action = call.route.action.as_str();
        self.decide(
            ("User", call.subject.unwrap()),
            action,
            ("Route", &resource),
            call_json(call),
        )
    }

    fn decide(
        &self,
        principal: (&str, &str),
        action: &str,
        resource: (&str, &str),
        context: Value,
    ) -> Verdict {
        let uid = |(kind, id): (&str, &str)| {
            EntityUid::from_json(json!({"type": format!("Fleet::{kind}"), "id": id})).unwrap()
        };
        let action = uid(("Action", action));
        let context = Context::from_json_value(context, Some((&self.schema, &action))).unwrap();
        let request = Request::new(
            uid(principal),
            action,
            uid(resource),
            context,
            Some(&self.schema),
        )
        .unwrap();
        let response = Authorizer::new().is_authorized(&request, &self.policies, &self.entities);
        let failed = response.diagnostics().errors().next().is_some();
        let mut determining: Vec<_> = response
            .diagnostics()
            .reason()
            .map(ToString::to_string)
            .collect();
        determining.sort();
        Verdict {
            allowed: response.decision() == Decision::Allow && !failed,
            failed,
            determining,
        }
    }
}

fn peer_json(peer: &Peer<'_>) -> Value {
    json!({
        "service": {"type": "Fleet::Service", "id": peer.service},
        "verified": peer.verified,
        "trustDomain": peer.trust_domain,
        "certificateExpires": peer.certificate_expires.to_string(),
    })
}

fn call_json(call: &Call<'_>) -> Value {
    let mut context = json!({
        "peer": peer_json(&call.peer),
        "sourceIp": call.source_ip.to_string(),
        "now": call.now.to_string(),
        "path": call.path,
        "risk": call.risk,
    });
    if let Some(token) = &call.token {
        context["token"] = json!({
            "issuer": token.issuer,
            "scopes": token.scopes,
            "assurance": token.assurance,
            "authenticatedAt": token.authenticated_at.to_string(),
            "boundToPeer": token.bound,
        });
    }
    context
}

fn entities(snapshot: &Snapshot) -> Value {
    let mut entities = Vec::new();
    let uid = |kind: &str, id: &str| json!({"type": format!("Fleet::{kind}"), "id": id});
    let mut add = |kind: &str, id: &str, attrs: Value, parents: Vec<Value>| {
        entities.push(json!({"uid": uid(kind, id), "attrs": attrs, "parents": parents}));
    };
    for role in &snapshot.directory.roles {
        add("Role", role.as_str(), json!({}), Vec::new());
    }
    for (group, parents) in &snapshot.directory.groups {
        add(
            "Group",
            group.as_str(),
            json!({}),
            parents
                .iter()
                .map(|parent| uid("Group", parent.as_str()))
                .collect(),
        );
    }
    for subject in &snapshot.directory.subjects {
        let mut parents: Vec<_> = subject
            .groups
            .iter()
            .map(|group| uid("Group", group.as_str()))
            .collect();
        parents.extend(subject.roles.iter().map(|role| uid("Role", role.as_str())));
        if subject.disabled {
            parents.push(uid("Trait", "disabled"));
        }
        let attrs = json!({
            "username": subject.username, "tenant": subject.tenant.as_str(), "disabled": subject.disabled,
            "clearance": subject.clearance,
        });
        add("User", &subject.id, attrs, parents);
    }
    let domain = snapshot.trust_domain.as_str();
    let service_attrs = |environment: &str, external: bool, quarantined: bool| json!({"trustDomain": domain, "environment": environment, "external": external, "quarantined": quarantined});
    add(
        "Service",
        "gateway",
        service_attrs("", false, false),
        Vec::new(),
    );
    for service in &snapshot.services {
        let name = service.name.as_str();
        let external = service.exposure == Exposure::External;
        let mut parents: Vec<_> = service
            .groups
            .iter()
            .map(|group| uid("ServiceGroup", group.as_str()))
            .collect();
        if external {
            parents.push(uid("Trait", "external"));
        }
        if service.quarantined {
            parents.push(uid("Trait", "quarantined"));
        }
        add("Api", name, json!({}), parents);
        let attrs = service_attrs(&service.environment, external, service.quarantined);
        add("Service", name, attrs, vec![uid("Api", name)]);
        for route in &service.routes {
            let mut parents = vec![uid("Api", name)];
            if route.step_up {
                parents.push(uid("Trait", "step_up"));
            }
            if !route.scopes.is_empty() {
                parents.push(uid("Trait", "scoped"));
            }
            let attrs = json!({
                "service": uid("Service", name), "operation": route.operation.as_str(),
                "tenants": service.tenants.iter().map(|tenant| tenant.as_str()).collect::<Vec<_>>(), "scopes": route.scopes, "sensitivity": route.sensitivity,
                "stepUp": route.step_up,
            });
            add("Route", &route.full_name(&service.name), attrs, parents);
        }
    }
    Value::Array(entities)
}

//! The decision engine: Cedar policies, validated, indexed and explained.
//!
//! # The question
//!
//! May this call go on? A call has two legs, and both must allow:
//!
//! * the **service leg**: may the calling *service* `connect` to the service and `invoke` the route?
//! * the **user leg**: may the *user* behind the call `read`, `write` or `admin`istrate on the route?
//!
//! A rule for users that forgets to mention callers therefore never opens the service graph, and a rule of the
//! service graph never makes a user more than they are.
//!
//! # The vocabulary
//!
//! [`SCHEMA`] is the whole of it. The ids of users are the `sub` of their tokens; rules speak of groups, roles or
//! `principal.username`. A route's id is `<service>:<operation>`. All routes of a service are in its
//! `Fleet::Api`, and the service itself is too, so that one rule opens an edge of the service graph:
//!
//! ```
//! # use std::net::Ipv4Addr;
//! # use testudo_model::{snapshot::Snapshot, Timestamp};
//! # use testudo_policy::{Call, Peer, PolicyEngine};
//! let policy = r#"
//!     @id("catalog-uses-inventory")
//!     @reason("the catalog shows what is in stock")
//!     permit (
//!       principal == Fleet::Service::"catalog",
//!       action in [Fleet::Action::"connect", Fleet::Action::"invoke"],
//!       resource in Fleet::Api::"inventory"
//!     );
//!
//!     @id("clerks-see-stock")
//!     permit (
//!       principal in Fleet::Group::"clerks",
//!       action == Fleet::Action::"read",
//!       resource in Fleet::Api::"inventory"
//!     );
//! "#;
//! # let service = |name: &str, routes| serde_json::json!({
//! #     "name": name, "spiffe_id": format!("spiffe://shop.example/svc/{name}"), "exposure": "internal",
//! #     "hosts": [], "upstream": "127.0.0.1:80", "routes": routes, "groups": [], "environment": "test",
//! #     "ip": {}, "limits": [], "quarantined": false,
//! # });
//! # let route = serde_json::json!({
//! #     "operation": "stock", "methods": ["GET"], "path": "/stock", "action": "read", "user": "required",
//! #     "scopes": [], "sensitivity": 0, "step_up": false, "limits": [], "max_body_bytes": 0, "timeout_millis": 1,
//! # });
//! # let snapshot: Snapshot = serde_json::from_value(serde_json::json!({
//! #     "version": 1, "requires": [], "tenant": "default", "trust_domain": "shop.example",
//! #     "services": [service("catalog", vec![]), service("inventory", vec![route])],
//! #     "directory": {
//! #         "subjects": [{"id": "usr_1", "username": "carla", "tenant": "default", "disabled": false,
//! #             "clearance": 0, "groups": ["clerks"], "roles": []}],
//! #         "groups": {"clerks": []}, "roles": [],
//! #     },
//! #     "policies": [{"name": "shop.cedar", "text": policy}], "issuers": [], "edges": [],
//! #     "gateway": {"ip": {}, "trusted_proxies": [], "limits": []},
//! # })).unwrap();
//! let engine = PolicyEngine::compile(&snapshot)?;
//!
//! let now = Timestamp::from_unix_seconds(1_767_268_800);
//! let catalog =
//!     Peer { service: "catalog", verified: true, trust_domain: "shop.example", certificate_expires: now };
//! let inventory = &snapshot.services[1];
//! let call = Call {
//!     peer: catalog,
//!     subject: Some("usr_1"),
//!     token: None,
//!     service: &inventory.name,
//!     route: &inventory.routes[0],
//!     source_ip: Ipv4Addr::LOCALHOST.into(),
//!     now,
//!     path: "/stock",
//!     risk: 0,
//! };
//! assert!(engine.decide_connect(&catalog, &inventory.name, call.source_ip, now).allowed);
//! assert!(engine.decide(&call).allowed);
//!
//! // Nobody allowed the gateway; the user's right does not help.
//! let decision = engine.decide(&Call { peer: Peer { service: "gateway", ..catalog }, ..call });
//! assert_eq!(decision.reason.as_str(), "policy.service_leg_denied");
//! # Ok::<(), testudo_policy::PolicyErrors>(())
//! ```
//!
//! # What Cedar does not give, and this does
//!
//! * [`GUARDRAILS`]: rules that no operator can remove or shadow; their ids are reserved.
//! * [`check`] and [`PolicyEngine::compile`]: nothing is activated that is not strictly valid; every problem is
//!   listed with file, line and help. Names that do not exist are problems too.
//! * An evaluation error denies. Cedar skips the policy, and a skipped `forbid` opens.
//! * An index: a decision costs the same with ten policies and with ten thousand.
//! * [`PolicyEngine::cacheable`]: what a decision depends on, exactly.
//! * [`PolicyEngine::explain`]: the rule that decided, or the rules that came close and what they lacked.
//! * [`run_tests`]: tests of policies with coverage.

mod administration;
mod bundle;
mod cases;
mod decision;
mod directory;
mod engine;
mod explain;
mod facts;
mod index;
mod observed;
mod problem;
mod references;
mod source;
mod validation;
mod vocabulary;

pub use administration::{
    ADMIN_POLICIES, ADMIN_POLICIES_FILE, ADMIN_ROLE, ADMIN_SCHEMA, AUDITOR_ROLE, Account,
    AdminAction, AdminActionGroup, AdminCall, AdminDecision, AdminObject, AdminRules,
};
pub use bundle::{GUARDRAILS, GUARDRAILS_FILE};
pub use cases::{CaseReport, TestReport, run_tests};
pub use decision::{Call, Decision, DecisionKey, GATEWAY, Peer, ReasonCode, TokenFacts};
pub use engine::{Exchange, PolicyEngine, StepUp, check};
pub use problem::{Excerpt, Place, PolicyErrors, PolicyProblem, Severity};
pub use vocabulary::SCHEMA;

//! What needs no running control plane: checking a fleet and its policies, verifying an exported ledger, reading what is to be
//! imported.

use std::path::Path;

use serde_json::{Value, json};
pub use testudo_identity::import::{
    ImportedRealm,
    keycloak::{NotARealm, read as read_keycloak_realm},
};
use testudo_model::{
    ServiceAccountId, TenantName, UserId,
    snapshot::{Directory, Snapshot, SnapshotVersion, Subject},
};
use testudo_policy::{PolicyEngine, PolicyErrors, PolicyProblem, TestReport};
use testudo_runtime::{SystemClock, fleet::Fleet, with_causes};
use testudo_trust::{SystemEntropy, TrustBundle, base64url};

use crate::{
    activation::Declaration,
    seed::{directory_of, policy_groups, policy_roles},
};

/// The snapshot a fleet file would make on a fresh store, with ids nobody has.
pub fn snapshot_of(fleet: &Fleet) -> Snapshot {
    let (clock, entropy, tenant) = (
        SystemClock::new(),
        SystemEntropy,
        TenantName::default_tenant(),
    );
    let users = fleet.users.iter().map(|user| Subject {
        id: UserId::generate(&clock, &entropy).to_string(),
        username: user.username.to_string(),
        tenant: tenant.clone(),
        disabled: user.disabled,
        clearance: user.clearance,
        groups: policy_groups(&user.groups),
        roles: policy_roles(&user.roles),
    });
    let accounts = fleet.service_accounts.iter().map(|account| Subject {
        id: ServiceAccountId::generate(&clock, &entropy).to_string(),
        username: account.name.to_string(),
        tenant: tenant.clone(),
        disabled: account.disabled,
        clearance: account.clearance,
        groups: policy_groups(&account.groups),
        roles: policy_roles(&account.roles),
    });
    let directory = Directory {
        subjects: users.chain(accounts).collect(),
        ..directory_of(fleet)
    };
    Declaration::from(fleet).snapshot(SnapshotVersion(0), tenant, directory, Vec::new())
}

/// Problems of the fleet's policies; none means that they can be activated.
pub fn check_policies(fleet: &Fleet) -> Vec<PolicyProblem> {
    let snapshot = snapshot_of(fleet);
    testudo_policy::check(&snapshot.policies, &snapshot)
}

/// Runs the fleet's policy tests.
///
/// # Errors
/// The policies do not compile, or a test file is none.
pub fn test_policies(fleet: &Fleet) -> Result<TestReport, PolicyErrors> {
    let engine = PolicyEngine::compile(&snapshot_of(fleet))?;
    testudo_policy::run_tests(&engine, &fleet.policy_tests)
}

/// Verifies an exported ledger. `checkpoint` is one that was kept from before, `roots` are the trust domain's roots
/// of all times in PEM.
///
/// # Errors
/// What does not verify, in words.
pub fn verify_export(
    folder: &Path,
    verifier_key: &str,
    checkpoint: Option<&str>,
    roots: Option<&str>,
) -> Result<Value, String> {
    let roots = roots.map(|pem| read_roots(verifier_key, pem)).transpose()?;
    let anchors = testudo_audit::Anchors {
        roots: roots.as_ref(),
        checkpoint,
    };
    let report = testudo_audit::verify_export(folder, verifier_key, anchors)
        .map_err(|error| with_causes(&error))?;
    match report.defect {
        None => Ok(json!({
            "size": report.leaves,
            "events": report.events,
            "root": testudo_trust::hex::encode(&report.checkpoint.root),
        })),
        Some(defect) => Err(defect.to_string()),
    }
}

/// Roots of the trust domain that the ledger's verifier key names: `<trust domain>/ledger+<hash>+<key>`.
fn read_roots(verifier_key: &str, pem: &str) -> Result<TrustBundle, String> {
    let domain = verifier_key
        .split_once("/ledger+")
        .and_then(|(domain, _)| domain.parse().ok())
        .ok_or("the verifier key is of no ledger of a trust domain")?;
    TrustBundle::from_pem(domain, pem)
        .map_err(|error| format!("the roots cannot be used: {}", with_causes(&error)))
}

/// Verifies one event's proof and returns what it proves.
///
/// # Errors
/// What does not verify, in words.
pub fn verify_proof(proof: &str, verifier_key: &str) -> Result<Value, String> {
    let proven = testudo_audit::verify_proof_file(proof, verifier_key)
        .map_err(|error| with_causes(&error))?;
    let entry = match &proven.event {
        Some(event) => serde_json::to_string(event).map_err(|error| with_causes(&error))?,
        None => String::from_utf8_lossy(&proven.leaf).into_owned(),
    };
    Ok(json!({ "index": proven.index, "size": proven.checkpoint.size, "entry": entry }))
}

/// The `jti` of an access token; what is no JWT is taken for the id itself. Whether the token is genuine does not matter here:
/// the control plane tells of what it issued. `None`: a JWT without one.
pub fn token_id(token: &str) -> Option<String> {
    let Some(payload) = token.split('.').nth(1) else {
        return Some(token.to_owned());
    };
    let claims: Value = serde_json::from_slice(&base64url::decode(payload)?).ok()?;
    Some(claims.get("jti")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_named_by_itself_or_by_its_id() {
        let claims = base64url::encode(br#"{"jti":"tok_1"}"#);
        assert_eq!(
            token_id(&format!("e30.{claims}.c2ln")).as_deref(),
            Some("tok_1")
        );
        assert_eq!(token_id("tok_2").as_deref(), Some("tok_2"));
        for bad in ["a.b.c", "e30.e30.c2ln", ".."] {
            assert!(token_id(bad).is_none(), "{bad}");
        }
    }
}

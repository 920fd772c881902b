//! The policies of administration, compiled once, deciding many times.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, RestrictedExpression, Schema, SchemaFragment,
};
use testudo_model::{
    GroupName, RoleName, TenantName, event::DeterminingPolicy, snapshot::PolicyFile,
};

use super::{
    ADMIN_POLICIES, ADMIN_POLICIES_FILE, ADMIN_ROLE, ADMIN_SCHEMA, AUDITOR_ROLE, Account,
    AdminAction, AdminCall, AdminDecision, AdminObject,
};
use crate::{
    bundle::{self, LoadedPolicy},
    problem::{PolicyErrors, PolicyProblem},
    vocabulary::{SCHEMA, Vocabulary},
};

/// Who may administer. Immutable; share it behind an `Arc`. There are few of these policies, so that none is looked up by
/// an index.
#[derive(Debug)]
pub struct AdminRules {
    schema: Schema,
    authorizer: Authorizer,
    policies: PolicySet,
    known: HashMap<String, DeterminingPolicy>,
    actions: Entities,
    /// What the fleet's own rules name.
    named: HashSet<EntityUid>,
}

impl AdminRules {
    /// The built-in policies, and those of `files` that are about administration.
    ///
    /// # Errors
    /// A policy of administration is not valid. All problems of `files` are listed.
    pub fn compile(files: &[PolicyFile]) -> Result<Self, PolicyErrors> {
        let schema = schema()?;
        let mut problems = Vec::new();
        let built_in =
            bundle::load_built_in(&schema, ADMIN_POLICIES_FILE, ADMIN_POLICIES, &mut problems);
        let own = bundle::load(&Vocabulary::load()?, files, &mut problems).administration;
        if problems.iter().any(PolicyProblem::is_error) {
            return Err(PolicyErrors::new(problems));
        }
        Self::build(schema, built_in, own).map_err(PolicyErrors::from)
    }

    fn build(
        schema: Schema,
        built_in: Vec<LoadedPolicy>,
        own: Vec<LoadedPolicy>,
    ) -> Result<Self, PolicyProblem> {
        let actions = schema.action_entities().map_err(broken)?;
        let literals = own
            .iter()
            .flat_map(|loaded| loaded.policy.entity_literals());
        let named = literals.collect();
        let mut policies = PolicySet::new();
        let mut known = HashMap::new();
        for loaded in built_in.into_iter().chain(own) {
            policies.add(loaded.policy.clone()).map_err(broken)?;
            known.insert(loaded.id.clone(), loaded.determining());
        }
        Ok(Self {
            schema,
            authorizer: Authorizer::new(),
            policies,
            known,
            actions,
            named,
        })
    }

    /// Groups of `tenant` that the fleet's own rules name.
    pub fn groups_named(&self, tenant: &TenantName) -> Vec<GroupName> {
        let named = self.named_in("Fleet::Group", tenant);
        named.filter_map(|name| name.parse().ok()).collect()
    }

    /// Roles of `tenant` that rules name, with those that are built in.
    pub fn roles_named(&self, tenant: &TenantName) -> Vec<RoleName> {
        let named = self.named_in("Fleet::Role", tenant);
        let all = named.chain([ADMIN_ROLE, AUDITOR_ROLE]);
        all.filter_map(|name| name.parse().ok()).collect()
    }

    /// Accounts that the fleet's own rules name, by their `sub`.
    pub fn accounts_named(&self) -> Vec<String> {
        let named = self.literals("Testudo::Account");
        named.map(str::to_owned).collect()
    }

    /// Names without that of the tenant, which stands before those of all but the fleet's own.
    fn named_in<'r>(
        &'r self,
        kind: &'static str,
        tenant: &'r TenantName,
    ) -> impl Iterator<Item = &'r str> {
        self.literals(kind)
            .filter_map(|id| match id.split_once('/') {
                Some((owner, name)) => (owner == tenant.as_str()).then_some(name),
                None => tenant.is_default().then_some(id),
            })
    }

    fn literals(&self, kind: &'static str) -> impl Iterator<Item = &str> {
        let literals = self.named.iter();
        let literals = literals.filter(move |uid| uid.type_name().to_string() == kind);
        literals.map(|uid| uid.id().unescaped())
    }

    /// Decides whether `account` may do `action` to `object`. What cannot be evaluated is denied.
    pub fn decide(
        &self,
        account: &Account,
        action: AdminAction,
        object: &AdminObject,
        call: &AdminCall,
    ) -> AdminDecision {
        self.ask(account, action, object, call)
            .unwrap_or_else(|error| AdminDecision {
                allowed: false,
                policies: Vec::new(),
                errors: vec![error],
            })
    }

    fn ask(
        &self,
        account: &Account,
        action: AdminAction,
        object: &AdminObject,
        call: &AdminCall,
    ) -> Result<AdminDecision, String> {
        let action_uid = uid("Testudo::Action", action.name())?;
        let context = Context::from_json_str(&call.context(), Some((&self.schema, &action_uid)))
            .map_err(text)?;
        let (principal, resource) = (principal(account)?, resource(action, object)?);
        let request = Request::new(
            principal.uid(),
            action_uid,
            resource.uid(),
            context,
            Some(&self.schema),
        );
        let request = request.map_err(text)?;
        let entities = self.actions.clone();
        let entities = entities.add_entities([principal, resource], Some(&self.schema));
        let entities = entities.map_err(text)?;
        let response = self
            .authorizer
            .is_authorized(&request, &self.policies, &entities);
        let diagnostics = response.diagnostics();
        let errors: Vec<_> = diagnostics.errors().map(ToString::to_string).collect();
        let reasons = diagnostics.reason();
        let mut policies: Vec<_> = reasons
            .filter_map(|id| self.known.get::<str>(id.as_ref()))
            .cloned()
            .collect();
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        // Cedar skips what it cannot evaluate, and a `forbid` that is skipped opens.
        Ok(AdminDecision {
            allowed: response.decision() == Decision::Allow && errors.is_empty(),
            policies,
            errors,
        })
    }
}

/// Both vocabularies: that of administration shares groups and roles with that of calls.
pub(crate) fn schema() -> Result<Schema, PolicyProblem> {
    let fragment = |text: &str| {
        let (fragment, _warnings) = SchemaFragment::from_cedarschema_str(text).map_err(broken)?;
        Ok::<_, PolicyProblem>(fragment)
    };
    Schema::from_schema_fragments([fragment(SCHEMA)?, fragment(ADMIN_SCHEMA)?]).map_err(broken)
}

fn principal(account: &Account) -> Result<Entity, String> {
    let groups = account.policy_groups();
    let roles = account.policy_roles();
    let parents = groups
        .map(|group| uid("Fleet::Group", group.as_str()))
        .chain(roles.map(|role| uid("Fleet::Role", role.as_str())))
        .chain(
            account
                .standings()
                .map(|name| uid("Testudo::Standing", name)),
        )
        .collect::<Result<HashSet<_>, _>>()?;
    let attributes = HashMap::from([
        string("tenant", account.tenant.as_str()),
        (
            "serviceAccount".to_owned(),
            RestrictedExpression::new_bool(account.is_service_account),
        ),
    ]);
    Entity::new(uid("Testudo::Account", &account.id)?, attributes, parents).map_err(text)
}

fn resource(action: AdminAction, object: &AdminObject) -> Result<Entity, String> {
    let tenant = object.tenant.as_str();
    let name = object.name.as_deref();
    let id = [tenant, action.kind(), name.unwrap_or("")].join("/");
    let reserved = object
        .is_reserved
        .then(|| uid("Testudo::Trait", "reserved"));
    let parents = std::iter::once(uid("Testudo::Tenant", tenant))
        .chain(reserved)
        .collect::<Result<HashSet<_>, _>>()?;
    let attributes = [string("kind", action.kind()), string("tenant", tenant)]
        .into_iter()
        .chain(name.map(|name| string("name", name)))
        .collect();
    Entity::new(uid("Testudo::Object", &id)?, attributes, parents).map_err(text)
}

fn string(name: &str, value: &str) -> (String, RestrictedExpression) {
    let value = RestrictedExpression::new_string(value.to_owned());
    (name.to_owned(), value)
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind.parse().map_err(text)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn broken(error: impl std::fmt::Display) -> PolicyProblem {
    PolicyProblem::error(None, "policy.broken_build", error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::administration::AdminActionGroup;

    #[test]
    fn the_schema_has_every_action_in_its_group_and_no_other() {
        let schema = schema().unwrap();
        let entities = schema.action_entities().unwrap();
        let declared: BTreeSet<_> = schema
            .actions()
            .filter(|action| action.type_name().to_string() == "Testudo::Action")
            .map(|action| action.id().unescaped().to_owned())
            .filter(|name| name.contains(':'))
            .collect();
        let known: BTreeSet<_> = AdminAction::ALL
            .iter()
            .map(|action| action.name().to_owned())
            .collect();
        assert_eq!(declared, known);
        let groups = [
            AdminActionGroup::Read,
            AdminActionGroup::Write,
            AdminActionGroup::Provision,
        ];
        for action in AdminAction::ALL {
            let own = uid("Testudo::Action", action.name()).unwrap();
            let above: BTreeSet<_> = entities.ancestors(&own).unwrap().cloned().collect();
            for group in groups {
                let group_uid = uid("Testudo::Action", group.name()).unwrap();
                assert_eq!(
                    above.contains(&group_uid),
                    action.group() == group,
                    "{action}"
                );
            }
            assert!(
                above.contains(&uid("Testudo::Action", "administer").unwrap()),
                "{action}"
            );
        }
    }
}

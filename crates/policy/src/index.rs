//! Which policies can concern a call: found by action, resource scope and principal scope.
//!
//! Cedar evaluates every policy of a set. Here policies live in buckets of equal scope, and a call's buckets are
//! found by what its resource and principal are in. The entities of a snapshot never change, so a scope is
//! matched by the index alone, exactly; a policy without conditions needs no evaluation at all.

use cedar_policy::{
    ActionConstraint, Effect, Entities, EntityTypeName, EntityUid, Policy, PolicySet,
    PolicySetError, PrincipalConstraint, ResourceConstraint,
};
use testudo_model::FleetMap;

use crate::{
    bundle::LoadedPolicy,
    facts::Facts,
    vocabulary::{Action, Vocabulary},
};

/// Position of a policy in the engine's list.
pub(crate) type PolicyNumber = usize;

/// Policies of one action with equal scopes.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// All of them.
    pub(crate) policies: Vec<PolicyNumber>,
    /// Policies without conditions: who finds the bucket satisfies them.
    pub(crate) unconditional: Vec<(PolicyNumber, Effect)>,
    /// The others, for Cedar.
    pub(crate) conditional: PolicySet,
    /// What the conditions read of the context.
    pub(crate) facts: Facts,
}

/// Number of an entity that some policy's principal scope names.
type PrincipalKey = u32;
type BucketNumber = usize;

/// The principal scopes an entity is in, sorted. Found once per principal.
#[derive(Debug, Clone, Default)]
pub(crate) struct PrincipalScopes(Box<[PrincipalKey]>);

/// The resource scopes an entity is in, for one action. Found once per resource and action.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResourceScopes(Box<[usize]>);

/// Buckets whose policies share action and resource scope.
#[derive(Debug, Default)]
struct Node {
    any_principal: Option<BucketNumber>,
    by_principal: FleetMap<PrincipalKey, BucketNumber>,
}

/// The policies of a snapshot, by scope.
#[derive(Debug, Default)]
pub(crate) struct Index {
    buckets: Vec<Bucket>,
    nodes: Vec<Node>,
    by_resource: FleetMap<(Action, Scope), usize>,
    principals: FleetMap<EntityUid, PrincipalKey>,
}

/// A principal or resource scope, given that the action fixes the entity's type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    Any,
    /// The entity itself or what is in it. `==` and `in` are the same here: `==` can only match an entity of the
    /// action's own types, and nothing is in a user, service or route.
    In(EntityUid),
}

impl Index {
    /// Sorts all policies into buckets.
    pub(crate) fn build(
        vocabulary: &Vocabulary,
        policies: &[LoadedPolicy],
        entities: &Entities,
    ) -> Result<Self, Box<PolicySetError>> {
        let mut index = Self::default();
        for action in Action::ALL {
            let uid = vocabulary.action(action);
            let principal_type = vocabulary.uid(action.principal(), "").type_name().clone();
            let resource_type = vocabulary.uid(action.resource(), "").type_name().clone();
            for (number, loaded) in policies.iter().enumerate() {
                let policy = &loaded.policy;
                if !action_matches(&policy.action_constraint(), &uid, entities) {
                    continue;
                }
                let principal = principal_scope(policy.principal_constraint(), &principal_type);
                let resource = resource_scope(policy.resource_constraint(), &resource_type);
                if let (Some(principal), Some(resource)) = (principal, resource) {
                    index
                        .bucket(action, resource, principal)
                        .add(number, policy)?;
                }
            }
        }
        Ok(index)
    }

    fn bucket(&mut self, action: Action, resource: Scope, principal: Scope) -> &mut Bucket {
        let node = *self
            .by_resource
            .entry((action, resource))
            .or_insert(self.nodes.len());
        if node == self.nodes.len() {
            self.nodes.push(Node::default());
        }
        let new = self.buckets.len();
        let next_principal = u32::try_from(self.principals.len()).unwrap_or(u32::MAX);
        let number = match (self.nodes.get_mut(node), principal) {
            (Some(node), Scope::Any) => *node.any_principal.get_or_insert(new),
            (Some(node), Scope::In(entity)) => {
                let key = *self.principals.entry(entity).or_insert(next_principal);
                *node.by_principal.entry(key).or_insert(new)
            }
            (None, _) => new,
        };
        if number == new {
            self.buckets.push(Bucket::default());
        }
        #[expect(
            clippy::indexing_slicing,
            reason = "`number` is an existing bucket's or the one just pushed"
        )]
        &mut self.buckets[number]
    }

    /// The principal scopes `uid` is in.
    pub(crate) fn principal(&self, uid: &EntityUid, entities: &Entities) -> PrincipalScopes {
        let mut keys: Vec<_> = self_and_ancestors(uid, entities)
            .filter_map(|entity| self.principals.get(entity).copied())
            .collect();
        keys.sort_unstable();
        PrincipalScopes(keys.into_boxed_slice())
    }

    /// The resource scopes `uid` is in, for `action`.
    pub(crate) fn resource(
        &self,
        action: Action,
        uid: &EntityUid,
        entities: &Entities,
    ) -> ResourceScopes {
        let scopes = self_and_ancestors(uid, entities).cloned().map(Scope::In);
        let nodes = std::iter::once(Scope::Any)
            .chain(scopes)
            .filter_map(|scope| self.by_resource.get(&(action, scope)).copied());
        ResourceScopes(nodes.collect())
    }

    /// The buckets whose scopes match both; all policies elsewhere cannot be satisfied.
    pub(crate) fn candidates<'a>(
        &'a self,
        resource: &'a ResourceScopes,
        principal: &'a PrincipalScopes,
    ) -> impl Iterator<Item = &'a Bucket> + Clone {
        self.nodes_of(resource).flat_map(move |node| {
            let named = principal
                .0
                .iter()
                .filter_map(|key| node.by_principal.get(key));
            node.any_principal
                .iter()
                .chain(named)
                .filter_map(|number| self.buckets.get(*number))
        })
    }

    /// All policies for the action and resource of `resource`, whoever calls.
    pub(crate) fn policies_for_anybody<'a>(
        &'a self,
        resource: &'a ResourceScopes,
    ) -> impl Iterator<Item = &'a Bucket> {
        self.nodes_of(resource)
            .flat_map(|node| node.any_principal.iter().chain(node.by_principal.values()))
            .filter_map(|number| self.buckets.get(*number))
    }

    fn nodes_of<'a>(
        &'a self,
        resource: &'a ResourceScopes,
    ) -> impl Iterator<Item = &'a Node> + Clone {
        resource
            .0
            .iter()
            .filter_map(|number| self.nodes.get(*number))
    }
}

impl Bucket {
    fn add(&mut self, number: PolicyNumber, policy: &Policy) -> Result<(), Box<PolicySetError>> {
        self.policies.push(number);
        if policy.has_non_scope_constraint() {
            // Without its text, which every clone would carry along.
            let bare = Policy::from(policy.as_ref().clone());
            self.facts = self.facts.union(Facts::read_by(&bare));
            self.conditional.add(bare)?;
        } else {
            self.unconditional.push((number, policy.effect()));
        }
        Ok(())
    }
}

fn self_and_ancestors<'a>(
    uid: &'a EntityUid,
    entities: &'a Entities,
) -> impl Iterator<Item = &'a EntityUid> {
    std::iter::once(uid).chain(entities.ancestors(uid).into_iter().flatten())
}

fn action_matches(constraint: &ActionConstraint, action: &EntityUid, entities: &Entities) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == action,
        ActionConstraint::In(uids) => uids
            .iter()
            .any(|uid| uid == action || entities.is_ancestor_of(uid, action)),
    }
}

/// `None` if the scope cannot match an entity of `expected` type.
fn principal_scope(constraint: PrincipalConstraint, expected: &EntityTypeName) -> Option<Scope> {
    match constraint {
        PrincipalConstraint::Any => Some(Scope::Any),
        PrincipalConstraint::Is(name) => (name == *expected).then_some(Scope::Any),
        PrincipalConstraint::Eq(uid) => (uid.type_name() == expected).then_some(Scope::In(uid)),
        PrincipalConstraint::In(uid) => Some(Scope::In(uid)),
        PrincipalConstraint::IsIn(name, uid) => (name == *expected).then_some(Scope::In(uid)),
    }
}

/// `None` if the scope cannot match an entity of `expected` type.
fn resource_scope(constraint: ResourceConstraint, expected: &EntityTypeName) -> Option<Scope> {
    match constraint {
        ResourceConstraint::Any => Some(Scope::Any),
        ResourceConstraint::Is(name) => (name == *expected).then_some(Scope::Any),
        ResourceConstraint::Eq(uid) => (uid.type_name() == expected).then_some(Scope::In(uid)),
        ResourceConstraint::In(uid) => Some(Scope::In(uid)),
        ResourceConstraint::IsIn(name, uid) => (name == *expected).then_some(Scope::In(uid)),
    }
}

//! The snapshot's users, groups, services and routes as Cedar entities.

use std::collections::{BTreeMap, HashMap, HashSet};

use cedar_policy::{Entities, Entity, EntityUid, RestrictedExpression};
use testudo_model::{
    Exposure, GroupName, PolicyGroup, Route, Service, ServiceAccountId, TenantPattern,
    snapshot::{Snapshot, Subject},
};

use crate::{
    decision::GATEWAY,
    problem::PolicyProblem,
    vocabulary::{Kind, Vocabulary},
};

/// All entities of `snapshot`, the gateway and the actions included, with their hierarchy closed.
pub(crate) fn entities(
    vocabulary: &Vocabulary,
    snapshot: &Snapshot,
) -> Result<Entities, Vec<PolicyProblem>> {
    let mut builder = Builder {
        vocabulary,
        snapshot,
        entities: Vec::new(),
        problems: Vec::new(),
    };
    builder.check_names();
    builder.check_group_cycles();
    builder.add_directory();
    builder.add_gateway();
    for service in &snapshot.services {
        builder.add_service(service);
    }
    let Builder {
        mut entities,
        mut problems,
        ..
    } = builder;
    match vocabulary.schema.action_entities() {
        Ok(actions) => entities.extend(actions),
        Err(error) => problems.push(PolicyProblem::error(
            None,
            "policy.broken_build",
            error.to_string(),
        )),
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // Without the schema: what is built here has the schema's types by construction (a test compares), and
    // checking again would dominate the time a proxy needs for a new snapshot.
    Entities::from_entities(entities, None).map_err(|error| {
        vec![PolicyProblem::error(
            None,
            "policy.duplicate_entity",
            error.to_string(),
        )]
    })
}

struct Builder<'a> {
    vocabulary: &'a Vocabulary,
    snapshot: &'a Snapshot,
    entities: Vec<Entity>,
    problems: Vec<PolicyProblem>,
}

type Attributes = Vec<(&'static str, RestrictedExpression)>;

impl Builder<'_> {
    fn check_names(&mut self) {
        if self
            .snapshot
            .services
            .iter()
            .any(|service| service.name.as_str() == GATEWAY)
        {
            let message = format!(
                "a service is named `{GATEWAY}`, which is the gateway's own name in policies"
            );
            self.problems.push(
                PolicyProblem::error(None, "policy.reserved_service", message)
                    .with_help("rename the service"),
            );
        }
    }

    fn check_group_cycles(&mut self) {
        if let Some(cycle) = find_cycle(&self.snapshot.directory.groups) {
            let path = cycle
                .iter()
                .map(|group| format!("`{group}`"))
                .collect::<Vec<_>>()
                .join(" is in ");
            let problem = PolicyProblem::error(
                None,
                "policy.group_cycle",
                format!("groups contain each other: {path}"),
            );
            self.problems
                .push(problem.with_help("take one of them out of the next"));
        }
    }

    fn add_directory(&mut self) {
        let directory = &self.snapshot.directory;
        for role in &directory.roles {
            self.add(Kind::Role, role.as_str(), Vec::new(), HashSet::new());
        }
        for (group, parents) in &directory.groups {
            let parents = parents
                .iter()
                .map(|parent| self.uid(Kind::Group, parent.as_str()))
                .collect();
            self.add(Kind::Group, group.as_str(), Vec::new(), parents);
        }
        for subject in &directory.subjects {
            self.add_subject(subject);
        }
        let groups: HashSet<&GroupName> = self
            .snapshot
            .services
            .iter()
            .flat_map(|service| &service.groups)
            .collect();
        for group in groups {
            self.add(
                Kind::ServiceGroup,
                group.as_str(),
                Vec::new(),
                HashSet::new(),
            );
        }
    }

    fn add_subject(&mut self, subject: &Subject) {
        let groups = subject
            .groups
            .iter()
            .map(|group| self.uid(Kind::Group, group.as_str()));
        let roles = subject
            .roles
            .iter()
            .map(|role| self.uid(Kind::Role, role.as_str()));
        let parents = groups
            .chain(roles)
            .chain(self.traits(&[(subject.disabled, "disabled")]))
            .collect();
        let attributes = vec![
            ("username", string(&subject.username)),
            ("tenant", string(subject.tenant.as_str())),
            ("disabled", RestrictedExpression::new_bool(subject.disabled)),
            (
                "clearance",
                RestrictedExpression::new_long(subject.clearance),
            ),
        ];
        self.add(Kind::User, &subject.id, attributes, parents);
        if is_account(subject) {
            let account = RestrictedExpression::new_entity_uid(self.uid(Kind::User, &subject.id));
            self.add(
                Kind::Actor,
                &subject.id,
                vec![("account", account)],
                HashSet::new(),
            );
        }
    }

    fn add_gateway(&mut self) {
        let attributes = self.service_attributes("", false, false);
        self.add(Kind::Service, GATEWAY, attributes, HashSet::new());
    }

    fn add_service(&mut self, service: &Service) {
        let name = service.name.as_str();
        let external = service.exposure == Exposure::External;
        let api = self.uid(Kind::Api, name);
        let marks = [(external, "external"), (service.quarantined, "quarantined")];
        let groups = service
            .groups
            .iter()
            .map(|group| self.uid(Kind::ServiceGroup, group.as_str()));
        let parents: HashSet<_> = groups.chain(self.traits(&marks)).collect();
        let audience = vec![
            (
                "service",
                RestrictedExpression::new_entity_uid(self.uid(Kind::Service, name)),
            ),
            ("tenants", tenants(service)),
        ];
        let for_anybody = self.traits(&[(is_for_any_tenant(service), "any_tenant")]);
        let audience_parents = parents.iter().cloned().chain(for_anybody).collect();
        self.add(Kind::Audience, name, audience, audience_parents);
        self.add(Kind::Api, name, Vec::new(), parents);

        // Its groups and traits come with its API.
        let attributes =
            self.service_attributes(&service.environment, external, service.quarantined);
        self.add(
            Kind::Service,
            name,
            attributes,
            HashSet::from([api.clone()]),
        );
        for route in &service.routes {
            self.add_route(service, route, &api);
        }
    }

    fn service_attributes(
        &self,
        environment: &str,
        external: bool,
        quarantined: bool,
    ) -> Attributes {
        vec![
            ("trustDomain", string(self.snapshot.trust_domain.as_str())),
            ("environment", string(environment)),
            ("external", RestrictedExpression::new_bool(external)),
            ("quarantined", RestrictedExpression::new_bool(quarantined)),
        ]
    }

    fn add_route(&mut self, service: &Service, route: &Route, api: &EntityUid) {
        let marks = [
            (route.step_up, "step_up"),
            (!route.scopes.is_empty(), "scoped"),
            (is_for_any_tenant(service), "any_tenant"),
        ];
        let parents = std::iter::once(api.clone())
            .chain(self.traits(&marks))
            .collect();
        let attributes = vec![
            (
                "service",
                RestrictedExpression::new_entity_uid(
                    self.uid(Kind::Service, service.name.as_str()),
                ),
            ),
            ("operation", string(route.operation.as_str())),
            ("tenants", tenants(service)),
            (
                "scopes",
                RestrictedExpression::new_set(
                    route.scopes.iter().map(|scope| string(scope.as_str())),
                ),
            ),
            (
                "sensitivity",
                RestrictedExpression::new_long(route.sensitivity),
            ),
            ("stepUp", RestrictedExpression::new_bool(route.step_up)),
        ];
        self.add(
            Kind::Route,
            &route.full_name(&service.name),
            attributes,
            parents,
        );
    }

    fn traits(&self, marks: &[(bool, &str)]) -> Vec<EntityUid> {
        marks
            .iter()
            .filter(|(has, _)| *has)
            .map(|(_, name)| self.uid(Kind::Trait, name))
            .collect()
    }

    fn uid(&self, kind: Kind, id: &str) -> EntityUid {
        self.vocabulary.uid(kind, id)
    }

    fn add(&mut self, kind: Kind, id: &str, attributes: Attributes, parents: HashSet<EntityUid>) {
        let attributes: HashMap<_, _> = attributes
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        match Entity::new(self.uid(kind, id), attributes, parents) {
            Ok(entity) => self.entities.push(entity),
            Err(error) => self.problems.push(PolicyProblem::error(
                None,
                "policy.bad_entity",
                error.to_string(),
            )),
        }
    }
}

/// Whether it is a service account: only those act for others.
pub(crate) fn is_account(subject: &Subject) -> bool {
    subject.id.parse::<ServiceAccountId>().is_ok()
}

fn is_for_any_tenant(service: &Service) -> bool {
    service.tenants.contains(&TenantPattern::Any)
}

fn tenants(service: &Service) -> RestrictedExpression {
    let named = service.tenants.iter().filter_map(|pattern| match pattern {
        TenantPattern::Any => None,
        TenantPattern::One(tenant) => Some(string(tenant.as_str())),
    });
    RestrictedExpression::new_set(named)
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

/// A group that is, over others, in itself: the path from it back to it. Iterative, since the depth is foreign.
fn find_cycle(groups: &BTreeMap<PolicyGroup, Vec<PolicyGroup>>) -> Option<Vec<&PolicyGroup>> {
    let mut finished = HashSet::new();
    for start in groups.keys() {
        let mut path: Vec<(&PolicyGroup, usize)> = vec![(start, 0)];
        let mut on_path = HashSet::from([start]);
        while let Some((group, next)) = path.last_mut() {
            let group = *group;
            let parent = groups.get(group).and_then(|parents| parents.get(*next));
            *next += 1;
            match parent {
                Some(parent) if on_path.contains(parent) => {
                    let cycle = path
                        .iter()
                        .map(|(group, _)| *group)
                        .skip_while(|group| *group != parent);
                    return Some(cycle.chain([parent]).collect());
                }
                Some(parent) if !finished.contains(parent) => {
                    path.push((parent, 0));
                    on_path.insert(parent);
                }
                Some(_) => {}
                None => {
                    path.pop();
                    on_path.remove(group);
                    finished.insert(group);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(edges: &[(&str, &[&str])]) -> BTreeMap<PolicyGroup, Vec<PolicyGroup>> {
        edges
            .iter()
            .map(|(group, parents)| {
                (
                    group.parse().unwrap(),
                    parents
                        .iter()
                        .map(|parent| parent.parse().unwrap())
                        .collect(),
                )
            })
            .collect()
    }

    #[test]
    fn group_cycles_are_found_and_shared_parents_are_not_cycles() {
        let diamond = groups(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]);
        assert_eq!(find_cycle(&diamond), None);
        assert_eq!(find_cycle(&groups(&[("a", &["missing"])])), None);

        let cycle = groups(&[("a", &["b"]), ("b", &["c"]), ("c", &["d", "b"]), ("d", &[])]);
        let path: Vec<_> = find_cycle(&cycle)
            .unwrap()
            .into_iter()
            .map(PolicyGroup::as_str)
            .collect();
        assert_eq!(path, ["b", "c", "b"]);
        assert!(find_cycle(&groups(&[("a", &["a"])])).is_some());
    }
}

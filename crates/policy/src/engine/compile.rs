//! From a snapshot to an engine, or to the list of what is wrong with it.

use cedar_policy::{Authorizer, Entities};
use testudo_model::{
    FleetMap, Route, ServiceName,
    snapshot::{PolicyFile, Snapshot},
};

use super::{PolicyEngine, PolicyEntry, Principal, RouteTarget, Target};
use crate::{
    bundle::{self, Loaded, LoadedPolicy},
    decision::GATEWAY,
    directory,
    index::Index,
    problem::{PolicyErrors, PolicyProblem},
    references,
    vocabulary::{Action, Kind, Vocabulary},
};

/// Validates `files` as the policies of `snapshot` (its own are ignored): everything `compile` would complain
/// about, and warnings. Safe on any text.
pub fn check(files: &[PolicyFile], snapshot: &Snapshot) -> Vec<PolicyProblem> {
    prepare(files, snapshot).1
}

struct Prepared {
    vocabulary: Vocabulary,
    entities: Entities,
    policies: Vec<LoadedPolicy>,
}

/// Stack for reading policies. Cedar's validator gives up on a deep policy when its stack runs low, and then
/// reports nothing, as if the policy were valid. The deepest statement we accept needs less than a tenth of this.
const PREPARATION_STACK_BYTES: usize = 32 * 1024 * 1024;

/// Reads directory and policies on a stack of known size. The problems are sorted.
fn prepare(files: &[PolicyFile], snapshot: &Snapshot) -> (Option<Prepared>, Vec<PolicyProblem>) {
    let mut problems = Vec::new();
    let prepared = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new()
            .name("policy".to_owned())
            .stack_size(PREPARATION_STACK_BYTES);
        let thread = builder
            .spawn_scoped(scope, || prepare_here(files, snapshot, &mut problems))
            .map_err(|error| format!("no thread could be started to read the policies: {error}"))?;
        thread
            .join()
            .map_err(|_| "reading the policies failed".to_owned())
    });
    let prepared = prepared.unwrap_or_else(|message| {
        problems.push(PolicyProblem::error(None, "policy.broken_build", message));
        None
    });
    problems.sort_by(|a, b| (&a.place, a.severity).cmp(&(&b.place, b.severity)));
    problems.dedup();
    for problem in &mut problems {
        problem.show_line(files);
    }
    (prepared, problems)
}

fn prepare_here(
    files: &[PolicyFile],
    snapshot: &Snapshot,
    problems: &mut Vec<PolicyProblem>,
) -> Option<Prepared> {
    let vocabulary = Vocabulary::load()
        .map_err(|problem| problems.push(problem))
        .ok()?;
    let Loaded {
        calls,
        administration,
    } = bundle::load(&vocabulary, files, problems);
    let entities = directory::entities(&vocabulary, snapshot)
        .map_err(|found| problems.extend(found))
        .ok()?;
    let all = calls.iter().chain(&administration);
    references::check(&vocabulary, all, &entities, snapshot, problems);
    Some(Prepared {
        vocabulary,
        entities,
        policies: calls,
    })
}

impl PolicyEngine {
    /// Compiles the policies of `snapshot` together with the guardrails.
    ///
    /// # Errors
    /// If any policy is not strictly valid, an id is used twice or reserved, a named service or route does not
    /// exist, groups contain each other, or a limit is exceeded. All problems are listed.
    pub fn compile(snapshot: &Snapshot) -> Result<Self, PolicyErrors> {
        let (prepared, problems) = prepare(&snapshot.policies, snapshot);
        match prepared {
            Some(prepared) if !problems.iter().any(PolicyProblem::is_error) => {
                Self::build(prepared, snapshot, problems).map_err(PolicyErrors::from)
            }
            _ => Err(PolicyErrors::new(problems)),
        }
    }

    fn build(
        prepared: Prepared,
        snapshot: &Snapshot,
        warnings: Vec<PolicyProblem>,
    ) -> Result<Self, PolicyProblem> {
        let Prepared {
            vocabulary,
            entities,
            policies,
        } = prepared;
        let index = Index::build(&vocabulary, &policies, &entities).map_err(|error| {
            PolicyProblem::error(None, "policy.duplicate_id", error.to_string())
        })?;
        let principal = |kind, number: usize, id: &str| {
            let uid = vocabulary.uid(kind, id);
            let scopes = index.principal(&uid, &entities);
            Principal {
                number: u32::try_from(number).unwrap_or(u32::MAX),
                uid,
                scopes,
            }
        };
        let subjects = &snapshot.directory.subjects;
        let names = std::iter::once(GATEWAY).chain(
            snapshot
                .services
                .iter()
                .map(|service| service.name.as_str()),
        );
        Ok(Self {
            version: snapshot.version,
            trust_domain: snapshot.trust_domain.clone(),
            authorizer: Authorizer::new(),
            actions: Action::ALL
                .map(|action| (action, vocabulary.action(action)))
                .to_vec(),
            subjects: subjects
                .iter()
                .enumerate()
                .map(|(number, subject)| {
                    (
                        subject.id.clone(),
                        principal(Kind::User, number, &subject.id),
                    )
                })
                .collect(),
            actors: subjects
                .iter()
                .enumerate()
                .filter(|(_, subject)| directory::is_account(subject))
                .map(|(number, subject)| {
                    (
                        subject.id.clone(),
                        principal(Kind::Actor, number, &subject.id),
                    )
                })
                .collect(),
            usernames: subjects
                .iter()
                .map(|subject| (subject.username.clone(), subject.id.clone()))
                .collect(),
            peers: names
                .enumerate()
                .map(|(number, name)| (name.to_owned(), principal(Kind::Service, number, name)))
                .collect(),
            targets: targets(&vocabulary, snapshot, &index, &entities),
            numbers: policies
                .iter()
                .enumerate()
                .map(|(number, loaded)| (loaded.id.clone(), number))
                .collect(),
            policies: policies.into_iter().map(PolicyEntry::from).collect(),
            index,
            entities,
            warnings,
        })
    }
}

fn targets(
    vocabulary: &Vocabulary,
    snapshot: &Snapshot,
    index: &Index,
    entities: &Entities,
) -> FleetMap<ServiceName, Target> {
    let mut numbers = 0..u32::MAX;
    let mut targets = FleetMap::default();
    for service in &snapshot.services {
        let mut route_target = |route: &Route| {
            let uid = vocabulary.uid(Kind::Route, &route.full_name(&service.name));
            let invoke = index.resource(Action::Invoke, &uid, entities);
            let user = index.resource(route.action.into(), &uid, entities);
            RouteTarget {
                number: numbers.next().unwrap_or(u32::MAX),
                invoke,
                user,
                uid,
                route: route.clone(),
            }
        };
        let routes = service
            .routes
            .iter()
            .map(|route| (route.operation.as_str().to_owned(), route_target(route)))
            .collect();
        let uid = vocabulary.uid(Kind::Service, service.name.as_str());
        let connect = index.resource(Action::Connect, &uid, entities);
        let audience = vocabulary.uid(Kind::Audience, service.name.as_str());
        let exchange = index.resource(Action::Exchange, &audience, entities);
        targets.insert(
            service.name.clone(),
            Target {
                uid,
                connect,
                audience,
                exchange,
                routes,
            },
        );
    }
    targets
}

impl From<LoadedPolicy> for PolicyEntry {
    fn from(loaded: LoadedPolicy) -> Self {
        Self {
            effect: loaded.policy.effect(),
            determining: loaded.determining(),
            text: loaded.text,
            built_in: loaded.built_in,
        }
    }
}

//! Policy files to policies: parsed, named, located and strictly validated, with every problem found on the way.

use std::collections::HashSet;

use cedar_policy::{Effect, Policy, PolicyId, Schema};
use miette::Diagnostic;
use testudo_model::{event::DeterminingPolicy, limits, snapshot::PolicyFile};

use crate::{
    administration,
    problem::{Place, PolicyProblem},
    source::{MAX_DEPTH, MAX_STATEMENT_BYTES, Source, Statement},
    validation,
    vocabulary::Vocabulary,
};

/// The built-in policies: the guardrails, and the gateway's way to external services.
pub const GUARDRAILS: &str = include_str!("guardrails.cedar");

/// File name under which built-in policies appear.
pub const GUARDRAILS_FILE: &str = "<guardrails>";

/// Id prefixes of built-in policies.
const RESERVED_PREFIXES: [&str; 3] = ["guardrail.", "fleet.", "testudo."];

/// Longest policy id.
const MAX_ID_BYTES: usize = 128;

/// Cedar has no help for the mistake that everybody makes once.
const ONE_ENTITY_HELP: &str = "a scope names one entity, only `action in` takes a list; \
    write `resource in Fleet::Api::\"…\"`, or `when { resource in […] }`, or one policy for each";

/// A policy with what explanations say about it.
#[derive(Debug, Clone)]
pub(crate) struct LoadedPolicy {
    pub(crate) policy: Policy,
    pub(crate) id: String,
    pub(crate) reason: Option<String>,
    pub(crate) place: Place,
    /// The statement as written.
    pub(crate) text: String,
    pub(crate) built_in: bool,
}

impl LoadedPolicy {
    pub(crate) fn is_forbid(&self) -> bool {
        self.policy.effect() == Effect::Forbid
    }

    /// What is said about it after a decision.
    pub(crate) fn determining(&self) -> DeterminingPolicy {
        DeterminingPolicy {
            id: self.id.clone(),
            reason: self.reason.clone(),
            file: self.place.file.clone(),
            line: self.place.line,
        }
    }

    /// The place `offset` bytes into the statement.
    pub(crate) fn place_of(&self, offset: usize) -> Place {
        let inner = Source::new(&self.place.file, &self.text).place(offset);
        let indent = if inner.line == 1 {
            self.place.column - 1
        } else {
            0
        };
        Place {
            line: self.place.line + inner.line - 1,
            column: inner.column + indent,
            file: inner.file,
        }
    }
}

/// The policies of a fleet.
pub(crate) struct Loaded {
    /// About calls, with those that are built in.
    pub(crate) calls: Vec<LoadedPolicy>,
    /// About administration, without those that are built in.
    pub(crate) administration: Vec<LoadedPolicy>,
}

/// Reads the built-in policies and `files`, and reports what is wrong. Statements that are no policies are left out.
pub(crate) fn load(
    vocabulary: &Vocabulary,
    files: &[PolicyFile],
    problems: &mut Vec<PolicyProblem>,
) -> Loaded {
    let mut loader = Loader {
        policies: Vec::new(),
        ids: HashSet::new(),
        left: usize::MAX,
        problems,
    };
    loader.add_file(GUARDRAILS_FILE, GUARDRAILS, true);
    loader.left = limits::MAX_POLICIES;
    for file in files {
        loader.add_file(&file.name, &file.text, false);
    }
    let Loader { policies, .. } = loader;
    let (administration, calls): (Vec<_>, Vec<_>) = policies
        .into_iter()
        .partition(|loaded| administration::is_about_administration(&loaded.policy));
    validation::validate(&vocabulary.schema, &calls, problems);
    if !administration.is_empty() {
        match administration::schema() {
            Ok(schema) => validation::validate(&schema, &administration, problems),
            Err(problem) => problems.push(problem),
        }
    }
    Loaded {
        calls,
        administration,
    }
}

/// Reads built-in policies that stand alone.
pub(crate) fn load_built_in(
    schema: &Schema,
    name: &str,
    text: &str,
    problems: &mut Vec<PolicyProblem>,
) -> Vec<LoadedPolicy> {
    let mut loader = Loader {
        policies: Vec::new(),
        ids: HashSet::new(),
        left: usize::MAX,
        problems,
    };
    loader.add_file(name, text, true);
    let Loader { policies, .. } = loader;
    validation::validate(schema, &policies, problems);
    policies
}

struct Loader<'a> {
    policies: Vec<LoadedPolicy>,
    ids: HashSet<String>,
    /// How many statements may follow.
    left: usize,
    problems: &'a mut Vec<PolicyProblem>,
}

impl Loader<'_> {
    fn add_file(&mut self, name: &str, text: &str, built_in: bool) {
        if text.len() > limits::MAX_POLICY_FILE_BYTES {
            let place = Source::new(name, "").place(0);
            let message = format!(
                "the file has {} bytes, {} are allowed",
                text.len(),
                limits::MAX_POLICY_FILE_BYTES
            );
            let problem = PolicyProblem::error(Some(place), "policy.file_too_large", message);
            self.problems.push(
                problem
                    .with_help("split it by service or team; the files of a folder form one set"),
            );
            return;
        }
        let source = Source::new(name, text);
        for (index, statement) in source.statements().iter().enumerate() {
            if self.left == 0 {
                let place = source.place(statement.start);
                let message = format!("more than {} policies", limits::MAX_POLICIES);
                let problem =
                    PolicyProblem::error(Some(place), "policy.too_many_policies", message);
                self.problems.push(problem);
                return;
            }
            self.left -= 1;
            match parse(&source, statement) {
                Ok(policy) => self.add(
                    policy,
                    &source,
                    statement,
                    format!("{name}#{}", index + 1),
                    built_in,
                ),
                Err(problems) => self.problems.extend(problems),
            }
        }
    }

    fn add(
        &mut self,
        policy: Policy,
        source: &Source<'_>,
        statement: &Statement<'_>,
        default_id: String,
        built_in: bool,
    ) {
        let place = source.place(statement.start);
        let id = policy.annotation("id").map_or(default_id, str::to_owned);
        let checked = if built_in {
            Ok(())
        } else {
            check_id(&id, policy.annotation("id").is_some())
        };
        if let Err((code, message)) = checked {
            self.problems
                .push(PolicyProblem::error(Some(place), code, message));
            return;
        }
        if administration::is_about_both(&policy) {
            let message = format!("the policy `{id}` is about calls and about administration");
            let problem = PolicyProblem::error(Some(place), "policy.mixed_actions", message);
            self.problems.push(
                problem.with_help(
                    "write one policy for `Fleet::Action`s and one for `Testudo::Action`s",
                ),
            );
            return;
        }
        if !self.ids.insert(id.clone()) {
            let first = self
                .policies
                .iter()
                .find(|known| known.id == id)
                .map(|known| known.place.to_string());
            let message = format!(
                "the policy id `{id}` is already used at {}",
                first.unwrap_or_default()
            );
            let problem = PolicyProblem::error(Some(place), "policy.duplicate_id", message);
            self.problems.push(problem.with_help(
                "an id names one policy of the fleet: in decisions, tests and the ledger",
            ));
            return;
        }
        self.policies.push(LoadedPolicy {
            policy: policy.new_id(PolicyId::new(&id)),
            reason: policy.annotation("reason").map(str::to_owned),
            id,
            place,
            text: statement.text.to_owned(),
            built_in,
        });
    }
}

fn check_id(id: &str, written: bool) -> Result<(), (&'static str, String)> {
    if let Some(prefix) = RESERVED_PREFIXES
        .iter()
        .find(|prefix| id.starts_with(**prefix))
    {
        return Err((
            "policy.reserved_id",
            format!(
                "the policy id `{id}` starts with `{prefix}`, which only built-in policies may"
            ),
        ));
    }
    // Default ids carry the file's name, whatever that is.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/#".contains(&byte);
    if written && (id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(fits)) {
        let allowed = "letters, digits, `.`, `_`, `-`, `:`, `/` and `#`";
        return Err((
            "policy.bad_id",
            format!("the policy id {id:?} is not 1 to {MAX_ID_BYTES} {allowed}"),
        ));
    }
    Ok(())
}

fn parse(source: &Source<'_>, statement: &Statement<'_>) -> Result<Policy, Vec<PolicyProblem>> {
    let refuse = |code, message: String, help: &str| {
        Err(vec![
            PolicyProblem::error(Some(source.place(statement.start)), code, message)
                .with_help(help),
        ])
    };
    if statement.text.len() > MAX_STATEMENT_BYTES {
        let message = format!(
            "the policy has {} bytes, {MAX_STATEMENT_BYTES} are allowed",
            statement.text.len()
        );
        return refuse(
            "policy.too_large",
            message,
            "name users by group or role and services by service group",
        );
    }
    if statement.depth > MAX_DEPTH {
        let message = format!(
            "the policy nests {} levels deep, {MAX_DEPTH} are allowed",
            statement.depth
        );
        return refuse(
            "policy.too_deep",
            message,
            "split it, or turn chains of `||` into a set with `contains` or `in`",
        );
    }
    Policy::parse(None, statement.text).map_err(|errors| {
        errors
            .iter()
            .map(|error| {
                let offset = first_label(error).unwrap_or(0);
                let place = source.place(statement.start + offset);
                let problem = PolicyProblem::error(Some(place), "policy.syntax", error.to_string());
                match error.help() {
                    Some(help) => problem.with_help(help.to_string()),
                    None if problem.message.contains("found set of entity uids") => {
                        problem.with_help(ONE_ENTITY_HELP)
                    }
                    None => problem,
                }
            })
            .collect()
    })
}

/// Byte offset of what a diagnostic points at.
fn first_label(diagnostic: &dyn Diagnostic) -> Option<usize> {
    diagnostic.labels()?.next().map(|label| label.offset())
}

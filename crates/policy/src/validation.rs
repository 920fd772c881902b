//! Strict validation: what Cedar's validator finds, with our codes.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    PolicySet, Schema, ValidationError, ValidationMode, ValidationWarning, Validator,
};
use miette::Diagnostic;

use crate::{
    bundle::LoadedPolicy,
    problem::{Place, PolicyProblem},
};

/// How far policies may follow references from one entity to the next (Cedar RFC 76):
/// `context.peer.service` is one, `resource.service.environment` two.
const MAX_DEREFERENCES: u32 = 2;

/// Strictly validates all policies at once and reports what is wrong.
pub(crate) fn validate(
    schema: &Schema,
    policies: &[LoadedPolicy],
    problems: &mut Vec<PolicyProblem>,
) {
    let mut set = PolicySet::new();
    for loaded in policies {
        if let Err(error) = set.add(loaded.policy.clone()) {
            let place = Some(loaded.place.clone());
            problems.push(PolicyProblem::error(
                place,
                "policy.duplicate_id",
                error.to_string(),
            ));
        }
    }
    let validator = Validator::new(schema.clone());
    let result = validator.validate_with_level(&set, ValidationMode::Strict, MAX_DEREFERENCES);
    let errors = result.validation_errors().map(error);
    let warnings = result.validation_warnings().map(warning);

    let by_id: HashMap<_, _> = policies
        .iter()
        .map(|loaded| (loaded.id.as_str(), loaded))
        .collect();
    let mut mentioned = HashSet::new();
    for finding in errors.chain(warnings) {
        // Cedar says it of the scope and of the whole policy; a policy with an error is impossible for that.
        let is_new = mentioned.insert(finding.policy.clone());
        if finding.code == NEVER_APPLIES && !is_new {
            continue;
        }
        let loaded = by_id.get(finding.policy.as_str());
        let place = loaded.map(|loaded| loaded.place_of(finding.offset));
        let forbid = loaded.is_some_and(|loaded| loaded.is_forbid());
        problems.push(finding.into_problem(place, forbid));
    }
}

const NEVER_APPLIES: &str = "policy.never_applies";

/// One finding of the validator.
#[derive(Debug)]
struct Finding {
    /// The policy it is about.
    policy: String,
    /// Byte offset into the policy's statement.
    offset: usize,
    code: &'static str,
    gravity: Gravity,
    message: String,
    help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gravity {
    /// Never activated.
    Error,
    /// A `forbid` that cannot apply is a hole somebody believes closed; a `permit` is merely useless.
    ErrorInForbid,
    /// Worth a look.
    Warning,
}

impl Finding {
    fn into_problem(self, place: Option<Place>, forbid: bool) -> PolicyProblem {
        let is_error = match self.gravity {
            Gravity::Error => true,
            Gravity::ErrorInForbid => forbid,
            Gravity::Warning => false,
        };
        let problem = if is_error {
            PolicyProblem::error(place, self.code, self.message)
        } else {
            PolicyProblem::warning(place, self.code, self.message)
        };
        match self.help {
            Some(help) => problem.with_help(help),
            None => problem,
        }
    }
}

/// A validation error as a finding.
fn error(error: &ValidationError) -> Finding {
    finding(
        error,
        error.policy_id().as_ref(),
        error_code(error),
        Gravity::Error,
    )
}

/// A validation warning as a finding.
fn warning(warning: &ValidationWarning) -> Finding {
    let (code, gravity) = match warning {
        // Text that reads differently than it is (CVE-2021-42574) has no place in a rule.
        ValidationWarning::BidiCharsInString(_) | ValidationWarning::BidiCharsInIdentifier(_) => {
            ("policy.bidirectional_text", Gravity::Error)
        }
        ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => {
            (NEVER_APPLIES, Gravity::ErrorInForbid)
        }
        _ => ("policy.confusable_text", Gravity::Warning),
    };
    finding(warning, warning.policy_id().as_ref(), code, gravity)
}

const fn error_code(error: &ValidationError) -> &'static str {
    match error {
        ValidationError::UnrecognizedEntityType(_) => "policy.unknown_entity_type",
        ValidationError::UnrecognizedActionId(_) => "policy.unknown_action",
        ValidationError::UnsafeAttributeAccess(_) => "policy.unknown_attribute",
        ValidationError::UnsafeOptionalAttributeAccess(_) => "policy.optional_attribute",
        ValidationError::UnsafeTagAccess(_) | ValidationError::NoTagsAllowed(_) => {
            "policy.unknown_tag"
        }
        ValidationError::UnexpectedType(_) | ValidationError::IncompatibleTypes(_) => {
            "policy.type_mismatch"
        }
        ValidationError::UndefinedFunction(_) => "policy.unknown_function",
        ValidationError::WrongNumberArguments(_) => "policy.wrong_arguments",
        ValidationError::FunctionArgumentValidation(_)
        | ValidationError::NonLitExtConstructor(_) => "policy.bad_literal",
        ValidationError::EmptySetForbidden(_) => "policy.empty_set",
        ValidationError::EntityDerefLevelViolation(_) => "policy.follows_too_far",
        ValidationError::InvalidEnumEntity(_) => "policy.unknown_entity",
        _ => "policy.invalid",
    }
}

fn finding(
    diagnostic: &(impl Diagnostic + std::fmt::Display),
    policy: &str,
    code: &'static str,
    gravity: Gravity,
) -> Finding {
    let text = diagnostic.to_string();
    // The place says which policy it is.
    let message = text
        .strip_prefix(&format!("for policy `{policy}`, "))
        .unwrap_or(&text)
        .to_owned();
    Finding {
        policy: policy.to_owned(),
        offset: diagnostic
            .labels()
            .and_then(|mut labels| labels.next())
            .map_or(0, |label| label.offset()),
        code,
        gravity,
        message,
        help: diagnostic.help().map(|help| help.to_string()),
    }
}

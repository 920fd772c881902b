//! What Cedar's validator finds, with our codes.

use cedar_policy::{ValidationError, ValidationWarning};
use miette::Diagnostic;

use crate::problem::{Place, PolicyProblem};

/// One finding of the validator.
#[derive(Debug)]
pub(crate) struct Finding {
    /// The policy it is about.
    pub(crate) policy: String,
    /// Byte offset into the policy's statement.
    pub(crate) offset: usize,
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
    pub(crate) fn into_problem(self, place: Option<Place>, forbid: bool) -> PolicyProblem {
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
pub(crate) fn error(error: &ValidationError) -> Finding {
    finding(
        error,
        error.policy_id().as_ref(),
        error_code(error),
        Gravity::Error,
    )
}

/// A validation warning as a finding.
pub(crate) fn warning(warning: &ValidationWarning) -> Finding {
    let (code, gravity) = match warning {
        // Text that reads differently than it is (CVE-2021-42574) has no place in a rule.
        ValidationWarning::BidiCharsInString(_) | ValidationWarning::BidiCharsInIdentifier(_) => {
            ("policy.bidirectional_text", Gravity::Error)
        }
        ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => {
            ("policy.never_applies", Gravity::ErrorInForbid)
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
